//! Preparing a job: it finds its inputs, acquires its state and opens it. Nothing runs yet.
//!
//! Invariant: a job with a wrong input or store leaves no trace, and supersedes nobody.

use std::sync::Arc;
use std::time::Duration;

use schemas::manifest::Manifest;
use sinks::commits::{
    CommitError, CommitTask, Housekeeper, Latest, Lock, MergeQueue, SegmentWriter, Snapshot,
    make_visible, newest, pending, visible,
};
use sinks::publish::{PublishTask, Publisher};
use sinks::storage::{DiskStorage, Patience, Storage, StorageError, Waiting};

use crate::acquire::acquire;
use crate::clock::Clock;
use crate::context::Context;
use crate::error::StartError;
use crate::inputs::{InputError, InputSpec};
use crate::plan::{BlockQueue, Plan, Unfinished};
use crate::process::ProcessShared;
use crate::publishing::{self, check_store};
use crate::rate_limiter::RateLimiter;
use crate::records::Inputs;
use crate::settings::{Input, Settings};
use crate::sources::LogError;
use crate::spec::{JobSpec, StateAt};
use crate::status::Status;

/// A job that owns its state and has done nothing else yet.
pub(crate) struct Ready {
    pub(crate) context: Context,
    pub(crate) workers: usize,
    pub(crate) writer: SegmentWriter,
    pub(crate) commits: CommitTask,
    pub(crate) housekeeper: Housekeeper,
    pub(crate) publisher: Option<publishing::Task>,
    pub(crate) lock: Option<Lock>,
}

/// A run that had finished before.
pub(crate) struct FinishedRun {
    pub(crate) last: Arc<Snapshot>,
    pub(crate) publisher: Option<publishing::Task>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) store_wait_ms: u64,
}

/// A prepared job.
pub(crate) enum Prepared {
    /// It can begin.
    Ready(Box<Ready>),
    /// The state holds this very run, finished.
    Finished(Box<FinishedRun>),
}

/// Finds the inputs, and acquires and opens the state.
pub(crate) fn prepare(mut spec: JobSpec) -> Result<Prepared, StartError> {
    assert!(spec.workers > 0, "a job has at least one worker: checked by the command line");
    let status = Arc::new(Status::default());
    let (waiting, mut patience) = waiting(&status, &*spec.clock);
    patience.insist(|| check_store(&mut spec))?;
    let repeatable = open_inputs(spec.inputs.iter().filter(|i| i.is_repeatable()), 0, &spec)?;
    let storage = open_storage(&spec.state, &mut patience)?;
    let before = patience.insist(|| newest(&*storage))?;
    let known = before.as_ref().map_or_else(Inputs::new, |before| before.body.inputs.clone());
    let planned = plan(&repeatable, known, &spec.settings);
    let (plan, blocks) = planned.map_err(|error| after(error, before.as_ref(), &*storage))?;
    let finished = before.as_ref().and_then(|before| before.body.finished.clone());
    let all_read = plan.ordered.is_empty() && blocks.is_empty();
    if let Some(before) = before
        && is_finished(&before, all_read, &spec)?
        && patience.insist(|| pending(&*storage, before.body.control))?.is_empty()
    {
        tell(&plan, &repeatable, &status);
        let last = Arc::new(patience.insist(|| show_finished(&*storage, before.clone()))?);
        let publisher = spec.publisher.map(|publisher| task(publisher, &storage));
        let store_wait_ms = spec.settings.store_wait_ms;
        let finished = FinishedRun { last, publisher, clock: spec.clock, store_wait_ms };
        return Ok(Prepared::Finished(Box::new(finished)));
    }
    let (takeover, lock) = acquire(&spec, &*storage, &mut patience)?;
    patience.insist(|| make_visible(&*storage, &takeover.header))?;
    let inputs = open_inputs(&spec.inputs, takeover.header.generation, &spec)?;
    let (plan, blocks) = self::plan(&inputs, takeover.body.inputs.clone(), &spec.settings)?;
    let started_us = spec.clock.mono_us();
    let first = patience.insist(|| Snapshot::open(&*storage, takeover.clone(), None))?;
    let latest = Arc::new(Latest::new(Arc::new(first)));
    let (writer_task, writer) = SegmentWriter::new(Arc::clone(&storage), &waiting);
    let (commit_task, commits) =
        CommitTask::new(Arc::clone(&storage), Arc::clone(&latest), &waiting);
    let merges = Arc::new(MergeQueue::default());
    let (header, retention) = (&takeover.header, spec.settings.retention);
    let housekeeper =
        Housekeeper::new(Arc::clone(&storage), header, retention, Arc::clone(&merges), &waiting);
    status.begin(&takeover);
    tell(&plan, &inputs, &status);
    let publisher = spec.publisher.map(|publisher| task(publisher, &storage));
    let rate_limiter = RateLimiter::new(spec.settings.limit_rate, started_us);
    let memory = spec.settings.memory;
    let process = ProcessShared::new(spec.workers, blocks, rate_limiter, memory, waiting);
    let context = Context {
        settings: Arc::new(spec.settings),
        inputs: inputs.into(),
        plan: Arc::new(plan),
        clock: spec.clock,
        started_us,
        storage,
        start: Arc::new(takeover),
        finished,
        latest,
        writer,
        commits,
        merges,
        status,
        process: Arc::new(process),
    };
    Ok(Prepared::Ready(Box::new(Ready {
        context,
        workers: spec.workers,
        writer: writer_task,
        commits: commit_task,
        housekeeper,
        publisher,
        lock,
    })))
}

