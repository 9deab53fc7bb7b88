//! How a topic is known again while it is read: of each partition one record is kept in mind, and
//! looked for now and then.
//!
//! Invariant: a record becomes the known one only where the known one before it was still there
//! after it had been read. So a topic that was deleted and made again is noticed, however fast.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use schemas::manifest::Fingerprint;

/// What a partition is known by.
#[derive(Debug, Default)]
pub(super) struct Chain {
    links: Mutex<Links>,
    /// How often something happened that another topic of this name would explain.
    doubts: AtomicU64,
    /// As many of them as were answered.
    answered: AtomicU64,
}

/// Two records of a partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Links {
    /// One that is of the topic that was read all the time.
    pub(super) known: Option<Fingerprint>,
    /// The one that was read last.
    pub(super) last: Option<Fingerprint>,
}

impl Chain {
    fn lock(&self) -> MutexGuard<'_, Links> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A start has found a record again.
    pub(super) fn begin(&self, known: &Fingerprint) {
        self.lock().known = Some(known.clone());
    }

    /// A record was read.
    pub(super) fn read(&self, last: &Fingerprint) {
        let mut links = self.lock();
        links.known.get_or_insert_with(|| last.clone());
        links.last = Some(last.clone());
    }

    pub(super) fn links(&self) -> Links {
        self.lock().clone()
    }

    /// The known one of `links` was still there after the last one had been read.
    pub(super) fn hold(&self, links: Links) {
        if let Some(last) = links.last {
            self.lock().known = Some(last);
        }
    }

    /// Lets nobody read on before somebody has looked.
    pub(super) fn doubt(&self) {
        self.doubts.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn is_doubtful(&self) -> bool {
        self.doubts() != self.answered.load(Ordering::Acquire)
    }

    /// How many doubts there have been.
    pub(super) fn doubts(&self) -> u64 {
        self.doubts.load(Ordering::Acquire)
    }

    /// Answers the first so many doubts.
    pub(super) fn answer(&self, doubts: u64) {
        self.answered.store(doubts, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_known_once_the_one_before_it_was_found_again() {
        let chain = Chain::default();
        let [a, b, c] = [b"a", b"b", b"c"].map(|text| Fingerprint::of(text));
        chain.begin(&a);
        chain.read(&b);
        let links = chain.links();
        // It is read while somebody looks for the first one.
        chain.read(&c);
        chain.hold(links);
        let (known, last) = (Some(b), Some(c.clone()));
        assert_eq!(chain.links(), Links { known, last });
        chain.hold(chain.links());
        assert_eq!(chain.links().known, Some(c));
    }

    #[test]
    fn a_doubt_that_comes_during_a_look_is_not_answered_by_it() {
        let chain = Chain::default();
        assert!(!chain.is_doubtful());
        chain.doubt();
        let doubts = chain.doubts();
        chain.doubt();
        chain.answer(doubts);
        assert!(chain.is_doubtful());
        chain.answer(chain.doubts());
        assert!(!chain.is_doubtful());
    }
}
