//! Mapping a file into memory: the only unsafe code in Tagflow.
//!
//! What makes it sound: a file of a state never changes under its final name. Files are written
//! under a temporary name first, and replaced only by a rename, after which a mapping still shows
//! the old file. A page that the disk cannot read ends the process (SIGBUS): nothing is written
//! through a mapping, so no commit is harmed.

use std::fs::File;
use std::io;

use bytes::Bytes;
use memmap2::Mmap;

/// The content of `file`, which the system reads on first access.
#[expect(unsafe_code, reason = "see the module's invariant")]
pub(super) fn map(file: &File) -> io::Result<Bytes> {
    if file.metadata()?.len() == 0 {
        return Ok(Bytes::new());
    }
    // SAFETY: the file is immutable, as stated above.
    let map = unsafe { Mmap::map(file)? };
    Ok(Bytes::from_owner(map))
}
