//! Stashes records of later commits: timely orders nothing between channels, so a record of the
//! next commit may arrive before this one has ended.
//!
//! Invariant: what is applied before a commit is closed belongs to it or to an earlier one.

use std::collections::BTreeMap;
use std::slice::IterMut;

use schemas::planted::{Bug, planted};
use timely::dataflow::operators::{Capability, InputCapability};

use crate::epoch::{Epoch, close_of, commit_of};

/// Batches of commits that have not begun yet, with the capabilities to send what they become.
pub(super) struct Stash<D> {
    commit: u64,
    later: BTreeMap<Epoch, (Capability<Epoch>, Vec<Vec<D>>)>,
}

/// The epoch of a batch. Timely's stamps are sets of times; ours hold one.
pub(super) fn epoch_of(stamp: &InputCapability<Epoch>) -> Epoch {
    let Some(epoch) = stamp.least() else { unreachable!("every batch is sent at an epoch") };
    *epoch
}

impl<D> Stash<D> {
    /// An empty stash; the first commit is `commit`.
    pub(super) fn new(commit: u64) -> Self {
        Self { commit, later: BTreeMap::new() }
    }

    /// The batches to apply now. Those of later commits are stashed, with a capability of the first
    /// output.
    pub(super) fn admit<'b>(
        &mut self,
        stamp: &InputCapability<Epoch>,
        batches: IterMut<'b, Vec<D>>,
    ) -> Option<impl Iterator<Item = Vec<D>> + use<'b, D>> {
        let epoch = epoch_of(stamp);
        let batches = batches.map(std::mem::take);
        if commit_of(epoch) <= self.commit || planted(Bug::AppliedEarly) {
            return Some(batches);
        }
        let capability = || stamp.delayed(&epoch, 0);
        let (_, stashed) = self.later.entry(epoch).or_insert_with(|| (capability(), Vec::new()));
        stashed.extend(batches);
        None
    }

    /// The commit under way.
    pub(super) fn commit(&self) -> u64 {
        self.commit
    }

    /// Begins `commit`: the batches that were stashed for it, in the order of their slices.
    pub(super) fn release(
        &mut self,
        commit: u64,
    ) -> impl Iterator<Item = (Capability<Epoch>, Vec<D>)> + use<D> {
        debug_assert_eq!(commit, self.commit + 1, "commits follow one another");
        self.commit = commit;
        let later = self.later.split_off(&(close_of(commit) + 1));
        let now = std::mem::replace(&mut self.later, later);
        now.into_values().flat_map(|(capability, batches)| {
            batches.into_iter().map(move |batch| (capability.clone(), batch))
        })
    }
}
