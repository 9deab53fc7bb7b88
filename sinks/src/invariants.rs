//! What must hold, whatever goes wrong. Each invariant has an id that failures, simulations, docs
//! and a metric share.
//!
//! Those that can be known from inside a running process are checked there, every time: a commit
//! that would break one is not made. The rest take somebody who has seen everything; simulations
//! check those (`simulate/src/checks.rs`).

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use schemas::manifest::{BLOCK_BYTES, Header, Manifest, Position};
use thiserror::Error;

/// An invariant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invariant {
    /// C1: a commit counts to what the log up to its positions counts to.
    Recount,
    /// C2: no reader sees a commit or a version go back.
    Monotone,
    /// C3: the store gets rows of visible commits only.
    Committed,
    /// C4: from commit to commit positions, counters, versions and generations never fall.
    Rises,
    /// C5: when all trouble has ended the job catches up and ends in a bounded number of steps.
    Drains,
    /// C6: a damaged file is refused by its name.
    Refused,
    /// C7: a job ends on an error only where something went wrong for it.
    Caused,
    /// C8: the store shows the last commit once all of it is published.
    Stored,
    /// C9: what readers have seen is there after a loss of power.
    Durable,
    /// C10: boards hold the top tags of their windows, by count, then by key.
    Boards,
    /// C11: a start, on whatever number of workers, has the sums of the commit before it.
    Sums,
    /// C12: a correction is applied once, and leaves a row that says so.
    Repaired,
    /// C13: a refused record that is delivered again counts once, and a row says so.
    Again,
    /// C14: readers see the keyspace that was promoted last; no error, no older commit meanwhile.
    Shown,
}

impl Invariant {
    /// All of them.
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
        Self::Again,
        Self::Shown,
    ];

    /// Those that a running process checks; the others take a simulation.
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

/// An invariant that does not hold: a mistake of this program, or somebody changed its files.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{invariant} does not hold: {what}. Please report this, with the state folder")]
pub struct Broken {
    /// Which.
    pub invariant: Invariant,
    /// What was seen.
    pub what: String,
}

static CHECKED: [AtomicU64; Invariant::ALL.len()] =
    [const { AtomicU64::new(0) }; Invariant::ALL.len()];

/// How often this process has checked `invariant`.
pub fn checked(invariant: Invariant) -> u64 {
    CHECKED[invariant as usize].load(Ordering::Relaxed)
}

/// Counts a check that somebody else makes.
pub(crate) fn count(invariant: Invariant) {
    CHECKED[invariant as usize].fetch_add(1, Ordering::Relaxed);
}

/// Counts a check, and fails where the invariant does not hold.
pub(crate) fn check(
    invariant: Invariant,
    holds: bool,
    what: impl FnOnce() -> String,
) -> Result<(), Broken> {
    count(invariant);
    if holds { Ok(()) } else { Err(Broken { invariant, what: what() }) }
}

/// C2: what a reader is to see against what it saw before.
pub fn monotone(seen: &Header, now: &Header) -> Result<(), Broken> {
    let holds = now.commit >= seen.commit && now.version >= seen.version;
    check(Invariant::Monotone, holds, || {
        let of = |header: &Header| format!("{}, version {}", header.commit, header.version);
        format!("after commit {} came {}", of(seen), of(now))
    })
}

/// C4: a commit against the one before it.
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
            let is = next.body.inputs.get(input).and_then(|now| now.get(partition));
            let holds = is.is_some_and(|is| reached(&is.position) >= reached(&was.position));
            note(&format!("{input}/{partition}"), holds);
        }
    }
    let what = || format!("commit {} falls behind {} in {}", b.commit, a.commit, falls.join(", "));
    check(Invariant::Rises, falls.is_empty(), what)
}

/// How far a partition has been read, in its own unit.
pub fn reached(position: &Position) -> u64 {
    match position {
        Position::Offset(offset) => *offset,
        Position::Blocks(blocks) => {
            // A block whose last line crosses its border has been read to the border, not beyond.
            // Where a file has grown, its former last block is open again behind the former end.
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
    fn a_file_that_has_grown_is_read_as_far_as_before() {
        let before = Blocks { bytes: BLOCK_BYTES + 9, done: 2, ..Blocks::default() };
        let again = Block { offset: BLOCK_BYTES + 9, ..Block::default() };
        let grown = Blocks { bytes: 3 * BLOCK_BYTES, done: 1, open: [(1, again)].into() };
        let [before, grown] = [before, grown].map(|blocks| reached(&Position::Blocks(blocks)));
        assert_eq!((before, grown), (BLOCK_BYTES + 9, BLOCK_BYTES + 9));
    }
}
