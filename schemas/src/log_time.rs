//! Log time: a partition's own clock, which a few wrong event times cannot move.
//!
//! After n events it is the k-th largest event time, with k = 1 + min(63, n / 2); the 64 largest
//! times and a count are kept. Invariant: it never decreases, and it depends on the log alone.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

const KEPT: usize = 64;

/// The log time of one partition, or the times of one block of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogTime {
    /// The largest event times, at most 64, in ascending order.
    largest: VecDeque<i64>,
    /// The number of events.
    events: u64,
    /// The log time, or `None` before the first event.
    value_ms: Option<i64>,
}

impl LogTime {
    /// The log time in milliseconds, or `None` before the first event.
    pub fn value_ms(&self) -> Option<i64> {
        self.value_ms
    }

    /// The largest event time seen.
    pub fn largest_ms(&self) -> Option<i64> {
        self.largest.back().copied()
    }

    /// The largest event times, in ascending order.
    pub fn largest(&self) -> impl Iterator<Item = i64> + '_ {
        self.largest.iter().copied()
    }

    /// The number of events.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// Adds an event's time.
    #[inline]
    pub fn observe(&mut self, ts_ms: i64) {
        self.events += 1;
        self.keep(ts_ms);
        self.rise();
    }

    /// Adds a record's append time, for logs that stamp records themselves. Log time is then the
    /// latest append time.
    pub fn observe_append(&mut self, stamp_ms: i64) {
        self.events += 1;
        self.value_ms = self.value_ms.max(Some(stamp_ms));
    }

    /// Adds the events of the next block.
    pub fn append(&mut self, block: &Self) {
        self.events += block.events;
        block.largest.iter().for_each(|ts| self.keep(*ts));
        self.rise();
    }

    fn keep(&mut self, ts_ms: i64) {
        if self.largest.len() == KEPT {
            if self.largest.front().is_some_and(|least| ts_ms <= *least) {
                return;
            }
            self.largest.pop_front();
        }
        // Events come roughly in order.
        if self.largest.back().is_none_or(|most| *most <= ts_ms) {
            self.largest.push_back(ts_ms);
        } else {
            let at = self.largest.partition_point(|kept| *kept <= ts_ms);
            self.largest.insert(at, ts_ms);
        }
    }

    fn rise(&mut self) {
        let k = 1 + (KEPT - 1).min((self.events / 2) as usize);
        let kth = self.largest.len().checked_sub(k).map(|i| self.largest[i]);
        self.value_ms = self.value_ms.max(kth);
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn log_time_equals_its_definition(times in vec(0_i64..1000, 0..300)) {
            let mut log_time = LogTime::default();
            let mut want = None;
            for n in 1..=times.len() {
                log_time.observe(times[n - 1]);
                let mut sorted = times[..n].to_vec();
                sorted.sort_unstable_by(|a, b| b.cmp(a));
                want = want.max(sorted.get(63.min(n / 2)).copied());
                prop_assert_eq!(log_time.value_ms(), want);
                prop_assert_eq!(log_time.largest_ms(), sorted.first().copied());
            }
        }

        #[test]
        fn appended_blocks_equal_the_whole(
            blocks in vec(vec(0_i64..1000, 0..150), 1..5),
        ) {
            let (mut whole, mut joined) = (LogTime::default(), LogTime::default());
            for block in &blocks {
                let mut times = LogTime::default();
                for ts in block {
                    whole.observe(*ts);
                    times.observe(*ts);
                }
                joined.append(&times);
            }
            prop_assert_eq!(joined.largest, whole.largest);
            prop_assert_eq!(joined.events, whole.events);
        }
    }

    #[test]
    fn few_wrong_clocks_do_not_move_log_time() {
        let mut log_time = LogTime::default();
        (0..1000).for_each(|ts| log_time.observe(ts));
        (0..40).for_each(|_| log_time.observe(1_000_000));
        assert!(log_time.value_ms() < Some(1000));
    }
}
