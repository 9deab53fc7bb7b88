//! What the tasks of one process pass on to each other: manifests to create, the newest durable
//! commit, finished merges.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use schemas::manifest::Manifest;
use schemas::planted::{Bug, planted};

use super::files::{CommitError, create, make_visible};
use super::merge::Merged;
use super::snapshot::Snapshot;
use crate::invariants::rises;
use crate::storage::Storage;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The newest durable commit of this process's job, open.
pub struct Latest {
    current: Mutex<(Arc<Snapshot>, bool)>,
    changed: Condvar,
}

impl Latest {
    /// Begins with the commit that the job started from.
    pub fn new(first: Arc<Snapshot>) -> Self {
        Self { current: Mutex::new((first, false)), changed: Condvar::new() }
    }

    /// The newest.
    pub fn current(&self) -> Arc<Snapshot> {
        Arc::clone(&lock(&self.current).0)
    }

    /// Waits for a commit newer than `commit`, no longer than `timeout`. None when it has passed.
    pub fn wait(&self, commit: u64, timeout: Duration) -> Option<Arc<Snapshot>> {
        let old = |state: &mut (Arc<Snapshot>, bool)| {
            state.0.manifest.header.commit <= commit && !state.1
        };
        let waited = self.changed.wait_timeout_while(lock(&self.current), timeout, old);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        (state.0.manifest.header.commit > commit).then(|| Arc::clone(&state.0))
    }

    /// Whether no newer commit will come.
    pub fn is_closed(&self) -> bool {
        lock(&self.current).1
    }

    /// Says that no newer commit will come.
    pub fn close(&self) {
        lock(&self.current).1 = true;
        self.changed.notify_all();
    }

    fn set(&self, snapshot: Arc<Snapshot>) {
        lock(&self.current).0 = snapshot;
        self.changed.notify_all();
    }
}

/// Finished merges on their way into the next manifest.
#[derive(Debug, Default)]
pub struct MergeQueue(Mutex<Vec<Merged>>);

impl MergeQueue {
    /// Adds one.
    pub fn push(&self, merged: Merged) {
        lock(&self.0).push(merged);
    }

    /// Takes all.
    pub fn take(&self) -> Vec<Merged> {
        std::mem::take(&mut lock(&self.0))
    }
}

type Reply = Box<dyn FnOnce(Result<(), CommitError>) + Send>;

/// Where manifests to create are sent.
#[derive(Clone)]
pub struct CommitQueue(Sender<(Manifest, Reply)>);

impl CommitQueue {
    /// Asks for a manifest to be created and shown; `reply` is called when it is durable and open.
    pub fn send(
        &self,
        manifest: Manifest,
        reply: impl FnOnce(Result<(), CommitError>) + Send + 'static,
    ) {
        // Where nobody listens any more, the job is ending on an error.
        let _ = self.0.send((manifest, Box::new(reply)));
    }
}

/// The background task that creates manifests. It ends with its first error: what came of that
/// number is unknown, and no later one may exist without it.
pub struct CommitTask {
    storage: Arc<dyn Storage>,
    latest: Arc<Latest>,
    waiting: Receiver<(Manifest, Reply)>,
    failed: bool,
    /// Taken up and not created yet: only where a bug is planted.
    early: Option<(Manifest, Reply)>,
}

impl CommitTask {
    /// A task, and where to send it manifests. It ends when all senders are gone.
    pub fn new(storage: Arc<dyn Storage>, latest: Arc<Latest>) -> (Self, CommitQueue) {
        let (sender, waiting) = channel();
        (Self { storage, latest, waiting, failed: false, early: None }, CommitQueue(sender))
    }

    /// Creates the next manifest, if one is waiting; whether there was one.
    pub fn step(&mut self) -> bool {
        if self.failed {
            return false;
        }
        let waiting = self.early.take().or_else(|| self.waiting.try_recv().ok());
        let Some((manifest, reply)) = waiting else { return false };
        if planted(Bug::PublishBeforeCommit) && self.latest_number() < manifest.header.commit {
            let before = self.latest.current();
            if let Ok(early) = Snapshot::open(&*self.storage, manifest.clone(), Some(&before)) {
                self.latest.set(Arc::new(early));
            }
            self.early = Some((manifest, reply));
            return true;
        }
        self.answer(manifest, reply);
        true
    }

    fn latest_number(&self) -> u64 {
        self.latest.current().manifest.header.commit
    }

    /// Creates manifests until no more can come.
    pub fn run(mut self) {
        while !self.failed
            && let Ok((manifest, reply)) = self.waiting.recv()
        {
            self.answer(manifest, reply);
        }
    }

    fn answer(&mut self, manifest: Manifest, reply: Reply) {
        let done = self.commit(manifest);
        self.failed = done.is_err();
        reply(done);
    }

    fn commit(&self, manifest: Manifest) -> Result<(), CommitError> {
        let before = self.latest.current();
        rises(&before.manifest, &manifest)?;
        create(&*self.storage, &manifest)?;
        make_visible(&*self.storage, &manifest.header)?;
        let snapshot = Snapshot::open(&*self.storage, manifest, Some(&before))?;
        self.latest.set(Arc::new(snapshot));
        Ok(())
    }
}
