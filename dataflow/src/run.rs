//! Running a job: the threads around the graph, and their end.
//!
//! Invariant: however a job ends, all of its threads end with it, before its lock is given up.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use schemas::manifest::Manifest;
use sinks::commits::{Housekeeper, Lock};
use sinks::storage::{Patience, lack};
use timely::WorkerConfig;
use timely::communication::{Config as CommunicationConfig, WorkerGuards};

use crate::acquire::reason;
use crate::context::Context;
use crate::error::{RunError, StartError};
use crate::job::{State, build};
use crate::prepare::{FinishedRun, Prepared, Ready, prepare};
use crate::process::Stop;
use crate::publishing::{self, Publication};
use crate::spec::JobSpec;
use crate::status::Status;
use crate::worker_id::WorkerId;

/// The longest that a worker sleeps before it looks whether the job has failed.
const WORKER_PARK: Duration = Duration::from_millis(100);
/// The longest that the housekeeper sleeps before it looks whether the job has ended.
const HOUSEKEEPER_WAIT: Duration = Duration::from_secs(1);

/// A job that is running. Dropping it makes a last commit and ends it.
pub struct Running {
    start: Arc<Manifest>,
    status: Arc<Status>,
    stop: Arc<Stop>,
    /// `None` once they have ended.
    threads: Option<Threads>,
    // Given up last, by which all threads have ended.
    _lock: Option<Lock>,
}

/// The threads of a job.
struct Threads {
    workers: WorkerGuards<()>,
    others: Vec<JoinHandle<()>>,
    context: Context,
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(threads) = self.threads.take() {
            self.stop.set();
            // Whoever wants to know how it ended waits for it.
            let _ = threads.join();
        }
    }
}

/// A job that was started.
pub enum Started {
    /// It is running.
    Running(Running),
    /// The state holds this very run, finished: there is nothing to do.
    Finished(Box<Manifest>),
    /// So it does, and what the store may still lack of it is being published.
    Publishing(Box<Manifest>, Publication),
}

impl From<FinishedRun> for Started {
    fn from(run: FinishedRun) -> Self {
        let FinishedRun { last, publisher, clock, store_wait_ms } = run;
        let manifest = Box::new(last.manifest.clone());
        match publisher {
            Some(task) => {
                Self::Publishing(manifest, Publication::start(task, last, clock, store_wait_ms))
            }
            None => Self::Finished(manifest),
        }
    }
}

/// Starts a job: acquires its state, finds its inputs, and runs its threads.
pub fn start(spec: JobSpec) -> Result<Started, StartError> {
    let ready = match prepare(spec)? {
        Prepared::Ready(ready) => *ready,
        Prepared::Finished(finished) => return Ok((*finished).into()),
    };
    let Ready { context, workers, writer, commits, housekeeper, publisher, lock } = ready;
    let other_writer = writer.another();
    let mut others = vec![
        std::thread::spawn(|| writer.run()),
        std::thread::spawn(|| other_writer.run()),
        std::thread::spawn(|| commits.run()),
        spawn_housekeeper(&context, housekeeper),
    ];
    others.extend(publisher.map(|task| publishing::spawn(&context, task)));
    let (start, status) = (Arc::clone(&context.start), Arc::clone(&context.status));
    let stop = Arc::clone(&context.process.stop);
    let workers = match spawn_workers(&context, workers) {
        Ok(workers) => workers,
        Err(error) => {
            stop.set();
            end(context, others);
            return Err(StartError::Threads(error));
        }
    };
    let threads = Some(Threads { workers, others, context });
    Ok(Started::Running(Running { start, status, stop, threads, _lock: lock }))
}

/// Ends the threads beside the workers, which have ended. Returns whether all of them ended well.
fn end(context: Context, threads: Vec<JoinHandle<()>>) -> bool {
    context.latest.close();
    context.process.waiting.end_now();
    // The context holds the last senders of the queues, whose tasks end without them.
    drop(context);
    let ended: Vec<bool> = threads.into_iter().map(|thread| thread.join().is_ok()).collect();
    ended.into_iter().all(|well| well)
}

