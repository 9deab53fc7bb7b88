//! Following a state from another process: always one commit, never an older one.

use std::sync::{Arc, PoisonError, RwLock};

use super::files::{CommitError, load, read_visible, visible};
use super::snapshot::Snapshot;
use crate::invariants::monotone;
use crate::storage::Storage;

/// How many steps look only at the pointer they know before one looks for a newer generation's.
const STEPS_PER_LISTING: u32 = 4;

/// The newest visible commit of a state, open. A `step` every 25 ms keeps it within 100 ms.
pub struct Follower {
    storage: Arc<dyn Storage>,
    current: RwLock<Option<Arc<Snapshot>>>,
    steps: std::sync::atomic::AtomicU32,
}

impl Follower {
    /// A follower that has seen nothing yet.
    pub fn new(storage: Arc<dyn Storage>) -> Self {
        Self { storage, current: RwLock::new(None), steps: 0.into() }
    }

    /// The commit that is shown now; none before the first visible one.
    pub fn current(&self) -> Option<Arc<Snapshot>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks for a newer visible commit and shows it once all its files are open. Whether it did.
    ///
    /// A commit that is removed between the look and the opening is no error: a newer one is
    /// visible by then.
    pub fn step(&self) -> Result<bool, CommitError> {
        let current = self.current();
        let Some(commit) = self.look(current.as_deref())? else { return Ok(false) };
        let is_old = |shown: &Arc<Snapshot>| commit <= shown.manifest.header.commit;
        if current.as_ref().is_some_and(is_old) {
            return Ok(false);
        }
        let opened = load(&*self.storage, commit)
            .and_then(|manifest| Snapshot::open(&*self.storage, manifest, current.as_deref()));
        match opened {
            Ok(snapshot) => {
                let mut shown = self.current.write().unwrap_or_else(PoisonError::into_inner);
                // Another thread may have shown a newer one while this one opened its files.
                let newer = !shown.as_ref().is_some_and(is_old);
                if newer {
                    if let Some(shown) = shown.as_ref() {
                        monotone(&shown.manifest.header, &snapshot.manifest.header)?;
                    }
                    *shown = Some(Arc::new(snapshot));
                }
                Ok(newer)
            }
            Err(error) if visible(&*self.storage)? == Some(commit) => Err(error),
            Err(_) => Ok(false),
        }
    }

    fn look(&self, current: Option<&Snapshot>) -> Result<Option<u64>, CommitError> {
        let step = self.steps.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        match current {
            Some(shown) if !step.is_multiple_of(STEPS_PER_LISTING) => {
                match read_visible(&*self.storage, shown.manifest.header.generation) {
                    Err(CommitError::Storage(error)) if error.is_not_found() => Ok(None),
                    other => other.map(Some),
                }
            }
            _ => visible(&*self.storage),
        }
    }
}
