//! The checks. Each has an id, which failures and docs/simulations.md name.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use recount::{Key, Row, Rules, differing, recount};
pub(crate) use recount::{RecordPosition, Refused};
use schemas::manifest::Manifest;
use schemas::rows::DeadLetters;
use sinks::commits::{OpenSegment, Snapshot};
use sinks::publish::{Content, PublishRow};
use sinks::storage::Storage;
use sinks::store::{CommitView, evaluate};

use crate::log::{Retained, offset, partition_number, read_records};
use crate::requests::Redelivered;

/// How long ids are remembered.
pub(crate) const HORIZON_MS: i64 = 2 * 3_600_000;
/// How far ahead of the clock an event may lie.
pub(crate) const FUTURE_MS: i64 = 5 * 60_000;
/// Tags on a board.
pub(crate) const TOP_K: usize = 3;

pub use sinks::invariants::{Broken as Violation, Invariant as Check};

/// A violation as an error.
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

/// The records that a commit refused, and why.
pub(crate) fn refused(segments: &[OpenSegment<DeadLetters>]) -> Refused {
    let rows = segments.iter().flat_map(|segment| segment.rows.iter());
    rows.map(|(_, row)| ((row.partition.to_owned(), row.position), row.reason.to_owned())).collect()
}

/// C4: nothing falls from one commit to the next.
pub(crate) fn never_falls(before: &Manifest, next: &Manifest) -> Result<(), Violation> {
    let numbers = |manifest: &Manifest| {
        let Manifest { header, body } = manifest;
        let numbers = [header.commit, header.generation, header.history, body.control];
        let counters = body.counters.named().map(|(_, count)| count);
        let times = [Some(header.version), body.as_of_ms, body.floor_ms];
        (numbers.to_vec(), counters.to_vec(), times.to_vec())
    };
    let (was, is) = (numbers(before), numbers(next));
    let fell = |a: &[u64], b: &[u64]| a.iter().zip(b).any(|(a, b)| b < a);
    let times_fell = was.2.iter().zip(&is.2).any(|(a, b)| b < a);
    if fell(&was.0, &is.0) || fell(&was.1, &is.1) || times_fell || is.2[0] == was.2[0] {
        return violated(Check::Rises, format!("{is:?} after {was:?}"));
    }
    for (name, partition) in before.body.inputs.values().flatten() {
        let now = next.body.inputs.values().find_map(|partitions| partitions.get(name));
        let now = now.map(|now| offset(&now.position));
        let was = offset(&partition.position);
        if now.is_none_or(|now| now < was) {
            return violated(Check::Rises, format!("{name} was read to {was}, then to {now:?}"));
        }
    }
    Ok(())
}

/// C4, the part about event times: there is no time before the first event, and while all clocks
/// are right, no restart forgets when the largest event time was read.
pub(crate) fn remembers_largest(
    before: &Manifest,
    next: &Manifest,
    clocks: Clocks,
) -> Result<(), Violation> {
    let commit = next.header.commit;
    let (was, is) = (&before.body, &next.body);
    if is.as_of_ms.is_some() && is.largest_ts_ms.is_none() {
        let what = format!("commit {commit} has a time, but no event");
        return violated(Check::Rises, what);
    }
    let (Some(was_ms), Some(is_ms)) = (was.largest_read_ms, is.largest_read_ms) else {
        return Ok(());
    };
    let is_same = was.largest_ts_ms == is.largest_ts_ms && clocks.off_ms == (0, 0);
    if is_same && (was_ms - is_ms).abs() > 1000 {
        let what =
            format!("the largest time of commit {commit} was read at {was_ms}, then {is_ms}");
        return violated(Check::Rises, what);
    }
    Ok(())
}

/// The time, and how far off the slowest and the fastest clock have been.
#[derive(Clone, Copy)]
pub(crate) struct Clocks {
    pub(crate) now_ms: i64,
    pub(crate) off_ms: (i64, i64),
}

