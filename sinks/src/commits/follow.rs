//! Following a state from another process.
//!
//! Invariant: readers see one whole commit at a time, and never an older one than before.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::RwLock;

use super::files::{CommitError, load, read_visible, visible};
use super::snapshot::Snapshot;
use crate::invariants::monotone;
use crate::storage::{Storage, lack};

/// One step in four lists the pointers to find a newer generation; the others read the known one.
const STEPS_PER_LISTING: u32 = 4;

/// The newest visible commit of a state, open. Called every 25 ms, `step` keeps it within 100 ms.
pub struct Follower {
    storage: Arc<dyn Storage>,
    current: RwLock<Option<Arc<Snapshot>>>,
    steps: AtomicU32,
    /// Why the folder cannot be followed.
    trouble: RwLock<Option<String>>,
}

impl Follower {
    /// A follower that has not seen a commit yet.
    pub fn new(storage: Arc<dyn Storage>) -> Self {
        let (current, trouble) = (RwLock::new(None), RwLock::new(None));
        Self { storage, current, steps: 0.into(), trouble }
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
            _ => None,
        };
        stepped
    }

    fn advance(&self) -> Result<bool, CommitError> {
        let current = self.current();
        let Some(commit) = self.look(current.as_deref())? else { return Ok(false) };
        let is_old = |current: &Arc<Snapshot>| commit <= current.manifest.header.commit;
        if current.as_ref().is_some_and(is_old) {
            return Ok(false);
        }
        let opened = load(&*self.storage, commit)
            .and_then(|manifest| Snapshot::open(&*self.storage, manifest, current.as_deref()));
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

    fn look(&self, current: Option<&Snapshot>) -> Result<Option<u64>, CommitError> {
        let step = self.steps.fetch_add(1, Ordering::Relaxed);
        match current {
            Some(current) if !step.is_multiple_of(STEPS_PER_LISTING) => {
                match read_visible(&*self.storage, current.manifest.header.generation) {
                    // A newer generation has its own, or the folder is gone.
                    Err(CommitError::Storage(error)) if error.is_not_found() => {
                        visible(&*self.storage)
                    }
                    other => other.map(Some),
                }
            }
            _ => visible(&*self.storage),
        }
    }
}
