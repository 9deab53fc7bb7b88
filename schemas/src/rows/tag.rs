//! The row of a tag in a scope: what its page shows.

use std::sync::Arc;

use arrow_array::builder::{BinaryBuilder, StringBuilder, UInt64Builder};
use arrow_array::cast::AsArray;
use arrow_array::types::{Int64Type, TimestampMillisecondType, UInt64Type};
use arrow_array::{
    ArrayRef, BinaryArray, Int64Array, PrimitiveArray, RecordBatch, StringArray,
    TimestampMillisecondArray, UInt64Array,
};
use arrow_schema::{DataType, Field, TimeUnit};

use crate::hash::KeyHash;
use crate::segment::Table;

/// The table of tags.
pub struct Tags;

/// One tag in one scope. `total` 0 stands for a tag that no live post carries any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TagRow<'a> {
    /// The segment value that the count is grouped by; `""` is the whole stream.
    pub scope: &'a str,
    /// The key.
    pub tag: &'a str,
    /// The spelling in the accepted event with the least (ts, bytes).
    pub display: &'a str,
    /// The number of posts.
    pub total: i64,
    /// The bucket list (`windows::Buckets`), folded at `as_of`.
    pub recent: &'a [u8],
    /// The least event time.
    pub first_seen: i64,
    /// The greatest event time.
    pub last_seen: i64,
    /// The stream time of the commit that last changed the row.
    pub as_of: i64,
    /// That commit.
    pub commit: u64,
}

/// Typed columns of tag rows.
pub struct Columns {
    scope: StringArray,
    tag: StringArray,
    display: StringArray,
    total: Int64Array,
    recent: BinaryArray,
    first_seen: TimestampMillisecondArray,
    last_seen: TimestampMillisecondArray,
    as_of: TimestampMillisecondArray,
    commit: UInt64Array,
}

/// Collects tag rows.
#[derive(Default)]
pub struct Builder {
    scope: StringBuilder,
    tag: StringBuilder,
    display: StringBuilder,
    total: Vec<i64>,
    recent: BinaryBuilder,
    times: [Vec<i64>; 3],
    commit: UInt64Builder,
}

/// A column of times in UTC.
pub(super) fn time_field(name: &str) -> Field {
    Field::new(name, DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())), false)
}

/// The array of such a column.
pub(super) fn times(values: Vec<i64>) -> ArrayRef {
    Arc::new(TimestampMillisecondArray::from(values).with_timezone("UTC"))
}

impl Table for Tags {
    type Columns = Columns;
    type Row<'a> = TagRow<'a>;
    type Builder = Builder;

    fn fields() -> Vec<Field> {
        vec![
            Field::new("scope", DataType::Utf8, false),
            Field::new("tag", DataType::Utf8, false),
            Field::new("display", DataType::Utf8, false),
            Field::new("total", DataType::Int64, false),
            Field::new("recent", DataType::Binary, false),
            time_field("first_seen"),
            time_field("last_seen"),
            time_field("as_of"),
            Field::new("commit", DataType::UInt64, false),
        ]
    }

    fn columns(batch: &RecordBatch) -> Columns {
        let time = |i: usize| batch.column(i).as_primitive::<TimestampMillisecondType>().clone();
        Columns {
            scope: batch.column(2).as_string().clone(),
            tag: batch.column(3).as_string().clone(),
            display: batch.column(4).as_string().clone(),
            total: batch.column(5).as_primitive::<Int64Type>().clone(),
            recent: batch.column(6).as_binary().clone(),
            first_seen: time(7),
            last_seen: time(8),
            as_of: time(9),
            commit: batch.column(10).as_primitive::<UInt64Type>().clone(),
        }
    }

    fn row(columns: &Columns, _: KeyHash, i: usize) -> TagRow<'_> {
        TagRow {
            scope: columns.scope.value(i),
            tag: columns.tag.value(i),
            display: columns.display.value(i),
            total: columns.total.value(i),
            recent: columns.recent.value(i),
            first_seen: columns.first_seen.value(i),
            last_seen: columns.last_seen.value(i),
            as_of: columns.as_of.value(i),
            commit: columns.commit.value(i),
        }
    }

    fn push(builder: &mut Builder, row: &TagRow<'_>) {
        builder.scope.append_value(row.scope);
        builder.tag.append_value(row.tag);
        builder.display.append_value(row.display);
        builder.total.push(row.total);
        builder.recent.append_value(row.recent);
        for (times, time) in
            builder.times.iter_mut().zip([row.first_seen, row.last_seen, row.as_of])
        {
            times.push(time);
        }
        builder.commit.append_value(row.commit);
    }

    fn finish(mut builder: Builder) -> Vec<ArrayRef> {
        let [first_seen, last_seen, as_of] = builder.times;
        vec![
            Arc::new(builder.scope.finish()),
            Arc::new(builder.tag.finish()),
            Arc::new(builder.display.finish()),
            Arc::new(PrimitiveArray::<Int64Type>::from(builder.total)),
            Arc::new(builder.recent.finish()),
            times(first_seen),
            times(last_seen),
            times(as_of),
            Arc::new(builder.commit.finish()),
        ]
    }
}
