//! Epochs: timely's timestamps, which say to which commit a record belongs.
//!
//! `epoch = commit << 20 | slice`. The ticker goes through the slices of a commit one by one, but
//! never reaches the last: that is the time at which operators acknowledge the commit.

/// Timely's timestamp.
pub(crate) type Epoch = u64;

const SLICE_BITS: u32 = 20;

/// The most slices that a commit is cut into.
pub(crate) const SLICES_MAX: u64 = (1 << SLICE_BITS) - 1;

/// The commit of an epoch.
pub(crate) fn commit_of(epoch: Epoch) -> u64 {
    epoch >> SLICE_BITS
}

/// The first epoch of a commit.
pub(crate) fn first_of(commit: u64) -> Epoch {
    commit << SLICE_BITS
}

/// The epoch at which operators acknowledge a commit, behind all its slices.
pub(crate) fn close_of(commit: u64) -> Epoch {
    first_of(commit + 1) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_names_its_commit() {
        assert_eq!(commit_of(first_of(7)), 7);
        assert_eq!(commit_of(close_of(7)), 7);
        assert_eq!(close_of(7) + 1, first_of(8));
        assert!(first_of(7) + SLICES_MAX - 1 < close_of(7));
    }
}
