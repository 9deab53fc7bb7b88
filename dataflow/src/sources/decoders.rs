//! How much memory the decoders of an input's compressed files take, and which of them are closed
//! to make room.
//!
//! A decoder that was closed is opened again when its file is next read, and unpacks all of it up
//! to where it was. Invariant: the files that are read in turn stay open as long as they fit.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

/// The most that the decoders of an input take together, but for those of files that were read far.
const BYTES_MAX: u64 = 256 << 20;
/// A file that was read no further than this is soon unpacked again.
const NEAR: u64 = 8 << 20;

/// The decoders of one input.
#[derive(Debug, Default)]
pub(super) struct Decoders(Mutex<Open>);

#[derive(Debug, Default)]
struct Open {
    /// How often any was used.
    uses: u64,
    /// When each was last used, and its size.
    decoders: BTreeMap<PathBuf, (u64, u64)>,
}

impl Decoders {
    /// The decoder of `file`, which takes `bytes`, was used up to `position`. Returns whether it is
    /// to be closed at once.
    pub(super) fn used(&self, file: &Path, bytes: u64, position: u64) -> bool {
        assert!(bytes > 0, "a decoder takes some memory");
        let mut open = self.0.lock();
        open.uses += 1;
        let used = (open.uses, bytes);
        match open.decoders.get_mut(file) {
            Some(known) => *known = used,
            None => drop(open.decoders.insert(file.to_owned(), used)),
        }
        position < NEAR && open.bytes() > BYTES_MAX && bytes < open.bytes()
    }

    /// Whether the decoder of `file`, read up to `position`, is to be closed: those used after it
    /// leave no room. One that was read far stays open, since unpacking it again would take longer
    /// than what it takes is worth.
    pub(super) fn is_in_the_way(&self, file: &Path, position: u64) -> bool {
        if position >= NEAR {
            return false;
        }
        let open = self.0.lock();
        let Some((used, bytes)) = open.decoders.get(file) else { return false };
        let later = open.decoders.values().filter(|(other, _)| other > used);
        let later: u64 = later.map(|(_, bytes)| bytes).sum();
        later > 0 && later + bytes > BYTES_MAX
    }

    /// The decoder of `file` was closed.
    pub(super) fn closed(&self, file: &Path) {
        self.0.lock().decoders.remove(file);
    }
}

impl Open {
    fn bytes(&self) -> u64 {
        self.decoders.values().map(|(_, bytes)| bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decoders_that_were_not_used_for_longest_make_room() {
        let decoders = Decoders::default();
        for file in ["a", "b", "c", "a"] {
            assert!(!decoders.used(Path::new(file), 80 << 20, 2 * NEAR));
        }
        assert!(!["a", "b", "c"].iter().any(|file| decoders.is_in_the_way(Path::new(file), 5)));
        assert!(!decoders.used(Path::new("d"), 80 << 20, 2 * NEAR), "it was read far");
        assert!(decoders.is_in_the_way(Path::new("b"), 5));
        assert!(!["a", "c", "d"].iter().any(|file| decoders.is_in_the_way(Path::new(file), 5)));
        assert!(!decoders.is_in_the_way(Path::new("b"), NEAR), "unpacking it again takes long");
        decoders.closed(Path::new("b"));
        assert!(decoders.used(Path::new("e"), 80 << 20, 5), "it is soon unpacked again");
        decoders.closed(Path::new("e"));
        assert!(!["a", "c", "d"].iter().any(|file| decoders.is_in_the_way(Path::new(file), 5)));
        // One that is larger than all the room there is.
        assert!(!decoders.used(Path::new("f"), 2 << 30, 2 * NEAR));
        assert!(
            !decoders.is_in_the_way(Path::new("f"), 5) && decoders.is_in_the_way(Path::new("d"), 5)
        );
        ["a", "c", "d"].iter().for_each(|file| decoders.closed(Path::new(file)));
        assert!(!decoders.used(Path::new("f"), 2 << 30, 5), "nothing else is open");
    }
}
