//! How many rows make one record batch: the rows and the bytes of their texts are both limited.
//!
//! Invariant: no array's texts come near 2 GiB, the most that its 32-bit offsets can address.

use arrow_array::cast::AsArray;
use arrow_array::types::{BinaryType, Utf8Type};
use arrow_array::{Array, RecordBatch};
use arrow_buffer::OffsetBuffer;
use arrow_schema::DataType;

/// The most rows in a record batch. A look-up searches the first keys of all batches, then one
/// batch.
pub const BATCH_ROWS: usize = 65_536;
/// The most bytes of texts in a record batch, so that writing one takes little memory and no 32-bit
/// offset can overflow. Only a batch of a single row may be larger.
pub const BATCH_BYTES: usize = 16 << 20;
/// Rows to write are collected in parts of about this many bytes of texts.
const PART_BYTES: usize = 32 << 20;

/// What applies outside of tests.
pub(super) const LIMITS: Limits =
    Limits { batch_rows: BATCH_ROWS, batch_bytes: BATCH_BYTES, part_bytes: PART_BYTES };

/// The limits of what is held in one piece.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// The most rows in a record batch.
    pub(super) batch_rows: usize,
    /// The most bytes of texts in a record batch, unless it has only one row.
    pub(super) batch_bytes: usize,
    /// Rows to write are collected in parts, each of which ends once it has this many bytes of
    /// texts.
    pub(super) part_bytes: usize,
}

impl Limits {
    /// Whether a batch of `rows` rows and `bytes` bytes has room for another row.
    pub(super) fn has_room(self, rows: usize, bytes: usize, row_bytes: usize) -> bool {
        debug_assert!(rows == 1 || bytes <= self.batch_bytes, "{bytes} bytes in {rows} rows");
        rows == 0 || (rows < self.batch_rows && bytes + row_bytes <= self.batch_bytes)
    }
}

/// Fails if texts of this many bytes cannot be addressed with 32 bits.
pub(super) fn assert_addressable(bytes: usize) {
    assert!(i32::try_from(bytes).is_ok(), "{bytes} bytes of texts in one array: parts are smaller");
}

/// How many bytes each row of a record batch has in columns of texts.
pub(super) struct TextSizes(Vec<OffsetBuffer<i32>>);

impl TextSizes {
    pub(super) fn of(record: &RecordBatch) -> Self {
        let columns = record.columns().iter().filter_map(|column| match column.data_type() {
            DataType::Utf8 => Some(column.as_bytes::<Utf8Type>().offsets().clone()),
            DataType::Binary => Some(column.as_bytes::<BinaryType>().offsets().clone()),
            _ => None,
        });
        Self(columns.collect())
    }

    /// The bytes of row `i`.
    pub(super) fn of_row(&self, i: usize) -> usize {
        // Offsets ascend: the decoder has checked it.
        self.0.iter().map(|offsets| (offsets[i + 1] - offsets[i]) as usize).sum()
    }
}
