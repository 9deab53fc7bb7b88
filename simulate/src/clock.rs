//! Simulated time: it advances with each step, and processes may read it wrong.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use dataflow::clock::{Clock, RandomError};
use parking_lot::Mutex;

use crate::rng::Rng;

/// When simulations begin: a whole number of hours since 1970.
pub(crate) const START_MS: i64 = 1_699_999_200_000;

/// The true time, shared by all processes.
#[derive(Clone, Default)]
pub(crate) struct Time {
    us: Arc<AtomicU64>,
    /// How far the host's wall clock is off.
    wrong_ms: Arc<AtomicI64>,
}

impl Time {
    /// Advances the time.
    pub(crate) fn pass(&self, us: u64) {
        self.us.fetch_add(us, Ordering::Relaxed);
    }

    /// Sets how far the wall clock is off.
    pub(crate) fn jump(&self, wrong_ms: i64) {
        self.wrong_ms.store(wrong_ms, Ordering::Relaxed);
    }

    /// How far the wall clock is off.
    pub(crate) fn wrong_ms(&self) -> i64 {
        self.wrong_ms.load(Ordering::Relaxed)
    }

    /// The true time.
    pub(crate) fn now_ms(&self) -> i64 {
        START_MS.saturating_add_unsigned(self.us.load(Ordering::Relaxed) / 1000)
    }
}

/// The clock of one process.
pub(crate) struct SimClock {
    time: Time,
    /// How far it is off, in addition to the host.
    skew_ms: i64,
    /// When the process started: zero of its monotonic clock.
    since_us: u64,
    rng: Mutex<Rng>,
}

impl SimClock {
    /// The clock of a process that starts now, `skew_ms` off; its random bits follow from `seed`.
    pub(crate) fn new(time: &Time, skew_ms: i64, seed: u64) -> Self {
        let since_us = time.us.load(Ordering::Relaxed);
        Self { time: time.clone(), skew_ms, since_us, rng: Mutex::new(Rng(seed)) }
    }
}

impl Clock for SimClock {
    fn wall_ms(&self) -> i64 {
        self.time.now_ms() + self.time.wrong_ms() + self.skew_ms
    }

    fn mono_us(&self) -> u64 {
        self.time.us.load(Ordering::Relaxed) - self.since_us
    }

    fn pause(&self, _: Duration) -> Option<Duration> {
        None
    }

    fn random(&self) -> Result<u128, RandomError> {
        let mut rng = self.rng.lock();
        Ok(u128::from(rng.bits()) << 64 | u128::from(rng.bits()))
    }
}
