//! Fills a store with everything that a state holds, whatever the store has.
//!
//! Rows are sent under the version of a manifest made after the request, so that they win over
//! whatever was there: the next one of the job on the state, or one of our own if no job is
//! running. An empty store gets the visible commit under its own version, so that two of them come
//! out equal. A job may publish to the same store meanwhile: both send rows of one state, and of
//! two versions of a row the newer one wins.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use schemas::hash::HashKey;
use schemas::manifest::{Manifest, VERSION_MAX};
use schemas::windows::Windows;
use sinks::commits::{Claimant, CommitError, Snapshot, newest, renew};
use sinks::publish::{PublishError, PublishTask, Publisher};
use sinks::storage::{DiskStorage, Storage, StorageError};
use thiserror::Error;

use crate::acquire::{lives, owner};
use crate::clock::{Clock, RandomError};
use crate::next_commit::{Stuck, next_commit, visible_manifest};
use crate::publishing::Publication;

/// Why a store could not be filled.
#[derive(Debug, Error)]
pub enum RebuildError {
    /// The state cannot be opened.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A commit cannot be read or made.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The store cannot be used.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// There are no random bits for the name of a commit's owner.
    #[error(transparent)]
    Random(#[from] RandomError),
    /// The job that is running makes no commits.
    #[error(transparent)]
    Stuck(#[from] Stuck),
}

impl RebuildError {
    /// Whether another job has taken over the state.
    pub fn is_fenced(&self) -> bool {
        matches!(self, Self::Commit(CommitError::Fenced { .. }))
    }
}

/// A store to fill.
pub struct Rebuild {
    /// The state folder, which exists.
    pub state: PathBuf,
    /// The job's name in the store.
    pub job: String,
    /// The store.
    pub publisher: Box<dyn Publisher>,
    /// Whether it has no rows.
    pub is_empty: bool,
    /// How long to wait for a store that does not answer.
    pub store_wait_ms: u64,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// A name for this host, for messages.
    pub host: String,
}

/// Starts to send every row of the state. Returns the commit that is sent.
pub fn rebuild(mut spec: Rebuild) -> Result<(Manifest, Publication), RebuildError> {
    // The row may be damaged: it is written again.
    let row = spec.publisher.job_version(&spec.job)?;
    let row = row.ok_or_else(|| PublishError::unavailable(&*spec.publisher))?;
    let storage: Arc<dyn Storage> = Arc::new(DiskStorage::create(&spec.state)?);
    let above = row.unwrap_or(i64::MIN);
    if above >= VERSION_MAX {
        return Err(PublishError::Newer { theirs: above, ours: VERSION_MAX }.into());
    }
    let manifest = if row.is_none() && spec.is_empty {
        visible_manifest(&*storage)?.ok_or(CommitError::Missing(0))?
    } else {
        newer(&*storage, &spec, above)?
    };
    let ours = manifest.header.version;
    if ours <= above {
        return Err(PublishError::Newer { theirs: above, ours }.into());
    }
    let snapshot = Arc::new(Snapshot::open(&*storage, manifest.clone(), None)?);
    let task = PublishTask::new(spec.job, spec.publisher, storage).rebuilding();
    Ok((manifest, Publication::start(task, snapshot, spec.clock, spec.store_wait_ms)))
}

/// Starts to send what a store lacks. Returns `None` if a job is running, which sends it itself.
pub fn publish_rest(
    state: &Path,
    job: String,
    publisher: Box<dyn Publisher>,
    clock: &Arc<dyn Clock>,
    store_wait_ms: u64,
) -> Result<Option<Publication>, RebuildError> {
    let storage: Arc<dyn Storage> = Arc::new(DiskStorage::create(state)?);
    let last = newest(&*storage)?.ok_or(CommitError::Missing(0))?;
    if lives(state, &last) {
        return Ok(None);
    }
    let manifest = visible_manifest(&*storage)?.ok_or(CommitError::Missing(0))?;
    let snapshot = Arc::new(Snapshot::open(&*storage, manifest, None)?);
    let task = PublishTask::new(job, publisher, storage);
    Ok(Some(Publication::start(task, snapshot, Arc::clone(clock), store_wait_ms)))
}

/// A visible manifest made just now: the next one of the job, or one of our own.
fn newer(storage: &dyn Storage, spec: &Rebuild, above: i64) -> Result<Manifest, RebuildError> {
    let first = newest(storage)?.ok_or(CommitError::Missing(0))?.header.commit;
    let is_newer = |manifest: &Manifest| manifest.header.commit > first;
    let manifest = next_commit((&spec.state, storage), &*spec.clock, is_newer, |last| {
        let owner = owner(&spec.host, &*spec.clock)?;
        let claimant = Claimant {
            owner: owner.id,
            hash_key: HashKey::new(spec.clock.random()?),
            windows: Windows::default(),
            scopes: None,
            wall_ms: owner.started_ms,
        };
        Ok::<_, RebuildError>(Some(renew(storage, last, &claimant, above)?))
    })?;
    assert!(manifest.header.commit > first, "commit {first} was made before the request");
    Ok(manifest)
}
