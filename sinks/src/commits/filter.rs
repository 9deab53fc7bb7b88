//! A blocked Bloom filter over a segment's keys, so that looking up an absent key costs one cache
//! line. It takes about 10 bits a key, in blocks of 512, and lets one in a hundred misses through.
//!
//! Invariant: it never denies a key that it was built with.

use schemas::hash::KeyHash;

const BITS_PER_KEY: usize = 10;
const BLOCK_WORDS: usize = 8;
const PROBES: u32 = 6;

/// Which keys a segment may hold.
#[derive(Debug)]
pub struct Filter {
    blocks: Box<[[u64; BLOCK_WORDS]]>,
}

impl Filter {
    /// A filter of `keys`, of which there are `count`.
    pub fn new(keys: impl Iterator<Item = KeyHash>, count: usize) -> Self {
        let blocks = (count * BITS_PER_KEY).div_ceil(BLOCK_WORDS * 64).max(1);
        let mut filter = Self { blocks: vec![[0; BLOCK_WORDS]; blocks].into_boxed_slice() };
        let mut added = 0;
        for key in keys {
            added += 1;
            let block = filter.block(key);
            for bit in bits(key) {
                filter.blocks[block][bit / 64] |= 1 << (bit % 64);
            }
        }
        debug_assert_eq!(added, count, "the filter is sized for its keys");
        filter
    }

    /// Whether the segment may hold the key. `false` is certain.
    pub fn may_contain(&self, key: KeyHash) -> bool {
        let block = &self.blocks[self.block(key)];
        bits(key).all(|bit| block[bit / 64] >> (bit % 64) & 1 == 1)
    }

    fn block(&self, key: KeyHash) -> usize {
        // The high word is uniform, but the keys of one worker share some of its top bits.
        let word = key.hi.rotate_left(10);
        ((u128::from(word) * self.blocks.len() as u128) >> 64) as usize
    }
}

fn bits(key: KeyHash) -> impl Iterator<Item = usize> {
    (0..PROBES).map(move |i| (key.lo >> (9 * i)) as usize % (BLOCK_WORDS * 64))
}

#[cfg(test)]
mod tests {
    use schemas::hash::HashKey;

    use super::*;

    #[test]
    fn filter_passes_all_its_keys_and_few_others() {
        let hasher = HashKey::new(7).hasher();
        let key = |i: usize| hasher.tag(&i.to_string());
        let filter = Filter::new((0..100_000).map(key), 100_000);
        assert!((0..100_000).all(|i| filter.may_contain(key(i))));
        let passed = (100_000..200_000).filter(|i| filter.may_contain(key(*i))).count();
        assert!(passed < 2500, "{passed} of 100,000 other keys passed");
        assert!(size_of_val(&*filter.blocks) <= 126_000);
    }

    #[test]
    fn empty_filter_denies_everything() {
        let filter = Filter::new(std::iter::empty(), 0);
        assert!(!filter.may_contain(KeyHash { hi: 1, lo: 1 }));
    }
}
