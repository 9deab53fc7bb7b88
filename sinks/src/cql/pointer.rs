//! The row of table `reader`: which keyspace those see who were given this one.
//!
//! Invariant: of two promotions the later one counts, whatever replica is asked, and no keyspace
//! is promoted that has nothing to show.

use scylla::client::session::Session;
use scylla::statement::unprepared::Statement;
use scylla::value::CqlTimestamp;

use super::session::{connect, consistency, profile, query_rows};
use super::{CqlError, CqlSettings, job_row, schema};
use crate::publish::JobRow;

/// The key of the only row.
const NAME: &str = "readers";

/// What readers are to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pointer {
    /// The keyspace.
    pub(super) keyspace: String,
    /// When that was said, in microseconds.
    pub(super) written_us: i64,
}

/// The statement that reads the row.
pub(super) fn select_text(keyspace: &str) -> String {
    format!(
        "SELECT keyspace_name, writetime(keyspace_name) FROM \"{keyspace}\".reader \
         WHERE name = '{NAME}'"
    )
}

/// The row, where anything was ever promoted.
pub(super) async fn read(session: &Session, keyspace: &str) -> Result<Option<Pointer>, CqlError> {
    let mut select = Statement::new(select_text(keyspace));
    select.set_is_idempotent(true);
    let rows = query_rows(session, select, ()).await?;
    let row = rows.maybe_first_row::<(Option<String>, Option<i64>)>();
    let row = row.map_err(|error| CqlError::Unavailable(error.to_string()))?;
    Ok(row.and_then(|(keyspace, written)| {
        Some(Pointer { keyspace: keyspace?, written_us: written? })
    }))
}

/// A promotion that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promoted {
    /// The keyspace that readers were shown before.
    pub before: String,
    /// What they are shown now.
    pub shown: JobRow,
}

/// Shows `keyspace` to all readers that were given the keyspace of `settings`. `wall_ms` is this
/// host's clock.
pub async fn promote(
    settings: &CqlSettings,
    keyspace: &str,
    wall_ms: i64,
) -> Result<Promoted, CqlError> {
    let session = connect(settings, profile(settings).build()).await?;
    let given = &settings.keyspace;
    schema::verify(&session, given).await?;
    schema::verify(&session, keyspace).await?;
    let select = session.prepare(job_row::select_all_text(keyspace)).await?;
    let Some(shown) = job_row::only(&session, &select, keyspace).await? else {
        return Err(CqlError::Fatal(format!(
            "keyspace {keyspace:?} has no published commit, so readers would see nothing: let a \
             job or `tagflow store rebuild` fill it first"
        )));
    };
    let before = read(&session, given).await?;
    // A clock that goes behind another's must not lose against it.
    let after = before.as_ref().map_or(i64::MIN, |before| before.written_us + 1);
    let at = after.max(wall_ms * 1000);
    let mut upsert = Statement::new(format!(
        "INSERT INTO \"{given}\".reader (name, keyspace_name, promoted) VALUES (?, ?, ?) \
         USING TIMESTAMP ?"
    ));
    upsert.set_consistency(consistency(settings.consistency.write));
    upsert.set_is_idempotent(true);
    session.query_unpaged(upsert, (NAME, keyspace, CqlTimestamp(wall_ms), at)).await?;
    Ok(Promoted { before: before.map_or_else(|| given.clone(), |before| before.keyspace), shown })
}
