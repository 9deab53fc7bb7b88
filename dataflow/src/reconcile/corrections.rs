//! From what differs to the control records that repair it.
//!
//! Invariant: a correction says what a row was and must be at the commit that was checked, so
//! nothing that was counted since is lost.

use std::collections::BTreeMap;

use schemas::control::{BucketChange, Control, Correction, Id, Values};
use schemas::hash::KeyHash;
use schemas::rows::{Ids, TagRow};
use sinks::commits::{OpenSegment, Snapshot};

use super::difference::{Evidence, KeyFacts};
use super::program::{Fact, Kept};

const HOUR_MS: i64 = 3_600_000;

/// The repair of an id that is stored and should not be, or the other way round.
pub(super) fn correct_id(
    hash: KeyHash,
    is_stored: bool,
    evidence: &Evidence,
    stored: &[OpenSegment<Ids>],
) -> Option<Control> {
    let text = evidence.name.as_ref().map_or_else(|| hash.to_string(), |(_, id)| id.clone());
    if is_stored {
        let row = stored.iter().rev().find_map(|segment| segment.rows.get(hash))?;
        return Some(Control::Forget(Id { hash, text, hour: row.hour }));
    }
    let hour = (evidence.first_ms?.max(0) / HOUR_MS) as u32;
    Some(Control::Remember(Id { hash, text, hour }))
}

/// The repair of a tag's row.
pub(super) fn correct_row(
    hash: KeyHash,
    facts: &KeyFacts,
    evidence: &Evidence,
    snapshot: &Snapshot,
    kept: &Kept,
) -> Option<Control> {
    let row = snapshot.tag(hash);
    let stored = row.filter(|row| row.total != 0).map(values);
    let recomputed = match (&facts.stored, &facts.recomputed) {
        (_, Some(Fact::Row { total, first_ms, last_ms, display, .. })) => Some(Values {
            total: *total,
            first_ms: *first_ms,
            last_ms: *last_ms,
            display: display.to_string(),
        }),
        (Some(_), _) => None,
        _ => stored.clone(),
    };
    let counted = |scope: &str| {
        let scopes = snapshot.manifest.body.scopes.iter().flatten();
        scopes.chain([&String::new()]).any(|known| known == scope)
    };
    // A row of a scope that is not counted is removed as one of the whole stream.
    let of_row = || {
        row.map(|row| {
            let scope = if counted(row.scope) { row.scope } else { "" };
            (scope.to_owned(), row.tag.to_owned())
        })
    };
    let (scope, key) = evidence.name.clone().or_else(of_row)?;
    let buckets = spread(&facts.buckets, kept);
    Some(Control::Correct(Correction { hash, scope, key, stored, recomputed, buckets }))
}

fn values(row: TagRow<'_>) -> Values {
    Values {
        total: row.total,
        first_ms: row.first_seen,
        last_ms: row.last_seen,
        display: row.display.to_owned(),
    }
}

/// The changes to one list of buckets that make every window right: first those of the finest
/// window, then, for each coarser window, what the finer changes do not explain, which lies before
/// the finer buckets.
fn spread(buckets: &BTreeMap<(u8, i64), (i64, i64)>, kept: &Kept) -> Vec<BucketChange> {
    debug_assert!(kept.windows.iter().is_sorted_by_key(|window| window.slide_ms), "finest first");
    let mut changes: Vec<BucketChange> = Vec::new();
    for (window, slide_ms) in kept.windows.iter().map(|window| window.slide_ms).enumerate() {
        let of = buckets.iter().filter(|((w, _), _)| usize::from(*w) == window);
        let mut wanted: BTreeMap<i64, i64> =
            of.map(|((_, start), (stored, recomputed))| (*start, recomputed - stored)).collect();
        for change in &changes {
            let live = kept.buckets(change.start_ms).find(|(w, _)| usize::from(*w) == window);
            if let Some((_, start)) = live {
                // The stored value is right, so a finer change here must be taken back.
                wanted.entry(start).or_insert(0);
            }
        }
        let explained = |start: i64| {
            let inside = changes.iter().filter(|change| change.start_ms / slide_ms == start);
            inside.map(|change| change.by).sum::<i64>()
        };
        let rest = wanted.into_iter().map(|(start, by)| BucketChange {
            start_ms: start * slide_ms,
            width_ms: slide_ms,
            by: by - explained(start),
        });
        debug_assert!(slide_ms > 0, "a window that never moves");
        let rest: Vec<_> = rest.filter(|change| change.by != 0).collect();
        changes.extend(rest);
    }
    changes
}

#[cfg(test)]
mod tests {
    use schemas::windows::{Buckets, Windows};

    use super::super::{PARTS, Part};
    use super::*;

    const MINUTE: i64 = 60_000;

    /// Posts at two sets of minutes before now: the changes turn the list of the first set into one
    /// with the sums of the second, now and later.
    #[test]
    fn changes_to_one_list_make_every_window_right() {
        let windows = Windows::default();
        let (tiers, now_ms) = (windows.tiers(), 28_333_333 * MINUTE);
        let kept = Kept { windows, as_of_ms: now_ms, first_hour: 0, part: Part::Bins(0..PARTS) };
        let list = |minutes: &[i64]| {
            let mut list = Buckets::default();
            minutes.iter().for_each(|m| list.add(&tiers, tiers.slot(now_ms - m * MINUTE), 1));
            list.fold(&tiers, tiers.slot(now_ms));
            list
        };
        let counts = |minutes: &[i64]| {
            let mut counts = BTreeMap::<(u8, i64), i64>::new();
            for bucket in minutes.iter().flat_map(|m| kept.buckets(now_ms - m * MINUTE)) {
                *counts.entry(bucket).or_default() += 1;
            }
            counts
        };
        let cases: [(&[i64], &[i64]); 6] = [
            (&[1, 2, 2, 300], &[1, 2, 300]),
            (&[59, 300, 301], &[58, 59, 61, 290]),
            (&[62, 63, 64], &[57, 64]),
            (&[], &[0, 5, 70, 1000, 1430]),
            (&[0, 5, 70, 1000, 1430], &[]),
            (&[55, 61, 61, 68], &[56, 61, 66]),
        ];
        for (stored, right) in cases {
            let (a, b) = (counts(stored), counts(right));
            let keys = a.keys().chain(b.keys()).copied();
            let of = |side: &BTreeMap<_, i64>, key| side.get(&key).copied().unwrap_or_default();
            let both = keys.map(|key| (key, (of(&a, key), of(&b, key))));
            let differing = both.filter(|(_, (a, b))| a != b).collect();
            let mut corrected = list(stored);
            for change in spread(&differing, &kept) {
                let slots =
                    tiers.slot(change.start_ms)..tiers.slot(change.start_ms + change.width_ms);
                corrected.adjust(&tiers, slots, change.by);
            }
            let want = list(right);
            for later in [0, 1, 3, 11, 50, 700] {
                let at = tiers.slot(now_ms + later * MINUTE);
                let sums = |list: &Buckets| [0, 1].map(|window| list.sum(&tiers, window, at));
                assert_eq!(sums(&corrected), sums(&want), "{stored:?} to {right:?} at +{later}");
            }
        }
    }
}
