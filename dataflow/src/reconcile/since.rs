//! The commit that a check begins from, where it does not begin with the log: what came after it,
//! on top of it, must be the commit that is checked.
//!
//! Invariant: what lies between the two is told by the log alone, or nothing is told.

use std::sync::Arc;

use schemas::hash::KeyHash;
use schemas::manifest::Manifest;
use schemas::rows::Ids;
use sinks::commits::{CommitError, OpenSegment, Snapshot, open_table};
use sinks::storage::Storage;

use super::program::{Fact, Kept};
use super::splits::{self, Split};
use super::{ReconcileError, stored};

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

    /// Whether it has accepted an event with this id, and not forgotten it.
    pub(super) fn remembers(&self, id: KeyHash) -> bool {
        let newest = self.ids.iter().rev().find_map(|segment| segment.rows.get(id));
        newest.is_some_and(|row| !row.forgotten && i64::from(row.hour) >= self.first_hour)
    }

    /// Calls `each` with its facts, of the keys that `mine` chooses, as a later commit keeps them.
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

/// The splits of the log up to a commit, from the earlier one on where there is one.
pub(super) fn splits(
    commit: &Manifest,
    since: Option<&Since>,
) -> Result<Vec<Split>, ReconcileError> {
    let before = since.map(|since| &since.snapshot.manifest);
    let between = before.and_then(|before| between(before, commit));
    let splits = match between {
        Some(why) => Err(why),
        None => splits::splits(&commit.body, before.map(|before| &before.body)),
    };
    splits.map_err(|why| ReconcileError::Since {
        commit: commit.header.commit,
        since: before.map_or(0, |before| before.header.commit),
        why,
    })
}

/// What happened between two commits that no log tells.
fn between(before: &Manifest, commit: &Manifest) -> Option<String> {
    if before.header.commit >= commit.header.commit {
        return Some("it does not come before".to_owned());
    }
    if before.header.history != commit.header.history {
        return Some("the state went back to an older commit in between".to_owned());
    }
    let read_otherwise = commit.body.read_otherwise.values();
    if let Some(last) = read_otherwise.max().filter(|last| **last > before.header.commit) {
        let what = "records were read with another mapping or horizon up to commit";
        return Some(format!("{what} {last}"));
    }
    let corrected = |commit: &Manifest| commit.body.counters.corrected;
    match corrected(commit).saturating_sub(corrected(before)) {
        0 => None,
        corrected => Some(format!("{corrected} corrections were made in between")),
    }
}