/// Says what was passed over, and which last lines are not read by this run.
fn tell(plan: &Plan, inputs: &[Input], status: &Status) {
    inputs.iter().for_each(Input::tell_passed_over);
    for line in &plan.unfinished {
        let Unfinished { input, partition, position, bytes } = line;
        tracing::warn!(
            input,
            partition,
            position,
            bytes,
            "the last line is no complete record and has no newline; it is left for the next run"
        );
        status.unfinished(line.clone(), true);
    }
}

fn open_storage(
    state: &StateAt,
    patience: &mut Patience,
) -> Result<Arc<dyn Storage>, StorageError> {
    Ok(match state {
        StateAt::Folder(root) => Arc::new(patience.insist(|| DiskStorage::create(root))?),
        StateAt::Storage(storage) => Arc::clone(storage),
    })
}

/// What the job waits for, shown in its status, and how its start does.
fn waiting(status: &Arc<Status>, clock: &dyn Clock) -> (Arc<Waiting>, Patience) {
    let status = Arc::clone(status);
    let sleeps = clock.pause(Duration::ZERO).is_some();
    let waiting = Waiting::new(sleeps, move |lack, begins| status.lacks(lack, begins));
    let waiting = Arc::new(waiting);
    let patience = Patience::new(&waiting);
    (waiting, patience)
}

/// Checks the files of a finished run, and shows its last commit: the run may have been killed
/// before it could.
fn show_finished(storage: &dyn Storage, last: Manifest) -> Result<Snapshot, CommitError> {
    let snapshot = Snapshot::open_checked(storage, last)?;
    let header = &snapshot.manifest.header;
    if visible(storage).ok().flatten() != Some(header.commit) {
        make_visible(storage, header)?;
    }
    Ok(snapshot)
}

/// Publishes the commits in `storage` under a job's name.
fn task(
    (name, publisher): (String, Box<dyn Publisher>),
    storage: &Arc<dyn Storage>,
) -> publishing::Task {
    PublishTask::new(name, publisher, Arc::clone(storage))
}

/// The error of an input; if its topic was recreated, it names the newest commit.
fn after(error: LogError, newest: Option<&Manifest>, storage: &dyn Storage) -> LogError {
    match newest {
        Some(newest) => error.after(&storage.display(""), newest.header.commit),
        None => error,
    }
}

/// What there is to read: nothing if the job only applies repairs.
fn plan(
    inputs: &[Input],
    known: Inputs,
    settings: &Settings,
) -> Result<(Plan, BlockQueue), LogError> {
    let inputs = if settings.repair_only { &[] } else { inputs };
    Plan::new(inputs, &known)
}

/// Whether the state holds this very run, finished. `all_read`: there is nothing left to read.
fn is_finished(before: &Manifest, all_read: bool, spec: &JobSpec) -> Result<bool, StartError> {
    let Some(finished) = &before.body.finished else { return Ok(false) };
    let settings = &spec.settings;
    let is_same = !settings.live
        && !settings.repair_only
        && before.body.windows == settings.windows
        && before.body.scopes.as_ref().is_none_or(|scopes| *scopes == settings.scopes_sorted())
        && spec.inputs.iter().all(InputSpec::is_repeatable)
        && all_read;
    // Events that the finished run left out would never be read again.
    let left_out = before.body.counters.after_until > 0 && !settings.repair_only;
    if finished.until_ms != settings.until_ms && (is_same || left_out) {
        let text = finished
            .until_ms
            .map_or("without --until".to_owned(), |ms| format!("with --until {ms}"));
        return Err(StartError::OtherUntil(text));
    }
    Ok(is_same)
}

fn open_inputs<'i>(
    inputs: impl IntoIterator<Item = &'i InputSpec>,
    generation: u64,
    spec: &JobSpec,
) -> Result<Vec<Input>, InputError> {
    let open = |input: &InputSpec| input.open(generation, &spec.settings, &spec.clock);
    inputs.into_iter().map(open).collect()
}
