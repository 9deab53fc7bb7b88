//! All limits of the service.

use std::time::Duration;

use schemas::tags::TAG_CODE_POINTS_MAX;

/// Open connections, if the process may open twice as many files. At the limit the slowest or
/// oldest idle connection makes room for a new one.
pub const CONNECTIONS_MAX: usize = 4096;
/// Connections that wait to be accepted. Beyond them, clients try again only after a second.
pub const BACKLOG: i32 = 4096;
/// Connections beyond the limit, for probes alone.
pub const PROBES_MAX: usize = 8;
/// Open connections to the metrics.
pub const ADMIN_CONNECTIONS_MAX: usize = 64;
/// Files that the process may have open, if the system allows it.
pub const OPEN_FILES_MAX: u64 = 65_536;
/// Size of the head of a request.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;
/// What is read of a head that is too large, so that most get an answer that says so.
pub const HEAD_BUFFER_BYTES: usize = 2 * HEAD_BYTES_MAX;
/// Header lines in a request.
pub const HEADERS_MAX: usize = 64;
/// Header lines that are read, so that most heads with too many get an answer that says so.
pub const HEADERS_READ: usize = 1024;
/// Size of the path and query of a request.
pub const TARGET_BYTES_MAX: usize = 2048;
/// Time for the head of a request to arrive, from the start of the connection or the end of the
/// previous answer.
pub const HEAD_WAIT: Duration = Duration::from_secs(5);
/// A client that is not slow sends its first request within this time. When room is short, others
/// make room sooner than it.
pub const FIRST_WAIT: Duration = Duration::from_millis(20);
/// How long a client may read nothing of an answer.
pub const WRITE_WAIT: Duration = Duration::from_secs(15);
/// How long a shutdown waits for unfinished answers.
pub const DRAIN_WAIT: Duration = Duration::from_secs(10);
/// Tags of a board on the front page.
pub const FRONT_PAGE_TAGS: usize = 25;

const _: () = assert!(TARGET_BYTES_MAX < HEAD_BYTES_MAX, "the target is part of the head");
const _: () = assert!(
    "/t/?scope=".len() + 12 * TAG_CODE_POINTS_MAX < TARGET_BYTES_MAX / 4 * 3,
    "the longest name, percent-encoded, leaves room for a scope"
);
