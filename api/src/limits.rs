//! What the service takes from a client, in one place.

use std::time::Duration;

/// Connections at a time; further ones wait to be accepted.
pub const CONNECTIONS_MAX: usize = 1024;
/// The whole head of a request, in bytes.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Header lines of a request.
pub const HEADERS_MAX: usize = 64;
/// Path and query of a request, in bytes.
pub const TARGET_BYTES_MAX: usize = 2048;
/// From the first byte of a connection, or the last one of an answer, to the end of a head.
pub const HEAD_WAIT: Duration = Duration::from_secs(5);
/// How long a client may take none of an answer's bytes.
pub const WRITE_WAIT: Duration = Duration::from_secs(15);
/// How long a shutdown waits for answers under way.
pub const DRAIN_WAIT: Duration = Duration::from_secs(10);
/// Places of a board that the front page shows.
pub const FRONT_PAGE_TAGS: usize = 25;

const _: () = assert!(TARGET_BYTES_MAX < HEAD_BYTES_MAX);
