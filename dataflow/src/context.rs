//! What a job is: its settings, inputs and state, and the handles to what works beside its graph.
//!
//! Invariant: its fields are set when the job starts and are never replaced. What the workers of a
//! process count and exchange among themselves is in [`ProcessShared`].

use std::sync::Arc;
use std::sync::mpsc::Sender;

use schemas::manifest::{Finished, Manifest};
use sinks::commits::{CommitQueue, Latest, MergeQueue, WriteJob};
use sinks::storage::Storage;

use crate::clock::Clock;
use crate::largest::Largest;
use crate::plan::Plan;
use crate::process::ProcessShared;
use crate::settings::{Input, Settings};
use crate::status::Status;

/// A job, as one of its processes sees it.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) settings: Arc<Settings>,
    pub(crate) inputs: Arc<[Input]>,
    pub(crate) plan: Arc<Plan>,
    pub(crate) clock: Arc<dyn Clock>,
    /// The monotonic clock when the job started.
    pub(crate) started_us: u64,
    pub(crate) storage: Arc<dyn Storage>,
    /// The takeover that this run of the job began with.
    pub(crate) start: Arc<Manifest>,
    /// How the run that this one continues had finished, if it had.
    pub(crate) finished: Option<Finished>,
    /// The newest durable commit.
    pub(crate) latest: Arc<Latest>,
    pub(crate) writer: Sender<WriteJob>,
    pub(crate) commits: CommitQueue,
    pub(crate) merges: Arc<MergeQueue>,
    pub(crate) status: Arc<Status>,
    pub(crate) process: Arc<ProcessShared>,
}

impl Context {
    /// The number of the first commit that this run makes.
    pub(crate) fn first_commit(&self) -> u64 {
        self.start.header.commit + 1
    }

    /// The largest event time accepted before this run.
    pub(crate) fn largest(&self) -> Option<Largest> {
        let Manifest { header, body } = &*self.start;
        Largest::of(body, header.wall_ms, self.started_us)
    }

    /// The inputs that are read: none if the job only applies repairs.
    pub(crate) fn read_inputs(&self) -> &[Input] {
        if self.settings.repair_only { &[] } else { &self.inputs }
    }

    /// How a run that has read everything is finished.
    pub(crate) fn finish(&self) -> Option<Finished> {
        let now = Finished { until_ms: self.settings.until_ms };
        if self.settings.repair_only { self.finished.clone() } else { Some(now) }
    }
}
