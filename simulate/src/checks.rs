//! What must hold, whatever goes wrong. Every check has an id, which failures and docs name.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use schemas::manifest::{Header, Manifest, Position};
use schemas::rows::DeadLetters;
use sinks::commits::{Snapshot, open_table};
use sinks::publish::{Content, PublishRow};
use sinks::storage::Storage;
use sinks::store::evaluate;

use crate::log::partition_name;
use crate::recount::{Counted, Read, Refused, Row, Rules, recount};

/// A check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Check {
    /// C1: a commit counts to what the log up to its positions counts to.
    Recount,
    /// C2: no reader sees a commit, a version or a stream time go back.
    Monotone,
    /// C3: the store gets rows of visible commits only.
    Committed,
    /// C4: from commit to commit positions, counters, versions and generations never fall.
    Rises,
    /// C5: when all trouble has ended the job catches up and ends in a bounded number of steps.
    Drains,
    /// C6: a damaged commit is refused with the file's name.
    Refused,
    /// C7: a job ends on an error only where something went wrong for it.
    Caused,
    /// C8: the store shows the last commit once all of it is published.
    Stored,
    /// C9: what readers have seen is there after a loss of power.
    Durable,
}

impl Check {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Recount,
        Self::Monotone,
        Self::Committed,
        Self::Rises,
        Self::Drains,
        Self::Refused,
        Self::Caused,
        Self::Stored,
        Self::Durable,
    ];
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "C{} ({self:?})", *self as usize + 1)
    }
}

/// A check that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub check: Check,
    /// What was seen.
    pub what: String,
}

/// Shorthand for a violation.
pub(crate) fn violated<T>(check: Check, what: impl Into<String>) -> Result<T, Violation> {
    Err(Violation { check, what: what.into() })
}

/// How often each check was made.
#[derive(Clone, Debug, Default)]
pub struct Tally(pub BTreeMap<Check, u64>);

impl Tally {
    pub(crate) fn count(&mut self, check: Check) {
        *self.0.entry(check).or_default() += 1;
    }
}

/// C4: `next` against the commit before it.
pub(crate) fn rises(before: &Manifest, next: &Manifest) -> Result<(), Violation> {
    let (a, b) = (&before.header, &next.header);
    let mut falls = Vec::new();
    let mut check = |what: &str, holds: bool| {
        if !holds {
            falls.push(what.to_owned());
        }
    };
    check("version", b.version > a.version);
    check("generation", b.generation >= a.generation);
    check("history", b.history >= a.history);
    check("as_of", next.body.as_of_ms >= before.body.as_of_ms);
    check("floor", next.body.floor_ms >= before.body.floor_ms);
    for ((name, was), (_, is)) in
        before.body.counters.named().into_iter().zip(next.body.counters.named())
    {
        check(name, is >= was);
    }
    // What is behind holds stream time back, unless it had been further already.
    let behind = next.body.inputs.values().flatten().filter(|(_, p)| !p.at_end && !p.done);
    let least = behind.map(|(_, partition)| partition.log_time.value_ms()).min();
    if let Some(least) = least {
        check("as_of while behind", next.body.as_of_ms <= before.body.as_of_ms.max(least));
    }
    for (partition, was) in before.body.inputs.values().flatten() {
        let is = next.body.inputs.values().find_map(|partitions| partitions.get(partition));
        check(partition, is.is_some_and(|is| offset(&is.position) >= offset(&was.position)));
    }
    if falls.is_empty() {
        return Ok(());
    }
    let what = format!("commit {} falls behind {} in {}", b.commit, a.commit, falls.join(", "));
    violated(Check::Rises, what)
}

pub(crate) fn offset(position: &Position) -> u64 {
    match position {
        Position::Offset(offset) => *offset,
        Position::Blocks(blocks) => blocks.bytes,
    }
}

/// C1: the content of `manifest` against a recount of the log up to its positions.
pub(crate) fn counts(
    storage: &dyn Storage,
    manifest: &Manifest,
    topic: &[Vec<Vec<u8>>],
    rules: &Rules<'_>,
) -> Result<Counted, Violation> {
    let fail = |what: String| Violation {
        check: Check::Recount,
        what: format!("commit {}: {what}", manifest.header.commit),
    };
    let body = &manifest.body;
    let positions = body.inputs.values().flatten();
    let read: Read<'_> = positions
        .filter_map(|(name, partition)| {
            let records = (0..topic.len()).find(|i| partition_name(*i) == *name)?;
            let upto = offset(&partition.position) as usize;
            Some((name.clone(), topic[records].get(..upto)?))
        })
        .collect();
    let segments = open_table::<DeadLetters>(storage, manifest).map_err(|e| fail(e.to_string()))?;
    let refused: Refused = segments
        .iter()
        .flat_map(|segment| segment.rows.iter())
        .map(|(_, row)| ((row.partition.to_owned(), row.position), row.reason.to_owned()))
        .collect();
    let as_of_ms = body.as_of_ms.unwrap_or_default();
    let want = recount(&read, &refused, rules, as_of_ms).map_err(fail)?;
    let snapshot =
        Snapshot::open(storage, manifest.clone(), None).map_err(|e| fail(e.to_string()))?;
    let mut got = BTreeMap::new();
    for (_, row) in snapshot.tags_changed(0, None).filter(|(_, row)| row.total != 0) {
        let tag = evaluate(&row, &body.windows, body.as_of_ms).map_err(|e| fail(e.to_string()))?;
        let windows = [tag.windows[0].1, tag.windows[1].1];
        let (first_ms, last_ms) = (row.first_seen, row.last_seen);
        let row = Row { display: tag.display, total: row.total, first_ms, last_ms, windows };
        got.insert((tag.scope, tag.name), row);
    }
    let keys: BTreeSet<_> = want.rows.keys().chain(got.keys()).collect();
    for key in keys {
        let (want, got) = (want.rows.get(key), got.get(key));
        if want != got {
            return Err(fail(format!("{key:?}: want {want:?}, got {got:?}")));
        }
    }
    let c = &body.counters;
    let got = [c.events, c.duplicates, c.beyond_horizon, c.unsupported, c.dead_letters];
    let w = &want;
    let sums = [w.events, w.duplicates, w.beyond_horizon, w.unsupported, w.dead_letters];
    if got != sums {
        let names = "events, duplicates, beyond, unsupported, dead letters";
        return Err(fail(format!("{names}: want {sums:?}, got {got:?}")));
    }
    Ok(want)
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

/// C2: what a reader sees now against what it saw before.
pub(crate) fn monotone(seen: Option<&Header>, now: &Header) -> Result<(), Violation> {
    match seen {
        Some(seen) if now.commit < seen.commit || now.version < seen.version => violated(
            Check::Monotone,
            format!("a reader saw commit {} and then {}", seen.commit, now.commit),
        ),
        _ => Ok(()),
    }
}
