//! The thread that publishes commits: it waits for nobody, and nobody waits for it but the end of
//! a run.
//!
//! Invariant: a store that is slow or down delays publishing and nothing else.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use sinks::commits::{Latest, Snapshot};
use sinks::publish::{Backoff, PublishError, PublishTask, Publisher};
use sinks::storage::DiskStorage;

use crate::clock::Clock;
use crate::context::{Context, Stop};
use crate::error::JobError;
use crate::failure::Failure;
use crate::spec::{JobSpec, StateAt};
use crate::status::Status;

/// The longest sleep between two looks at whether to leave.
const NAP: Duration = Duration::from_millis(100);
/// How long a run that was asked to stop goes on publishing to a store that answers.
const STOPPING_US: u64 = 10_000_000;

/// What publishes.
pub(crate) type Task = PublishTask<Box<dyn Publisher>>;

/// Refuses a store that has seen commits which this state does not have; a store that does not
/// answer now tells its publisher later.
pub(crate) fn check_store(spec: &mut JobSpec) -> Result<(), JobError> {
    let Some((name, publisher)) = &mut spec.publisher else { return Ok(()) };
    let Some(Some(row)) = publisher.job(name)? else { return Ok(()) };
    Ok(match &spec.state {
        StateAt::Folder(root) => match DiskStorage::open_existing(root) {
            Some(state) => row.check(Some(&state)),
            None => row.check(None),
        },
        StateAt::Storage(state) => row.check(Some(&**state)),
    }?)
}

/// Publishes what there is to publish until no more can come.
struct Loop<'l> {
    task: Task,
    latest: &'l Latest,
    stop: &'l Stop,
    failure: &'l Failure,
    status: &'l Status,
    clock: &'l dyn Clock,
    /// How long it waits at the end for a store that does not answer.
    wait_us: u64,
    backoff: Backoff,
    /// When the store last took something, or the end began.
    moved_us: u64,
    closed_us: Option<u64>,
}

impl Loop<'_> {
    fn run(mut self) -> Result<(), PublishError> {
        loop {
            // In this order: a commit that closes the job is published as well.
            let closed = self.latest.is_closed();
            let newest = self.latest.current();
            let now_us = self.clock.mono_us();
            if closed && self.closed_us.is_none() {
                (self.closed_us, self.moved_us) = (Some(now_us), now_us);
            }
            let moved = self.task.step(&newest)?;
            if moved {
                self.backoff.reset();
                self.moved_us = self.clock.mono_us();
            }
            let done = self.task.has_published(&newest.manifest);
            self.tell(&newest, !moved && !done);
            if closed && (done || self.leaves(moved)) {
                return Ok(());
            }
            if done {
                self.latest.wait(newest.manifest.header.commit, NAP);
            } else if !moved {
                self.wait(closed);
            }
        }
    }

    /// Whether to leave though there is more to publish.
    fn leaves(&self, moved: bool) -> bool {
        let now_us = self.clock.mono_us();
        let stops = !moved || self.closed_us.is_some_and(|since| now_us - since > STOPPING_US);
        self.failure.is_set()
            || self.stop.is_set() && stops
            || now_us.saturating_sub(self.moved_us) > self.wait_us
    }

    /// Leaves the store alone for a while, unless the job ends meanwhile.
    fn wait(&mut self, closed: bool) {
        let mut left = self.backoff.next_wait();
        while !left.is_zero() {
            let nap = left.min(NAP);
            std::thread::park_timeout(nap);
            left -= nap;
            if self.stop.is_set() && closed || self.latest.is_closed() && !closed {
                return;
            }
        }
    }

    fn tell(&self, newest: &Snapshot, waits: bool) {
        self.status.published(self.task.done(), &newest.manifest, waits, self.clock.wall_ms());
    }
}

/// Publishes the commits of a job as they come.
pub(crate) fn spawn(context: &Context, task: Task) -> JoinHandle<()> {
    let context = context.clone();
    std::thread::spawn(move || {
        let publishing = Loop {
            task,
            latest: &context.latest,
            stop: &context.stop,
            failure: &context.failure,
            status: &context.status,
            clock: &*context.clock,
            wait_us: context.settings.store_wait_ms * 1000,
            backoff: Backoff::default(),
            moved_us: 0,
            closed_us: None,
        };
        if let Err(error) = publishing.run() {
            context.failure.set(error);
        }
    })
}

/// A commit on its way to a store, with no job around it.
pub struct Publication {
    stop: Arc<Stop>,
    status: Arc<Status>,
    thread: JoinHandle<Result<(), JobError>>,
}

impl Publication {
    /// Begins to publish `commit`.
    pub fn start(
        task: PublishTask<Box<dyn Publisher>>,
        commit: Arc<Snapshot>,
        clock: Arc<dyn Clock>,
        store_wait_ms: u64,
    ) -> Self {
        let (stop, status) = (Arc::new(Stop::default()), Arc::new(Status::default()));
        status.committed(&commit.manifest, 0);
        let (stopped, told) = (Arc::clone(&stop), Arc::clone(&status));
        let thread = std::thread::spawn(move || {
            let latest = Latest::new(commit);
            latest.close();
            let publishing = Loop {
                task,
                latest: &latest,
                stop: &stopped,
                failure: &Failure::default(),
                status: &told,
                clock: &*clock,
                wait_us: store_wait_ms * 1000,
                backoff: Backoff::default(),
                moved_us: 0,
                closed_us: None,
            };
            Ok(publishing.run()?)
        });
        Self { stop, status, thread }
    }

    /// How far it is.
    pub fn status(&self) -> Arc<Status> {
        Arc::clone(&self.status)
    }

    /// The handle by which to ask for an end.
    pub fn stop(&self) -> Arc<Stop> {
        Arc::clone(&self.stop)
    }

    /// Waits for the end; how far it got is in the status.
    pub fn wait(self) -> Result<(), JobError> {
        let panicked = |_| JobError::Worker("a background thread panicked".to_owned());
        self.thread.join().map_err(panicked)?
    }
}
