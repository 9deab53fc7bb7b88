//! The earlier commit that a check starts from, if it does not start with the log: with the events
//! after it, it must give the commit that is checked.
//!
//! Invariant: everything that changed between the two commits is in the log, or the check fails.

use std::sync::Arc;

use schemas::hash::KeyHash;
use schemas::manifest::Manifest;
use schemas::rows::Ids;
use sinks::commits::{CommitError, OpenSegment, Snapshot, open_table};
use sinks::storage::Storage;

use super::program::{Fact, Kept};
use super::splits::{self, Split};
use super::{NotSince, ReconcileError, stored};

/// An earlier commit, open.
pub(super) struct Since {
    snapshot: Arc<Snapshot>,
    ids: Vec<OpenSegment<Ids>>,
    /// The first hour whose ids it remembers.
    first_hour: i64,
}

impl Since {
    pub(super) fn open(
        storage: &dyn Storage,
        snapshot: Arc<Snapshot>,
    ) -> Result<Self, CommitError> {
        let first_hour = stored::first_hour(&snapshot.manifest.body);
        Ok(Self { ids: open_table(storage, &snapshot.manifest)?, snapshot, first_hour })
    }

    /// The hour of an id that it remembers.
    pub(super) fn hour_of(&self, id: KeyHash) -> Option<i64> {
        let newest = self.ids.iter().rev().find_map(|segment| segment.rows.get(id))?;
        let hour = i64::from(newest.hour);
        (!newest.forgotten && hour >= self.first_hour).then_some(hour)
    }

    /// Calls `each` with its facts about the keys that `mine` selects, as a later commit keeps
    /// them.
    pub(super) fn facts(
        &self,
        kept: &Kept,
        mine: impl Fn(KeyHash) -> bool + Copy,
        mut each: impl FnMut(Fact),
    ) -> Result<(), ReconcileError> {
        stored::rows(&self.snapshot, kept, mine, &mut each)?;
        stored::ids(&self.ids, kept, mine, &mut each);
        Ok(())
    }
}

/// The splits of the log up to a commit, from the earlier commit if there is one.
pub(super) fn splits(
    commit: &Manifest,
    since: Option<&Since>,
) -> Result<Vec<Split>, ReconcileError> {
    let before = since.map(|since| &since.snapshot.manifest);
    let Some(before) = before else {
        return Ok(splits::splits(&commit.body, None)
            .unwrap_or_else(|_| unreachable!("only an earlier commit can prevent a check")));
    };
    let splits =
        between(before, commit).and_then(|()| splits::splits(&commit.body, Some(&before.body)));
    splits.map_err(|why| ReconcileError::Since {
        commit: commit.header.commit,
        since: before.header.commit,
        why,
    })
}

/// Fails if something happened between two commits that is not in the log.
fn between(before: &Manifest, commit: &Manifest) -> Result<(), NotSince> {
    if before.header.commit >= commit.header.commit {
        return Err(NotSince::NotEarlier);
    }
    if before.header.history != commit.header.history {
        return Err(NotSince::RolledBack);
    }
    let read_otherwise = commit.body.read_otherwise.values();
    if let Some(last) = read_otherwise.max().filter(|last| **last > before.header.commit) {
        return Err(NotSince::ReadOtherwise(*last));
    }
    let corrected = |commit: &Manifest| commit.body.counters.corrected;
    match corrected(commit).saturating_sub(corrected(before)) {
        0 => Ok(()),
        corrected => Err(NotSince::Corrected(corrected)),
    }
}
