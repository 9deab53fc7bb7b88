//! Seeds in numbers, on all cores.

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::outcome::Outcome;
use crate::plan::Plan;
use crate::world::run;

/// Runs the plans of `seeds` on all cores; `each` is told of one after the other, in no order.
pub fn each_seed(seeds: RangeInclusive<u64>, each: impl FnMut(&Plan, &Outcome) + Send) {
    // A world waits for its workers whenever a turn is handed on, so a core has room for two.
    let cores = 2 * std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let (next, each) = (AtomicU64::new(*seeds.start()), Mutex::new(each));
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if !seeds.contains(&seed) {
                        return;
                    }
                    let plan = Plan::of(seed);
                    let outcome = run(&plan);
                    (each.lock().unwrap_or_else(PoisonError::into_inner))(&plan, &outcome);
                }
            });
        }
    });
}
