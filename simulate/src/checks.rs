//! What must hold, whatever goes wrong. Every check has an id, which failures and docs name.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use recount::{Key, Refused, Row, Rules, differing, recount};
use schemas::manifest::Manifest;
use schemas::rows::DeadLetters;
use sinks::commits::{Snapshot, open_table};
use sinks::invariants::reached;
use sinks::publish::{Content, PublishRow};
use sinks::storage::Storage;
use sinks::store::{CommitView, evaluate};

use crate::log::partition_name;

/// Tags on a board, in simulations.
pub(crate) const TOP_K: usize = 3;

pub use sinks::invariants::{Broken as Violation, Invariant as Check};

/// Shorthand for a violation.
pub(crate) fn violated<T>(invariant: Check, what: impl Into<String>) -> Result<T, Violation> {
    Err(Violation { invariant, what: what.into() })
}

/// How often each check was made.
#[derive(Clone, Debug, Default)]
pub struct Tally(pub BTreeMap<Check, u64>);

impl Tally {
    pub(crate) fn count(&mut self, check: Check) {
        *self.0.entry(check).or_default() += 1;
    }
}

/// C4, which no running process can know: what is behind holds stream time back, unless it had been
/// further already.
pub(crate) fn held_back(before: &Manifest, next: &Manifest) -> Result<(), Violation> {
    let behind = next.body.inputs.values().flatten().filter(|(_, p)| !p.at_end && !p.done);
    let least = behind.map(|(_, partition)| partition.log_time.value_ms()).min();
    let (was, is) = (before.body.as_of_ms, next.body.as_of_ms);
    match least {
        Some(least) if is > was.max(least) => {
            let commit = next.header.commit;
            violated(Check::Rises, format!("as_of of commit {commit} is ahead of what is behind"))
        }
        _ => Ok(()),
    }
}

/// What a commit shows: the rows of an export, and the boards of each scope.
pub(crate) struct Shown {
    rows: BTreeMap<Key, Row>,
    /// By scope and window, the tags and their counts.
    boards: BTreeMap<(String, String), Vec<(String, i64)>>,
}

impl Shown {
    /// Reads a commit.
    pub(crate) fn read(storage: &dyn Storage, manifest: &Manifest) -> Result<Self, String> {
        let text = |error: &dyn fmt::Display| error.to_string();
        let body = &manifest.body;
        let snapshot = Snapshot::open(storage, manifest.clone(), None).map_err(|e| text(&e))?;
        let mut rows = BTreeMap::new();
        for (_, row) in snapshot.tags_changed(0, None).filter(|(_, row)| row.total != 0) {
            let tag = evaluate(&row, &body.windows, body.as_of_ms).map_err(|e| text(&e))?;
            let row = Row {
                scope: tag.scope.clone(),
                key: tag.name.clone(),
                display: tag.display,
                total: tag.total,
                first_seen: tag.first_seen_ms,
                last_seen: tag.last_seen_ms,
                c1h: tag.windows[0].1,
                c24h: tag.windows[1].1,
            };
            rows.insert((tag.scope, tag.name), row);
        }
        let scopes: BTreeSet<String> = rows.keys().map(|(scope, _)| scope.clone()).collect();
        let view = CommitView::new(Arc::new(snapshot));
        let mut boards = BTreeMap::new();
        for scope in scopes {
            let found = view.boards(&scope).map_err(|e| text(&e))?;
            for board in found.into_iter().filter(|board| !board.entries.is_empty()) {
                let entries = board.entries.into_iter().map(|entry| (entry.tag, entry.count));
                boards.insert((scope.clone(), board.window), entries.collect());
            }
        }
        Ok(Self { rows, boards })
    }

    /// C11: posts by scope.
    pub(crate) fn sums(&self) -> BTreeMap<&str, i64> {
        let mut sums = BTreeMap::new();
        for ((scope, _), row) in &self.rows {
            *sums.entry(scope.as_str()).or_default() += row.total;
        }
        sums
    }
}

