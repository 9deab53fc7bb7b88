//! A job that runs one step at a time, in an order that its caller chooses: how simulations run it.
//!
//! It is the job that [`crate::start`] runs, with the same operators and background tasks. Only the
//! order of steps comes from outside. Invariant: no two steps run at once, so the run is a function
//! of a seed if the clock, the storage and the logs are.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use parking_lot::Mutex;
use schemas::manifest::Manifest;
use sinks::commits::{CommitTask, Housekeeper, Housekeeping, Latest, SegmentWriter};
use sinks::publish::{PublishTask, Published, Publisher};
use sinks::storage::Patience;
use timely::communication::WorkerGuards;

use crate::acquire::reason;
use crate::context::Context;
use crate::error::{RunError, StartError};
use crate::prepare::{Prepared, Ready, prepare};
use crate::publishing;
use crate::run::{abandon, install, timely_config};
use crate::spec::JobSpec;
use crate::status::Status;

/// What can take a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// A worker of the graph.
    Worker(usize),
    /// The writer of segments.
    Writer,
    /// The creator of manifests.
    Commits,
    /// The housekeeper, which merges and removes files.
    Housekeeper,
    /// The publisher to a database.
    Publisher,
}

/// A job that runs step by step. Dropping it is a kill: nothing more is done.
pub struct Lockstep {
    context: Context,
    writer: SegmentWriter,
    commits: CommitTask,
    housekeeper: Housekeeper,
    publisher: Option<PublishTask<Box<dyn Publisher>>>,
    /// That of the publisher.
    patience: Patience,
    /// By worker, how to request a step. `None` once its graph is done.
    requests: Vec<Option<Sender<()>>>,
    /// After each step of a worker: whether its graph continues.
    continues: Receiver<bool>,
    /// Dropped last, which waits for the workers.
    guards: Option<WorkerGuards<()>>,
}

impl Lockstep {
    /// Acquires the state, as [`crate::start`] does. `None` if the run had finished before.
    pub fn start(spec: JobSpec) -> Result<Option<Self>, StartError> {
        let Prepared::Ready(ready) = prepare(spec)? else { return Ok(None) };
        let Ready { context, workers, writer, commits, housekeeper, publisher, .. } = *ready;
        let patience = Patience::new(&context.process.waiting);
        let (reply, continues) = channel();
        let (requests, steps): (Vec<_>, Vec<_>) = (0..workers).map(|_| channel()).unzip();
        let steps: Vec<_> = steps.into_iter().map(Some).collect();
        let guards = Some(spawn(&context, steps, reply).map_err(StartError::Threads)?);
        let requests = requests.into_iter().map(Some).collect();
        Ok(Some(Self {
            context,
            writer,
            commits,
            housekeeper,
            publisher,
            patience,
            requests,
            continues,
            guards,
        }))
    }

    /// Everything that can take a step.
    pub fn tasks(&self) -> Vec<Task> {
        let workers = (0..self.requests.len()).filter(|i| self.requests[*i].is_some());
        let publisher = self.publisher.as_ref().map(|_| Task::Publisher);
        let others = [Task::Writer, Task::Commits, Task::Housekeeper];
        workers.map(Task::Worker).chain(others).chain(publisher).collect()
    }

    /// Lets `task` take a step. Returns whether it did anything, as far as it knows. An error ends
    /// the job.
    pub fn step(&mut self, task: Task) -> Result<bool, RunError> {
        let stepped = self.step_task(task);
        match self.context.process.failure.take().map_or(stepped, Err) {
            Err(error) => Err(reason(error, &*self.context.storage, &self.context.start)),
            stepped => stepped,
        }
    }

    fn step_task(&mut self, task: Task) -> Result<bool, RunError> {
        Ok(match task {
            Task::Worker(index) => self.step_worker(index),
            Task::Writer => self.writer.step(),
            Task::Commits => self.commits.step(),
            Task::Housekeeper => {
                let newest = self.context.latest.current();
                let now_ms = self.context.clock.mono_us() / 1000;
                let done = self.housekeeper.step(&newest.manifest, now_ms)?;
                done != Housekeeping::default()
            }
            Task::Publisher => match &mut self.publisher {
                Some(task) => {
                    let newest = self.context.latest.current();
                    publishing::step(task, &newest, &mut self.patience)?
                }
                None => false,
            },
        })
    }

    fn step_worker(&mut self, index: usize) -> bool {
        let Some(request) = &self.requests[index] else { return false };
        // A worker whose thread has ended does not continue.
        let continues = request.send(()).is_ok() && self.continues.recv().unwrap_or(false);
        if !continues {
            self.requests[index] = None;
        }
        true
    }

    /// Whether the graph has ended: the last commit is durable.
    pub fn is_done(&self) -> bool {
        self.requests.iter().all(Option::is_none)
    }

    /// Asks the job to make a last commit and end.
    pub fn stop(&self) {
        self.context.process.stop.set();
    }

    /// The manifest that this run of the job began with.
    pub fn takeover(&self) -> &Manifest {
        &self.context.start
    }

    /// The newest durable commit of this job.
    pub fn latest(&self) -> Arc<Latest> {
        Arc::clone(&self.context.latest)
    }

    /// What the job is doing.
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
        // Without requests to wait for, the workers drop their graphs as they are.
        self.requests.clear();
        self.guards = None;
    }
}

/// The message of a panic.
fn panic_message(panic: &dyn Any) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "a panic without a message".to_owned())
}

fn spawn(
    context: &Context,
    steps: Vec<Option<Receiver<()>>>,
    reply: Sender<bool>,
) -> Result<WorkerGuards<()>, String> {
    let config = timely_config(steps.len());
    let (context, steps) = (context.clone(), Mutex::new(steps));
    let run = move |worker: &mut timely::worker::Worker| {
        let Some(steps) = steps.lock()[worker.index()].take() else {
            unreachable!("timely runs each worker once");
        };
        let mut installed = false;
        while steps.recv().is_ok() {
            // In production a panic ends the process. Here it would leave the others waiting.
            let stepped = catch_unwind(AssertUnwindSafe(|| {
                if !std::mem::replace(&mut installed, true) {
                    install(worker, &context);
                }
                worker.step();
                abandon(worker, &context);
                !worker.installed_dataflows().is_empty()
            }));
            let continues = stepped.unwrap_or_else(|panic| {
                context.process.failure.set(RunError::Worker(panic_message(&*panic)));
                false
            });
            if reply.send(continues).is_err() || !continues {
                break;
            }
        }
        for dataflow in worker.installed_dataflows() {
            worker.drop_dataflow(dataflow);
        }
    };
    timely::execute(config, run)
}
