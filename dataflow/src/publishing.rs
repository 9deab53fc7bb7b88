//! Publishing commits to a database, on a thread beside the job.
//!
//! Invariant: a store that is slow or down delays publishing, and at its end the run, but nothing
//! else.

use std::sync::Arc;
use std::thread::JoinHandle;

use sinks::commits::{Latest, Snapshot};
use sinks::publish::{Backoff, PublishError, PublishTask, Publisher, WaitingRows};
use sinks::storage::{DiskStorage, OpenError, Patience};

use crate::clock::Clock;
use crate::context::Context;
use crate::error::{RunError, StartError};
use crate::failure::Failure;
use crate::limits::{PUBLISH_NAP, PUBLISH_STOP_US};
use crate::process::Stop;
use crate::spec::{JobSpec, StateAt};
use crate::status::Status;
use crate::store_wait::{News, StoreWait};

/// Publishes commits.
pub(crate) type Task = PublishTask<Box<dyn Publisher>>;

/// Refuses a store that has seen commits which this state does not have. A store that does not
/// answer now is checked by its publisher once it does.
pub(crate) fn check_store(spec: &mut JobSpec) -> Result<(), StartError> {
    let Some((name, publisher)) = &mut spec.publisher else { return Ok(()) };
    let Some(Some(row)) = publisher.job(name)? else { return Ok(()) };
    Ok(match &spec.state {
        StateAt::Folder(root) => match DiskStorage::open_existing(root) {
            Ok(state) => row.check(Some(&state)),
            Err(OpenError::NoState(_)) => row.check(None),
            Err(OpenError::Storage(error)) => Err(error.into()),
        },
        StateAt::Storage(state) => row.check(Some(&**state)),
    }?)
}

/// Lets the task do a part of its work. If the state lacks something, the task stays where it is,
/// as it does when the store does not answer.
pub(crate) fn step(
    task: &mut Task,
    newest: &Arc<Snapshot>,
    patience: &mut Patience,
) -> Result<bool, PublishError> {
    match task.step(newest) {
        Err(error) if patience.leaves(&error) => Ok(false),
        moved => {
            patience.goes_on();
            moved
        }
    }
}

/// Publishes commits until no more can come.
struct Loop<'l> {
    task: Task,
    latest: &'l Latest,
    stop: &'l Stop,
    failure: &'l Failure,
    status: &'l Status,
    clock: &'l dyn Clock,
    /// How long to wait at the end for a store that does not answer.
    wait_us: u64,
    backoff: Backoff,
    patience: Patience,
    /// When the store last took something, or the job ended.
    moved_us: u64,
    wait: StoreWait,
    /// When the job was seen to have ended.
    closed_us: Option<u64>,
}

impl Loop<'_> {
    fn run(mut self) -> Result<(), PublishError> {
        loop {
            // In this order: the commit that ends the job has to be published as well.
            let closed = self.latest.is_closed();
            let newest = self.latest.current();
            let now_us = self.clock.mono_us();
            if closed && self.closed_us.is_none() {
                (self.closed_us, self.moved_us) = (Some(now_us), now_us);
            }
            let moved = step(&mut self.task, &newest, &mut self.patience)?;
            if moved {
                self.backoff.reset();
                self.moved_us = self.clock.mono_us();
            }
            let done = self.task.has_published(&newest.manifest);
            self.report(&newest, !moved && !done);
            if closed && (done || self.gives_up(moved)) {
                return Ok(());
            }
            if done {
                self.latest.wait(newest.manifest.header.commit, PUBLISH_NAP);
            } else if !moved {
                self.wait(closed);
            }
        }
    }

    /// Whether to end although there is more to publish.
    fn gives_up(&self, moved: bool) -> bool {
        let now_us = self.clock.mono_us();
        let stops = !moved || self.closed_us.is_some_and(|since| now_us - since > PUBLISH_STOP_US);
        self.failure.is_set()
            || self.stop.is_set() && stops
            || now_us.saturating_sub(self.moved_us) > self.wait_us
    }

    /// Leaves the store alone for a while, unless the job ends meanwhile.
    fn wait(&mut self, closed: bool) {
        let mut left = self.backoff.next_wait();
        while !left.is_zero() {
            let nap = left.min(PUBLISH_NAP);
            std::thread::park_timeout(nap);
            left -= nap;
            if self.stop.is_set() && closed || self.latest.is_closed() && !closed {
                return;
            }
        }
    }

    fn report(&mut self, newest: &Snapshot, waits: bool) {
        let done = self.task.done();
        let news = self.wait.learn(waits, self.clock.mono_us());
        let wait = self.wait.so_far_ms().map(|ms| (ms, self.task.waiting()));
        match (news, &wait) {
            (Some(News::Waits), Some((ms, waiting))) => tell(*ms, waiting, done.commit),
            (Some(News::Over(ms)), _) => {
                tracing::warn!("the store takes rows again after {} s", ms / 1000);
            }
            _ => {}
        }
        self.status.published(done, &newest.manifest, wait, self.clock.wall_ms());
    }
}

