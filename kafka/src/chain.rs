//! How a topic is recognised while it is being read: one record of each partition is remembered,
//! and looked up again before each commit.
//!
//! Invariant: a record becomes the known one only if the previous known one was still there after
//! it had been read. So a topic that was deleted and recreated is noticed, however quickly that
//! happened.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use schemas::manifest::Fingerprint;

/// What a partition is recognised by.
#[derive(Debug, Default)]
pub(crate) struct Chain {
    links: Mutex<Links>,
    /// How often something happened that a recreated topic would explain.
    doubts: AtomicU64,
    /// How many of those have been resolved.
    resolved: AtomicU64,
}

/// Two records of a partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Links {
    /// One that is certainly of the topic that has been read all along.
    pub(crate) known: Option<Fingerprint>,
    /// The one that was read last.
    pub(crate) last: Option<Fingerprint>,
}

impl Chain {
    /// A restarted job has found a record again.
    pub(crate) fn begin(&self, known: &Fingerprint) {
        self.links.lock().known = Some(known.clone());
    }

    /// Records were read: the first and the last of them.
    pub(crate) fn read(&self, first: impl FnOnce() -> Fingerprint, last: &Fingerprint) {
        let mut links = self.links.lock();
        links.known.get_or_insert_with(first);
        links.last = Some(last.clone());
    }

    /// The links, if something was read after the known record.
    pub(crate) fn unconfirmed(&self) -> Option<Links> {
        let links = self.links();
        (links.last.is_some() && links.known != links.last).then_some(links)
    }

    pub(crate) fn links(&self) -> Links {
        self.links.lock().clone()
    }

    /// The known record of `links` was still there after the last one had been read.
    pub(crate) fn confirm(&self, links: Links) {
        if let Some(last) = links.last {
            self.links.lock().known = Some(last);
        }
    }

    /// Stops reading until the partition has been checked.
    pub(crate) fn doubt(&self) {
        self.doubts.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn is_doubtful(&self) -> bool {
        self.doubts() != self.resolved.load(Ordering::Acquire)
    }

    /// How many doubts there have been.
    pub(crate) fn doubts(&self) -> u64 {
        self.doubts.load(Ordering::Acquire)
    }

    /// Resolves the first `doubts` doubts.
    pub(crate) fn resolve(&self, doubts: u64) {
        debug_assert!(doubts <= self.doubts(), "only doubts that were raised can be resolved");
        self.resolved.store(doubts, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_becomes_known_once_its_predecessor_is_confirmed() {
        let chain = Chain::default();
        let [a, b, c] = [b"a", b"b", b"c"].map(|text| Fingerprint::of(text));
        chain.begin(&a);
        assert_eq!(chain.unconfirmed(), None);
        chain.read(|| unreachable!("a record is known"), &b);
        let links = chain.unconfirmed().unwrap();
        // Read while the check is still looking for the first one.
        chain.read(|| unreachable!("a record is known"), &c);
        chain.confirm(links);
        let (known, last) = (Some(b), Some(c.clone()));
        assert_eq!(chain.links(), Links { known, last });
        chain.confirm(chain.links());
        assert_eq!(chain.links().known, Some(c));
        assert_eq!(chain.unconfirmed(), None);
    }

    #[test]
    fn first_record_of_all_is_what_later_ones_are_compared_with() {
        let chain = Chain::default();
        let [first, last] = [b"one", b"two"].map(|text| Fingerprint::of(text));
        // Both were fetched at once; the topic may have been recreated in between.
        chain.read(|| first.clone(), &last);
        assert_eq!(chain.unconfirmed(), Some(Links { known: Some(first), last: Some(last) }));
    }

    #[test]
    fn check_does_not_resolve_doubts_raised_during_it() {
        let chain = Chain::default();
        assert!(!chain.is_doubtful());
        chain.doubt();
        let doubts = chain.doubts();
        chain.doubt();
        chain.resolve(doubts);
        assert!(chain.is_doubtful());
        chain.resolve(chain.doubts());
        assert!(!chain.is_doubtful());
    }
}
