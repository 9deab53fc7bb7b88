//! Mapping a file into memory: the one place in Tagflow with unsafe code.
//!
//! Invariant that makes it sound: a file of a state never changes once it has its name. Segments
//! and manifests are written under another name, and what is replaced is replaced by a rename,
//! after which the mapping still shows the old file.

use std::fs::File;
use std::io;

use bytes::Bytes;
use memmap2::Mmap;

/// The content of `file`, read as it is touched.
#[expect(unsafe_code, reason = "see the module's invariant")]
pub(super) fn map(file: &File) -> io::Result<Bytes> {
    if file.metadata()?.len() == 0 {
        return Ok(Bytes::new());
    }
    // SAFETY: the file is immutable, as stated above.
    let map = unsafe { Mmap::map(file)? };
    Ok(Bytes::from_owner(map))
}
