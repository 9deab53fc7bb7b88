//! Taking over a state: a job claims the next commit number before it loads anything.
//!
//! Invariants: a takeover has the content of the newest commit and a new version. Takeovers are
//! never removed, so the number that an older job would need next is taken for ever.

use std::collections::BTreeMap;

use schemas::hash::HashKey;
use schemas::manifest::{Body, Counters, Header, Manifest};
use schemas::tags::TagRules;
use schemas::windows::Windows;
use thiserror::Error;

use super::files::{CommitError, create, list_commits, make_visible, newest};
use super::lock::Owner;
use crate::storage::{Storage, StorageError};

/// A run of a job that claims a state.
#[derive(Clone, Debug)]
pub struct Claimant {
    /// 128 random bits of this run, in hexadecimal.
    pub owner: String,
    /// The key of the hashes if the state is new.
    pub hash_key: HashKey,
    /// The windows to keep. An existing state must have the same.
    pub windows: Windows,
    /// The scopes to count by, sorted. An existing state must have the same. `None` if nothing is
    /// to be counted.
    pub scopes: Option<Vec<String>>,
    /// The wall clock, in milliseconds.
    pub wall_ms: i64,
}

/// Why a job could not take over a state.
#[derive(Debug, Error)]
pub enum TakeoverError {
    /// The state could not be read or written.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// Another job is using the state.
    #[error(
        "the state is in use by {0}. Stop that job, or supersede it with `tagflow run --take-over`"
    )]
    InUse(Owner),
    /// The state was made with other scopes.
    #[error(
        "the state was made with {state}; this job has {requested}. Past posts cannot be counted again: use a new state folder"
    )]
    Scopes {
        /// Those of the state.
        state: String,
        /// Those of the job.
        requested: String,
    },
    /// The state was made with other windows.
    #[error("the state was made with the windows {state}, not {requested}. Use a new state folder")]
    Windows {
        /// Those of the state.
        state: String,
        /// Those of the job.
        requested: String,
    },
    /// The state was made with other tag rules.
    #[error(
        "the state was made with tag rules {0}, and this build has rules up to {newest}. \
         Use the build that made it, or a new state folder",
        newest = TagRules::NEWEST.version()
    )]
    Rules(u32),
}

impl From<StorageError> for TakeoverError {
    fn from(error: StorageError) -> Self {
        Self::Commit(error.into())
    }
}

