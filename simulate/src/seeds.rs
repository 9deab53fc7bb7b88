//! Runs many seeds on all cores.

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::outcome::Outcome;
use crate::plan::Plan;
use crate::run::run;

/// Runs the plans of `seeds` on all cores and calls `each` for one outcome at a time, in no
/// particular order.
pub fn each_seed(seeds: RangeInclusive<u64>, each: impl FnMut(&Plan, &Outcome) + Send) {
    // A simulation often waits while it hands a turn to a worker, so a core has room for two.
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
                    (each.lock())(&plan, &outcome);
                }
            });
        }
    });
}
