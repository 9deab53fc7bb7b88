//! What must hold, whatever goes wrong. Each invariant has an id, which failures, simulations, docs
//! and a metric share.
//!
//! Invariants that a running process can know are checked there every time, and a commit that would
//! violate one is not made. The others take an observer of the whole system: simulations check
//! those (`simulate/src/checks.rs`).

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use schemas::manifest::{BLOCK_BYTES, Header, Manifest, Position};
use schemas::rotation::name_after;
use thiserror::Error;

/// An invariant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invariant {
    /// C1: the counts of a commit equal a recount of the log up to its positions.
    Recount,
    /// C2: no reader sees a commit or a version go back.
    Monotone,
    /// C3: the store gets only rows of visible commits.
    Committed,
    /// C4: positions, counters, versions and generations never decrease from commit to commit.
    Rises,
    /// C5: once all faults have ended, the job catches up and ends in a bounded number of steps.
    Drains,
    /// C6: a damaged file is refused, and the error names it.
    Refused,
    /// C7: a job ends with an error only if there was a fault.
    Caused,
    /// C8: the store shows the last commit once all of it has been published.
    Stored,
    /// C9: what readers have seen survives a power loss.
    Durable,
    /// C10: boards hold the top tags of their windows, by count, then by key.
    Boards,
    /// C11: a restart has the sums of the commit before it, on any number of workers.
    Sums,
    /// C12: a correction is applied once, and leaves an audit row.
    Repaired,
    /// C13: a redelivered record counts once, and leaves an audit row.
    Redelivered,
    /// C14: readers see the keyspace that was promoted last, and meanwhile no error and no older
    /// commit.
    Active,
}

impl Invariant {
    /// All invariants.
    pub const ALL: [Self; 14] = [
        Self::Recount,
        Self::Monotone,
        Self::Committed,
        Self::Rises,
        Self::Drains,
        Self::Refused,
        Self::Caused,
        Self::Stored,
        Self::Durable,
        Self::Boards,
        Self::Sums,
        Self::Repaired,
        Self::Redelivered,
        Self::Active,
    ];

    /// Those that a running process checks.
    pub const IN_PRODUCTION: [Self; 4] =
        [Self::Monotone, Self::Committed, Self::Rises, Self::Refused];

    /// Its id, such as `C4`.
    pub fn id(self) -> String {
        format!("C{}", self as usize + 1)
    }
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({self:?})", self.id())
    }
}

/// A violated invariant: a bug in this program, or files that something else changed.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error(
    "invariant {invariant} is violated: {what}. Keep a copy of the state folder, and report this"
)]
pub struct Broken {
    /// The invariant.
    pub invariant: Invariant,
    /// What was observed.
    pub what: String,
}

static CHECKED: [AtomicU64; Invariant::ALL.len()] =
    [const { AtomicU64::new(0) }; Invariant::ALL.len()];

/// How often this process has checked `invariant`.
pub fn checked(invariant: Invariant) -> u64 {
    CHECKED[invariant as usize].load(Ordering::Relaxed)
}

/// Counts a check that is made elsewhere.
pub(crate) fn count(invariant: Invariant) {
    CHECKED[invariant as usize].fetch_add(1, Ordering::Relaxed);
}

/// Counts a check, and fails if the invariant does not hold.
pub(crate) fn check(
    invariant: Invariant,
    holds: bool,
    what: impl FnOnce() -> String,
) -> Result<(), Broken> {
    count(invariant);
    if holds { Ok(()) } else { Err(Broken { invariant, what: what() }) }
}

/// C2: what a reader will see next, compared to what it has seen.
pub fn monotone(seen: &Header, now: &Header) -> Result<(), Broken> {
    let holds = now.commit >= seen.commit && now.version >= seen.version;
    check(Invariant::Monotone, holds, || {
        let of = |header: &Header| format!("{}, version {}", header.commit, header.version);
        format!("commit {} was followed by {}", of(seen), of(now))
    })
}

/// C4: a commit, compared to the one before.
pub fn rises(before: &Manifest, next: &Manifest) -> Result<(), Broken> {
    let (a, b) = (&before.header, &next.header);
    let mut falls = Vec::new();
    let mut note = |what: &str, holds: bool| {
        if !holds {
            falls.push(what.to_owned());
        }
    };
    note("commit", b.commit > a.commit);
    note("version", b.version > a.version);
    note("generation", b.generation >= a.generation);
    note("history", b.history >= a.history);
    note("as_of", next.body.as_of_ms >= before.body.as_of_ms);
    note("floor", next.body.floor_ms >= before.body.floor_ms);
    note("control", next.body.control >= before.body.control);
    let counters = before.body.counters.named().into_iter().zip(next.body.counters.named());
    counters.for_each(|((name, was), (_, is))| note(name, is >= was));
    for (input, partitions) in &before.body.inputs {
        for (partition, was) in partitions {
            let now = next.body.inputs.get(input);
            let is = now.and_then(|now| now.get(name_after(partition, now, partitions)?));
            let holds = is.is_some_and(|is| reached(&is.position) >= reached(&was.position));
            note(&format!("{input}/{partition}"), holds);
        }
    }
    let what = || format!("commit {} is below {} in {}", b.commit, a.commit, falls.join(", "));
    check(Invariant::Rises, falls.is_empty(), what)
}

/// How far a partition has been read, in bytes of a file or records of a topic.
pub fn reached(position: &Position) -> u64 {
    match position {
        Position::Offset(offset) => *offset,
        Position::Blocks(blocks) => {
            // A block whose last line crosses its end counts as read to its end, not beyond. When
            // a file has grown, its former last block is open again from its former end.
            let start = blocks.done.saturating_mul(BLOCK_BYTES);
            let open = blocks.open.get(&blocks.done).map_or(0, |block| block.offset);
            open.clamp(start, start.saturating_add(BLOCK_BYTES)).min(blocks.bytes)
        }
    }
}

#[cfg(test)]
mod tests {
    use schemas::manifest::{Block, Blocks};

    use super::*;

    #[test]
    fn grown_file_has_been_read_as_far_as_before() {
        let before = Blocks { bytes: BLOCK_BYTES + 9, done: 2, ..Blocks::default() };
        let again = Block { offset: BLOCK_BYTES + 9, ..Block::default() };
        let grown = Blocks { bytes: 3 * BLOCK_BYTES, done: 1, open: [(1, again)].into() };
        let [before, grown] = [before, grown].map(|blocks| reached(&Position::Blocks(blocks)));
        assert_eq!((before, grown), (BLOCK_BYTES + 9, BLOCK_BYTES + 9));
    }
}
