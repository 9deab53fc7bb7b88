//! The row of a record that was not counted, or that was counted by a decision that cannot be
//! derived from the log. Keyed by (input, partition, position), so that crashes do no harm.

use std::sync::Arc;

use arrow_array::{ArrayRef, UInt64Array};
use xxhash_rust::xxh3::xxh3_64;

use super::column::{Bytes, Column, Text, UInt64, columns};
use super::table::{Table, TableName};
use crate::event::Reject;
use crate::hash::KeyHash;

/// The reason for an event that is dated too far ahead of the clock.
pub const FUTURE: &str = "future";
/// The reason for an event that is too old for its id to be remembered.
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
    /// The code of the reason: one of [`crate::event::Reject`], or one of the two above.
    pub reason: &'a str,
    /// What exactly is wrong.
    pub detail: &'a str,
    /// The record as it was read, or only its beginning: see [`Self::is_cut`].
    pub raw: &'a [u8],
    /// The commit it belongs to.
    pub commit: u64,
    /// How many bytes the record has. 0 in rows of older builds, which did not say.
    pub bytes: u64,
}

impl DeadLetterRow<'_> {
    /// Whether only the beginning of the record is kept: it is too large, or there were too many.
    pub fn is_cut(&self) -> bool {
        match self.bytes {
            0 => self.reason == Reject::TooLarge(0).code(),
            bytes => bytes > self.raw.len() as u64,
        }
    }

    /// How many bytes the record has, as far as the row says.
    pub fn size(&self) -> u64 {
        self.bytes.max(self.raw.len() as u64)
    }
}

/// The high word of a partition's dead letters, so that they sort together.
pub fn partition_hash(input: &str, partition: &str) -> u64 {
    xxh3_64([input, "\0", partition].concat().as_bytes())
}

/// The key of the dead letter at `position`.
pub fn record_hash(partition: u64, position: u64) -> KeyHash {
    KeyHash { hi: partition, lo: position }
}

impl Table for DeadLetters {
    const NAME: TableName = TableName::new("dead_letters");

    columns!(DeadLetterRow {
        input: Text,
        partition: Text,
        position: UInt64,
        reason: Text,
        detail: Text,
        raw: Bytes,
        commit: UInt64,
        bytes: UInt64,
    });

    fn added(rows: usize) -> Vec<ArrayRef> {
        vec![Arc::new(UInt64Array::from_value(0, rows))]
    }
}
