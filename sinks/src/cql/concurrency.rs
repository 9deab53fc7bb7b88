//! How many writes are in flight: as many as the database takes without falling behind.
//!
//! The limit rises while answers come in time, and is cut as soon as they do not, so it settles
//! near what the database can take at the moment.

use std::time::Duration;

/// The first limit.
const START: f64 = 128.0;
/// The lowest limit; fewer writes would only be slower.
const LEAST: f64 = 8.0;
/// The highest limit for each node; more writes would only wait longer.
const MOST_PER_NODE: f64 = 1024.0;
/// The least number of answers between two decisions.
const WINDOW: usize = 128;
/// An answer that takes longer is late.
const LATE: Duration = Duration::from_millis(250);
/// One answer in this many may be late.
const LATE_SHARE: usize = 100;

/// A limit that follows the answers.
#[derive(Debug)]
pub(super) struct Concurrency {
    limit: f64,
    most: f64,
    answers: usize,
    late: usize,
    overloads: usize,
}

impl Concurrency {
    pub(super) fn new() -> Self {
        Self { limit: START, most: MOST_PER_NODE, answers: 0, late: 0, overloads: 0 }
    }

    /// Sets the number of nodes that share the work.
    pub(super) fn nodes(&mut self, nodes: usize) {
        self.most = MOST_PER_NODE * nodes.max(1) as f64;
    }

    /// How many writes may be in flight.
    pub(super) fn limit(&self) -> usize {
        self.limit as usize
    }

    /// Notes an answer that took this long.
    pub(super) fn answered(&mut self, took: Duration) {
        self.answers += 1;
        self.late += usize::from(took > LATE);
        self.decide();
    }

    /// Notes a request that failed because the database is overloaded.
    pub(super) fn overloaded(&mut self) {
        self.answers += 1;
        self.overloads += 1;
        self.decide();
    }

    fn decide(&mut self) {
        if self.answers < WINDOW.max(self.limit()) {
            return;
        }
        let factor = match (self.overloads, self.late) {
            (0, late) if late * LATE_SHARE <= self.answers => 1.0,
            (0, _) => 0.85,
            // A few lost requests are not an overload.
            (overloads, _) if overloads * 20 <= self.answers => 0.9,
            _ => 0.5,
        };
        let rise = if factor < 1.0 { 0.0 } else { (self.limit / 8.0).max(8.0) };
        self.limit = (self.limit * factor + rise).clamp(LEAST, self.most);
        debug_assert!((LEAST..=self.most).contains(&self.limit), "{self:?}");
        (self.answers, self.late, self.overloads) = (0, 0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAST: Duration = Duration::from_millis(5);

    #[test]
    fn limit_rises_to_its_cap_while_answers_come_in_time() {
        let mut limit = Concurrency::new();
        assert_eq!(limit.limit(), 128);
        (0..100_000).for_each(|_| limit.answered(FAST));
        assert_eq!(limit.limit(), 1024);
        limit.nodes(3);
        (0..100_000).for_each(|_| limit.answered(FAST));
        assert_eq!(limit.limit(), 3072);
    }

    #[test]
    fn limit_falls_when_the_database_falls_behind_but_never_to_zero() {
        let mut late = Concurrency::new();
        (0..1000).for_each(|_| late.answered(Duration::from_secs(1)));
        assert!(late.limit() < 64, "{late:?}");
        let mut overloaded = Concurrency::new();
        (0..10_000).for_each(|_| overloaded.overloaded());
        assert_eq!(overloaded.limit(), LEAST as usize);
        (0..100_000).for_each(|_| overloaded.answered(FAST));
        assert_eq!(overloaded.limit(), 1024);
    }

    #[test]
    fn limit_keeps_a_server_busy_without_flooding_it() {
        // The wait is in proportion to the number of requests in flight.
        let mut limit = Concurrency::new();
        for _ in 0..200_000 {
            limit.answered(Duration::from_millis(limit.limit() as u64 / 2));
        }
        assert!((250..640).contains(&limit.limit()), "{limit:?}");
    }
}
