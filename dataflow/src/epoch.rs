//! Epochs: timely's timestamps, which say which commit a record belongs to.
//!
//! `epoch = commit << 20 | slice`. The ticker goes through the slices of a commit one by one, but
//! never reaches the last: that is the time at which operators acknowledge the commit.

/// Timely's timestamp.
pub(crate) type Epoch = u64;

const SLICE_BITS: u32 = 20;

/// The most slices that a commit can have.
pub(crate) const SLICES_MAX: u64 = (1 << SLICE_BITS) - 1;

/// The commit of an epoch.
pub(crate) fn commit_of(epoch: Epoch) -> u64 {
    epoch >> SLICE_BITS
}

/// The first epoch of a commit.
pub(crate) fn first_of(commit: u64) -> Epoch {
    debug_assert!(commit < 1 << (u64::BITS - SLICE_BITS), "commit {commit} has no epoch");
    commit << SLICE_BITS
}

/// The epoch at which operators acknowledge a commit, after all its slices.
pub(crate) fn close_of(commit: u64) -> Epoch {
    first_of(commit + 1) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epoch_contains_its_commit() {
        assert_eq!(commit_of(first_of(7)), 7);
        assert_eq!(commit_of(close_of(7)), 7);
        assert_eq!(close_of(7) + 1, first_of(8));
        assert!(first_of(7) + SLICES_MAX - 1 < close_of(7));
    }
}
