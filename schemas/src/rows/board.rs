//! The row of a board: the top tags of one window in one scope, as one document.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use super::column::{Column, Text, TimeMs, UInt64, columns};
use super::table::{Served, Table, TableName};
use crate::hash::KeyHash;

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
    /// A JSON list of [`BoardEntry`], by descending count, then by ascending bytes of the key.
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

impl Table for Boards {
    const NAME: TableName = TableName::new("boards");
    const SERVED: Option<Served<Self>> = Some(Served {
        key: |_, row| board_hash(row.scope, row.window),
        commit: |row| row.commit,
        as_of_ms: |row| row.as_of,
        restamp: |row, commit| row.commit = commit,
        clear: |row| row.doc = "[]",
    });

    columns!(BoardRow {
        scope: Text,
        window as "win": Text,
        doc: Text,
        as_of: TimeMs,
        commit: UInt64,
    });
}
