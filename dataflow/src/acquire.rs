//! Acquiring a state: taking it over from its last owner, or rolling it back to an older commit.
//!
//! Invariant: an owner that is running and commits is superseded only if that was requested.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use schemas::hash::HashKey;
use schemas::manifest::Manifest;
use schemas::windows::Windows;
use sinks::commits::{
    Claimant, CommitError, Lock, Owner, TakeoverError, Watch, list_commits, load, load_header,
    rollback, take_over,
};
use sinks::storage::{DiskStorage, Patience, Storage, StorageError};

use crate::clock::{Clock, RandomError};
use crate::error::{AcquireError, RunError};
use crate::spec::{JobSpec, StateAt};

/// How often a newcomer looks whether a running owner has committed.
const WATCH_WAIT: Duration = Duration::from_millis(50);

/// Takes the state over: the takeover's manifest, and the lock that shows the new owner.
pub(crate) fn acquire(
    spec: &JobSpec,
    storage: &dyn Storage,
    patience: &mut Patience,
) -> Result<(Manifest, Option<Lock>), AcquireError> {
    let owner = owner(&spec.host, &*spec.clock)?;
    let root = match &spec.state {
        StateAt::Folder(root) => Some(root),
        StateAt::Storage(_) => None,
    };
    let lock = root.map(|root| patience.insist(|| Lock::take(root, &owner))).transpose()?;
    let claimant = Claimant {
        owner: owner.id.clone(),
        hash_key: match &spec.settings.decisions {
            Some(decisions) => decisions.hash_key(),
            None => HashKey::new(spec.clock.random()?),
        },
        windows: spec.settings.windows.clone(),
        scopes: Some(spec.settings.scopes_sorted()),
        wall_ms: owner.started_ms,
    };
    let takeover = patience.insist(|| {
        let mut watched = Ok(());
        let takeover = take_over(storage, &claimant, |before| {
            let holder = root.and_then(|root| Lock::holder(root, &before.header.owner))?;
            if spec.take_over || before.body.clean {
                return None;
            }
            match still_commits(storage, &*spec.clock, spec.settings.silent_ms) {
                Ok(true) => Some(holder),
                Ok(false) => None,
                Err(error) => {
                    watched = Err(error);
                    Some(holder)
                }
            }
        });
        watched?;
        Ok::<_, AcquireError>(takeover?)
    })?;
    if let Some(root) = root {
        Lock::sweep(root, &owner.id);
    }
    Ok((takeover, lock))
}

/// The reason why a job that began with `start` ended with `error`. If another job owns the state
/// by now, that is the reason for anything but a defect. If a topic was recreated, it names the
/// last commit.
pub(crate) fn reason(error: RunError, storage: &dyn Storage, start: &Manifest) -> RunError {
    if error.is_defect() {
        return error;
    }
    let newest = || load_header(storage, list_commits(storage).ok()?.last().copied()?).ok();
    match newest() {
        Some(newest) if newest.owner != start.header.owner => {
            CommitError::Fenced { commit: newest.commit }.into()
        }
        Some(newest) => match error {
            RunError::Log(error) => error.after(&storage.display(""), newest.commit).into(),
            other => other,
        },
        None => error,
    }
}

/// Whether a job is running on the state in `root`, of which `newest` is the newest commit.
pub(crate) fn lives(root: &Path, newest: &Manifest) -> bool {
    !newest.body.clean && Lock::holder(root, &newest.header.owner).is_some()
}

/// Rolls the state in `root` back to commit `to`, if no job is running on it. Returns the new
/// commit, and the files whose rows could not be marked as changed.
pub fn roll_back(
    root: &Path,
    to: u64,
    clock: &Arc<dyn Clock>,
    host: &str,
) -> Result<(Manifest, Vec<String>), AcquireError> {
    let storage = DiskStorage::create(root)?;
    let commits = list_commits(&storage)?;
    let newest = commits.into_iter().rev().find_map(|commit| load(&storage, commit).ok());
    if let Some(newest) = newest
        && !newest.body.clean
        && let Some(holder) = Lock::holder(root, &newest.header.owner)
    {
        return Err(TakeoverError::InUse(holder).into());
    }
    let owner = owner(host, &**clock)?;
    let _lock = Lock::take(root, &owner)?;
    let claimant = Claimant {
        owner: owner.id,
        hash_key: HashKey::new(clock.random()?),
        windows: Windows::default(),
        scopes: None,
        wall_ms: owner.started_ms,
    };
    Ok(rollback(&storage, to, &claimant)?)
}

/// Watches a running owner: whether it makes a commit within `silent_ms`.
fn still_commits(
    storage: &dyn Storage,
    clock: &dyn Clock,
    silent_ms: u64,
) -> Result<bool, StorageError> {
    let now_ms = || clock.mono_us() / 1000;
    let watch = Watch::new(storage, now_ms())?;
    while watch.age_ms(now_ms()) < silent_ms {
        if watch.has_moved(storage)? {
            return Ok(true);
        }
        std::thread::park_timeout(WATCH_WAIT);
    }
    Ok(false)
}

/// A new owner of a state: this process, from now on.
pub(crate) fn owner(host: &str, clock: &dyn Clock) -> Result<Owner, RandomError> {
    Ok(Owner {
        id: format!("{:032x}", clock.random()?),
        pid: std::process::id(),
        host: host.to_owned(),
        started_ms: clock.wall_ms(),
    })
}
