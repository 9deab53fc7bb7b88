//! All limits of the service.

use std::time::Duration;

/// Open connections; further ones wait to be accepted.
pub const CONNECTIONS_MAX: usize = 1024;
/// Size of the head of a request.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Header lines in a request.
pub const HEADERS_MAX: usize = 64;
/// Size of the path and query of a request.
pub const TARGET_BYTES_MAX: usize = 2048;
/// Time for the head of a request to arrive, from the start of the connection or the end of the
/// previous answer.
pub const HEAD_WAIT: Duration = Duration::from_secs(5);
/// How long a client may read nothing of an answer.
pub const WRITE_WAIT: Duration = Duration::from_secs(15);
/// How long a shutdown waits for unfinished answers.
pub const DRAIN_WAIT: Duration = Duration::from_secs(10);
/// Tags of a board on the front page.
pub const FRONT_PAGE_TAGS: usize = 25;

const _: () = assert!(TARGET_BYTES_MAX < HEAD_BYTES_MAX, "the target is part of the head");
