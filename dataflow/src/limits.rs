//! The numbers that bound what a job does at once and how long it waits, each with its reason.

use std::time::Duration;

/// Slices that may be between the source and tags. Timely's queues are unbounded; this bounds them.
pub(crate) const SLICES_IN_FLIGHT: usize = 4;
/// A slice ends once it is this old, so that the records of a slow stream do not wait.
pub(crate) const SLICE_US: u64 = 50_000;
/// A slice ends once it has this many records: enough that going round the graph costs little.
pub(crate) const SLICE_RECORDS: u64 = 10_000;
/// The most records a source reads in one activation, so that other operators get their turn.
pub(crate) const TURN_RECORDS: usize = 1024;
/// About how much memory the events of one activation may take. The next one reads fewer records if
/// those of the last one took more.
pub(crate) const TURN_BYTES: usize = 2 << 20;
/// How often an idle source looks for new records.
pub(crate) const IDLE_WAIT: Duration = Duration::from_millis(5);

/// A commit of a job that is behind lasts this many intervals: a row is written once for all the
/// changes of a commit, and what is behind is not fresh anyway.
pub(crate) const STRETCH: u64 = 5;
/// The longest that a commit takes records, unless its interval is longer.
pub(crate) const COMMIT_MS_MAX: u64 = 5_000;
/// A commit takes new files of control records until it has this many records: what a commit adds
/// at once stays bounded.
pub(crate) const CONTROL_RECORDS: usize = 10_000;
/// The same for their bytes.
pub(crate) const CONTROL_BYTES: usize = 16 << 20;

/// How often a source looks for new partitions of topics while a commit lasts.
pub(crate) const DISCOVER_US: u64 = 1_000_000;
/// A partition that has unread records but has returned none for this long no longer makes others
/// wait: the topic's broker may be gone, or the writer of a file, in the middle of a line.
pub(crate) const SILENT_US: u64 = 30_000_000;
/// Clocks that differ by more than this are not taken to show the same time.
pub(crate) const AGREE_MS: i64 = 5 * 60_000;
/// How much further ahead another worker's log time may be when a commit ends.
pub(crate) const FLOOR_SLACK_MS: i64 = 10 * 60_000;

/// How long a job that was asked to stop waits for brokers to confirm that a topic is still the one
/// that was read.
pub(crate) const CONFIRM_WAIT_US: u64 = 15_000_000;

/// The longest that the publisher sleeps before it looks whether the job has ended.
pub(crate) const PUBLISH_NAP: Duration = Duration::from_millis(100);
/// A store that has taken no rows for this long is told, and at least this often after that.
pub(crate) const STORE_WAIT_FIRST_US: u64 = 3_000_000;
pub(crate) const STORE_WAIT_LAST_US: u64 = 900_000_000;
/// How long a job that was asked to stop keeps publishing to a store that answers.
pub(crate) const PUBLISH_STOP_US: u64 = 10_000_000;

/// A worker's share of a slice: twice its part, since other workers may read less.
pub(crate) fn slice_share(workers: usize) -> usize {
    assert!(workers > 0, "a job has at least one worker");
    (2 * SLICE_RECORDS as usize / workers).max(TURN_RECORDS)
}
