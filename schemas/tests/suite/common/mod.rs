//! Random rows of any table, made from its schema alone, so that a new table is tested without a
//! line of its own. Also included by the fuzz targets.

use std::sync::Arc;

use arrow_array::{
    ArrayRef, BinaryArray, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray,
    UInt32Array, UInt64Array,
};
use arrow_schema::{DataType, Field, Schema};
use schemas::hash::KeyHash;
use schemas::rows::Table;
use schemas::segment::Rows;

/// `SplitMix64`.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Text that is special to some format, or none.
    fn text(&mut self) -> String {
        const CHARS: [char; 12] = ['a', 'é', '日', '😀', '"', '\\', '\n', '\0', '{', '#', '=', ' '];
        (0..self.next() % 9).map(|_| CHARS[self.next() as usize % CHARS.len()]).collect()
    }
}

fn column(field: &Field, rows: usize, random: &mut Random) -> ArrayRef {
    let rows = 0..rows;
    match field.data_type() {
        DataType::Utf8 => Arc::new(StringArray::from_iter_values(rows.map(|_| random.text()))),
        DataType::Binary => Arc::new(BinaryArray::from_iter_values(rows.map(|_| random.text()))),
        DataType::UInt32 => {
            Arc::new(UInt32Array::from_iter_values(rows.map(|_| random.next() as u32)))
        }
        DataType::UInt64 => Arc::new(UInt64Array::from_iter_values(rows.map(|_| random.next()))),
        DataType::Int64 => {
            Arc::new(Int64Array::from_iter_values(rows.map(|_| random.next() as i64)))
        }
        DataType::Timestamp(..) => {
            let times = rows.map(|_| random.next() as i64);
            Arc::new(TimestampMillisecondArray::from_iter_values(times).with_timezone("UTC"))
        }
        other => panic!("no random values of type {other} yet"),
    }
}

/// A batch with rows under `keys`, which ascend.
pub(crate) fn batch<T: Table>(keys: &[KeyHash], seed: u64) -> RecordBatch {
    let mut fields = vec![
        Field::new("hash_hi", DataType::UInt64, false),
        Field::new("hash_lo", DataType::UInt64, false),
    ];
    fields.extend(T::fields());
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(UInt64Array::from_iter_values(keys.iter().map(|key| key.hi))),
        Arc::new(UInt64Array::from_iter_values(keys.iter().map(|key| key.lo))),
    ];
    let mut random = Random(seed);
    columns.extend(fields[2..].iter().map(|field| column(field, keys.len(), &mut random)));
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}

/// The segment of such a batch, written row by row.
pub(crate) fn segment<T: Table>(keys: &[KeyHash], batch: &RecordBatch) -> Vec<u8> {
    let columns = T::columns(batch);
    let mut rows = Rows::<T>::default();
    // Backwards, since rows may come in any order.
    for (i, key) in keys.iter().enumerate().rev() {
        rows.push(*key, &T::row(&columns, *key, i));
    }
    let mut out = Vec::new();
    rows.encode(&mut out).unwrap();
    out
}
