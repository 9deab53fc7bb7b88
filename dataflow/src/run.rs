//! Running a job: taking over a state, the threads around the graph, and the end of both.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use schemas::manifest::Manifest;
use sinks::commits::{
    CommitError, CommitTask, Housekeeper, Latest, Lock, MergeQueue, SegmentWriter, Snapshot,
    make_visible, newest, pending, visible,
};
use sinks::publish::{PublishTask, Publisher};
use sinks::storage::{DiskStorage, Storage};
use timely::WorkerConfig;
use timely::communication::{Config as CommunicationConfig, WorkerGuards};

use crate::acquire::{acquire, reason};
use crate::clock::Clock;
use crate::context::{Context, Pace, SliceCount, Stop};
use crate::error::JobError;
use crate::failure::Failure;
use crate::inputs::{InputError, InputSpec};
use crate::job::{State, build};
use crate::low_watermark::LowWatermark;
use crate::plan::Plan;
use crate::publishing::{self, Publication, check_store};
use crate::records::Inputs;
use crate::settings::{Input, Settings};
use crate::sources::LogError;
use crate::spec::{JobSpec, StateAt};
use crate::status::Status;

/// Asks a job to stop when its handle is dropped, which then waits for its threads.
struct StopOnDrop(Arc<Stop>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.set();
    }
}

/// A job that runs. Dropping it makes a last commit and ends it.
pub struct Running {
    // Dropped first: the guards below wait for the workers.
    ending: StopOnDrop,
    guards: WorkerGuards<()>,
    threads: Vec<JoinHandle<()>>,
    context: Context,
    _lock: Option<Lock>,
}

/// What became of a start.
pub enum Started {
    /// The job runs.
    Running(Running),
    /// The state holds this very run, finished: there is nothing to do.
    Finished(Box<Manifest>),
    /// It does, but for what the store may still lack, which is on its way.
    Publishing(Box<Manifest>, Publication),
}

/// A job that owns its state and has done nothing else yet.
pub(crate) struct Ready {
    pub(crate) context: Context,
    pub(crate) workers: usize,
    pub(crate) writer: SegmentWriter,
    pub(crate) commits: CommitTask,
    pub(crate) housekeeper: Housekeeper,
    pub(crate) publisher: Option<publishing::Task>,
    lock: Option<Lock>,
}

/// What became of getting ready.
pub(crate) enum Prepared {
    /// The job can begin.
    Ready(Box<Ready>),
    /// The state holds this very run, finished.
    Finished(Box<Finished>),
}

/// A run that had been finished.
pub(crate) struct Finished {
    last: Arc<Snapshot>,
    publisher: Option<publishing::Task>,
    clock: Arc<dyn Clock>,
    store_wait_ms: u64,
}

impl Finished {
    fn started(self) -> Started {
        let manifest = Box::new(self.last.manifest.clone());
        match self.publisher {
            Some(task) => {
                let publication =
                    Publication::start(task, self.last, self.clock, self.store_wait_ms);
                Started::Publishing(manifest, publication)
            }
            None => Started::Finished(manifest),
        }
    }
}

/// Starts a job: takes the state over, finds its inputs and loads it.
pub fn start(spec: JobSpec) -> Result<Started, JobError> {
    let ready = match prepare(spec)? {
        Prepared::Ready(ready) => *ready,
        Prepared::Finished(finished) => return Ok(finished.started()),
    };
    let Ready { context, workers, writer, commits, housekeeper, publisher, lock } = ready;
    let other_writer = writer.clone();
    let mut threads = vec![
        std::thread::spawn(|| writer.run()),
        std::thread::spawn(|| other_writer.run()),
        std::thread::spawn(|| commits.run()),
        spawn_housekeeper(&context, housekeeper),
    ];
    threads.extend(publisher.map(|task| publishing::spawn(&context, task)));
    let ending = StopOnDrop(Arc::clone(&context.stop));
    let guards = spawn_workers(&context, workers)?;
    Ok(Started::Running(Running { ending, guards, threads, context, _lock: lock }))
}

