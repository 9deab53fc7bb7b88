//! What a commit holds, as facts.
//!
//! Invariant: if several segments hold a key, its newest row counts.

use schemas::hash::KeyHash;
use schemas::manifest::Body;
use schemas::rows::{Ids, TagRow};
use schemas::segment::Merge;
use schemas::windows::Buckets;
use sinks::commits::{OpenSegment, Snapshot};

use super::ReconcileError;
use super::program::{Fact, Kept};

/// The first hour of event time whose ids a commit remembers.
pub(super) fn first_hour(body: &Body) -> i64 {
    body.floor_ms.map_or(0, |floor| floor.max(0) / 3_600_000)
}

/// Calls `each` with the facts of the tags that `mine` selects; returns how many tags they are.
pub(super) fn rows(
    snapshot: &Snapshot,
    kept: &Kept,
    mine: impl Fn(KeyHash) -> bool,
    mut each: impl FnMut(Fact),
) -> Result<u64, ReconcileError> {
    let mut number = 0;
    let hasher = snapshot.manifest.body.hash_key.hasher();
    for (key, row) in snapshot.tags_changed(0, None) {
        // A tag without posts keeps its row.
        if !mine(key) || !kept.part.has(key) || row.total == 0 {
            continue;
        }
        number += 1;
        if hasher.scoped(row.scope, hasher.tag(row.tag)) != key {
            each(Fact::Misnamed(key));
        }
        each(Fact::Row {
            key,
            total: row.total,
            first_ms: row.first_seen,
            last_ms: row.last_seen,
            display: row.display.into(),
        });
        buckets(key, &row, kept, &mut each)?;
    }
    Ok(number)
}

fn buckets(
    key: KeyHash,
    row: &TagRow<'_>,
    kept: &Kept,
    each: &mut impl FnMut(Fact),
) -> Result<(), ReconcileError> {
    let tiers = kept.windows.tiers();
    let list = Buckets::decode(tiers.slot(row.as_of), row.recent)
        .map_err(|_| ReconcileError::Row(row.tag.to_owned()))?;
    let mut counts = std::collections::BTreeMap::<(u8, i64), i64>::new();
    for (start_ms, count) in list.iter(&tiers) {
        for bucket in kept.buckets(start_ms) {
            *counts.entry(bucket).or_insert(0) += count;
        }
    }
    for ((window, start), count) in counts {
        each(Fact::Bucket { key, window, start, count });
    }
    Ok(())
}

/// Calls `each` with the remembered ids that `mine` selects; returns how many they are.
pub(super) fn ids(
    segments: &[OpenSegment<Ids>],
    kept: &Kept,
    mine: impl Fn(KeyHash) -> bool,
    mut each: impl FnMut(Fact),
) -> u64 {
    let mut number = 0;
    let all = Merge::new(segments.iter().map(|segment| &segment.rows).collect());
    for (id, row) in all {
        let remembered = !row.forgotten && i64::from(row.hour) >= kept.first_hour;
        if remembered && mine(id) && kept.part.has(id) {
            number += 1;
            each(Fact::Id(id));
        }
    }
    number
}