/// Takes over a state and returns the manifest to load.
///
/// If another job wins the number, this one tries the next, unless `running` returns an owner of
/// the newest commit that is still running. It can be repeated after it failed: a takeover of the
/// same run is completed.
pub fn take_over(
    storage: &dyn Storage,
    claimant: &Claimant,
    mut running: impl FnMut(&Manifest) -> Option<Owner>,
) -> Result<Manifest, TakeoverError> {
    loop {
        let before = newest(storage)?;
        if let Some(before) = &before {
            if before.header.owner == claimant.owner && before.header.takeover {
                create(storage, before)?;
                return Ok(before.clone());
            }
            check(before, claimant)?;
            if let Some(owner) = running(before) {
                return Err(TakeoverError::InUse(owner));
            }
        }
        let takeover = takeover(before, claimant);
        match create(storage, &takeover) {
            Ok(()) => return Ok(takeover),
            Err(CommitError::Fenced { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn check(before: &Manifest, claimant: &Claimant) -> Result<(), TakeoverError> {
    let names = |windows: &Windows| {
        let name = |w: schemas::windows::Window| {
            format!("{} by {}", w.name(), schemas::time::format_duration_ms(w.slide_ms))
        };
        windows.iter().map(name).collect::<Vec<_>>().join(", ")
    };
    let (state, requested) = (&before.body.windows, &claimant.windows);
    if state != requested {
        return Err(TakeoverError::Windows { state: names(state), requested: names(requested) });
    }
    if let (Some(state), Some(requested)) = (&before.body.scopes, &claimant.scopes)
        && state != requested
    {
        let names = |scopes: &[String]| match scopes {
            [] => "no scopes".to_owned(),
            scopes => format!("scopes {}", scopes.join(", ")),
        };
        return Err(TakeoverError::Scopes { state: names(state), requested: names(requested) });
    }
    if TagRules::of(before.body.rules).is_none() {
        return Err(TakeoverError::Rules(before.body.rules));
    }
    Ok(())
}

fn takeover(before: Option<Manifest>, claimant: &Claimant) -> Manifest {
    assert!(!claimant.owner.is_empty(), "an owner has a name: the fence compares it");
    let (commit, history, version) = before
        .as_ref()
        .map_or((1, 0, 0), |b| (b.header.commit + 1, b.header.history, b.header.version + 1));
    let header = Header {
        commit,
        history,
        generation: commit,
        owner: claimant.owner.clone(),
        takeover: true,
        version: version.max(claimant.wall_ms.saturating_mul(1000)),
        wall_ms: claimant.wall_ms,
    };
    let body = before.map_or_else(
        || Body {
            as_of_ms: None,
            floor_ms: None,
            largest_ts_ms: None,
            largest_read_ms: None,
            hash_key: claimant.hash_key.clone(),
            rules: TagRules::NEWEST.version(),
            windows: claimant.windows.clone(),
            scopes: claimant.scopes.clone(),
            mappings: BTreeMap::new(),
            read_otherwise: BTreeMap::new(),
            finished: None,
            clean: false,
            inputs: BTreeMap::new(),
            control: 0,
            counters: Counters::default(),
            segments: Vec::new(),
        },
        |before| {
            let largest_read_ms = largest_read_ms(&before);
            let scopes = claimant.scopes.clone().or(before.body.scopes);
            Body { finished: None, clean: false, scopes, largest_read_ms, ..before.body }
        },
    );
    Manifest { header, body }
}

/// When the largest event time of a commit was read, by the wall clock. An older build did not
/// record it, but stream time has gone on since then.
fn largest_read_ms(commit: &Manifest) -> Option<i64> {
    let Manifest { header, body } = commit;
    let largest_ts_ms = body.largest_ts_ms?;
    let since_ms = body.as_of_ms.map_or(0, |as_of_ms| (as_of_ms - largest_ts_ms).max(0));
    body.largest_read_ms.or(Some(header.wall_ms - since_ms))
}

/// Makes a commit with the content of `before`, the newest one, and a version above `above`, so
/// that a store is written again. It counts as a clean exit, so that the next job need not wait,
/// and a finished run stays finished.
pub fn renew(
    storage: &dyn Storage,
    before: Manifest,
    claimant: &Claimant,
    above: i64,
) -> Result<Manifest, CommitError> {
    let finished = before.body.finished.clone();
    let mut renewed = takeover(Some(before), claimant);
    renewed.header.version = renewed.header.version.max(above.saturating_add(1));
    (renewed.body.finished, renewed.body.clean) = (finished, true);
    create(storage, &renewed)?;
    make_visible(storage, &renewed.header)?;
    Ok(renewed)
}

/// Watches whether the owner of a state still commits.
#[derive(Debug)]
pub struct Watch {
    newest: Option<u64>,
    since_ms: u64,
}

impl Watch {
    /// Starts watching at `now_ms` of any monotonic clock.
    pub fn new(storage: &dyn Storage, now_ms: u64) -> Result<Self, StorageError> {
        Ok(Self { newest: list_commits(storage)?.last().copied(), since_ms: now_ms })
    }

    /// Whether there is a commit that did not exist when the watch started.
    pub fn has_moved(&self, storage: &dyn Storage) -> Result<bool, StorageError> {
        Ok(list_commits(storage)?.last().copied() != self.newest)
    }

    /// How long the watch has lasted.
    pub fn age_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.since_ms)
    }
}
