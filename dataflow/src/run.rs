//! Running a job: the threads around the graph, and their end.
//!
//! Invariant: however a job ends, all of its threads end with it.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use schemas::manifest::Manifest;
use sinks::commits::{Housekeeper, Lock};
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

/// Asks a job to stop when its handle is dropped, which then waits for its threads.
struct StopOnDrop(Arc<Stop>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.set();
    }
}

/// A job that is running. Dropping it makes a last commit and ends it.
pub struct Running {
    // Dropped first: the guards below wait for the workers.
    ending: StopOnDrop,
    guards: WorkerGuards<()>,
    threads: Vec<JoinHandle<()>>,
    context: Context,
    _lock: Option<Lock>,
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
    let other_writer = writer.clone();
    let mut threads = vec![
        std::thread::spawn(|| writer.run()),
        std::thread::spawn(|| other_writer.run()),
        std::thread::spawn(|| commits.run()),
        spawn_housekeeper(&context, housekeeper),
    ];
    threads.extend(publisher.map(|task| publishing::spawn(&context, task)));
    let ending = StopOnDrop(Arc::clone(&context.process.stop));
    let guards = spawn_workers(&context, workers).map_err(StartError::Threads)?;
    Ok(Started::Running(Running { ending, guards, threads, context, _lock: lock }))
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
    match State::load(context, id) {
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
            let Some(newest) = context.latest.wait(seen, HOUSEKEEPER_WAIT) else { continue };
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
        Arc::clone(&self.context.status)
    }

    /// The commit that it began with, which took the state over.
    pub fn began(&self) -> &Manifest {
        &self.context.start
    }

    /// The handle to stop it with.
    pub fn stop(&self) -> Arc<Stop> {
        Arc::clone(&self.context.process.stop)
    }

    /// Waits until the job ends: the manifest of its last commit.
    pub fn wait(self) -> Result<Manifest, RunError> {
        let Self { ending: _ending, guards, threads, context, _lock } = self;
        for result in guards.join() {
            if let Err(error) = result {
                context.process.failure.set(RunError::Worker(error));
            }
        }
        context.latest.close();
        let (latest, process) = (Arc::clone(&context.latest), Arc::clone(&context.process));
        let (storage, start) = (Arc::clone(&context.storage), Arc::clone(&context.start));
        // The context holds the last senders of the queues, whose tasks end without them.
        drop(context);
        for thread in threads {
            if thread.join().is_err() {
                process.failure.set(RunError::Worker("a background thread panicked".to_owned()));
            }
        }
        match process.failure.take() {
            Some(error) => Err(reason(error, &*storage, &start)),
            None => Ok(latest.current().manifest.clone()),
        }
    }
}