/// Says which rows have waited for so long, and why.
fn tell(waited_ms: u64, waiting: &WaitingRows, published: u64) {
    let WaitingRows { commit, rows, first, why } = waiting;
    let why = why.as_deref().unwrap_or("the store does not take them");
    let rows = match (commit, first) {
        (Some(commit), Some((table, key))) => {
            let s = if *rows == 1 { "" } else { "s" };
            format!("{rows} row{s} of commit {commit}, first of table {table} the one of {key},")
        }
        (Some(commit), None) => format!("the end of commit {commit}"),
        (None, _) => format!("what was counted after commit {published}"),
    };
    tracing::warn!(
        "publishing waits: {rows} could not be written for {} s: {why}; the store has commit \
         {published} in full, and counting goes on",
        waited_ms / 1000
    );
}

/// Publishes the commits of a job as they are made.
pub(crate) fn spawn(context: &Context, task: Task) -> JoinHandle<()> {
    let context = context.clone();
    std::thread::spawn(move || {
        let publishing = Loop {
            task,
            latest: &context.latest,
            stop: &context.process.stop,
            failure: &context.process.failure,
            status: &context.status,
            clock: &*context.clock,
            wait_us: context.settings.store_wait_ms * 1000,
            backoff: Backoff::default(),
            patience: Patience::new(&context.process.waiting),
            moved_us: 0,
            wait: StoreWait::default(),
            closed_us: None,
        };
        if let Err(error) = publishing.run() {
            context.process.failure.set(error);
        }
    })
}

/// A commit being published without a job.
pub struct Publication {
    stop: Arc<Stop>,
    status: Arc<Status>,
    thread: JoinHandle<Result<(), RunError>>,
}

impl Publication {
    /// Starts to publish `commit`.
    pub fn start(
        task: PublishTask<Box<dyn Publisher>>,
        commit: Arc<Snapshot>,
        clock: Arc<dyn Clock>,
        store_wait_ms: u64,
    ) -> Self {
        let (stop, status) = (Arc::new(Stop::default()), Arc::new(Status::default()));
        status.committed(&commit.manifest, 0);
        let (loop_stop, loop_status) = (Arc::clone(&stop), Arc::clone(&status));
        let thread = std::thread::spawn(move || {
            let latest = Latest::new(commit);
            latest.close();
            let publishing = Loop {
                task,
                latest: &latest,
                stop: &loop_stop,
                failure: &Failure::default(),
                status: &loop_status,
                clock: &*clock,
                wait_us: store_wait_ms * 1000,
                backoff: Backoff::default(),
                patience: Patience::new(&Arc::default()),
                moved_us: 0,
                wait: StoreWait::default(),
                closed_us: None,
            };
            Ok(publishing.run()?)
        });
        Self { stop, status, thread }
    }

    /// How far it has got.
    pub fn status(&self) -> Arc<Status> {
        Arc::clone(&self.status)
    }

    /// The handle to stop it with.
    pub fn stop(&self) -> Arc<Stop> {
        Arc::clone(&self.stop)
    }

    /// Waits until it ends. The status tells how far it got.
    pub fn wait(self) -> Result<(), RunError> {
        let panicked = |_| RunError::Worker("a background thread panicked".to_owned());
        self.thread.join().map_err(panicked)?
    }
}
