//! Sends rows, each in its own request, as many at a time as the database takes.
//!
//! Every row of `tag` and `board` is a partition, so a batch would save nothing: it only moves the
//! fan-out to one coordinator. The outcome of a row is acknowledged, refused or unknown. The driver
//! retries nothing, since the caller does.

use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use scylla::client::session::Session;
use scylla::statement::prepared::PreparedStatement;
use scylla::value::CqlTimestamp;
use tokio::time::Instant;

use super::concurrency::Concurrency;
use super::error::Failed;
use crate::publish::{Content, Outcome, PublishRow};

/// The most bytes in flight.
const IN_FLIGHT_BYTES: usize = 32 << 20;
/// The largest row that is sent: servers close the connection if a row is too large.
pub(super) const ROW_BYTES_MAX: usize = 8 << 20;
/// The bytes of a row besides its texts.
const ROW_BYTES: usize = 128;
/// After this many failures without an answer the database is gone, and the rest can wait.
const GONE_AFTER: usize = 256;

/// The statements that write rows.
#[derive(Clone, Debug)]
pub(super) struct Upserts {
    pub(super) tag: PreparedStatement,
    pub(super) board: PreparedStatement,
}

/// The result of a wave.
#[derive(Debug, Default)]
pub(super) struct Sent {
    /// The outcomes of the rows that were sent, in their order; the rest were not sent.
    pub(super) outcomes: Vec<Outcome>,
    /// Whether any row was answered.
    pub(super) answered: bool,
    /// The last temporary problem.
    pub(super) trouble: Option<String>,
    /// Why the database would take no row.
    pub(super) fatal: Option<String>,
}

/// Sends `rows`; returns once every row that was sent is answered or has failed.
pub(super) async fn send(
    session: &Session,
    upserts: &Upserts,
    rows: &[PublishRow],
    limit: &mut Concurrency,
) -> Sent {
    let mut sent = Sent::default();
    let mut flights = FuturesUnordered::new();
    let (mut bytes, mut failures) = (0, 0);
    loop {
        while flights.len() < limit.limit()
            && (sent.answered || failures < GONE_AFTER)
            && sent.fatal.is_none()
            && let Some(row) = rows.get(sent.outcomes.len())
            && (bytes == 0 || bytes + size(row) <= IN_FLIGHT_BYTES)
        {
            let index = sent.outcomes.len();
            sent.outcomes.push(Outcome::Unknown);
            bytes += size(row);
            flights.push(async move {
                let began = Instant::now();
                let done = upsert(session, upserts, row).await;
                (index, size(row), done, began.elapsed())
            });
        }
        let Some((index, length, done, took)) = flights.next().await else {
            debug_assert_eq!(bytes, 0, "bytes in flight without a request");
            return sent;
        };
        assert!(length <= bytes, "{length} bytes answered of {bytes} in flight");
        bytes -= length;
        failures += usize::from(done.is_err());
        sent.outcomes[index] = sent.learn(done, took, limit);
    }
}

impl Sent {
    fn learn(
        &mut self,
        done: Result<(), Failed>,
        took: Duration,
        limit: &mut Concurrency,
    ) -> Outcome {
        match done {
            Ok(()) => {
                self.answered = true;
                limit.answered(took);
                Outcome::Acknowledged
            }
            Err(Failed::Refused(why)) => {
                self.answered = true;
                Outcome::Refused(why)
            }
            Err(Failed::Fatal(why)) => {
                self.fatal.get_or_insert(why);
                Outcome::Unknown
            }
            Err(Failed::Overload(why)) => {
                limit.overloaded();
                self.trouble = Some(why);
                Outcome::Unknown
            }
            Err(Failed::Broken(why)) => {
                self.trouble = Some(why);
                Outcome::Unknown
            }
        }
    }
}

/// About the bytes of a row on the wire.
fn size(row: &PublishRow) -> usize {
    ROW_BYTES
        + match &row.content {
            Content::Tag { scope, tag, display, recent, .. } => {
                scope.len() + tag.len() + display.len() + recent.len()
            }
            Content::Board { scope, window, doc, .. } => scope.len() + window.len() + doc.len(),
        }
}

async fn upsert(session: &Session, upserts: &Upserts, row: &PublishRow) -> Result<(), Failed> {
    if size(row) > ROW_BYTES_MAX {
        let length = size(row);
        return Err(Failed::Refused(format!(
            "the row has {length} bytes, and the most is {ROW_BYTES_MAX}"
        )));
    }
    let version = row.version;
    let done = match &row.content {
        Content::Tag { scope, tag, display, total, recent, first_seen, last_seen, as_of } => {
            let [first, last, at] = [first_seen, last_seen, as_of].map(|ms| CqlTimestamp(*ms));
            let values = (scope, tag, display, total, recent, first, last, at, version, version);
            session.execute_unpaged(&upserts.tag, values).await
        }
        Content::Board { scope, window, doc, as_of } => {
            let values = (scope, window, doc.as_bytes(), CqlTimestamp(*as_of), version, version);
            session.execute_unpaged(&upserts.board, values).await
        }
    };
    done.map(drop).map_err(|error| Failed::from(&error))
}

/// The statement that writes a tag.
pub(super) fn tag_text(keyspace: &str) -> String {
    format!(
        "INSERT INTO \"{keyspace}\".tag (scope, tag, display, total, recent, first_seen, \
         last_seen, as_of, version) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ?"
    )
}

/// The statement that writes a board.
pub(super) fn board_text(keyspace: &str) -> String {
    format!(
        "INSERT INTO \"{keyspace}\".board (scope, win, doc, as_of, version) \
         VALUES (?, ?, ?, ?, ?) USING TIMESTAMP ?"
    )
}
