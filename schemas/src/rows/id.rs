//! The row of an accepted event id. Ids live in memory for the horizon; their segments are read
//! only at a restart, so a row is just the hash and the hour it expires with.

use arrow_array::{ArrayRef, RecordBatch, UInt32Array};
use arrow_schema::Field;

use super::column::{Column, UInt32};
use super::table::{Outlives, Table, TableName};
use crate::hash::KeyHash;

/// The table of accepted event ids.
pub struct Ids;

/// One accepted event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRow {
    /// The keyed hash of (input, event id).
    pub hash: KeyHash,
    /// The latest hour that its copies claim in `ts`, since 1970.
    pub hour: u32,
    /// Whether a repair took it back: the newest row of an id says whether it is remembered.
    pub forgotten: bool,
}

/// The bit of the hour that holds `forgotten`: the year would be 246,953.
const FORGOTTEN: u32 = 1 << 31;

/// The hour of a time, since 1970. A horizon may reach back before 1970, when no event happens.
#[inline]
pub fn hour_of(ms: i64) -> u32 {
    (ms.max(0) / 3_600_000) as u32
}

impl Table for Ids {
    const NAME: TableName = TableName::new("ids");
    /// Older builds remembered an id once for each hour that its copies claim, in any order.
    const OUTLIVES: Option<Outlives<Self>> =
        Some(|older, newer| !older.forgotten && !newer.forgotten && older.hour > newer.hour);

    type Columns = UInt32Array;
    type Row<'a> = IdRow;
    type Builder = Vec<u32>;

    fn fields() -> Vec<Field> {
        vec![UInt32::field("hour")]
    }

    fn columns(batch: &RecordBatch) -> UInt32Array {
        UInt32::array(batch.column(2))
    }

    fn row(columns: &UInt32Array, hash: KeyHash, i: usize) -> IdRow {
        let value = columns.value(i);
        IdRow { hash, hour: value & !FORGOTTEN, forgotten: value & FORGOTTEN != 0 }
    }

    fn builder() -> Vec<u32> {
        Vec::new()
    }

    fn push(builder: &mut Vec<u32>, row: &IdRow) {
        debug_assert!(row.hour < FORGOTTEN, "hour {} leaves no bit to spare", row.hour);
        builder.push(row.hour | if row.forgotten { FORGOTTEN } else { 0 });
    }

    fn finish(builder: Vec<u32>) -> Vec<ArrayRef> {
        vec![UInt32::finish(builder)]
    }

    fn expires(row: &IdRow) -> Option<u32> {
        Some(row.hour)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_have_hour_zero() {
        assert_eq!([-3_600_000, -1, 0, 3_599_999, 3_600_000].map(hour_of), [0, 0, 0, 0, 1]);
    }
}
