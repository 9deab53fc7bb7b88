//! Following a state from another process.
//!
//! Invariant: readers see one whole commit at a time, and never an older one than before, nor one
//! of another state.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::RwLock;
use schemas::manifest::Header;

use super::files::{
    CommitError, generations, load, load_header, read_visible, visible, visible_name,
};
use super::snapshot::Snapshot;
use crate::invariants::monotone;
use crate::storage::{Storage, lack};

/// One step in four lists the pointers to find a newer generation; the others read the known one.
const STEPS_PER_LISTING: u32 = 4;
/// One step in 40 looks whether a commit that has not changed is still of the same state.
const STEPS_PER_CHECK: u32 = 40;

/// The newest visible commit of a state, open. Called every 25 ms, `step` keeps it within 100 ms.
pub struct Follower {
    storage: Arc<dyn Storage>,
    current: RwLock<Option<Arc<Snapshot>>>,
    steps: AtomicU32,
    /// Why the folder cannot be followed.
    trouble: RwLock<Option<String>>,
    /// The pointer of another state, once there is one.
    another: RwLock<Option<String>>,
}

impl Follower {
    /// A follower that has not seen a commit yet.
    pub fn new(storage: Arc<dyn Storage>) -> Self {
        let [trouble, another] = [RwLock::new(None), RwLock::new(None)];
        Self { storage, current: RwLock::new(None), steps: 0.into(), trouble, another }
    }

    /// The current commit, or `None` before the first one is visible.
    pub fn current(&self) -> Option<Arc<Snapshot>> {
        self.current.read().clone()
    }

    /// Why commits to come would not be seen: the folder is gone, or may not be read. What passes
    /// by itself does not count, and neither does a damaged commit, since a good one is shown.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.read().clone()
    }

    /// Looks for a newer visible commit and switches to it once all its files are open. Returns
    /// whether it did.
    ///
    /// A commit may be removed before it is opened. That is not an error: a newer one is visible
    /// by then.
    pub fn step(&self) -> Result<bool, CommitError> {
        let stepped = self.advance();
        *self.trouble.write() = match &stepped {
            Err(CommitError::Storage(error)) if lack(error).is_none() => Some(error.to_string()),
            Err(error @ CommitError::Another(_)) => Some(error.to_string()),
            _ => None,
        };
        stepped
    }

    /// Refuses the commits of another state from the first one on: they count something else.
    fn check_state(&self, seen: &Header, now: &Header) -> Result<(), CommitError> {
        if is_same_state(&*self.storage, seen, now)? {
            return Ok(());
        }
        let file = self.storage.display(&visible_name(now.generation));
        *self.another.write() = Some(file.clone());
        Err(CommitError::Another(file))
    }

    fn advance(&self) -> Result<bool, CommitError> {
        if let Some(file) = self.another.read().clone() {
            return Err(CommitError::Another(file));
        }
        let current = self.current();
        let step = self.steps.fetch_add(1, Ordering::Relaxed);
        let Some(commit) = self.look(current.as_deref(), step)? else { return Ok(false) };
        let is_old = |current: &Arc<Snapshot>| commit <= current.manifest.header.commit;
        if let Some(current) = current.as_ref().filter(|current| is_old(current)) {
            let seen = &current.manifest.header;
            if commit < seen.commit || step.is_multiple_of(STEPS_PER_CHECK) {
                // One that is gone or damaged says nothing.
                load_header(&*self.storage, commit)
                    .map_or(Ok(()), |now| self.check_state(seen, &now))?;
            }
            return Ok(false);
        }
        let opened = load(&*self.storage, commit).and_then(|manifest| {
            if let Some(current) = &current {
                self.check_state(&current.manifest.header, &manifest.header)?;
            }
            Snapshot::open(&*self.storage, manifest, current.as_deref())
        });
        match opened {
            Ok(snapshot) => {
                assert_eq!(snapshot.manifest.header.commit, commit, "checked by `load`");
                let mut current = self.current.write();
                // Another thread may have switched to a newer one meanwhile.
                let is_newer = !current.as_ref().is_some_and(is_old);
                if is_newer {
                    if let Some(current) = current.as_ref() {
                        monotone(&current.manifest.header, &snapshot.manifest.header)?;
                    }
                    *current = Some(Arc::new(snapshot));
                }
                Ok(is_newer)
            }
            Err(error) if visible(&*self.storage)? == Some(commit) => Err(error),
            Err(_) => Ok(false),
        }
    }

    fn look(&self, current: Option<&Snapshot>, step: u32) -> Result<Option<u64>, CommitError> {
        let Some(current) = current else { return visible(&*self.storage) };
        let generation = current.manifest.header.generation;
        // That of the current commit need not be checked again.
        if step.is_multiple_of(STEPS_PER_LISTING)
            && generations(&*self.storage)?.last() != Some(&generation)
        {
            return visible(&*self.storage);
        }
        match read_visible(&*self.storage, generation) {
            // A newer generation has its own, or the folder is gone.
            Err(CommitError::Storage(error)) if error.is_not_found() => visible(&*self.storage),
            other => other.map(Some),
        }
    }
}

/// Whether a commit that is visible `now` is of the state of one that was `seen`. A state is known
/// by its takeovers, which are never removed, and which later commits of the same state follow.
fn is_same_state(storage: &dyn Storage, seen: &Header, now: &Header) -> Result<bool, CommitError> {
    if now.generation == seen.generation {
        return Ok(now.owner == seen.owner);
    }
    if now.generation > seen.generation && now.commit <= seen.commit {
        return Ok(false);
    }
    match load_header(storage, seen.generation) {
        Ok(takeover) => Ok(takeover.owner == seen.owner),
        Err(CommitError::Missing(_)) => Ok(false),
        // A damaged one may be that.
        Err(CommitError::Manifest { .. }) => Ok(true),
        Err(error) => Err(error),
    }
}
