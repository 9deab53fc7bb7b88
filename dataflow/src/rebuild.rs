//! Filling a store with everything that a state holds, whatever the store has.
//!
//! Rows are sent under the version of a manifest that was made after the request, so that they win
//! over whatever was there: by the job that lives on the state, or else by a manifest of our own.
//! An empty store gets the visible commit as it is, so that two of them come out equal. A job that
//! publishes to the same store meanwhile does no harm: both send rows of one state, and of two
//! versions of a row the newer one stays.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use schemas::hash::HashKey;
use schemas::manifest::Manifest;
use schemas::windows::Windows;
use sinks::commits::{CommitError, Snapshot, Start, load, newest, renew, visible};
use sinks::publish::{PublishError, PublishTask, Publisher};
use sinks::storage::{DiskStorage, Storage};

use crate::acquire::{lives, owner};
use crate::clock::Clock;
use crate::error::JobError;
use crate::publishing::Publication;

/// A living job commits within seconds; one that has not for so long is stuck.
const COMMIT_WAIT_US: u64 = 60_000_000;

/// A store to fill.
pub struct Rebuild {
    /// The state folder, which exists.
    pub state: PathBuf,
    /// The job's name in the store.
    pub job: String,
    /// The store.
    pub publisher: Box<dyn Publisher>,
    /// Whether it has no rows at all.
    pub is_empty: bool,
    /// How long to wait for a store that does not answer.
    pub store_wait_ms: u64,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// A name for this host, for messages.
    pub host: String,
}

/// Begins to send every row of the state: the commit they are of, and how it goes on.
pub fn rebuild(mut spec: Rebuild) -> Result<(Manifest, Publication), JobError> {
    // Whatever the row holds: it is written again.
    let row = spec.publisher.job_version(&spec.job)?.ok_or(PublishError::Unavailable)?;
    let storage: Arc<dyn Storage> = Arc::new(DiskStorage::create(&spec.state)?);
    let above = row.unwrap_or(i64::MIN);
    let manifest = if row.is_none() && spec.is_empty {
        shown(&*storage)?.ok_or(CommitError::Missing(0))?
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

/// Begins to send what a store lacks of a state where no job lives; none where one does, which
/// sends it itself.
pub fn publish_rest(
    state: &Path,
    job: String,
    publisher: Box<dyn Publisher>,
    clock: &Arc<dyn Clock>,
    store_wait_ms: u64,
) -> Result<Option<Publication>, JobError> {
    let storage: Arc<dyn Storage> = Arc::new(DiskStorage::create(state)?);
    let last = newest(&*storage)?.ok_or(CommitError::Missing(0))?;
    if lives(state, &last) {
        return Ok(None);
    }
    let manifest = shown(&*storage)?.ok_or(CommitError::Missing(0))?;
    let snapshot = Arc::new(Snapshot::open(&*storage, manifest, None)?);
    let task = PublishTask::new(job, publisher, storage);
    Ok(Some(Publication::start(task, snapshot, Arc::clone(clock), store_wait_ms)))
}

fn shown(storage: &dyn Storage) -> Result<Option<Manifest>, CommitError> {
    visible(storage)?.map(|commit| load(storage, commit)).transpose()
}

/// A visible manifest that was made just now: a living job's next one, or one of our own.
fn newer(storage: &dyn Storage, spec: &Rebuild, above: i64) -> Result<Manifest, JobError> {
    let first = newest(storage)?.ok_or(CommitError::Missing(0))?;
    let began_us = spec.clock.mono_us();
    while spec.clock.mono_us() - began_us < COMMIT_WAIT_US {
        let last = newest(storage)?.ok_or(CommitError::Missing(0))?;
        if !lives(&spec.state, &last) {
            let owner = owner(&spec.host, &*spec.clock)?;
            let start = Start {
                owner: owner.id,
                hash_key: HashKey::new(spec.clock.random()?),
                windows: Windows::default(),
                scopes: None,
                wall_ms: owner.started_ms,
            };
            return Ok(renew(storage, last, &start, above)?);
        }
        if let Some(shown) = shown(storage)?
            && shown.header.commit > first.header.commit
        {
            return Ok(shown);
        }
        std::thread::park_timeout(Duration::from_millis(50));
    }
    Err(JobError::Stuck)
}
