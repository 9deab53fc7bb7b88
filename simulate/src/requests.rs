//! What jobs were asked to do besides reading the log.

use schemas::hash::KeyHash;

use crate::events::ProducedRecord;

/// The last requested correction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CorrectionRequest {
    /// The number of the last control file that holds it.
    pub(crate) number: u64,
    /// The key that it corrects.
    pub(crate) hash: KeyHash,
    /// The commit that it was made from.
    pub(crate) base: u64,
}

/// A refused record whose redelivery was requested.
pub(crate) struct RedeliveryRequest {
    /// The record to count in its place.
    pub(crate) record: ProducedRecord,
    /// The number of the first control file known to hold it, or `u64::MAX`.
    pub(crate) number: u64,
    /// When it was first requested.
    pub(crate) at_ms: i64,
}

/// The records that were redelivered up to a commit.
#[derive(Default)]
pub(crate) struct Redelivered {
    /// Those that count in addition to the log, each in a partition of its own.
    pub(crate) records: Vec<(String, Vec<u8>)>,
    /// Those from a region that has no scope, counted or not.
    pub(crate) elsewhere: u64,
    /// All of them.
    pub(crate) all: u64,
}
