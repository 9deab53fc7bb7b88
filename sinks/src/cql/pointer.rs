//! The row of table `reader`: the active keyspace of the readers that were given this one.
//!
//! Invariant: the row is written at the time of its promotion, so the later of two promotions wins.
//! What a promotion is, and how readers follow it, is in [`crate::active`].

use scylla::client::session::Session;
use scylla::statement::unprepared::Statement;
use scylla::value::CqlTimestamp;

use super::session::{connect, consistency, profile, query_rows};
use super::{CqlError, CqlSettings, job_row, schema};
use crate::active::{self, Pointer, Promoted, Promoter};
use crate::publish::JobRow;

/// The key of the only row.
const NAME: &str = "readers";

/// The statement that reads the row.
pub(super) fn select_text(keyspace: &str) -> String {
    format!(
        "SELECT keyspace_name, writetime(keyspace_name) FROM \"{keyspace}\".reader \
         WHERE name = '{NAME}'"
    )
}

/// The row, if a keyspace was ever promoted.
pub(super) async fn read(session: &Session, keyspace: &str) -> Result<Option<Pointer>, CqlError> {
    let mut select = Statement::new(select_text(keyspace));
    select.set_is_idempotent(true);
    let rows = query_rows(session, select, ()).await?;
    let row = rows.maybe_first_row::<(Option<String>, Option<i64>)>();
    let row = row.map_err(CqlError::unclear)?;
    Ok(row.and_then(|(keyspace, written)| {
        Some(Pointer { keyspace: keyspace?, written_us: written? })
    }))
}

/// A session for a promotion.
struct Cql<'s> {
    session: Session,
    settings: &'s CqlSettings,
    wall_ms: i64,
}

impl Promoter for Cql<'_> {
    type Error = CqlError;

    async fn verify(&self, keyspace: &str) -> Result<(), CqlError> {
        schema::verify(&self.session, keyspace).await
    }

    async fn job(&self, keyspace: &str) -> Result<Option<JobRow>, CqlError> {
        let select = self.session.prepare(job_row::select_all_text(keyspace)).await?;
        job_row::only(&self.session, &select, keyspace).await
    }

    async fn pointer(&self, given: &str) -> Result<Option<Pointer>, CqlError> {
        read(&self.session, given).await
    }

    async fn point(&self, given: &str, to: &Pointer) -> Result<(), CqlError> {
        let mut upsert = Statement::new(format!(
            "INSERT INTO \"{given}\".reader (name, keyspace_name, promoted) VALUES (?, ?, ?) \
             USING TIMESTAMP ?"
        ));
        upsert.set_consistency(consistency(self.settings.consistency.write));
        upsert.set_is_idempotent(true);
        let values = (NAME, &to.keyspace, CqlTimestamp(self.wall_ms), to.written_us);
        self.session.query_unpaged(upsert, values).await?;
        Ok(())
    }

    fn permanent(what: String) -> CqlError {
        CqlError::Fatal(what)
    }
}

/// Makes `keyspace` active for all readers that were given the keyspace of `settings`. `wall_ms` is
/// this host's clock.
pub async fn promote(
    settings: &CqlSettings,
    keyspace: &str,
    wall_ms: i64,
) -> Result<Promoted, CqlError> {
    let session = connect(settings, profile(settings).build()).await?;
    let database = Cql { session, settings, wall_ms };
    active::promote(&database, &settings.keyspace, keyspace, wall_ms).await
}
