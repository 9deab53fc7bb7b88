//! Sending rows: many at a time, as many as the database takes, each on its own.
//!
//! Every row of `tag` and `board` is a partition of its own, so no batch would save anything: a
//! batch over partitions only moves the fan-out to one coordinator. A row's outcome is
//! acknowledged, refused or unknown; the driver repeats nothing, since the caller does.

use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use scylla::client::session::Session;
use scylla::statement::prepared::PreparedStatement;
use scylla::value::CqlTimestamp;
use tokio::time::Instant;

use super::CqlError;
use super::concurrency::Concurrency;
use super::error::Failed;
use crate::publish::{Content, Outcome, PublishRow};

/// The bytes in flight at most.
const IN_FLIGHT_BYTES: usize = 32 << 20;
/// A longer row is not sent: servers close the connection over it instead of an answer.
pub(super) const ROW_BYTES_MAX: usize = 8 << 20;
/// What a row takes besides its texts.
const ROW_BYTES: usize = 128;
/// So many failures without one answer among them: the database is gone, and the rest can wait.
const GONE_AFTER: usize = 256;

/// The statements that write rows.
#[derive(Clone, Debug)]
pub(super) struct Upserts {
    pub(super) tag: PreparedStatement,
    pub(super) board: PreparedStatement,
}

/// What came of a wave.
#[derive(Debug, Default)]
pub(super) struct Sent {
    /// Of each row that was sent, in their order; those behind were not.
    pub(super) outcomes: Vec<Outcome>,
    /// Whether any row was answered at all.
    pub(super) answered: bool,
    /// The last trouble that passes.
    pub(super) trouble: Option<String>,
    /// Why no row would be taken.
    pub(super) fatal: Option<String>,
}

/// Sends `rows`; returns when everything sent is answered or given up.
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
        let Some((index, length, done, took)) = flights.next().await else { return sent };
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

/// About as many bytes as a row takes on the wire.
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
        return Err(Failed::Refused(format!("{length} bytes; at most {ROW_BYTES_MAX} are sent")));
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

impl From<CqlError> for Failed {
    fn from(error: CqlError) -> Self {
        match error {
            CqlError::Unavailable(why) => Self::Broken(why),
            CqlError::Fatal(why) => Self::Fatal(why),
        }
    }
}
