//! Watermark alignment: partitions of topics that run too far ahead wait for the slowest one.
//!
//! This is backpressure only: counts do not depend on it. Invariant: the slowest partition never
//! waits, so as long as any partition has records, one of them can be read.

use std::sync::atomic::{AtomicI64, Ordering};

use crate::limits::SILENT_US;

/// The low watermark of a worker with nothing left to read: nobody waits for it.
const NOTHING_TO_READ: i64 = i64::MAX;

/// The least log time of the partitions that each worker of a process still has to read.
#[derive(Debug)]
pub(crate) struct LowWatermark(Box<[AtomicI64]>);

impl LowWatermark {
    pub(crate) fn new(workers: usize) -> Self {
        Self((0..workers).map(|_| AtomicI64::new(NOTHING_TO_READ)).collect())
    }

    /// Updates one worker's least log time, and returns the least of all workers.
    fn update(&self, worker: usize, least_ms: i64) -> i64 {
        self.0[worker].store(least_ms, Ordering::Relaxed);
        let of_worker = |least: &AtomicI64| least.load(Ordering::Relaxed);
        self.0.iter().map(of_worker).fold(NOTHING_TO_READ, i64::min)
    }
}

/// Whether a partition has to wait for others, and whether others wait for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Alignment {
    /// Whether it waits for a slower one.
    pub(crate) paused: bool,
    /// Since when reads have returned nothing, although there are records to read.
    silent_since_us: Option<u64>,
}

impl Alignment {
    /// The partition was read at `now_us`, and returned `records`.
    pub(crate) fn was_read(&mut self, records: usize, now_us: u64) {
        if records > 0 {
            self.silent_since_us = None;
        } else {
            self.silent_since_us.get_or_insert(now_us);
        }
    }

    fn is_silent(&self, now_us: u64) -> bool {
        self.silent_since_us.is_some_and(|since| now_us.saturating_sub(since) > SILENT_US)
    }
}

/// A topic's partition, as far as alignment depends on it.
pub(crate) struct AlignedPartition<'p> {
    /// Its log time. `None` before its first event.
    pub(crate) log_time_ms: Option<i64>,
    /// Whether it has unread records.
    pub(crate) is_behind: bool,
    pub(crate) alignment: &'p mut Alignment,
}

/// How many partitions are paused, and how many are silent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Aligned {
    pub(crate) paused: usize,
    pub(crate) silent: usize,
}

/// Decides which partitions of `worker` have to wait at `now_us`.
pub(crate) fn align(
    partitions: &mut [AlignedPartition<'_>],
    worker: usize,
    low_watermark: &LowWatermark,
    max_skew_ms: i64,
    now_us: u64,
) -> Aligned {
    let (mut least_ms, mut aligned) = (NOTHING_TO_READ, Aligned::default());
    for partition in &mut *partitions {
        if !partition.is_behind {
            // It has nothing to return.
            partition.alignment.silent_since_us = None;
        } else if partition.alignment.is_silent(now_us) {
            aligned.silent += 1;
        } else {
            least_ms = least_ms.min(partition.log_time_ms.unwrap_or(i64::MIN));
        }
    }
    let limit_ms = low_watermark.update(worker, least_ms).saturating_add(max_skew_ms);
    for partition in partitions {
        let alignment = &mut *partition.alignment;
        alignment.paused = partition.log_time_ms.is_some_and(|ms| ms > limit_ms);
        if alignment.paused {
            alignment.silent_since_us = None;
            aligned.paused += 1;
        }
    }
    aligned
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: i64 = 60_000;
    const NOW: u64 = 1_000_000;
    const BEHIND: bool = true;
    const AT_END: bool = false;

    fn paused(
        partitions: &[(Option<i64>, bool)],
        alignments: &mut Vec<Alignment>,
        low_watermark: &LowWatermark,
        now_us: u64,
    ) -> (Vec<bool>, Aligned) {
        alignments.resize_with(partitions.len(), Alignment::default);
        let mut partitions: Vec<_> = partitions
            .iter()
            .zip(&mut *alignments)
            .map(|((ms, is_behind), alignment)| AlignedPartition {
                log_time_ms: ms.map(|ms| ms * MINUTE),
                is_behind: *is_behind,
                alignment,
            })
            .collect();
        let aligned = align(&mut partitions, 0, low_watermark, 10 * MINUTE, now_us);
        (alignments.iter().map(|a| a.paused).collect(), aligned)
    }

    #[test]
    fn partitions_far_ahead_of_the_slowest_unfinished_one_are_paused() {
        let (mut alignments, low_watermark) = (Vec::new(), LowWatermark::new(1));
        let mut of = |partitions: &[_]| paused(partitions, &mut alignments, &low_watermark, NOW).0;
        assert_eq!(
            of(&[(Some(0), BEHIND), (Some(10), BEHIND), (Some(11), BEHIND)]),
            [false, false, true]
        );
        assert_eq!(
            of(&[(Some(0), AT_END), (Some(11), BEHIND), (Some(22), BEHIND)])[1..],
            [false, true]
        );
        assert_eq!(of(&[(None, BEHIND), (Some(0), BEHIND), (None, BEHIND)]), [false, true, false]);
        assert_eq!(of(&[(Some(0), AT_END), (Some(50), AT_END), (None, AT_END)]), [false; 3]);
    }

    #[test]
    fn silent_partition_pauses_nobody_until_it_returns_records() {
        let (mut alignments, low_watermark) = (vec![Alignment::default(); 2], LowWatermark::new(1));
        let partitions = [(Some(0), BEHIND), (Some(60), BEHIND)];
        alignments[0].was_read(0, NOW);
        alignments[0].was_read(0, NOW + 5);
        let soon = paused(&partitions, &mut alignments, &low_watermark, NOW + SILENT_US);
        assert_eq!(soon, (vec![false, true], Aligned { paused: 1, silent: 0 }));
        let late = paused(&partitions, &mut alignments, &low_watermark, NOW + SILENT_US + 1);
        assert_eq!(late, (vec![false, false], Aligned { paused: 0, silent: 1 }));
        alignments[0].was_read(3, NOW + SILENT_US + 2);
        assert!(paused(&partitions, &mut alignments, &low_watermark, NOW + SILENT_US + 3).0[1]);
    }

    #[test]
    fn workers_wait_for_each_other() {
        let low_watermark = LowWatermark::new(2);
        let (mut a, mut b) = (Alignment::default(), Alignment::default());
        let of = |worker, ms: i64, is_behind, alignment: &mut Alignment| {
            let log_time_ms = Some(ms * MINUTE);
            let mut partitions = [AlignedPartition { log_time_ms, is_behind, alignment }];
            align(&mut partitions, worker, &low_watermark, 10 * MINUTE, NOW).paused
        };
        assert_eq!(of(0, 0, BEHIND, &mut a), 0);
        assert_eq!(of(1, 11, BEHIND, &mut b), 1);
        assert_eq!(of(0, 5, BEHIND, &mut a), 0);
        assert_eq!(of(1, 11, BEHIND, &mut b), 0);
        assert_eq!(of(1, 90, BEHIND, &mut b), 1);
        assert_eq!(of(0, 5, AT_END, &mut a), 0, "read to its end");
        assert_eq!(of(1, 90, BEHIND, &mut b), 0);
    }
}
