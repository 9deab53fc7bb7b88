//! What the operators of a process share: handles to the outside, and how they wake each other.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use schemas::manifest::{Finished, Manifest};
use schemas::rows::Ids;
use sinks::commits::{
    CommitError, CommitQueue, Latest, MergeQueue, OpenSegment, WriteJob, open_table,
};
use sinks::storage::Storage;
use timely::scheduling::SyncActivator;

use crate::clock::Clock;
use crate::failure::Failure;
use crate::limits::{SLICE_RECORDS, slice_share};
use crate::low_watermark::LowWatermark;
use crate::plan::Plan;
use crate::pool::Pool;
use crate::records::{Mentions, Posts};
use crate::settings::{Input, Settings};
use crate::status::Status;

/// The handles of one process of a job.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) settings: Arc<Settings>,
    pub(crate) inputs: Arc<[Input]>,
    pub(crate) plan: Arc<Plan>,
    pub(crate) clock: Arc<dyn Clock>,
    /// The monotonic clock when the job started.
    pub(crate) started_us: u64,
    pub(crate) storage: Arc<dyn Storage>,
    /// This start's takeover.
    pub(crate) start: Arc<Manifest>,
    /// Whether the run had been finished that it continues, and how.
    pub(crate) finished: Option<Finished>,
    /// The newest durable commit.
    pub(crate) latest: Arc<Latest>,
    pub(crate) writer: Sender<WriteJob>,
    pub(crate) commits: CommitQueue,
    pub(crate) merges: Arc<MergeQueue>,
    pub(crate) ids: Arc<OpenIds>,
    pub(crate) spare: Arc<Spare>,
    pub(crate) failure: Arc<Failure>,
    pub(crate) stop: Arc<Stop>,
    pub(crate) slice: Arc<SliceCount>,
    pub(crate) pace: Arc<Pace>,
    pub(crate) low_watermark: Arc<LowWatermark>,
    pub(crate) status: Arc<Status>,
}

impl Context {
    /// The names of the inputs that are read.
    pub(crate) fn read_inputs(&self) -> impl Iterator<Item = String> {
        let inputs = self.inputs.iter().filter(|_| !self.settings.repair_only);
        inputs.map(|input| input.name.clone())
    }

    /// How a run is finished that has read everything.
    pub(crate) fn finish(&self) -> Option<Finished> {
        let now = Finished { until_ms: self.settings.until_ms };
        if self.settings.repair_only { self.finished.clone() } else { Some(now) }
    }
}

/// Batches that were emptied, for whoever fills the next.
#[derive(Debug, Default)]
pub(crate) struct Spare {
    pub(crate) posts: Pool<Posts>,
    pub(crate) mentions: Pool<Mentions>,
}

/// The files of ids, which workers read when they start and then let go: whoever comes while
/// another still reads need not check them again.
#[derive(Default)]
pub(crate) struct OpenIds(Mutex<Weak<Vec<OpenSegment<Ids>>>>);

impl OpenIds {
    /// The files of a commit, the oldest first; always the same commit.
    pub(crate) fn open(
        &self,
        storage: &dyn Storage,
        manifest: &Manifest,
    ) -> Result<Arc<Vec<OpenSegment<Ids>>>, CommitError> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = last.upgrade() {
            return Ok(open);
        }
        let open = Arc::new(open_table::<Ids>(storage, manifest)?);
        *last = Arc::downgrade(&open);
        Ok(open)
    }
}

/// Whether the job was asked to stop.
#[derive(Debug, Default)]
pub struct Stop(AtomicBool);

impl Stop {
    /// Asks for a last commit and an orderly end.
    pub fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// What is read in the present slice and commit, over the workers of this process.
#[derive(Default)]
pub(crate) struct SliceCount {
    records: AtomicU64,
    /// By worker, the last commit in which it came to the end of what there was to read.
    caught_up: Box<[AtomicU64]>,
    ticker: Mutex<Option<SyncActivator>>,
}

impl SliceCount {
    pub(crate) fn new(workers: usize) -> Self {
        Self { caught_up: (0..workers).map(|_| AtomicU64::new(0)).collect(), ..Self::default() }
    }