/// C1 for the decisions that do not follow from the log: each decision about a record between two
/// commits must be one that a clock or the floor of the earlier commit allows.
pub(crate) fn decisions(
    [before, next]: [&Manifest; 2],
    topic: &[Vec<Retained>],
    refused: &Refused,
    clocks: Clocks,
    count_beyond: bool,
) -> Result<(), Violation> {
    let Clocks { now_ms, off_ms: (slowest_ms, fastest_ms) } = clocks;
    let floor_ms = before.body.floor_ms.unwrap_or(i64::MIN);
    let from = |name: &String| {
        let known = before.body.inputs.values().find_map(|partitions| partitions.get(name));
        known.map_or(0, |known| offset(&known.position))
    };
    for (name, partition) in next.body.inputs.values().flatten() {
        let horizon_ms = partition.log_time.value_ms().map_or(i64::MIN, |now| now - HORIZON_MS);
        let records = partition_number(name).and_then(|number| topic.get(number));
        for at in from(name)..offset(&partition.position) {
            let Some(retained) = records.and_then(|records| records.get(at as usize)) else {
                break;
            };
            let Some(ts_ms) = retained.record.ts_ms else { continue };
            let reason = refused.get(&(name.clone(), at)).map(String::as_str);
            let holds = match reason {
                Some("future") => ts_ms > retained.at_ms + slowest_ms + FUTURE_MS,
                Some(_) => ts_ms < floor_ms.max(horizon_ms),
                // Events correct a clock that is slow, by an unknown amount.
                None if fastest_ms == 0 && ts_ms > now_ms + FUTURE_MS => false,
                None => count_beyond || ts_ms >= floor_ms,
            };
            if !holds {
                let what = format!("{name}@{at} of time {ts_ms}: {reason:?}, floor {floor_ms}");
                return violated(Check::Recount, what);
            }
        }
    }
    Ok(())
}

/// C4, the part that a running process cannot check: stream time does not pass a partition that is
/// behind, unless it had already.
pub(crate) fn held_back(before: &Manifest, next: &Manifest) -> Result<(), Violation> {
    let behind = next.body.inputs.values().flatten().filter(|(_, p)| !p.at_end && !p.done);
    let least = behind.map(|(_, partition)| partition.log_time.value_ms()).min();
    let (was, is) = (before.body.as_of_ms, next.body.as_of_ms);
    match least {
        Some(least) if is > was.max(least) => {
            let commit = next.header.commit;
            violated(
                Check::Rises,
                format!("as_of of commit {commit} is ahead of a partition that is behind"),
            )
        }
        _ => Ok(()),
    }
}

/// What readers see of a commit: the rows of an export, and the boards of each scope.
pub(crate) struct CommitContent {
    rows: BTreeMap<Key, Row>,
    /// Tags and their counts, by scope and window.
    boards: BTreeMap<(String, String), Vec<(String, i64)>>,
}

impl CommitContent {
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

    /// The first difference to another commit.
    pub(crate) fn differs(&self, other: &Self) -> Option<String> {
        let row = differing(&self.rows, &other.rows).next();
        let row =
            row.map(|key| format!("{key:?}: {:?}", (self.rows.get(key), other.rows.get(key))));
        let boards = (self.boards != other.boards).then(|| "the boards".to_owned());
        row.or(boards)
    }
}

