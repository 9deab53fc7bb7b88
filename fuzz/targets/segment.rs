//! Segments: any bytes, and valid segments with any bytes changed, open or are refused. What opens
//! can be read.

#![no_main]

#[path = "../../schemas/tests/suite/common/mod.rs"]
mod common;

use libfuzzer_sys::fuzz_target;
use schemas::hash::KeyHash;
use schemas::rows::{Table, TableName, TableVisitor};
use schemas::segment::Segment;

/// Reads `bytes` as a segment of a table, or as edits to a valid one: two bytes of position and one
/// of value each.
struct Read<'b> {
    bytes: &'b [u8],
    is_edited: bool,
}

impl TableVisitor for Read<'_> {
    type Output = ();

    fn visit<T: Table>(self) {
        let bytes = if self.is_edited {
            let keys = [1, 2, 3, 4, 5, 6, 7, 8].map(|n| KeyHash { hi: n << 54, lo: n });
            let mut whole = common::segment::<T>(&keys, &common::batch::<T>(&keys, 7));
            for edit in self.bytes.chunks_exact(3) {
                let at = usize::from(u16::from_le_bytes([edit[0], edit[1]])) % whole.len();
                whole[at] ^= edit[2];
            }
            whole
        } else {
            self.bytes.to_vec()
        };
        if let Ok(segment) = Segment::<T>::open(bytes.into()) {
            segment.iter().for_each(drop);
            let first = segment.hashes().next().unwrap_or_default();
            segment.get(first);
            segment.get(KeyHash { hi: u64::MAX, lo: 0 });
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((first, bytes)) = bytes.split_first() else { return };
    let table = TableName::ALL[usize::from(first & 7) % TableName::ALL.len()];
    table.visit(Read { bytes, is_edited: first & 8 != 0 });
});
