//! The row of a tag in a scope, which holds what its page shows.

use super::column::{Bytes, Column, Int64, Text, TimeMs, UInt64, columns};
use super::table::{Served, Table, TableName};
use crate::hash::KeyHash;

/// The table of tags.
pub struct Tags;

/// One tag in one scope. A total of 0 means that no live post has the tag any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TagRow<'a> {
    /// What the count is grouped by, such as `region=eu`; `""` is the whole stream.
    pub scope: &'a str,
    /// The key.
    pub tag: &'a str,
    /// The spelling in the accepted event with the smallest (ts, bytes).
    pub display: &'a str,
    /// The number of posts.
    pub total: i64,
    /// The buckets ([`crate::windows::Buckets`]), folded at `as_of`.
    pub recent: &'a [u8],
    /// The earliest event time.
    pub first_seen: i64,
    /// The latest event time.
    pub last_seen: i64,
    /// The stream time of the commit that last changed the row.
    pub as_of: i64,
    /// That commit.
    pub commit: u64,
}

impl Table for Tags {
    const NAME: TableName = TableName::new("tags");
    const SERVED: Option<Served<Self>> = Some(Served {
        key: |hasher, row| hasher.scoped(row.scope, hasher.tag(row.tag)),
        commit: |row| row.commit,
        as_of_ms: |row| row.as_of,
        restamp: |row, commit| row.commit = commit,
        clear: |row| (row.total, row.recent) = (0, &[]),
    });

    columns!(TagRow {
        scope: Text,
        tag: Text,
        display: Text,
        total: Int64,
        recent: Bytes,
        first_seen: TimeMs,
        last_seen: TimeMs,
        as_of: TimeMs,
        commit: UInt64,
    });
}
