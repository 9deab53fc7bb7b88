//! The row of a record that was not counted, or was counted by a decision that the log alone does
//! not tell. Keyed by (input, partition, position): exact through crashes.

use std::sync::Arc;

use arrow_array::builder::{BinaryBuilder, StringBuilder, UInt64Builder};
use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use arrow_array::{ArrayRef, BinaryArray, RecordBatch, StringArray, UInt64Array};
use arrow_schema::{DataType, Field};
use xxhash_rust::xxh3::xxh3_64;

use crate::hash::KeyHash;
use crate::segment::Table;

/// The reason of an event that is dated too far ahead of the clock.
pub const FUTURE: &str = "future";
/// The reason of an event that is too old for its id to be remembered.
pub const BEYOND_HORIZON: &str = "beyond_horizon";

/// The table of dead letters.
pub struct DeadLetters;

/// One refused record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeadLetterRow<'a> {
    /// The input's name.
    pub input: &'a str,
    /// The partition's identity.
    pub partition: &'a str,
    /// The record's position in it: a byte offset, or the log's own number.
    pub position: u64,
    /// A short word for the reason: a code of `event::Reject`, or one of the two above.
    pub reason: &'a str,
    /// What exactly is wrong.
    pub detail: &'a str,
    /// The record as it was read; cut where it was too large.
    pub raw: &'a [u8],
    /// The commit it belongs to.
    pub commit: u64,
}

/// The high word of a partition's dead letters, so that they sort together.
pub fn partition_hash(input: &str, partition: &str) -> u64 {
    xxh3_64([input, "\0", partition].concat().as_bytes())
}

/// The key of the dead letter at `position`.
pub fn record_hash(partition: u64, position: u64) -> KeyHash {
    KeyHash { hi: partition, lo: position }
}

/// Typed columns of dead letters.
pub struct Columns {
    input: StringArray,
    partition: StringArray,
    position: UInt64Array,
    reason: StringArray,
    detail: StringArray,
    raw: BinaryArray,
    commit: UInt64Array,
}

/// Collects dead letters.
#[derive(Default)]
pub struct Builder {
    input: StringBuilder,
    partition: StringBuilder,
    position: UInt64Builder,
    reason: StringBuilder,
    detail: StringBuilder,
    raw: BinaryBuilder,
    commit: UInt64Builder,
}

impl Table for DeadLetters {
    type Columns = Columns;
    type Row<'a> = DeadLetterRow<'a>;
    type Builder = Builder;

    fn fields() -> Vec<Field> {
        vec![
            Field::new("input", DataType::Utf8, false),
            Field::new("partition", DataType::Utf8, false),
            Field::new("position", DataType::UInt64, false),
            Field::new("reason", DataType::Utf8, false),
            Field::new("detail", DataType::Utf8, false),
            Field::new("raw", DataType::Binary, false),
            Field::new("commit", DataType::UInt64, false),
        ]
    }

    fn columns(batch: &RecordBatch) -> Columns {
        Columns {
            input: batch.column(2).as_string().clone(),
            partition: batch.column(3).as_string().clone(),
            position: batch.column(4).as_primitive::<UInt64Type>().clone(),
            reason: batch.column(5).as_string().clone(),
            detail: batch.column(6).as_string().clone(),
            raw: batch.column(7).as_binary().clone(),
            commit: batch.column(8).as_primitive::<UInt64Type>().clone(),
        }
    }

    fn row(columns: &Columns, _: KeyHash, i: usize) -> DeadLetterRow<'_> {
        DeadLetterRow {
            input: columns.input.value(i),
            partition: columns.partition.value(i),
            position: columns.position.value(i),
            reason: columns.reason.value(i),
            detail: columns.detail.value(i),
            raw: columns.raw.value(i),
            commit: columns.commit.value(i),
        }
    }

    fn push(builder: &mut Builder, row: &DeadLetterRow<'_>) {
        builder.input.append_value(row.input);
        builder.partition.append_value(row.partition);
        builder.position.append_value(row.position);
        builder.reason.append_value(row.reason);
        builder.detail.append_value(row.detail);
        builder.raw.append_value(row.raw);
        builder.commit.append_value(row.commit);
    }

    fn finish(mut builder: Builder) -> Vec<ArrayRef> {
        vec![
            Arc::new(builder.input.finish()),
            Arc::new(builder.partition.finish()),
            Arc::new(builder.position.finish()),
            Arc::new(builder.reason.finish()),
            Arc::new(builder.detail.finish()),
            Arc::new(builder.raw.finish()),
            Arc::new(builder.commit.finish()),
        ]
    }
}
