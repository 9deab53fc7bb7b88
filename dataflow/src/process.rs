//! What the workers of one process share: how fast they read, which batches they can fill again,
//! and how they stop.
//!
//! Invariant: no operator sends it to another process. The ticker reads it to end slices and
//! commits, since the one process is the whole job today; in a cluster these facts must reach the
//! ticker in the dataflow.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use schemas::manifest::Manifest;
use schemas::rows::Ids;
use sinks::commits::{CommitError, OpenSegment, open_table};
use sinks::storage::{Storage, Waiting};
use timely::scheduling::SyncActivator;

use crate::budget::{Budget, Memory};
use crate::failure::Failure;
use crate::limits::{SLICE_RECORDS, slice_share};
use crate::low_watermark::LowWatermark;
use crate::plan::BlockQueue;
use crate::pool::Pool;
use crate::rate_limiter::RateLimiter;
use crate::records::{Mentions, Posts};

/// What one process of a job shares.
pub(crate) struct ProcessShared {
    /// The first error, which ends the job.
    pub(crate) failure: Failure,
    /// Whether the job was asked to stop.
    pub(crate) stop: Arc<Stop>,
    /// What its tasks lack and wait for.
    pub(crate) waiting: Arc<Waiting>,
    /// What is read in the present slice.
    pub(crate) slice: SliceCount,
    /// What slices and commits may hold in memory.
    pub(crate) budget: Budget,
    pub(crate) rate_limiter: RateLimiter,
    pub(crate) low_watermark: LowWatermark,
    /// Blocks of files that no worker has taken yet.
    pub(crate) blocks: BlockQueue,
    pub(crate) open_ids: OpenIds,
    pub(crate) spare: Spare,
}

impl ProcessShared {
    /// A process with this many workers, which read `blocks` besides their partitions.
    pub(crate) fn new(
        workers: usize,
        blocks: BlockQueue,
        rate_limiter: RateLimiter,
        memory: Memory,
        waiting: Arc<Waiting>,
    ) -> Self {
        Self {
            failure: Failure::default(),
            stop: Arc::new(Stop { is_set: AtomicBool::new(false), waiting: Arc::clone(&waiting) }),
            waiting,
            slice: SliceCount::new(workers, memory.slice_bytes),
            budget: Budget::new(memory),
            rate_limiter,
            low_watermark: LowWatermark::new(workers),
            blocks,
            open_ids: OpenIds::default(),
            spare: Spare::default(),
        }
    }
}

/// Emptied batches to be filled again.
#[derive(Debug, Default)]
pub(crate) struct Spare {
    pub(crate) posts: Pool<Posts>,
    pub(crate) mentions: Pool<Mentions>,
}

/// The segments of ids that workers read when they start. As long as one worker reads them, others
/// need not open and check them again.
#[derive(Default)]
pub(crate) struct OpenIds(Mutex<Weak<Vec<OpenSegment<Ids>>>>);

impl OpenIds {
    /// The segments of a commit, the oldest first. It is the same commit at every call.
    pub(crate) fn open(
        &self,
        storage: &dyn Storage,
        manifest: &Manifest,
    ) -> Result<Arc<Vec<OpenSegment<Ids>>>, CommitError> {
        let mut last = self.0.lock();
        if let Some(open) = last.upgrade() {
            return Ok(open);
        }
        let open = Arc::new(open_table::<Ids>(storage, manifest)?);
        *last = Arc::downgrade(&open);
        Ok(open)
    }
}

/// Whether a job was asked to stop.
#[derive(Default)]
pub struct Stop {
    is_set: AtomicBool,
    waiting: Arc<Waiting>,
}

impl Stop {
    /// Asks the job to make a last commit and end.
    pub fn set(&self) {
        self.is_set.store(true, Ordering::Release);
        self.waiting.end_soon();
    }

    pub(crate) fn is_set(&self) -> bool {
        self.is_set.load(Ordering::Acquire)
    }
}

/// What is read in the present slice and commit.
pub(crate) struct SliceCount {
    records: AtomicU64,
    /// About how much memory its events take.
    bytes: AtomicU64,
    bytes_max: u64,
    /// By worker, the last commit in which it reached the end of what there was to read.
    caught_up: Box<[AtomicU64]>,
    /// Wakes the ticker when a slice is full.
    ticker: Mutex<Option<SyncActivator>>,
}

impl SliceCount {
    pub(crate) fn new(workers: usize, bytes_max: u64) -> Self {
        Self {
            records: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            bytes_max,
            caught_up: (0..workers).map(|_| AtomicU64::new(0)).collect(),
            ticker: Mutex::default(),
        }
    }

    /// How many records one worker may read in a slice.
    pub(crate) fn share(&self) -> usize {
        slice_share(self.caught_up.len())
    }

    /// Wakes this ticker when a slice is full. Only the first call has an effect.
    pub(crate) fn wake(&self, ticker: SyncActivator) {
        self.ticker.lock().get_or_insert(ticker);
    }

    /// Begins a slice.
    pub(crate) fn begin(&self) {
        self.records.store(0, Ordering::Relaxed);
        self.bytes.store(0, Ordering::Relaxed);
    }

    /// Counts records that were read, and the memory that their events take.
    pub(crate) fn add(&self, records: usize, bytes: usize) {
        let was_full = self.is_full();
        self.records.fetch_add(records as u64, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        if !was_full && self.is_full() {
            // It fails if the ticker is gone, which then needs no waking.
            let _ = self.ticker.lock().as_ref().map(SyncActivator::activate);
        }
    }

    /// Whether the present slice has enough records, or more cannot be held.
    pub(crate) fn is_full(&self) -> bool {
        self.records() >= SLICE_RECORDS || self.holds_enough()
    }

    /// Whether the events of the present slice take all the memory that they may.
    pub(crate) fn holds_enough(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) >= self.bytes_max
    }

    /// The records read in the present slice.
    pub(crate) fn records(&self) -> u64 {
        self.records.load(Ordering::Relaxed)
    }

    /// `worker` has reached the end of what there is to read, in `commit`.
    pub(crate) fn catch_up(&self, worker: usize, commit: u64) {
        self.caught_up[worker].store(commit, Ordering::Relaxed);
    }

    /// Whether every worker has caught up in `commit`.
    pub(crate) fn is_caught_up(&self, commit: u64) -> bool {
        self.caught_up.iter().all(|last| last.load(Ordering::Relaxed) >= commit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caught_up_means_every_worker_in_the_same_commit() {
        let slice = SliceCount::new(2, u64::MAX);
        assert!(!slice.is_caught_up(1));
        slice.catch_up(0, 1);
        slice.catch_up(0, 1);
        assert!(!slice.is_caught_up(1), "one worker twice is not two");
        slice.catch_up(1, 1);
        assert!(slice.is_caught_up(1));
        assert!(!slice.is_caught_up(2), "each commit begins anew");
        slice.catch_up(0, 2);
        slice.catch_up(1, 1);
        assert!(!slice.is_caught_up(2), "the commit before says nothing about this one");
        slice.catch_up(1, 2);
        assert!(slice.is_caught_up(2));
    }

    #[test]
    fn slice_is_full_by_records_or_by_bytes() {
        let slice = SliceCount::new(1, 100);
        slice.add(1, 99);
        assert!(!slice.is_full());
        slice.add(1, 1);
        assert!(slice.is_full() && slice.holds_enough());
        slice.begin();
        slice.add(SLICE_RECORDS as usize, 0);
        assert!(slice.is_full() && !slice.holds_enough());
    }
}