/// C1 and C10: what `manifest` shows against a recount of the log up to its positions.
pub(crate) fn counts(
    storage: &dyn Storage,
    manifest: &Manifest,
    topic: &[Vec<Vec<u8>>],
    rules: &Rules<'_>,
) -> Result<Shown, Violation> {
    let commit = manifest.header.commit;
    let fail = |what: String| Violation {
        invariant: Check::Recount,
        what: format!("commit {commit}: {what}"),
    };
    let body = &manifest.body;
    let mut records = Vec::new();
    for (name, partition) in body.inputs.values().flatten() {
        let known = (0..topic.len()).find(|i| partition_name(*i) == *name);
        let read = known.and_then(|i| topic[i].get(..reached(&partition.position) as usize));
        let read = read.ok_or_else(|| fail(format!("{name} has not as many records")))?;
        records.extend(read.iter().enumerate().map(|(at, r)| (name.as_str(), at as u64, r)));
    }
    let segments = open_table::<DeadLetters>(storage, manifest).map_err(|e| fail(e.to_string()))?;
    let refused: Refused = segments
        .iter()
        .flat_map(|segment| segment.rows.iter())
        .map(|(_, row)| ((row.partition.to_owned(), row.position), row.reason.to_owned()))
        .collect();
    let rules = Rules { refused: Some(&refused), ..*rules };
    let as_of_ms = body.as_of_ms.unwrap_or_default();
    let want = recount(records.iter().copied(), &rules, as_of_ms, None).map_err(fail)?;
    let shown = Shown::read(storage, manifest).map_err(fail)?;
    if let Some(key) = differing(&want.rows, &shown.rows).next() {
        let evidence =
            recount(records.iter().copied(), &rules, as_of_ms, Some(key)).map_err(fail)?.evidence;
        let (want, got) = (want.rows.get(key), shown.rows.get(key));
        return Err(fail(format!("{key:?}: want {want:?}, got {got:?}, events {evidence:?}")));
    }
    let c = &body.counters;
    let got = [c.events, c.duplicates, c.beyond_horizon, c.unsupported, c.dead_letters];
    let w = &want;
    let sums = [w.events, w.duplicates, w.beyond_horizon, w.unsupported, w.dead_letters];
    if got != sums {
        let names = "events, duplicates, beyond, unsupported, dead letters";
        return Err(fail(format!("{names}: want {sums:?}, got {got:?}")));
    }
    let boards = boards(&want.rows);
    if boards != shown.boards {
        let what = format!("commit {commit}: want {boards:?}, got {:?}", shown.boards);
        return violated(Check::Boards, what);
    }
    Ok(shown)
}

/// C10: the top tags of each scope and window, by count descending, then by key.
fn boards(rows: &BTreeMap<Key, Row>) -> BTreeMap<(String, String), Vec<(String, i64)>> {
    let mut boards: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for ((scope, key), row) in rows {
        for (window, count) in [("1h", row.c1h), ("24h", row.c24h), ("all", row.total)] {
            if count > 0 {
                let board = boards.entry((scope.clone(), window.to_owned())).or_default();
                board.push((key.clone(), count));
            }
        }
    }
    for board in boards.values_mut() {
        // Keys came in order, which a stable sort keeps.
        board.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        board.truncate(TOP_K);
    }
    boards
}

/// C8: the rows of the store against the commit they show.
pub(crate) fn stored<'s>(
    snapshot: &Snapshot,
    rows: impl Iterator<Item = &'s PublishRow>,
) -> Result<(), Violation> {
    let rows: BTreeMap<_, _> = rows
        .filter(|row| matches!(row.content, Content::Tag { .. }))
        .map(|row| (row.hash, &row.content))
        .collect();
    for (hash, row) in snapshot.tags_changed(0, None) {
        let want = Content::from(row);
        if rows.get(&hash) != Some(&&want) {
            let got = rows.get(&hash);
            return violated(Check::Stored, format!("want {want:?}, the store has {got:?}"));
        }
    }
    Ok(())
}
