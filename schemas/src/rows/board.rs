//! The row of a board: the top tags of one window in one scope, as one document.

use std::sync::Arc;

use arrow_array::builder::{StringBuilder, UInt64Builder};
use arrow_array::cast::AsArray;
use arrow_array::types::{TimestampMillisecondType, UInt64Type};
use arrow_array::{ArrayRef, RecordBatch, StringArray, TimestampMillisecondArray, UInt64Array};
use arrow_schema::{DataType, Field};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use super::tag::{time_field, times};
use crate::hash::KeyHash;
use crate::segment::Table;

/// The table of boards.
pub struct Boards;

/// One tag on a board.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoardEntry {
    /// The tag's key.
    pub tag: String,
    /// Its display form.
    pub display: String,
    /// Its posts in the board's window.
    pub count: i64,
}

/// One board.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BoardRow<'a> {
    /// The scope whose tags are ranked.
    pub scope: &'a str,
    /// The window's name, or `all`.
    pub window: &'a str,
    /// A JSON list of [`BoardEntry`], by count descending, then key bytes ascending.
    pub doc: &'a str,
    /// The stream time of the commit that last changed the row.
    pub as_of: i64,
    /// That commit.
    pub commit: u64,
}

/// The key of a board.
pub fn board_hash(scope: &str, window: &str) -> KeyHash {
    let hash = xxh3_128([scope, "\0", window].concat().as_bytes());
    KeyHash { hi: (hash >> 64) as u64, lo: hash as u64 }
}

/// Typed columns of boards.
pub struct Columns {
    scope: StringArray,
    window: StringArray,
    doc: StringArray,
    as_of: TimestampMillisecondArray,
    commit: UInt64Array,
}

/// Collects boards.
#[derive(Default)]
pub struct Builder {
    scope: StringBuilder,
    window: StringBuilder,
    doc: StringBuilder,
    as_of: Vec<i64>,
    commit: UInt64Builder,
}

impl Table for Boards {
    type Columns = Columns;
    type Row<'a> = BoardRow<'a>;
    type Builder = Builder;

    fn fields() -> Vec<Field> {
        vec![
            Field::new("scope", DataType::Utf8, false),
            Field::new("win", DataType::Utf8, false),
            Field::new("doc", DataType::Utf8, false),
            time_field("as_of"),
            Field::new("commit", DataType::UInt64, false),
        ]
    }

    fn columns(batch: &RecordBatch) -> Columns {
        Columns {
            scope: batch.column(2).as_string().clone(),
            window: batch.column(3).as_string().clone(),
            doc: batch.column(4).as_string().clone(),
            as_of: batch.column(5).as_primitive::<TimestampMillisecondType>().clone(),
            commit: batch.column(6).as_primitive::<UInt64Type>().clone(),
        }
    }

    fn row(columns: &Columns, _: KeyHash, i: usize) -> BoardRow<'_> {
        BoardRow {
            scope: columns.scope.value(i),
            window: columns.window.value(i),
            doc: columns.doc.value(i),
            as_of: columns.as_of.value(i),
            commit: columns.commit.value(i),
        }
    }

    fn push(builder: &mut Builder, row: &BoardRow<'_>) {
        builder.scope.append_value(row.scope);
        builder.window.append_value(row.window);
        builder.doc.append_value(row.doc);
        builder.as_of.push(row.as_of);
        builder.commit.append_value(row.commit);
    }

    fn finish(mut builder: Builder) -> Vec<ArrayRef> {
        vec![
            Arc::new(builder.scope.finish()),
            Arc::new(builder.window.finish()),
            Arc::new(builder.doc.finish()),
            times(builder.as_of),
            Arc::new(builder.commit.finish()),
        ]
    }
}
