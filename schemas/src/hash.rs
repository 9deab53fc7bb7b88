//! Keyed 128-bit hashes, by which tags and events are routed, stored and looked up.
//!
//! SipHash-1-3 with a 128-bit result and a secret key, which is created with the state and kept in
//! every manifest, so that nobody can post two tags that collide. Invariant: the hash of a value
//! never changes within a state.

use std::fmt;

use serde::{Deserialize, Serialize};
use siphasher::sip128::SipHasher13;
use thiserror::Error;

/// The number of parts of the key space, fixed for the life of a state.
pub const BINS: u64 = 1024;
const BIN_BITS: u32 = BINS.trailing_zeros();

/// A 128-bit hash, ordered as in segments: by its high word, then by its low word.
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
    /// The bin that this key belongs to, which decides which worker owns it.
    pub fn bin(self) -> u64 {
        self.hi >> (64 - BIN_BITS)
    }

    /// The smallest key of a bin.
    pub fn first_of_bin(bin: u64) -> Self {
        debug_assert!(bin < BINS, "there is no bin {bin}");
        Self { hi: bin << (64 - BIN_BITS), lo: 0 }
    }
}

/// The secret key of a state's hashes: 32 hexadecimal digits in manifests, hidden in debug output.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct HashKey(u128);

/// A text that is not a hash key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a hash key has 32 hexadecimal digits")]
pub struct HashKeyError;

impl From<HashKey> for String {
    fn from(key: HashKey) -> Self {
        format!("{:032x}", key.0)
    }
}

impl TryFrom<String> for HashKey {
    type Error = HashKeyError;

    fn try_from(text: String) -> Result<Self, HashKeyError> {
        let is_plain = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let key = u128::from_str_radix(&text, 16).ok().filter(|_| is_plain);
        key.map(Self).ok_or(HashKeyError)
    }
}

impl fmt::Debug for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HashKey(***)")
    }
}

impl HashKey {
    /// A key from 16 random bytes.
    pub fn new(bytes: u128) -> Self {
        Self(bytes)
    }

    /// A hasher with this key.
    pub fn hasher(&self) -> Hasher {
        Hasher { sip: SipHasher13::new_with_key(&self.0.to_le_bytes()) }
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

    /// The hash of an event's identity: its id, and the salt of its input.
    pub fn event(&self, salt: u64, event_id: &str) -> KeyHash {
        let hash = self.bytes(event_id.as_bytes());
        KeyHash { hi: hash.hi ^ salt, lo: hash.lo ^ salt.rotate_left(32) }
    }

    /// A secret number derived from an input's name, which keeps equal ids of two inputs apart.
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
    fn key_reads_back_and_is_hidden_in_debug_output() {
        let key = HashKey::new(0x0123_4567_89ab_cdef);
        let text = serde_json::to_string(&key).unwrap();
        let read: HashKey = serde_json::from_str(&text).unwrap();
        assert_eq!(key.hasher().tag("a"), read.hasher().tag("a"));
        assert_eq!(format!("{key:?}"), "HashKey(***)");
        for text in ["", "0", "+0000000000000000000000000000001", &"g".repeat(32)] {
            assert_eq!(HashKey::try_from(text.to_owned()), Err(HashKeyError), "{text}");
        }
    }

    #[test]
    fn bins_are_the_top_ten_bits() {
        assert_eq!(KeyHash { hi: u64::MAX, lo: 0 }.bin(), 1023);
        assert_eq!(KeyHash { hi: 1 << 54, lo: 0 }.bin(), 1);
    }
}