/// Timely's configuration for this many workers in one process.
pub(crate) fn timely_config(workers: usize) -> timely::Config {
    let communication = match workers {
        1 => CommunicationConfig::Thread,
        n => CommunicationConfig::Process(n),
    };
    timely::Config { communication, worker: WorkerConfig::default().idle_spin(Duration::ZERO) }
}

/// Loads a worker's part of the state, and builds its graph around it.
pub(crate) fn install(worker: &mut timely::worker::Worker, context: &Context) {
    let id = WorkerId::new(worker.index(), worker.peers());
    let loaded = Patience::new(&context.process.waiting).insist(|| State::load(context, id));
    match loaded {
        Ok(state) => worker.dataflow(|scope| build(scope, state, context)),
        Err(error) => context.process.failure.set(error),
    }
}

/// After an error every worker of the process drops its graph, so that none waits for another.
pub(crate) fn abandon(worker: &mut timely::worker::Worker, context: &Context) {
    if context.process.failure.is_set() {
        for dataflow in worker.installed_dataflows() {
            worker.drop_dataflow(dataflow);
        }
    }
}

fn spawn_workers(context: &Context, workers: usize) -> Result<WorkerGuards<()>, String> {
    let context = context.clone();
    let run = move |worker: &mut timely::worker::Worker| {
        install(worker, &context);
        let failure = &context.process.failure;
        while !failure.is_set() && worker.step_or_park(Some(WORKER_PARK)) {}
        abandon(worker, &context);
    };
    timely::execute(timely_config(workers), run)
}

fn spawn_housekeeper(context: &Context, mut keeper: Housekeeper) -> JoinHandle<()> {
    let context = context.clone();
    std::thread::spawn(move || {
        let mut seen = 0;
        while !context.latest.is_closed() {
            let newest = match context.latest.wait(seen, HOUSEKEEPER_WAIT) {
                Some(newest) => newest,
                // No commit may come until files have been removed.
                None if context.process.waiting.lacks_any() => context.latest.current(),
                None => continue,
            };
            seen = newest.manifest.header.commit;
            match keeper.step(&newest.manifest, context.clock.mono_us() / 1000) {
                Ok(done) => context.status.add_housekeeping(done),
                Err(error) => return context.process.failure.set(error),
            }
        }
    })
}

impl Running {
    /// What the job is doing.
    pub fn status(&self) -> Arc<Status> {
        Arc::clone(&self.status)
    }

    /// The commit that it began with, which took the state over.
    pub fn began(&self) -> &Manifest {
        &self.start
    }

    /// The handle to stop it with.
    pub fn stop(&self) -> Arc<Stop> {
        Arc::clone(&self.stop)
    }

    /// Waits until the job ends: the manifest of its last commit.
    pub fn wait(mut self) -> Result<Manifest, RunError> {
        let Some(threads) = self.threads.take() else {
            unreachable!("only this and `drop` take the threads, and each takes the job");
        };
        threads.join()
    }
}

impl Threads {
    /// Waits until they end: the manifest of the last commit.
    fn join(self) -> Result<Manifest, RunError> {
        let Self { workers, others, context } = self;
        for result in workers.join() {
            if let Err(error) = result {
                context.process.failure.set(RunError::Worker(error));
            }
        }
        let (latest, process) = (Arc::clone(&context.latest), Arc::clone(&context.process));
        let (storage, start) = (Arc::clone(&context.storage), Arc::clone(&context.start));
        if !end(context, others) {
            process.failure.set(RunError::Worker("a background thread panicked".to_owned()));
        }
        let last = latest.current().manifest.clone();
        match process.failure.take() {
            Some(error) => Err(match reason(error, &*storage, &start) {
                error if process.stop.is_set() && error.is_of_state() && lack(&error).is_some() => {
                    RunError::NotDurable { commit: last.header.commit, error: Box::new(error) }
                }
                error => error,
            }),
            None => Ok(last),
        }
    }
}
