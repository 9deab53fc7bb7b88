//! A value that differs between two sides: of two states or stores, of a store and its commit, or
//! of a commit and its log.
//!
//! Invariant: a row that only one side has differs in every one of its values, null on the other.

use serde::Serialize;
use serde_json::Value;

/// The table of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RowKind {
    /// Tags, by scope and key.
    Tag,
    /// Boards, by scope and window.
    Board,
    /// The row of a job, with the commit that a store has.
    Job,
    /// Remembered event ids.
    Id,
}

/// A row.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RowKey {
    /// Its scope; empty for the whole stream, and in a table without scopes.
    pub scope: String,
    /// A tag's key, a board's window, an event id (its hash if the id is not known), or nothing.
    pub key: String,
    /// Its table.
    pub kind: RowKind,
}

impl RowKey {
    /// A row of this kind.
    pub fn new(kind: RowKind, scope: &str, key: &str) -> Self {
        Self { scope: scope.to_owned(), key: key.to_owned(), kind }
    }
}

/// The position of a record in a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RecordPosition {
    /// The input's name.
    pub input: String,
    /// The partition.
    pub partition: String,
    /// The position in it.
    pub position: u64,
}

/// A value that differs.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// Its row.
    pub row: RowKey,
    /// Its field, as `checkpoint export` names it; `recent` if only buckets inside the windows
    /// differ, `remembered` for an event id.
    pub field: String,
    /// The value that is checked, or of the first side.
    pub left: Value,
    /// The value that it should be, or of the second side.
    pub right: Value,
    /// The first events that carry the tag or the id, if the log was read.
    pub events: Vec<RecordPosition>,
}

impl Difference {
    /// A difference that no event explains.
    pub fn new(row: RowKey, field: impl Into<String>, left: Value, right: Value) -> Self {
        Self { row, field: field.into(), left, right, events: Vec::new() }
    }
}
