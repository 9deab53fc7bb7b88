//! Housekeeping behind the newest commit: merging segments and removing what nothing needs.

use std::sync::Arc;

use schemas::manifest::{Header, Manifest};

use super::files::CommitError;
use super::merge::{MergeTask, Merged};
use super::queue::MergeQueue;
use super::retention::{Retention, RetentionTask};
use crate::storage::Storage;

/// How often files are looked through for what can go.
const SWEEP_MS: u64 = 1000;

/// What a step did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Merges finished.
    pub merges: u64,
    /// Files removed.
    pub removed: u64,
}

/// The background task of one job.
pub struct Housekeeper {
    merge: MergeTask,
    retention: RetentionTask,
    queue: Arc<MergeQueue>,
    /// Merges that no manifest has taken up yet.
    pending: Vec<Merged>,
    swept_ms: Option<u64>,
}

impl Housekeeper {
    /// The task of the start that made `takeover`; finished merges go to `queue`.
    pub fn new(
        storage: Arc<dyn Storage>,
        takeover: &Header,
        retention: Retention,
        queue: Arc<MergeQueue>,
    ) -> Self {
        let retention = RetentionTask::new(Arc::clone(&storage), takeover.generation, retention);
        let merge = MergeTask::new(storage, takeover.clone());
        Self { merge, retention, queue, pending: Vec::new(), swept_ms: None }
    }

    /// Does all merges that are due, given the newest commit of this job, at `now_ms` of a
    /// monotonic clock. One at a time would leave a table, or a level of it, to grow without bound
    /// where another has a merge due after every commit.
    pub fn step(&mut self, newest: &Manifest, now_ms: u64) -> Result<Kept, CommitError> {
        let mut kept = Kept::default();
        let mut ahead = newest.clone();
        let segments = &mut ahead.body.segments;
        self.pending.retain(|merged| {
            let named = segments.iter().any(|s| s.name == merged.output.name);
            let waits = !named && merged.apply(segments);
            // Either it is named now, or it came too late and never will be.
            if !waits {
                self.retention.discard(merged.output.name.clone(), merged.output.bytes);
            }
            waits
        });
        if self.swept_ms.is_none_or(|swept| now_ms.saturating_sub(swept) >= SWEEP_MS) {
            kept.removed = self.retention.step(newest, now_ms)? as u64;
            self.swept_ms = Some(now_ms);
        }
        while let Some(merged) = self.merge.step(&ahead)? {
            merged.apply(&mut ahead.body.segments);
            self.pending.push(merged.clone());
            self.queue.push(merged);
            kept.merges += 1;
        }
        Ok(kept)
    }
}
