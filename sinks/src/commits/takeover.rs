//! The start of a job on a state: winning the next commit number before loading anything.
//!
//! Invariants: a takeover has the content of the newest commit and a new version; takeovers are
//! never removed, so the next number of every older job exists for ever.

use schemas::hash::HashKey;
use schemas::manifest::{Body, Counters, Header, Manifest};
use schemas::tags::RULES_VERSION;
use schemas::windows::Windows;
use thiserror::Error;

use super::files::{CommitError, create, list_commits, make_visible, newest};
use super::lock::Owner;
use crate::storage::{Storage, StorageError};

/// What a start brings along.
#[derive(Clone, Debug)]
pub struct Start {
    /// 128 random bits of this start, in hexadecimal.
    pub owner: String,
    /// The key of the hashes, should the state be new.
    pub hash_key: HashKey,
    /// The windows to keep, which an existing state must have been made with.
    pub windows: Windows,
    /// The scopes to count by, sorted, which an existing state must have been made with; none where
    /// nothing is to be counted.
    pub scopes: Option<Vec<String>>,
    /// The wall clock, in milliseconds.
    pub wall_ms: i64,
}

/// Why a start was refused.
#[derive(Debug, Error)]
pub enum TakeoverError {
    /// The state could not be read or written, or another start was faster.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// Another job lives on this state.
    #[error(
        "the state is used by {0}, which still commits. Stop it, or take over with --take-over"
    )]
    Living(Owner),
    /// The state was made with other scopes.
    #[error(
        "the state counts by {state}, not by {asked}: what it has read before would be missing there. Start over with another state folder"
    )]
    Scopes {
        /// Those of the state.
        state: String,
        /// Those asked for.
        asked: String,
    },
    /// The state was made with other windows.
    #[error(
        "the state was made with the windows {state}, not {asked}. Start over with another state folder"
    )]
    Windows {
        /// Those of the state.
        state: String,
        /// Those asked for.
        asked: String,
    },
    /// The state was made with other tag rules.
    #[error(
        "the state was made with tag rules {0}; this build has {RULES_VERSION}. Start over with another state folder"
    )]
    Rules(u32),
}

impl From<StorageError> for TakeoverError {
    fn from(error: StorageError) -> Self {
        Self::Commit(error.into())
    }
}

/// Makes the takeover of this start: the manifest to load.
///
/// The loser of a race goes on to the next number, unless `living` names a living owner of the
/// commit that won.
pub fn take_over(
    storage: &dyn Storage,
    start: &Start,
    mut living: impl FnMut(&Manifest) -> Option<Owner>,
) -> Result<Manifest, TakeoverError> {
    loop {
        let before = newest(storage)?;
        if let Some(before) = &before {
            check(before, start)?;
            if let Some(owner) = living(before) {
                return Err(TakeoverError::Living(owner));
            }
        }
        let takeover = takeover(before, start);
        match create(storage, &takeover) {
            Ok(()) => return Ok(takeover),
            Err(CommitError::Fenced { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn check(before: &Manifest, start: &Start) -> Result<(), TakeoverError> {
    let names = |windows: &Windows| {
        let name = |w: schemas::windows::Window| {
            format!("{} by {}", w.name(), schemas::time::format_duration_ms(w.slide_ms))
        };
        windows.iter().map(name).collect::<Vec<_>>().join(", ")
    };
    let (state, asked) = (&before.body.windows, &start.windows);
    if state != asked {
        return Err(TakeoverError::Windows { state: names(state), asked: names(asked) });
    }
    if let (Some(state), Some(asked)) = (&before.body.scopes, &start.scopes)
        && state != asked
    {
        let names = |scopes: &[String]| match scopes {
            [] => "no scope".to_owned(),
            scopes => scopes.join(", "),
        };
        return Err(TakeoverError::Scopes { state: names(state), asked: names(asked) });
    }
    if before.body.rules != RULES_VERSION {
        return Err(TakeoverError::Rules(before.body.rules));
    }
    Ok(())
}

fn takeover(before: Option<Manifest>, start: &Start) -> Manifest {
    let (commit, history, version) = before
        .as_ref()
        .map_or((1, 0, 0), |b| (b.header.commit + 1, b.header.history, b.header.version + 1));
    let header = Header {
        commit,
        history,
        generation: commit,
        owner: start.owner.clone(),
        takeover: true,
        version: version.max(start.wall_ms * 1000),
        wall_ms: start.wall_ms,
    };
    let body = before.map_or_else(
        || Body {
            as_of_ms: None,
            floor_ms: None,
            largest_ts_ms: None,
            hash_key: start.hash_key.clone(),
            rules: RULES_VERSION,
            windows: start.windows.clone(),
            scopes: start.scopes.clone(),
            mappings: std::collections::BTreeMap::new(),
            read_otherwise: std::collections::BTreeMap::new(),
            finished: None,
            clean: false,
            inputs: std::collections::BTreeMap::new(),
            control: 0,
            counters: Counters::default(),
            segments: Vec::new(),
        },
        |before| {
            let scopes = start.scopes.clone().or(before.body.scopes);
            Body { finished: None, clean: false, scopes, ..before.body }
        },
    );
    Manifest { header, body }
}

/// Makes a commit with the content of the newest one, of which `before` is the manifest, and a
/// version above `above`: for a store that is to be written anew. It is left in order, so that the
/// next start waits for nobody, and a finished run stays finished.
pub fn renew(
    storage: &dyn Storage,
    before: Manifest,
    start: &Start,
    above: i64,
) -> Result<Manifest, CommitError> {
    let finished = before.body.finished.clone();
    let mut renewed = takeover(Some(before), start);
    renewed.header.version = renewed.header.version.max(above + 1);
    (renewed.body.finished, renewed.body.clean) = (finished, true);
    create(storage, &renewed)?;
    make_visible(storage, &renewed.header)?;
    Ok(renewed)
}

/// Watches a state for new commits, by the watcher's own clock: whether its owner still commits.
#[derive(Debug)]
pub struct Watch {
    newest: Option<u64>,
    since_ms: u64,
}

impl Watch {
    /// Begins to watch at `now_ms` of any monotonic clock.
    pub fn new(storage: &dyn Storage, now_ms: u64) -> Result<Self, StorageError> {
        Ok(Self { newest: list_commits(storage)?.last().copied(), since_ms: now_ms })
    }

    /// Whether a commit has come since the watch began.
    pub fn has_moved(&self, storage: &dyn Storage) -> Result<bool, StorageError> {
        Ok(list_commits(storage)?.last().copied() != self.newest)
    }

    /// How long the watch has lasted.
    pub fn age_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.since_ms)
    }
}
