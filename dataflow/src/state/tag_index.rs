//! The places of a worker's tags by their hashes: an open-addressing table for each bin.
//!
//! An entry is a fingerprint and a place, so a look-up reads one line of cache, and growing reads
//! no tag. Each bin grows alone, so none takes long. Invariant: between an entry and its home there
//! is no gap.

use prefetch_index::prefetch_index;
use schemas::hash::{BINS, KeyHash};

/// A fingerprint, and a tag's place plus one. All zeros are a gap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Entry {
    fingerprint: u32,
    place: u32,
}

/// The high half of a hash's low word, which is independent of its bin.
fn fingerprint_of(hash: KeyHash) -> u32 {
    (hash.lo >> 32) as u32
}

impl Entry {
    fn new(hash: KeyHash, place: u32) -> Self {
        Self { fingerprint: fingerprint_of(hash), place: place + 1 }
    }
}

/// The entries of one bin.
#[derive(Clone, Debug, Default)]
struct Bin {
    entries: Box<[Entry]>,
    used: usize,
}

impl Bin {
    fn home(&self, fingerprint: u32) -> usize {
        ((u64::from(fingerprint) * self.entries.len() as u64) >> 32) as usize
    }

    fn behind(&self, at: usize) -> usize {
        if at + 1 == self.entries.len() { 0 } else { at + 1 }
    }

    /// The entries from a fingerprint's home up to the next gap.
    fn run(&self, fingerprint: u32) -> impl Iterator<Item = usize> + '_ {
        let first = (!self.entries.is_empty()).then(|| self.home(fingerprint));
        let run = std::iter::successors(first, |at| Some(self.behind(*at)));
        run.take_while(|at| self.entries[*at].place != 0)
    }

    /// The places of tags with a fingerprint.
    fn candidates(&self, fingerprint: u32) -> impl Iterator<Item = u32> + '_ {
        let entries = self.run(fingerprint).map(|at| self.entries[at]);
        entries.filter(move |entry| entry.fingerprint == fingerprint).map(|entry| entry.place - 1)
    }

    fn insert(&mut self, entry: Entry) {
        // Up to 80 % full, runs have a few entries.
        if (self.used + 1) * 5 > self.entries.len() * 4 {
            let room = self.entries.len() * 3 / 2 + 8;
            let old = std::mem::replace(&mut self.entries, vec![Entry::default(); room].into());
            old.iter().filter(|entry| entry.place != 0).for_each(|entry| self.put(*entry));
        }
        self.put(entry);
        self.used += 1;
    }

    fn put(&mut self, entry: Entry) {
        let mut at = self.home(entry.fingerprint);
        while self.entries[at].place != 0 {
            at = self.behind(at);
        }
        self.entries[at] = entry;
    }

    fn remove(&mut self, entry: Entry) {
        let Some(found) = self.run(entry.fingerprint).find(|at| self.entries[*at] == entry) else {
            unreachable!(
                "place {} is not in the index: only tags in memory are removed",
                entry.place
            )
        };
        self.used -= 1;
        self.entries[found] = Entry::default();
        // Entries after the gap may have to move closer to their homes.
        let mut at = self.behind(found);
        while self.entries[at].place != 0 {
            let moved = std::mem::take(&mut self.entries[at]);
            self.put(moved);
            at = self.behind(at);
        }
    }
}

/// The places of all tags.
#[derive(Debug)]
pub(crate) struct TagIndex(Vec<Bin>);

impl TagIndex {
    /// An empty index.
    pub(crate) fn new() -> Self {
        Self(vec![Bin::default(); BINS as usize])
    }

    fn bin(&self, hash: KeyHash) -> &Bin {
        &self.0[hash.bin() as usize]
    }

    /// Fetches what a look-up will read, so that look-ups need not wait for one another.
    pub(crate) fn prefetch(&self, hash: KeyHash) {
        let bin = self.bin(hash);
        prefetch_index(&bin.entries, bin.home(fingerprint_of(hash)));
    }

    /// The places of tags that may have this hash: nearly always the one that has it, or none.
    pub(crate) fn candidates(&self, hash: KeyHash) -> impl Iterator<Item = u32> + '_ {
        self.bin(hash).candidates(fingerprint_of(hash))
    }

    /// Adds a tag at a place.
    pub(crate) fn insert(&mut self, hash: KeyHash, place: u32) {
        self.0[hash.bin() as usize].insert(Entry::new(hash, place));
    }

    /// Removes a tag that is at a place.
    pub(crate) fn remove(&mut self, hash: KeyHash, place: u32) {
        self.0[hash.bin() as usize].remove(Entry::new(hash, place));
    }

    /// The number of tags.
    pub(crate) fn len(&self) -> usize {
        self.0.iter().map(|bin| bin.used).sum()
    }

    /// The memory they take.
    pub(crate) fn bytes(&self) -> usize {
        self.0.iter().map(|bin| size_of_val(&*bin.entries)).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn index_equals_a_set(steps in vec((0_u64..3, 0_u64..9, 0_u32..40), 0..400)) {
            let (mut index, mut want) = (TagIndex::new(), BTreeSet::new());
            for (bin, print, place) in steps {
                // Fingerprints cluster at both ends, so that runs wrap around.
                let print = if print < 6 { u64::from(u32::MAX) - print } else { print };
                let hash = KeyHash { hi: bin << 54, lo: print << 32 };
                if want.remove(&(hash, place)) {
                    index.remove(hash, place);
                } else {
                    want.insert((hash, place));
                    index.insert(hash, place);
                }
                let found: BTreeSet<u32> = index.candidates(hash).collect();
                let of_hash = want.iter().filter(|(h, _)| *h == hash).map(|(_, place)| *place);
                prop_assert_eq!(found, of_hash.collect::<BTreeSet<_>>());
            }
            prop_assert_eq!(index.len(), want.len());
            for (hash, place) in want {
                prop_assert!(index.candidates(hash).any(|found| found == place));
            }
        }
    }

    #[test]
    fn entry_takes_at_most_16_bytes() {
        let mut index = TagIndex::new();
        let hash = |i: u64| KeyHash { hi: i << 54, lo: i.wrapping_mul(0x9e37_79b9_7f4a_7c15) };
        let (mut most, many) = (0.0_f64, 300_000);
        for i in 0..many {
            index.insert(hash(i), i as u32);
            if i > 100_000 && i % 1000 == 0 {
                most = most.max(index.bytes() as f64 / index.len() as f64);
            }
        }
        assert!(most <= 16.0, "{most} bytes");
        assert!((0..many).all(|i| index.candidates(hash(i)).any(|place| place == i as u32)));
    }
}
