//! The numbers that bound what a job does at once, and how long it waits: all in one place, each
//! with its reason.

use std::time::Duration;

/// Slices that may be between source and tags. Timely's queues are unbounded; this bounds them.
pub(crate) const SLICES_IN_FLIGHT: usize = 4;
/// A slice ends once it is this old, so that a slow stream is seen soon.
pub(crate) const SLICE_US: u64 = 50_000;
/// A slice ends once it has this many records, so that few are between operators.
pub(crate) const SLICE_RECORDS: u64 = 10_000;
/// The most records a source reads in one activation, so that other operators get their turn.
pub(crate) const TURN_RECORDS: usize = 1024;
/// How often an idle source looks for new records.
pub(crate) const IDLE_WAIT: Duration = Duration::from_millis(5);

/// A topic's partition that should have records but has returned none for this long makes no other
/// partition wait.
pub(crate) const SILENT_US: u64 = 30_000_000;

/// A worker's share of a slice; twice its part, since other workers may read less.
pub(crate) fn slice_share(workers: usize) -> usize {
    assert!(workers > 0, "a job has at least one worker: checked where it starts");
    (2 * SLICE_RECORDS as usize / workers).max(TURN_RECORDS)
}
