//! Damaged segments of every table give an error or other rows, never a panic.

use bytes::Bytes;
use schemas::hash::KeyHash;
use schemas::rows::{Table, TableName, TableVisitor};
use schemas::segment::{Rows, Segment};

use crate::common;

/// Opens a segment with one bit changed, for every bit, and reads whatever opens.
struct ReadFlipped;

impl TableVisitor for ReadFlipped {
    type Output = ();

    fn visit<T: Table>(self) {
        let keys = [1, 2, 3].map(|hi| KeyHash { hi, lo: 2 });
        let mut bytes = common::segment::<T>(&keys, &common::batch::<T>(&keys, 7));
        let mut opened = 0;
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            if let Ok(segment) = Segment::<T>::open(Bytes::from(bytes.clone())) {
                opened += 1;
                let mut rows = Rows::<T>::default();
                segment.iter().for_each(|(hash, row)| rows.push(hash, &row));
                segment.hashes().for_each(|hash| drop(segment.get(hash)));
                let mut again = Vec::new();
                rows.encode(&mut again).unwrap();
                assert!(Segment::<T>::open(Bytes::from(again)).is_ok(), "texts are not UTF-8");
            }
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        assert!(opened > 0, "some bits do not matter, or change a value");
    }
}

#[test]
fn no_flipped_bit_panics_in_any_table() {
    TableName::ALL.iter().for_each(|table| table.visit(ReadFlipped));
}
