//! Stashes records of later commits: timely orders nothing between channels, so a record of the
//! next commit may arrive before this one has ended.
//!
//! Invariant: what is applied before a commit is closed belongs to it or to an earlier one.

use schemas::planted::{Bug, planted};
use std::collections::BTreeMap;

use timely::Container;
use timely::dataflow::operators::{Capability, InputCapability};
use timely::progress::frontier::MutableAntichain;

use crate::epoch::{Epoch, close_of, commit_of};
use crate::records::Close;

/// Records of commits that have not begun yet, with the capabilities to send what they become.
pub(crate) struct Stash<C> {
    commit: u64,
    later: BTreeMap<Epoch, (Capability<Epoch>, Vec<C>)>,
}

impl<C: Container> Stash<C> {
    /// An empty stash; the first commit is `commit`.
    pub(crate) fn new(commit: u64) -> Self {
        Self { commit, later: BTreeMap::new() }
    }

    /// The batches to apply now; those of later commits are kept, with a capability of output
    /// `port`.
    pub(crate) fn admit<'b>(
        &mut self,
        stamp: &InputCapability<Epoch>,
        port: usize,
        batches: std::slice::IterMut<'b, C>,
    ) -> Option<impl Iterator<Item = C> + use<'b, C>> {
        let epoch = *stamp.least()?;
        let batches = batches.map(std::mem::take);
        if commit_of(epoch) <= self.commit || planted(Bug::AppliedEarly) {
            return Some(batches);
        }
        let capability = stamp.retain_least(port)?;
        let stashed = self.later.entry(epoch).or_insert_with(|| (capability, Vec::new()));
        stashed.1.extend(batches);
        None
    }

    /// The end of the present commit, once everything that belongs to it has been applied.
    pub(crate) fn next_close(
        &mut self,
        ending: &mut Vec<Close>,
        frontiers: &[MutableAntichain<Epoch>],
    ) -> Option<Close> {
        // The first input's records end with the commit's slices, before its close.
        let open = frontiers.first().is_some_and(|f| f.less_than(&close_of(self.commit)));
        let at = ending.iter().position(|close| close.commit == self.commit)?;
        (!open).then(|| ending.swap_remove(at))
    }

    /// Begins `commit`: the batches that were stashed for it, in the order of their slices.
    pub(crate) fn release(
        &mut self,
        commit: u64,
    ) -> impl Iterator<Item = (Capability<Epoch>, C)> + use<C> {
        self.commit = commit;
        let later = self.later.split_off(&(close_of(commit) + 1));
        let now = std::mem::replace(&mut self.later, later);
        now.into_values().flat_map(|(capability, batches)| {
            batches.into_iter().map(move |batch| (capability.clone(), batch))
        })
    }
}
