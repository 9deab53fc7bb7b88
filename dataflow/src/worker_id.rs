//! Which worker this is, of how many, and therefore what it owns.
//!
//! Invariant: every bin, and every partition that is read in order, has exactly one owner.

use schemas::hash::BINS;

/// A worker of the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WorkerId {
    index: usize,
    peers: usize,
}

impl WorkerId {
    /// Worker `index` of `peers`.
    pub(crate) fn new(index: usize, peers: usize) -> Self {
        assert!(index < peers, "worker {index} of {peers}: timely counts them from 0");
        Self { index, peers }
    }

    pub(crate) fn index(self) -> usize {
        self.index
    }

    pub(crate) fn peers(self) -> usize {
        self.peers
    }

    /// Whether this is the first worker, which does what only one can do.
    pub(crate) fn is_first(self) -> bool {
        self.index == 0
    }

    /// Whether it owns the keys of `bin`.
    pub(crate) fn owns(self, bin: u64) -> bool {
        debug_assert!(bin < BINS, "bin {bin} of {BINS}");
        self.is_owner(bin)
    }

    /// Whether it reads a partition with this share.
    pub(crate) fn reads(self, share: u64) -> bool {
        self.is_owner(share)
    }

    fn is_owner(self, number: u64) -> bool {
        number % self.peers as u64 == self.index as u64
    }
}
