//! Housekeeping in the background: merging segments and removing files that nothing needs.
//!
//! Invariants: a merged file that no manifest takes up is removed again; a lack of space delays
//! merges, and never keeps files from being removed.

use std::sync::Arc;

use schemas::manifest::{Header, Manifest};

use super::files::CommitError;
use super::merge::{MergeTask, Merged};
use super::queue::MergeQueue;
use super::retention::{Retention, RetentionTask};
use crate::storage::{Patience, Storage, Waiting};

/// How often to look for files to remove.
const SWEEP_MS: u64 = 1000;

/// What one step did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Housekeeping {
    /// The number of merges.
    pub merges: u64,
    /// The number of files removed.
    pub removed: u64,
}

/// The background task of one job.
pub struct Housekeeper {
    merge: MergeTask,
    retention: RetentionTask,
    queue: Arc<MergeQueue>,
    /// Merges that are not in a manifest yet.
    pending: Vec<Merged>,
    swept_ms: Option<u64>,
    /// That of removing files.
    sweeps: Patience,
    /// That of merging, and when to try again.
    merges: Patience,
    merges_ms: u64,
}

impl Housekeeper {
    /// The task of the job that made `takeover`. Finished merges go to `queue`.
    pub fn new(
        storage: Arc<dyn Storage>,
        takeover: &Header,
        retention: Retention,
        queue: Arc<MergeQueue>,
        waiting: &Arc<Waiting>,
    ) -> Self {
        let retention = RetentionTask::new(Arc::clone(&storage), takeover.generation, retention);
        let merge = MergeTask::new(storage, takeover.clone());
        let [sweeps, merges] = [Patience::new(waiting), Patience::new(waiting)];
        let (pending, swept_ms, merges_ms) = (Vec::new(), None, 0);
        Self { merge, retention, queue, pending, swept_ms, sweeps, merges, merges_ms }
    }

    /// Does all merges that are due, given the newest commit of this job, and from time to time
    /// removes files. `now_ms` is any monotonic clock. Doing one merge a step would let a table or
    /// level grow without bound if another has a merge due after every commit.
    pub fn step(&mut self, newest: &Manifest, now_ms: u64) -> Result<Housekeeping, CommitError> {
        let mut done = Housekeeping::default();
        let mut ahead = newest.clone();
        let segments = &mut ahead.body.segments;
        self.pending.retain(|merged| {
            let named = segments.iter().any(|s| s.name == merged.output.name);
            let is_pending = !named && merged.apply(segments);
            // Either a manifest names it now, or it came too late and none ever will.
            if !is_pending {
                self.retention.discard(merged.output.name.clone(), merged.output.bytes);
            }
            is_pending
        });
        if self.swept_ms.is_none_or(|swept| now_ms.saturating_sub(swept) >= SWEEP_MS) {
            self.swept_ms = Some(now_ms);
            match self.retention.step(newest, now_ms) {
                Err(error) if self.sweeps.leaves(&error) => {}
                removed => {
                    done.removed = removed? as u64;
                    self.sweeps.goes_on();
                }
            }
        }
        if now_ms < self.merges_ms {
            return Ok(done);
        }
        loop {
            let merged = match self.merge.step(&ahead) {
                Err(error) if self.merges.leaves(&error) => {
                    self.merges_ms = now_ms + self.merges.next_wait().as_millis() as u64;
                    return Ok(done);
                }
                merged => merged?,
            };
            let Some(merged) = merged else { break };
            merged.apply(&mut ahead.body.segments);
            self.pending.push(merged.clone());
            self.queue.push(merged);
            done.merges += 1;
        }
        self.merges.goes_on();
        Ok(done)
    }
}