/// Takes the state over and finds the inputs; nothing runs yet.
pub(crate) fn prepare(mut spec: JobSpec) -> Result<Prepared, JobError> {
    // Before anything is written: a wrong input or store leaves no trace, and supersedes nobody.
    check_store(&mut spec)?;
    let repeatable = open_inputs(spec.inputs.iter().filter(|i| i.is_repeatable()), 0, &spec)?;
    let storage: Arc<dyn Storage> = match &spec.state {
        StateAt::Folder(root) => Arc::new(DiskStorage::create(root)?),
        StateAt::Storage(storage) => Arc::clone(storage),
    };
    let before = newest(&*storage)?;
    let plan = plan(&repeatable, before.as_ref().map_or_else(Inputs::new, known), &spec.settings)?;
    let finished = before.as_ref().and_then(|before| before.body.finished.clone());
    if let Some(before) = before
        && is_finished(&before, &plan, &spec)?
        && pending(&*storage, before.body.control)?.is_empty()
    {
        let last = Arc::new(show_finished(&*storage, before)?);
        let publisher = spec.publisher.map(|publisher| task(publisher, &storage));
        let store_wait_ms = spec.settings.store_wait_ms;
        let finished = Finished { last, publisher, clock: spec.clock, store_wait_ms };
        return Ok(Prepared::Finished(Box::new(finished)));
    }
    let (takeover, lock) = acquire(&spec, &*storage)?;
    make_visible(&*storage, &takeover.header)?;
    let inputs = open_inputs(&spec.inputs, takeover.header.generation, &spec)?;
    let plan = self::plan(&inputs, known(&takeover), &spec.settings)?;
    let started_us = spec.clock.mono_us();
    let first = Snapshot::open(&*storage, takeover.clone(), None)?;
    let latest = Arc::new(Latest::new(Arc::new(first)));
    let (writer_task, writer) = SegmentWriter::new(Arc::clone(&storage));
    let (commit_task, commits) = CommitTask::new(Arc::clone(&storage), Arc::clone(&latest));
    let merges = Arc::new(MergeQueue::default());
    let (header, retention) = (&takeover.header, spec.settings.retention);
    let housekeeper =
        Housekeeper::new(Arc::clone(&storage), header, retention, Arc::clone(&merges));
    let status = Arc::new(Status::default());
    status.committed(&takeover, 0);
    let publisher = spec.publisher.map(|publisher| task(publisher, &storage));
    let context = Context {
        pace: Arc::new(Pace::new(spec.settings.limit_rate, started_us)),
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
        ids: Arc::default(),
        spare: Arc::default(),
        failure: Arc::new(Failure::default()),
        stop: Arc::new(Stop::default()),
        slice: Arc::new(SliceCount::new(spec.workers)),
        low_watermark: Arc::new(LowWatermark::new(spec.workers)),
        status,
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

/// A finished state is as good as its files, and is seen: its last start may have been killed
/// before it could show the last commit.
fn show_finished(storage: &dyn Storage, last: Manifest) -> Result<Snapshot, CommitError> {
    let snapshot = Snapshot::open_checked(storage, last)?;
    let header = &snapshot.manifest.header;
    if visible(storage).ok().flatten() != Some(header.commit) {
        make_visible(storage, header)?;
    }
    Ok(snapshot)
}

/// What publishes the commits in `storage`, under a job's name.
fn task(
    (name, publisher): (String, Box<dyn Publisher>),
    storage: &Arc<dyn Storage>,
) -> publishing::Task {
    PublishTask::new(name, publisher, Arc::clone(storage))
}

fn known(manifest: &Manifest) -> Inputs {
    manifest.body.inputs.clone()
}

/// What there is to read; nothing where the job takes control records only.
fn plan(inputs: &[Input], known: Inputs, settings: &Settings) -> Result<Plan, LogError> {
    let inputs = if settings.repair_only { &[] } else { inputs };
    Plan::new(inputs, &known)
}

/// Whether the state holds this very run, finished; `plan` is what there is still to read.
fn is_finished(before: &Manifest, plan: &Plan, spec: &JobSpec) -> Result<bool, JobError> {
    let Some(finished) = &before.body.finished else { return Ok(false) };
    let settings = &spec.settings;
    let nothing_new = !settings.live
        && !settings.repair_only
        && before.body.windows == settings.windows
        && before.body.scopes.as_ref().is_none_or(|scopes| *scopes == settings.scopes_sorted())
        && spec.inputs.iter().all(InputSpec::is_repeatable)
        && plan.is_finished();
    // Events that the finished run left out would never be read again.
    let left_out = before.body.counters.after_until > 0 && !settings.repair_only;
    if finished.until_ms != settings.until_ms && (nothing_new || left_out) {
        let text = finished
            .until_ms
            .map_or("without --until".to_owned(), |ms| format!("with --until {ms}"));
        return Err(JobError::OtherUntil(text));
    }
    Ok(nothing_new)
}

fn open_inputs<'i>(
    inputs: impl IntoIterator<Item = &'i InputSpec>,
    generation: u64,
    spec: &JobSpec,
) -> Result<Vec<Input>, InputError> {
    let open = |input: &InputSpec| input.open(generation, &spec.settings, &spec.clock);
    inputs.into_iter().map(open).collect()
}

/// Loads the worker's part of the state and builds its graph.
pub(crate) fn install(worker: &mut timely::worker::Worker, context: &Context) {
    match State::load(context, worker.index(), worker.peers()) {
        Ok(state) => worker.dataflow(|scope| build(scope, state, context)),
        Err(error) => context.failure.set(error),
    }
}

/// On an error every worker of the process leaves: no peer waits for another's progress.
pub(crate) fn abandon(worker: &mut timely::worker::Worker, context: &Context) {
    if context.failure.is_set() {
        for dataflow in worker.installed_dataflows() {
            worker.drop_dataflow(dataflow);
        }
    }
}

fn spawn_workers(context: &Context, workers: usize) -> Result<WorkerGuards<()>, JobError> {
    let communication = match workers {
        1 => CommunicationConfig::Thread,
        n => CommunicationConfig::Process(n),
    };
    let worker = WorkerConfig::default().idle_spin(Duration::ZERO);
    let config = timely::Config { communication, worker };
    let context = context.clone();
    let run = move |worker: &mut timely::worker::Worker| {
        install(worker, &context);
        let pause = Some(Duration::from_millis(100));
        while !context.failure.is_set() && worker.step_or_park(pause) {}
        abandon(worker, &context);
    };
    timely::execute(config, run).map_err(JobError::Worker)
}

fn spawn_housekeeper(context: &Context, mut keeper: Housekeeper) -> JoinHandle<()> {
    let context = context.clone();
    std::thread::spawn(move || {
        let mut seen = 0;
        while !context.latest.is_closed() {
            let Some(newest) = context.latest.wait(seen, Duration::from_secs(1)) else { continue };
            seen = newest.manifest.header.commit;
            match keeper.step(&newest.manifest, context.clock.mono_us() / 1000) {
                Ok(done) => context.status.add_housekeeping(done),
                Err(error) => return context.failure.set(error),
            }
        }
    })
}

impl Running {
    /// What the job is doing.
    pub fn status(&self) -> Arc<Status> {
        Arc::clone(&self.context.status)
    }

    /// The handle by which to ask for an end.
    pub fn stop(&self) -> Arc<Stop> {
        Arc::clone(&self.context.stop)
    }

    /// Waits for the end: the last commit's manifest.
    pub fn wait(self) -> Result<Manifest, JobError> {
        let Self { ending: _ending, guards, threads, context, _lock } = self;
        for result in guards.join() {
            if let Err(error) = result {
                context.failure.set(JobError::Worker(error));
            }
        }
        context.latest.close();
        let (latest, failure) = (Arc::clone(&context.latest), Arc::clone(&context.failure));
        let (storage, start) = (Arc::clone(&context.storage), Arc::clone(&context.start));
        // The queues' last senders go with the context, which ends their tasks.
        drop(context);
        for thread in threads {
            if thread.join().is_err() {
                failure.set(JobError::Worker("a background thread panicked".to_owned()));
            }
        }
        match failure.take() {
            Some(error) => Err(reason(error, &*storage, &start)),
            None => Ok(latest.current().manifest.clone()),
        }
    }
}
