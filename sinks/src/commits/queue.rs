//! What the tasks of one process exchange: manifests to create, the newest durable commit, and
//! finished merges.
//!
//! Invariants: a commit becomes the latest only after its manifest is durable; a manifest is
//! created only once its check allows it.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use schemas::manifest::Manifest;
use schemas::planted::{Bug, planted};

use super::files::{CommitError, create, make_visible};
use super::merge::Merged;
use super::snapshot::Snapshot;
use crate::invariants::rises;
use crate::storage::{Patience, Storage, Waiting};

/// The newest durable commit of this process's job, open.
pub struct Latest {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    current: Arc<Snapshot>,
    is_closed: bool,
}

impl State {
    fn commit(&self) -> u64 {
        self.current.manifest.header.commit
    }
}

impl Latest {
    /// Starts with the commit that the job continues from.
    pub fn new(first: Arc<Snapshot>) -> Self {
        let state = State { current: first, is_closed: false };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// The newest commit.
    pub fn current(&self) -> Arc<Snapshot> {
        Arc::clone(&self.state.lock().current)
    }

    /// Waits for a commit newer than `commit`. Returns `None` after `timeout`, or if no newer
    /// commit will come.
    pub fn wait(&self, commit: u64, timeout: Duration) -> Option<Arc<Snapshot>> {
        let mut state = self.state.lock();
        let is_old = |state: &mut State| state.commit() <= commit && !state.is_closed;
        self.changed.wait_while_for(&mut state, is_old, timeout);
        (state.commit() > commit).then(|| Arc::clone(&state.current))
    }

    /// Whether no newer commit will come.
    pub fn is_closed(&self) -> bool {
        self.state.lock().is_closed
    }

    /// Announces that no newer commit will come.
    pub fn close(&self) {
        self.state.lock().is_closed = true;
        self.changed.notify_all();
    }

    fn set(&self, snapshot: Arc<Snapshot>) {
        let mut state = self.state.lock();
        debug_assert!(snapshot.manifest.header.commit >= state.commit(), "commits never go back");
        state.current = snapshot;
        self.changed.notify_all();
    }
}

/// Finished merges on their way into the next manifest.
#[derive(Debug, Default)]
pub struct MergeQueue(Mutex<Vec<Merged>>);

impl MergeQueue {
    /// Adds a merge.
    pub fn push(&self, merged: Merged) {
        self.0.lock().push(merged);
    }

    /// Removes and returns all merges.
    pub fn take(&self) -> Vec<Merged> {
        std::mem::take(&mut self.0.lock())
    }
}

type Reply = Box<dyn FnOnce(Result<(), CommitError>) + Send>;

/// How soon a check that must wait is made again.
const CHECK_AGAIN: Duration = Duration::from_millis(50);

/// Whether a manifest may be created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may.
    Create,
    /// It is not known yet.
    Wait,
    /// Neither this one nor any later one, since the job is ending with an error.
    Never,
}

/// A manifest to create.
struct Request {
    manifest: Manifest,
    check: Box<dyn FnMut() -> Verdict + Send>,
    /// Whether the check has allowed it.
    is_allowed: bool,
    reply: Reply,
}

/// Sends manifests to the [`CommitTask`].
#[derive(Clone)]
pub struct CommitQueue(Sender<Request>);

impl CommitQueue {
    /// Requests that a manifest be created and made visible once `check` allows it, which may take
    /// its time. `reply` is called when the manifest is durable and open.
    pub fn send(
        &self,
        manifest: Manifest,
        check: impl FnMut() -> Verdict + Send + 'static,
        reply: impl FnOnce(Result<(), CommitError>) + Send + 'static,
    ) {
        let (check, reply) = (Box::new(check), Box::new(reply));
        // If the task is gone, the job is already ending with an error.
        let _ = self.0.send(Request { manifest, check, is_allowed: false, reply });
    }
}

/// The background task that creates manifests, one after another. It stops at the first error that
/// does not pass: whether that commit exists is unknown, and no later one may exist without it.
pub struct CommitTask {
    storage: Arc<dyn Storage>,
    latest: Arc<Latest>,
    waiting: Receiver<Request>,
    failed: bool,
    /// The one to try again; or one that is published before it exists, which takes a planted bug.
    again: Option<Request>,
    patience: Patience,
}

impl CommitTask {
    /// A task and the queue it serves. The task ends when all clones of the queue are gone.
    pub fn new(
        storage: Arc<dyn Storage>,
        latest: Arc<Latest>,
        waiting: &Arc<Waiting>,
    ) -> (Self, CommitQueue) {
        let (patience, (sender, waiting)) = (Patience::new(waiting), channel());
        let task = Self { storage, latest, waiting, failed: false, again: None, patience };
        (task, CommitQueue(sender))
    }

    /// Creates the next manifest if one is waiting and may be created; returns whether one was
    /// waiting.
    pub fn step(&mut self) -> bool {
        if self.failed {
            return false;
        }
        let waiting = self.again.take().or_else(|| self.waiting.try_recv().ok());
        let Some(request) = waiting else { return false };
        let early = request.manifest.header.commit;
        if planted(Bug::PublishBeforeCommit) && self.latest_number() < early {
            let before = self.latest.current();
            let manifest = request.manifest.clone();
            if let Ok(early) = Snapshot::open(&*self.storage, manifest, Some(&before)) {
                self.latest.set(Arc::new(early));
            }
            self.again = Some(request);
            return true;
        }
        self.answer(request);
        true
    }

    fn latest_number(&self) -> u64 {
        self.latest.current().manifest.header.commit
    }

    /// Creates manifests until the queue is closed.
    pub fn run(mut self) {
        while !self.failed
            && let Some(request) = self.again.take().or_else(|| self.waiting.recv().ok())
        {
            self.answer(request);
            match &self.again {
                Some(request) if request.is_allowed => self.patience.pause(),
                Some(_) => std::thread::park_timeout(CHECK_AGAIN),
                None => {}
            }
        }
    }

    fn answer(&mut self, mut request: Request) {
        assert!(!self.failed, "no manifest is created after a failed one");
        if !request.is_allowed {
            match (request.check)() {
                Verdict::Create => request.is_allowed = true,
                Verdict::Wait => return self.again = Some(request),
                Verdict::Never => return self.failed = true,
            }
        }
        match self.commit(&request.manifest) {
            Err(error) if self.patience.outlasts(&error) => self.again = Some(request),
            done => {
                self.patience.waits_no_more(done.is_ok());
                self.failed = done.is_err();
                (request.reply)(done);
            }
        }
    }

    /// May be repeated after it failed, at any point: a manifest that exists is compared.
    fn commit(&self, manifest: &Manifest) -> Result<(), CommitError> {
        let before = self.latest.current();
        rises(&before.manifest, manifest)?;
        create(&*self.storage, manifest)?;
        make_visible(&*self.storage, &manifest.header)?;
        let snapshot = Snapshot::open(&*self.storage, manifest.clone(), Some(&before))?;
        self.latest.set(Arc::new(snapshot));
        Ok(())
    }
}
