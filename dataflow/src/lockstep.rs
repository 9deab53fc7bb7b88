//! A job run one step at a time, in an order of the caller's: how simulations run it.
//!
//! It is the job that [`crate::start`] runs, its operators and its background tasks; only who has
//! the next turn is decided outside. Invariant: no two steps at once, so that with a clock, a
//! storage and logs that are functions of a seed the run is one too.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use schemas::manifest::Manifest;
use sinks::commits::{CommitTask, Housekeeper, Housekeeping, Latest, SegmentWriter};
use sinks::publish::{PublishTask, Published, Publisher};
use timely::WorkerConfig;
use timely::communication::{Config as CommunicationConfig, WorkerGuards};

use crate::acquire::reason;
use crate::context::Context;
use crate::error::JobError;
use crate::run::{Prepared, Ready, abandon, install, prepare};
use crate::spec::JobSpec;
use crate::status::Status;

/// Who can have a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// A worker of the graph.
    Worker(usize),
    /// The writer of segments.
    Writer,
    /// The creator of manifests.
    Commits,
    /// Merges, and the removal of files.
    Housekeeper,
    /// The publisher to a database.
    Publisher,
}

/// A job that moves only when it is told to. Dropping it is a kill: nothing more is done.
pub struct Lockstep {
    context: Context,
    writer: SegmentWriter,
    commits: CommitTask,
    housekeeper: Housekeeper,
    publisher: Option<PublishTask<Box<dyn Publisher>>>,
    /// By worker, where its turns are sent; none once its graph is done.
    turns: Vec<Option<Sender<()>>>,
    /// Whether the worker that had the turn has anything left to do.
    played: Receiver<bool>,
    /// Dropped last, which waits for the workers.
    guards: Option<WorkerGuards<()>>,
}

impl Lockstep {
    /// Takes the state over, as [`crate::start`] does. None where the run had been finished.
    pub fn start(spec: JobSpec) -> Result<Option<Self>, JobError> {
        let Prepared::Ready(ready) = prepare(spec)? else { return Ok(None) };
        let Ready { context, workers, writer, commits, housekeeper, publisher, .. } = *ready;
        let (play, played) = channel();
        let (turns, takers): (Vec<_>, Vec<_>) = (0..workers).map(|_| channel()).unzip();
        let takers: Vec<_> = takers.into_iter().map(Some).collect();
        let guards = spawn(&context, takers, play)?;
        let turns = turns.into_iter().map(Some).collect();
        let guards = Some(guards);
        Ok(Some(Self { context, writer, commits, housekeeper, publisher, turns, played, guards }))
    }

    /// Everyone who can have a turn.
    pub fn tasks(&self) -> Vec<Task> {
        let workers = (0..self.turns.len()).filter(|i| self.turns[*i].is_some()).map(Task::Worker);
        let publisher = self.publisher.as_ref().map(|_| Task::Publisher);
        let rest = [Task::Writer, Task::Commits, Task::Housekeeper];
        workers.chain(rest).chain(publisher).collect()
    }

    /// Gives `task` a turn; whether it did anything, as far as it knows. An error ends the job.
    pub fn step(&mut self, task: Task) -> Result<bool, JobError> {
        let did = self.turn(task);
        match self.context.failure.take().map_or(did, Err) {
            Err(error) => Err(reason(error, &*self.context.storage, &self.context.start)),
            did => did,
        }
    }

    fn turn(&mut self, task: Task) -> Result<bool, JobError> {
        Ok(match task {
            Task::Worker(index) => self.play(index),
            Task::Writer => self.writer.step(),
            Task::Commits => self.commits.step(),
            Task::Housekeeper => {
                let newest = self.context.latest.current();
                let now_ms = self.context.clock.mono_us() / 1000;
                let done = self.housekeeper.step(&newest.manifest, now_ms)?;
                done != Housekeeping::default()
            }
            Task::Publisher => match &mut self.publisher {
                Some(task) => task.step(&self.context.latest.current())?,
                None => false,
            },
        })
    }

    fn play(&mut self, index: usize) -> bool {
        let Some(turn) = &self.turns[index] else { return false };
        let goes_on = turn.send(()).is_ok() && self.played.recv().unwrap_or(false);
        if !goes_on {
            self.turns[index] = None;
        }
        true
    }

    /// Whether the graph has ended: the last commit is durable.
    pub fn is_done(&self) -> bool {
        self.turns.iter().all(Option::is_none)
    }

    /// Asks for a last commit and an orderly end.
    pub fn stop(&self) {
        self.context.stop.set();
    }

    /// The manifest that this start made.
    pub fn takeover(&self) -> &Manifest {
        &self.context.start
    }

    /// The newest durable commit of this job.
    pub fn latest(&self) -> Arc<Latest> {
        Arc::clone(&self.context.latest)
    }

    /// What it is doing.
    pub fn status(&self) -> Arc<Status> {
        Arc::clone(&self.context.status)
    }

    /// What the publisher has done.
    pub fn published(&self) -> Option<Published> {
        self.publisher.as_ref().map(PublishTask::done)
    }
}

impl Drop for Lockstep {
    fn drop(&mut self) {
        // Without turns to wait for, the workers drop their graphs where they stand.
        self.turns.clear();
        self.guards = None;
    }
}

/// What a panic said.
fn words(panic: &dyn Any) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}

fn spawn(
    context: &Context,
    takers: Vec<Option<Receiver<()>>>,
    play: Sender<bool>,
) -> Result<WorkerGuards<()>, JobError> {
    let communication = match takers.len() {
        1 => CommunicationConfig::Thread,
        n => CommunicationConfig::Process(n),
    };
    let worker = WorkerConfig::default().idle_spin(Duration::ZERO);
    let config = timely::Config { communication, worker };
    let (context, takers) = (context.clone(), Mutex::new(takers));
    let run = move |worker: &mut timely::worker::Worker| {
        let mut takers = takers.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(turns) = takers[worker.index()].take() else { return };
        drop(takers);
        let mut installed = false;
        while turns.recv().is_ok() {
            // In production a panic ends the process; here it would leave the others waiting.
            let stepped = catch_unwind(AssertUnwindSafe(|| {
                if !std::mem::replace(&mut installed, true) {
                    install(worker, &context);
                }
                worker.step();
                abandon(worker, &context);
                !worker.installed_dataflows().is_empty()
            }));
            let goes_on = stepped.unwrap_or_else(|panic| {
                context.failure.set(JobError::Worker(words(&*panic)));
                false
            });
            if play.send(goes_on).is_err() || !goes_on {
                break;
            }
        }
        for dataflow in worker.installed_dataflows() {
            worker.drop_dataflow(dataflow);
        }
    };
    timely::execute(config, run).map_err(JobError::Worker)
}
