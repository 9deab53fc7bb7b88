//! The dead letters of one operator in the commit under way.
//!
//! Invariant: a row always has its position, its reason and the beginning of its record, and says
//! how large the record is; how much of it is kept depends on the commit's budget.

use std::sync::Arc;

use schemas::rows::{DeadLetterRow, DeadLetters, partition_hash, record_hash};
use schemas::segment::Rows;

use crate::process::ProcessShared;

/// A detail is cut after this many bytes: it may quote a value of the record.
const DETAIL_BYTES: usize = 512;

/// A refused record and where it is.
#[derive(Clone, Copy)]
pub(crate) struct Refused<'r> {
    pub(crate) input: &'r str,
    pub(crate) partition: &'r str,
    pub(crate) position: u64,
    /// The record, or its beginning.
    pub(crate) raw: &'r [u8],
    /// How many bytes the record has.
    pub(crate) bytes: u64,
}

/// Collects dead letters.
pub(crate) struct Refusals {
    process: Arc<ProcessShared>,
    rows: Rows<DeadLetters>,
    commit: u64,
}

impl Refusals {
    /// None yet, in `commit`.
    pub(crate) fn new(process: Arc<ProcessShared>, commit: u64) -> Self {
        Self { process, rows: Rows::default(), commit }
    }

    /// Leaves a dead letter. Counting it is up to the caller.
    pub(crate) fn add(&mut self, record: Refused<'_>, reason: &str, detail: &str) {
        let Refused { input, partition, position, raw, bytes } = record;
        let kept = self.process.budget.kept(self.commit, raw);
        let detail = &detail[..detail.floor_char_boundary(DETAIL_BYTES)];
        let row = DeadLetterRow {
            input,
            partition,
            position,
            reason,
            detail,
            raw: kept,
            commit: self.commit,
            bytes,
        };
        let before = self.rows.bytes();
        self.rows.push(record_hash(partition_hash(input, partition), position), &row);
        self.process.budget.hold(self.commit, self.rows.bytes() - before);
    }

    /// Ends the commit: its rows. What follows belongs to the next one.
    pub(crate) fn close(&mut self) -> Rows<DeadLetters> {
        self.commit += 1;
        std::mem::take(&mut self.rows)
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }
}