    /// What one worker may read in a slice.
    pub(crate) fn share(&self) -> usize {
        slice_share(self.caught_up.len())
    }

    /// The ticker is woken when a slice is full.
    pub(crate) fn wake_by(&self, ticker: SyncActivator) {
        self.ticker.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(ticker);
    }

    /// Begins a slice.
    pub(crate) fn begin(&self) {
        self.records.store(0, Ordering::Relaxed);
    }

    /// Counts records.
    pub(crate) fn read(&self, records: usize) {
        let before = self.records.fetch_add(records as u64, Ordering::Relaxed);
        if before < SLICE_RECORDS && before + records as u64 >= SLICE_RECORDS {
            let ticker = self.ticker.lock().unwrap_or_else(PoisonError::into_inner);
            // A ticker that is gone needs no waking.
            let _ = ticker.as_ref().map(SyncActivator::activate);
        }
    }

    /// A worker has come to the end of what there is to read, in `commit`.
    pub(crate) fn catch_up(&self, worker: usize, commit: u64) {
        if let Some(last) = self.caught_up.get(worker) {
            last.store(commit, Ordering::Relaxed);
        }
    }

    /// Whether all workers have in `commit`.
    pub(crate) fn is_caught_up(&self, commit: u64) -> bool {
        self.caught_up.iter().all(|last| last.load(Ordering::Relaxed) >= commit)
    }

    /// How many there are.
    pub(crate) fn records(&self) -> u64 {
        self.records.load(Ordering::Relaxed)
    }
}

/// A limit on records a second, over the workers of this process: a bucket of a tenth of a second.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    per_second: Option<u64>,
    /// Records in the bucket, in millionths, and when it was last filled.
    bucket: Mutex<(u64, u64)>,
}

impl Pace {
    pub(crate) fn new(per_second: Option<u64>, now_us: u64) -> Self {
        Self { per_second, bucket: Mutex::new((0, now_us)) }
    }

    /// How many of `wanted` records may be read now.
    pub(crate) fn grant(&self, wanted: usize, now_us: u64) -> usize {
        let Some(per_second) = self.per_second else { return wanted };
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let passed_us = now_us.saturating_sub(bucket.1);
        let full = per_second * 100_000;
        bucket.0 =
            bucket.0.saturating_add(passed_us.saturating_mul(per_second)).min(full.max(1_000_000));
        bucket.1 = now_us;
        let granted = wanted.min((bucket.0 / 1_000_000) as usize);
        bucket.0 -= granted as u64 * 1_000_000;
        granted
    }

    /// Returns what was granted and not read.
    pub(crate) fn give_back(&self, unused: usize) {
        if self.per_second.is_some() {
            let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
            bucket.0 += unused as u64 * 1_000_000;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_has_caught_up_when_each_worker_has_in_this_commit() {
        let slice = SliceCount::new(2);
        assert!(!slice.is_caught_up(1));
        slice.catch_up(0, 1);
        slice.catch_up(0, 1);
        assert!(!slice.is_caught_up(1), "one worker twice is not two");
        slice.catch_up(1, 1);
        assert!(slice.is_caught_up(1));
        assert!(!slice.is_caught_up(2), "each commit asks anew");
        slice.catch_up(0, 2);
        slice.catch_up(1, 1);
        assert!(!slice.is_caught_up(2), "a word of the commit before says nothing of this one");
        slice.catch_up(1, 2);
        assert!(slice.is_caught_up(2));
    }

    #[test]
    fn a_pace_grants_its_rate_whatever_is_asked() {
        let pace = Pace::new(Some(1000), 0);
        let mut granted = 0;
        for ms in 1..=2000 {
            let got = pace.grant(7, ms * 1000);
            granted += got - got / 3;
            pace.give_back(got / 3);
        }
        assert!((1900..=2000).contains(&granted), "{granted}");
        assert_eq!(Pace::new(None, 0).grant(7, 0), 7);
    }
}
