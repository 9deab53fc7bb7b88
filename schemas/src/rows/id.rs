//! The row of an accepted event id. Ids live in memory for the horizon; their segments are read
//! only at a restart, so a row is no more than the hash and the hour it expires with.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::UInt32Type;
use arrow_array::{ArrayRef, RecordBatch, UInt32Array};
use arrow_schema::{DataType, Field};

use crate::hash::KeyHash;
use crate::segment::Table;

/// The table of accepted event ids.
pub struct Ids;

/// One accepted event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRow {
    /// The keyed hash of (input, event id).
    pub hash: KeyHash,
    /// The hour of its `ts`, since 1970.
    pub hour: u32,
    /// Whether a repair took it back: the newest row of an id tells whether it is remembered.
    pub forgotten: bool,
}

/// The bit of the hour that says so: no hour comes near it.
const FORGOTTEN: u32 = 1 << 31;

impl Table for Ids {
    type Columns = UInt32Array;
    type Row<'a> = IdRow;
    type Builder = Vec<u32>;

    fn fields() -> Vec<Field> {
        vec![Field::new("hour", DataType::UInt32, false)]
    }

    fn columns(batch: &RecordBatch) -> UInt32Array {
        batch.column(2).as_primitive::<UInt32Type>().clone()
    }

    fn row(columns: &UInt32Array, hash: KeyHash, i: usize) -> IdRow {
        let value = columns.value(i);
        IdRow { hash, hour: value & !FORGOTTEN, forgotten: value & FORGOTTEN != 0 }
    }

    fn push(builder: &mut Vec<u32>, row: &IdRow) {
        builder.push(row.hour | if row.forgotten { FORGOTTEN } else { 0 });
    }

    fn finish(builder: Vec<u32>) -> Vec<ArrayRef> {
        vec![Arc::new(UInt32Array::from(builder))]
    }
}
