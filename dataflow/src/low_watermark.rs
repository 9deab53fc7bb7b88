//! Which partitions of topics run too far ahead, and wait for the slowest one.
//!
//! This is back-pressure alone: what is counted does not depend on it. Invariant: the slowest
//! partition is never held back itself, so something can always be read where anything is there.

use std::sync::atomic::{AtomicI64, Ordering};

/// A partition that delivers nothing for so long, though it should, holds nobody back.
const SILENT_US: u64 = 30_000_000;
/// No partition holds others back.
const NONE: i64 = i64::MAX;

/// The least log time that each worker of a process waits for.
#[derive(Debug, Default)]
pub(crate) struct LowWatermark(Vec<AtomicI64>);

impl LowWatermark {
    pub(crate) fn new(workers: usize) -> Self {
        Self((0..workers).map(|_| AtomicI64::new(NONE)).collect())
    }

    /// Takes one worker's least log time: the least of all.
    fn learn(&self, worker: usize, least_ms: i64) -> i64 {
        // Workers of other processes have numbers of their own.
        if let Some(slot) = self.0.get(worker % self.0.len().max(1)) {
            slot.store(least_ms, Ordering::Relaxed);
        }
        self.0.iter().map(|slot| slot.load(Ordering::Relaxed)).min().unwrap_or(NONE)
    }
}

/// How a partition stands towards the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Whether it waits for another one.
    pub(crate) held: bool,
    /// Since when it gave nothing when it was read, though there is something.
    silent_since_us: Option<u64>,
}

impl Standing {
    /// It was read at `now_us`, and gave something or nothing.
    pub(crate) fn was_read(&mut self, records: usize, now_us: u64) {
        self.silent_since_us = match self.silent_since_us {
            _ if records > 0 => None,
            None => Some(now_us),
            since => since,
        };
    }

    fn is_silent(&self, now_us: u64) -> bool {
        self.silent_since_us.is_some_and(|since| now_us.saturating_sub(since) > SILENT_US)
    }
}

/// What is known of a topic's partition.
pub(crate) struct Runner<'p> {
    /// Its log time; none before its first event.
    pub(crate) log_time_ms: Option<i64>,
    /// Whether it has records that were not read.
    pub(crate) is_behind: bool,
    pub(crate) standing: &'p mut Standing,
}

/// How many partitions are held back, and how many are silent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) held: usize,
    pub(crate) silent: usize,
}

/// Decides which partitions of worker `worker` wait at `now_us`.
pub(crate) fn hold_back(
    runners: &mut [Runner<'_>],
    worker: usize,
    low_watermark: &LowWatermark,
    max_skew_ms: i64,
    now_us: u64,
) -> Tally {
    let (mut least_ms, mut tally) = (NONE, Tally::default());
    for runner in &mut *runners {
        if !runner.is_behind {
            // Nothing can be expected of it.
            runner.standing.silent_since_us = None;
        } else if runner.standing.is_silent(now_us) {
            tally.silent += 1;
        } else {
            least_ms = least_ms.min(runner.log_time_ms.unwrap_or(i64::MIN));
        }
    }
    let limit_ms = low_watermark.learn(worker, least_ms).saturating_add(max_skew_ms);
    for runner in runners {
        runner.standing.held = runner.log_time_ms.is_some_and(|ms| ms > limit_ms);
        if runner.standing.held {
            runner.standing.silent_since_us = None;
            tally.held += 1;
        }
    }
    tally
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: i64 = 60_000;
    const NOW: u64 = 1_000_000;

    fn held(
        partitions: &[(Option<i64>, bool)],
        standings: &mut Vec<Standing>,
        low_watermark: &LowWatermark,
        now_us: u64,
    ) -> (Vec<bool>, Tally) {
        standings.resize_with(partitions.len(), Standing::default);
        let runners = partitions.iter().zip(&mut *standings);
        let mut runners: Vec<_> = runners
            .map(|((ms, is_behind), standing)| Runner {
                log_time_ms: ms.map(|ms| ms * MINUTE),
                is_behind: *is_behind,
                standing,
            })
            .collect();
        let tally = hold_back(&mut runners, 0, slowest, 10 * MINUTE, now_us);
        (standings.iter().map(|s| s.held).collect(), tally)
    }

    #[test]
    fn who_is_far_ahead_of_the_slowest_unfinished_one_waits() {
        let (mut standings, low_watermark) = (Vec::new(), LowWatermark::new(1));
        let mut of = |partitions: &[_]| held(partitions, &mut standings, &low_watermark, NOW).0;
        let (behind, at_end) = (true, false);
        assert_eq!(
            of(&[(Some(0), behind), (Some(10), behind), (Some(11), behind)]),
            [false, false, true]
        );
        assert_eq!(
            of(&[(Some(0), at_end), (Some(11), behind), (Some(22), behind)])[1..],
            [false, true]
        );
        assert_eq!(of(&[(None, behind), (Some(0), behind), (None, behind)]), [false, true, false]);
        assert_eq!(of(&[(Some(0), at_end), (Some(50), at_end), (None, at_end)]), [false; 3]);
    }

    #[test]
    fn a_silent_one_holds_nobody_back_until_it_speaks() {
        let (mut standings, low_watermark) = (vec![Standing::default(); 2], LowWatermark::new(1));
        let partitions = [(Some(0), true), (Some(60), true)];
        standings[0].was_read(0, NOW);
        standings[0].was_read(0, NOW + 5);
        let soon = held(&partitions, &mut standings, &low_watermark, NOW + SILENT_US);
        assert_eq!(soon, (vec![false, true], Tally { held: 1, silent: 0 }));
        let late = held(&partitions, &mut standings, &low_watermark, NOW + SILENT_US + 1);
        assert_eq!(late, (vec![false, false], Tally { held: 0, silent: 1 }));
        standings[0].was_read(3, NOW + SILENT_US + 2);
        assert!(held(&partitions, &mut standings, &low_watermark, NOW + SILENT_US + 3).0[1]);
    }

    #[test]
    fn workers_wait_for_each_other() {
        let low_watermark = LowWatermark::new(2);
        let (mut a, mut b) = (Standing::default(), Standing::default());
        let of = |worker, ms: i64, is_behind, standing: &mut Standing| {
            let log_time_ms = Some(ms * MINUTE);
            let mut runners = [Runner { log_time_ms, is_behind, standing }];
            hold_back(&mut runners, worker, &low_watermark, 10 * MINUTE, NOW).held
        };
        assert_eq!(of(0, 0, true, &mut a), 0);
        assert_eq!(of(1, 11, true, &mut b), 1);
        assert_eq!(of(0, 5, true, &mut a), 0);
        assert_eq!(of(1, 11, true, &mut b), 0);
        assert_eq!(of(1, 90, true, &mut b), 1);
        assert_eq!(of(0, 5, false, &mut a), 0, "read to its end");
        assert_eq!(of(1, 90, true, &mut b), 0);
    }
}
