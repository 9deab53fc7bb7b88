//! How many bytes the slices and commits under way may hold in memory, shared by the workers of a
//! process.
//!
//! Invariant: at most two commits hold anything, the one that takes records and the one before it,
//! since a commit ends only when the one before is durable.

use std::sync::atomic::{AtomicU64, Ordering};

/// The limits of what waits in memory. With those by default a job needs at most 600 MB for any
/// input, besides the ids and the tags of its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// A slice ends once its events take this many bytes.
    pub slice_bytes: u64,
    /// A commit ends, or takes no more records, once what it has to write takes this many bytes.
    pub commit_bytes: u64,
    /// The records of a commit's dead letters are kept whole up to this many bytes, of the others
    /// only the first KiB.
    pub raw_bytes: u64,
}

impl Default for Memory {
    fn default() -> Self {
        Self { slice_bytes: 16 << 20, commit_bytes: 192 << 20, raw_bytes: 64 << 20 }
    }
}

/// What is kept of any refused record.
pub(crate) const HEAD_BYTES: usize = 1024;

/// What one commit holds.
#[derive(Debug, Default)]
struct Held {
    bytes: AtomicU64,
    raw: AtomicU64,
}

/// What the commits under way hold.
#[derive(Debug)]
pub(crate) struct Budget {
    limits: Memory,
    /// By parity of the commit.
    commits: [Held; 2],
}

impl Budget {
    pub(crate) fn new(limits: Memory) -> Self {
        Self { limits, commits: Default::default() }
    }

    fn held(&self, commit: u64) -> &Held {
        &self.commits[(commit % 2) as usize]
    }

    /// Begins a commit. The one two before it is durable.
    pub(crate) fn begin(&self, commit: u64) {
        let Held { bytes, raw } = self.held(commit);
        bytes.store(0, Ordering::Relaxed);
        raw.store(0, Ordering::Relaxed);
    }

    /// Counts bytes that a commit holds until they are written.
    pub(crate) fn hold(&self, commit: u64, bytes: usize) {
        self.held(commit).bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Whether a commit should take no more records.
    pub(crate) fn is_full(&self, commit: u64) -> bool {
        self.held(commit).bytes.load(Ordering::Relaxed) >= self.limits.commit_bytes
    }

    /// The part of a refused record that a commit keeps.
    pub(crate) fn kept<'r>(&self, commit: u64, record: &'r [u8]) -> &'r [u8] {
        if record.len() <= HEAD_BYTES {
            return record;
        }
        let bytes = record.len() as u64;
        let before = self.held(commit).raw.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes <= self.limits.raw_bytes { record } else { &record[..HEAD_BYTES] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commit_keeps_whole_records_until_its_budget_is_spent() {
        let budget = Budget::new(Memory { raw_bytes: 5000, ..Memory::default() });
        let record = [7; 2000];
        let kept = |commit, record| budget.kept(commit, record).len();
        assert_eq!([kept(1, &record), kept(1, &record), kept(1, &record)], [2000, 2000, 1024]);
        assert_eq!(kept(1, &record[..1024]), 1024, "a short record is always whole");
        assert_eq!(kept(2, &record), 2000, "the next commit has a budget of its own");
        budget.begin(3);
        assert_eq!(kept(3, &record), 2000);
    }

    #[test]
    fn commit_is_full_at_its_limit_and_the_next_one_is_empty() {
        let budget = Budget::new(Memory { commit_bytes: 10, ..Memory::default() });
        budget.hold(4, 9);
        assert!(!budget.is_full(4));
        budget.hold(4, 1);
        assert!(budget.is_full(4) && !budget.is_full(5));
        budget.begin(6);
        assert!(!budget.is_full(6));
    }
}
