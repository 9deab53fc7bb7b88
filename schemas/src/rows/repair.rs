//! The audit row of a control record that was applied. Its key begins with the high word of the key
//! that was changed, so that the same worker owns both.

use xxhash_rust::xxh3::xxh3_64;

use super::column::{Column, Text, TimeMs, UInt64, columns};
use super::table::{Table, TableName};
use crate::hash::KeyHash;

/// The table of applied control records.
pub struct Repairs;

/// One control record that was applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RepairRow<'a> {
    /// The number of the file with the request.
    pub request: u64,
    /// What was done: `correct`, `remember`, `forget`, `republish`, or the outcome of a redelivered
    /// record.
    pub kind: &'a str,
    /// The scope of a tag; the input of a record.
    pub scope: &'a str,
    /// The key of a tag, an event id, or the partition of a record.
    pub key: &'a str,
    /// The low word of the key's hash; the position of a record.
    pub lo: u64,
    /// The state before: a JSON object of fields, or the record that was refused.
    pub before: &'a str,
    /// The state after: the same fields, or the record that was counted.
    pub after: &'a str,
    /// Who requested it.
    pub who: &'a str,
    /// Why.
    pub why: &'a str,
    /// When, in milliseconds since 1970.
    pub when_ms: i64,
    /// The commit that the request was based on.
    pub base: u64,
    /// The commit it was applied in.
    pub commit: u64,
}

impl RepairRow<'_> {
    /// The key that was changed, given the row's own key.
    pub fn changed(&self, hash: KeyHash) -> KeyHash {
        KeyHash { hi: hash.hi, lo: self.lo }
    }
}

/// The key of the row about the change that file `request` made to `changed`.
pub fn repair_hash(changed: KeyHash, request: u64) -> KeyHash {
    let bytes = [changed.lo.to_le_bytes(), request.to_le_bytes()].concat();
    KeyHash { hi: changed.hi, lo: xxh3_64(&bytes) }
}

impl Table for Repairs {
    const NAME: TableName = TableName::new("repairs");

    columns!(RepairRow {
        request: UInt64,
        lo: UInt64,
        base: UInt64,
        commit: UInt64,
        kind: Text,
        scope: Text,
        key: Text,
        before: Text,
        after: Text,
        who: Text,
        why: Text,
        when_ms as "when": TimeMs,
    });
}
