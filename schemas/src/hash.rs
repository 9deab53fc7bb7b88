//! Keyed 128-bit hashes: how tags and events travel, are placed, and are looked up.
//!
//! SipHash-1-3 with a 128-bit result under a secret key that is made at the first start and kept
//! in every manifest, so nobody can post two tags that collide. Invariant: the hash of a value
//! never changes within one state; readers compare the text as well.

use std::fmt;

use serde::{Deserialize, Serialize};
use siphasher::sip128::SipHasher13;

/// The number of partitions of a key space; fixed for the life of a state.
pub const BINS: u64 = 1024;
const BIN_BITS: u32 = BINS.trailing_zeros();

/// A 128-bit hash, ordered as segments are: by its high word, then its low one.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct KeyHash {
    /// The high word; its top ten bits are the bin.
    pub hi: u64,
    /// The low word.
    pub lo: u64,
}

impl fmt::Display for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}{:016x}", self.hi, self.lo)
    }
}

impl KeyHash {
    /// The partition this key belongs to: the unit of placement and restore.
    pub fn bin(self) -> u64 {
        self.hi >> (64 - BIN_BITS)
    }

    /// The least key of a bin.
    pub fn first_of_bin(bin: u64) -> Self {
        Self { hi: bin << (64 - BIN_BITS), lo: 0 }
    }
}

/// The secret key of a state's hashes. Its debug form does not show it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HashKey(String);

impl fmt::Debug for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HashKey(***)")
    }
}

impl HashKey {
    /// A key from 16 random bytes.
    pub fn new(bytes: u128) -> Self {
        Self(format!("{bytes:032x}"))
    }

    /// The hasher of this key.
    pub fn hasher(&self) -> Hasher {
        let bytes = u128::from_str_radix(&self.0, 16).unwrap_or_default();
        Hasher { sip: SipHasher13::new_with_key(&bytes.to_le_bytes()) }
    }
}

/// Hashes tags and events under one [`HashKey`].
#[derive(Clone)]
pub struct Hasher {
    sip: SipHasher13,
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hasher(***)")
    }
}

impl Hasher {
    fn bytes(&self, bytes: &[u8]) -> KeyHash {
        let hash = self.sip.hash(bytes);
        KeyHash { hi: hash.h1, lo: hash.h2 }
    }

    /// The hash of a tag's key in the whole stream (scope `""`).
    pub fn tag(&self, key: &str) -> KeyHash {
        self.bytes(key.as_bytes())
    }

    /// The hash of a tag in `scope`, from its hash in the whole stream.
    pub fn scoped(&self, scope: &str, tag: KeyHash) -> KeyHash {
        if scope.is_empty() {
            return tag;
        }
        let mut bytes = Vec::with_capacity(16 + scope.len());
        bytes.extend_from_slice(&tag.hi.to_le_bytes());
        bytes.extend_from_slice(&tag.lo.to_le_bytes());
        bytes.extend_from_slice(scope.as_bytes());
        self.bytes(&bytes)
    }

    /// The hash of an event's identity: its id, and what distinguishes its input (see
    /// [`Self::input_salt`]).
    pub fn event(&self, salt: u64, event_id: &str) -> KeyHash {
        let hash = self.bytes(event_id.as_bytes());
        KeyHash { hi: hash.hi ^ salt, lo: hash.lo ^ salt.rotate_left(32) }
    }

    /// A secret number of an input's name that keeps equal ids of two inputs apart.
    pub fn input_salt(&self, input: &str) -> u64 {
        self.bytes(input.as_bytes()).hi
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_depend_on_key_scope_and_input() {
        let (a, b) = (HashKey::new(1).hasher(), HashKey::new(2).hasher());
        let tag = a.tag("sunset");
        assert_ne!(tag, b.tag("sunset"));
        assert_eq!(a.scoped("", tag), tag);
        assert_ne!(a.scoped("region=eu", tag), a.scoped("region=us", tag));
        let (x, y) = (a.input_salt("x"), a.input_salt("y"));
        assert_ne!(a.event(x, "1"), a.event(y, "1"));
    }

    #[test]
    fn a_key_survives_its_text_and_hides_in_debug() {
        let key = HashKey::new(0x0123_4567_89ab_cdef);
        let text = serde_json::to_string(&key).unwrap();
        let read: HashKey = serde_json::from_str(&text).unwrap();
        assert_eq!(key.hasher().tag("a"), read.hasher().tag("a"));
        assert_eq!(format!("{key:?}"), "HashKey(***)");
    }

    #[test]
    fn bins_are_the_top_ten_bits() {
        assert_eq!(KeyHash { hi: u64::MAX, lo: 0 }.bin(), 1023);
        assert_eq!(KeyHash { hi: 1 << 54, lo: 0 }.bin(), 1);
    }
}
