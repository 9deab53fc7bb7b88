//! How many writes are in flight: as many as the database takes without falling behind.
//!
//! The limit rises while answers come in time and falls by a part as soon as they do not, so that
//! it settles near the most that the database takes, whatever that is this minute.

use std::time::Duration;

/// Where it begins.
const START: f64 = 128.0;
/// Fewer would only be slower.
const LEAST: f64 = 8.0;
/// The most for each node: beyond it only the waiting grows.
const MOST_PER_NODE: f64 = 1024.0;
/// Answers that one decision rests on, at least.
const WINDOW: usize = 128;
/// An answer that takes longer is late.
const LATE: Duration = Duration::from_millis(250);
/// Of so many answers one may be late.
const LATE_SHARE: usize = 100;

/// A limit that follows what the answers show.
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

    /// Says how many nodes there are to share the work.
    pub(super) fn nodes(&mut self, nodes: usize) {
        self.most = MOST_PER_NODE * nodes.max(1) as f64;
    }

    /// How many may be in flight.
    pub(super) fn limit(&self) -> usize {
        self.limit as usize
    }

    /// An answer came, after `took`.
    pub(super) fn answered(&mut self, took: Duration) {
        self.answers += 1;
        self.late += usize::from(took > LATE);
        self.decide();
    }

    /// A request failed because too much was asked for.
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
            // A few that got lost are no overload.
            (overloads, _) if overloads * 20 <= self.answers => 0.9,
            _ => 0.5,
        };
        let rise = if factor < 1.0 { 0.0 } else { (self.limit / 8.0).max(8.0) };
        self.limit = (self.limit * factor + rise).clamp(LEAST, self.most);
        (self.answers, self.late, self.overloads) = (0, 0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAST: Duration = Duration::from_millis(5);

    #[test]
    fn it_rises_to_its_cap_while_answers_come_in_time() {
        let mut limit = Concurrency::new();
        assert_eq!(limit.limit(), 128);
        (0..100_000).for_each(|_| limit.answered(FAST));
        assert_eq!(limit.limit(), 1024);
        limit.nodes(3);
        (0..100_000).for_each(|_| limit.answered(FAST));
        assert_eq!(limit.limit(), 3072);
    }

    #[test]
    fn it_falls_when_the_database_falls_behind_and_never_to_nothing() {
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
    fn a_simulated_server_is_kept_busy_and_not_flooded() {
        // Serves 10 requests a millisecond: the wait is in proportion to what is in flight.
        let mut limit = Concurrency::new();
        for _ in 0..200_000 {
            limit.answered(Duration::from_millis(limit.limit() as u64 / 2));
        }
        assert!((250..640).contains(&limit.limit()), "{limit:?}");
    }
}
