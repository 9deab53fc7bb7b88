//! Waiting for the next commit of a state's job, or for one of our own if no job is running.
//!
//! Invariant: the wait ends. A running job commits within seconds, and one that has not for a
//! minute is reported as stuck.

use std::path::Path;
use std::time::Duration;

use schemas::manifest::Manifest;
use sinks::commits::{CommitError, load, newest, visible};
use sinks::storage::Storage;
use thiserror::Error;

use crate::acquire::lives;
use crate::clock::Clock;

/// A running job commits within seconds; one that has not for this long is stuck.
const COMMIT_WAIT_US: u64 = 60_000_000;

/// A job is running on the state, but makes no commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the job on this state has made no commit for a minute; stop it and try again")]
pub struct Stuck;

/// Waits until `accept` takes a visible commit, and returns it. If no job is running, calls `make`
/// with the newest commit; it may return a commit of its own.
pub(crate) fn next_commit<E: From<CommitError> + From<Stuck>>(
    (state, storage): (&Path, &dyn Storage),
    clock: &dyn Clock,
    accept: impl Fn(&Manifest) -> bool,
    mut make: impl FnMut(Manifest) -> Result<Option<Manifest>, E>,
) -> Result<Manifest, E> {
    let began_us = clock.mono_us();
    while clock.mono_us() - began_us < COMMIT_WAIT_US {
        if let Some(manifest) = visible_manifest(storage)?.filter(&accept) {
            return Ok(manifest);
        }
        let last = newest(storage)?.ok_or(CommitError::Missing(0))?;
        if !lives(state, &last)
            && let Some(manifest) = make(last)?
        {
            return Ok(manifest);
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
    Err(Stuck.into())
}

/// The manifest of the visible commit, if there is one.
pub(crate) fn visible_manifest(storage: &dyn Storage) -> Result<Option<Manifest>, CommitError> {
    visible(storage)?.map(|commit| load(storage, commit)).transpose()
}
