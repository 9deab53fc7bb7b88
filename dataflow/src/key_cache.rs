//! The hashes of tags by their spellings, remembered for short spellings that come often.
//!
//! Invariant: what it gives for a spelling is the hash of its key; what it remembers changes only
//! how long that takes.

use schemas::hash::{Hasher, KeyHash};

/// Most mentions are of fewer tags; more places would not fit the cache of a core.
const PLACES: usize = 4096;
/// Longer spellings are not remembered.
const SPELLING_BYTES_MAX: usize = 16;

/// A spelling, filled up with zeros, and the hash of its key.
#[derive(Clone, Copy, Default)]
struct Known {
    spelling: [u64; 2],
    hash: KeyHash,
}

/// Makes keys of spellings, and hashes of keys.
pub(crate) struct KeyCache {
    hasher: Hasher,
    known: Box<[Known]>,
}

impl KeyCache {
    pub(crate) fn new(hasher: Hasher) -> Self {
        Self { hasher, known: vec![Known::default(); PLACES].into() }
    }

    /// The hash of the key of the tag that `spelling` spells.
    pub(crate) fn hash(&mut self, spelling: &str) -> KeyHash {
        let Some(short) = short(spelling.as_bytes()) else { return self.compute(spelling) };
        let mixed = (short[0] ^ short[1].rotate_left(29)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let place = (mixed >> 32) as usize % PLACES;
        if self.known[place].spelling != short {
            self.known[place] = Known { spelling: short, hash: self.compute(spelling) };
        }
        self.known[place].hash
    }

    fn compute(&self, spelling: &str) -> KeyHash {
        self.hasher.tag(&schemas::tags::key(spelling))
    }
}

/// A spelling as two numbers; none where it is too long, empty, or ends with a zero, which would
/// not tell it from a shorter one.
fn short(spelling: &[u8]) -> Option<[u64; 2]> {
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
        fn gives_what_it_would_compute(tags in vec("[abAB\u{e9}\u{0}]{0,18}", 0..200)) {
            let hasher = HashKey::new(1).hasher();
            let mut cache = KeyCache::new(hasher.clone());
            for tag in tags.iter().chain(&tags) {
                prop_assert_eq!(cache.hash(tag), hasher.tag(&schemas::tags::key(tag)));
            }
        }

        #[test]
        fn a_short_spelling_is_its_bytes(bytes in vec(any::<u8>(), 0..20)) {
            let mut filled = [0; SPELLING_BYTES_MAX];
            let fits = bytes.len() <= filled.len() && bytes.last().is_some_and(|last| *last != 0);
            let want = fits.then(|| {
                filled[..bytes.len()].copy_from_slice(&bytes);
                let halves = u128::from_le_bytes(filled);
                [halves as u64, (halves >> 64) as u64]
            });
            prop_assert_eq!(short(&bytes), want);
        }
    }
}
