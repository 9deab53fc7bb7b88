//! A cache of tag hashes by spelling, for short spellings, which are the frequent ones.
//!
//! Invariant: it returns the hash of the spelling's key. What it remembers only changes how long
//! that takes.

use schemas::hash::{Hasher, KeyHash};

/// Few tags make up most mentions, and more places would not fit into a core's cache.
const PLACES: usize = 4096;
/// Longer spellings are not cached.
const SPELLING_BYTES_MAX: usize = 16;

/// A spelling, padded with zeros, and the hash of its key.
#[derive(Clone, Copy, Default)]
struct Cached {
    spelling: [u64; 2],
    hash: KeyHash,
}

/// Hashes tags by their spellings.
pub(crate) struct KeyCache {
    hasher: Hasher,
    places: Box<[Cached]>,
}

impl KeyCache {
    pub(crate) fn new(hasher: Hasher) -> Self {
        Self { hasher, places: vec![Cached::default(); PLACES].into() }
    }

    /// The hash of the key of the tag that `spelling` spells.
    pub(crate) fn hash(&mut self, spelling: &str) -> KeyHash {
        let Some(padded) = padded(spelling.as_bytes()) else { return self.compute(spelling) };
        let mixed = (padded[0] ^ padded[1].rotate_left(29)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let place = (mixed >> 32) as usize % PLACES;
        if self.places[place].spelling != padded {
            self.places[place] = Cached { spelling: padded, hash: self.compute(spelling) };
        }
        self.places[place].hash
    }

    fn compute(&self, spelling: &str) -> KeyHash {
        self.hasher.tag(&schemas::tags::key(spelling))
    }
}

/// A spelling padded to two words. `None` if it is too long, or empty, or ends with a zero byte and
/// so looks like a shorter one.
fn padded(spelling: &[u8]) -> Option<[u64; 2]> {
    let mut filled = [0; SPELLING_BYTES_MAX];
    filled.get_mut(..spelling.len())?.copy_from_slice(spelling);
    let whole = u128::from_le_bytes(filled);
    spelling.last().is_some_and(|last| *last != 0).then_some([whole as u64, (whole >> 64) as u64])
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use schemas::hash::HashKey;

    use super::*;

    proptest! {
        #[test]
        fn cached_hash_equals_the_computed_one(tags in vec("[abAB\u{e9}\u{0}]{0,18}", 0..200)) {
            let hasher = HashKey::new(1).hasher();
            let mut cache = KeyCache::new(hasher.clone());
            for tag in tags.iter().chain(&tags) {
                prop_assert_eq!(cache.hash(tag), hasher.tag(&schemas::tags::key(tag)));
            }
        }

        #[test]
        fn short_spellings_are_padded(bytes in vec(any::<u8>(), 0..20)) {
            let mut filled = [0; SPELLING_BYTES_MAX];
            let fits = bytes.len() <= filled.len() && bytes.last().is_some_and(|last| *last != 0);
            let want = fits.then(|| {
                filled[..bytes.len()].copy_from_slice(&bytes);
                let halves = u128::from_le_bytes(filled);
                [halves as u64, (halves >> 64) as u64]
            });
            prop_assert_eq!(padded(&bytes), want);
        }
    }
}