/// C1 and C10: compares a commit with a recount of the log up to its positions and of the
/// redelivered records.
pub(crate) fn counts(
    storage: &dyn Storage,
    manifest: &Manifest,
    topic: &[Vec<Retained>],
    redelivered: &Redelivered,
    rules: &Rules<'_>,
) -> Result<CommitContent, Violation> {
    let commit = manifest.header.commit;
    let fail = |what: String| Violation {
        invariant: Check::Recount,
        what: format!("commit {commit}: {what}"),
    };
    let body = &manifest.body;
    let mut records = Vec::new();
    for (name, partition) in body.inputs.values().flatten() {
        let read = read_records(topic, name, &partition.position);
        let read = read.ok_or_else(|| fail(format!("{name} was read beyond its end")))?;
        let at = |(at, retained)| (name.as_str(), at as u64, retained);
        records.extend(read.iter().enumerate().map(at));
    }
    let bytes = || {
        // They come first, so that copies of their events in the log are duplicates. Each has a
        // partition of its own, so that they move no log time.
        let first = redelivered.records.iter().map(|(name, bytes)| (name.as_str(), 0, bytes));
        let read = records.iter().map(|(name, at, retained)| (*name, *at, &retained.record.bytes));
        first.chain(read)
    };
    // Without a time there is no event, and no window to evaluate.
    let as_of_ms = body.as_of_ms.unwrap_or(0);
    let want = recount(bytes(), rules, as_of_ms, None).map_err(fail)?;
    let content = CommitContent::read(storage, manifest).map_err(fail)?;
    if let Some(key) = differing(&want.rows, &content.rows).next() {
        let evidence = recount(bytes(), rules, as_of_ms, Some(key)).map_err(fail)?.evidence;
        let (want, got) = (want.rows.get(key), content.rows.get(key));
        return Err(fail(format!("{key:?}: want {want:?}, got {got:?}, events {evidence:?}")));
    }
    let c = &body.counters;
    let got = [c.events, c.duplicates, c.beyond_horizon, c.unsupported, c.dead_letters];
    let w = &want;
    // The counters are about the log alone.
    let events = w.events.checked_sub(redelivered.records.len() as u64);
    let events = events.ok_or_else(|| fail("redelivered records were not counted".to_owned()))?;
    let sums = [events, w.duplicates, w.beyond_horizon, w.unsupported, w.dead_letters];
    if got != sums {
        let names = "events, duplicates, beyond, unsupported, dead letters";
        return Err(fail(format!("{names}: want {sums:?}, got {got:?}")));
    }
    let elsewhere = records.iter().filter(|(_, _, retained)| retained.record.elsewhere);
    let is_refused =
        |at: (&str, u64)| rules.refused.is_some_and(|r| r.contains_key(&(at.0.to_owned(), at.1)));
    let (all, kept) = elsewhere.fold((0, 0), |(all, kept), (name, at, _)| {
        (all + 1, kept + u64::from(!is_refused((name, *at))))
    });
    let (all, kept) = (all + redelivered.elsewhere, kept + redelivered.elsewhere);
    let others = [c.after_until, c.tags_too_long, c.tags_too_many, c.texts_truncated];
    if !(kept..=all).contains(&c.scope_overflow) || others != [0; 4] {
        return Err(fail(format!("{kept} to {all} from elsewhere: {c:?}")));
    }
    let boards = boards(&want.rows);
    if boards != content.boards {
        let what = format!("commit {commit}: want {boards:?}, got {:?}", content.boards);
        return violated(Check::Boards, what);
    }
    Ok(content)
}

/// C10: the top tags of each scope and window, by descending count, then by key.
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
        // The sort is stable, so equal counts stay in the order of their keys.
        board.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        board.truncate(TOP_K);
    }
    boards
}

/// C8: compares the rows of the store with a commit.
pub(crate) fn stored<'s>(
    snapshot: &Snapshot,
    rows: impl Iterator<Item = &'s PublishRow>,
) -> Result<(), Violation> {
    let is_board = |content: &Content| matches!(content, Content::Board { .. });
    let got: BTreeMap<_, _> =
        rows.map(|row| ((is_board(&row.content), row.hash), row.content.clone())).collect();
    let tags = snapshot.tags_changed(0, None).map(|(hash, row)| ((false, hash), row.into()));
    let boards = snapshot.boards_changed(0, None).map(|(hash, row)| ((true, hash), row.into()));
    let want: BTreeMap<_, Content> = tags.chain(boards).collect();
    let keys: BTreeSet<_> = want.keys().chain(got.keys()).collect();
    match keys.into_iter().find(|key| want.get(key) != got.get(key)) {
        Some(key) => {
            let (want, got) = (want.get(key), got.get(key));
            violated(Check::Stored, format!("want {want:?}, the store has {got:?}"))
        }
        None => Ok(()),
    }
}
