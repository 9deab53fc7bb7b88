//! The row of table `job`: which commit the keyspace holds, and what readers need to know about it.

use schemas::windows::{Window, Windows};
use scylla::DeserializeRow;
use scylla::client::session::Session;
use scylla::statement::prepared::PreparedStatement;
use scylla::value::{CqlTimestamp, MaybeUnset};
use serde::Serialize;

use super::CqlError;
use crate::publish::JobRow;

const COLUMNS: &str =
    "name, history, generation, owner, published, version, as_of, wall, windows, scopes";

/// The statement that writes the row.
pub(super) fn upsert_text(keyspace: &str) -> String {
    format!(
        "INSERT INTO \"{keyspace}\".job ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) \
         USING TIMESTAMP ?"
    )
}

/// The statement that reads two rows: there should be only one job in a keyspace.
pub(super) fn select_all_text(keyspace: &str) -> String {
    format!("SELECT {COLUMNS} FROM \"{keyspace}\".job LIMIT 2")
}

/// The statement that reads the row of one job.
pub(super) fn select_text(keyspace: &str) -> String {
    format!("SELECT {COLUMNS} FROM \"{keyspace}\".job WHERE name = ?")
}

/// The values of the statement that writes the row.
pub(super) type Values<'r> = (
    &'r str,
    i64,
    i64,
    &'r str,
    i64,
    i64,
    MaybeUnset<CqlTimestamp>,
    CqlTimestamp,
    String,
    MaybeUnset<String>,
    i64,
);

/// The values of the statement that writes `row`. A value that is not known is left unset, since a
/// null would be a deletion.
pub(super) fn values(row: &JobRow) -> Values<'_> {
    for number in [row.history, row.generation, row.published] {
        assert!(i64::try_from(number).is_ok(), "{number} does not fit a bigint");
    }
    let windows: Vec<Window> = row.windows.clone().into();
    (
        &row.name,
        row.history as i64,
        row.generation as i64,
        &row.owner,
        row.published as i64,
        row.version,
        row.as_of_ms.map_or(MaybeUnset::Unset, |ms| MaybeUnset::Set(CqlTimestamp(ms))),
        CqlTimestamp(row.wall_ms),
        json(&windows),
        row.scopes.as_ref().map_or(MaybeUnset::Unset, |scopes| MaybeUnset::Set(json(scopes))),
        row.version,
    )
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value)
        .unwrap_or_else(|error| unreachable!("numbers and texts have a JSON form: {error}"))
}

#[derive(DeserializeRow)]
struct Columns {
    name: String,
    history: Option<i64>,
    generation: Option<i64>,
    owner: Option<String>,
    published: Option<i64>,
    version: Option<i64>,
    as_of: Option<CqlTimestamp>,
    wall: Option<CqlTimestamp>,
    windows: Option<String>,
    scopes: Option<String>,
}

impl Columns {
    fn row(self) -> Result<JobRow, CqlError> {
        let name = self.name;
        let damaged = |what: &str| {
            let cure = "`tagflow store rebuild` writes it again";
            CqlError::Fatal(format!("the row of job {name:?} has no usable {what}; {cure}"))
        };
        let number = |value: Option<i64>, what| {
            value.and_then(|number| u64::try_from(number).ok()).ok_or_else(|| damaged(what))
        };
        let windows = self.windows.and_then(|windows| serde_json::from_str(&windows).ok());
        let windows: Windows = windows.ok_or_else(|| damaged("definition of its windows"))?;
        let scopes = self.scopes.as_deref().map(serde_json::from_str).transpose();
        Ok(JobRow {
            history: number(self.history, "history")?,
            generation: number(self.generation, "generation")?,
            owner: self.owner.ok_or_else(|| damaged("owner"))?,
            published: number(self.published, "commit")?,
            version: self.version.ok_or_else(|| damaged("version"))?,
            as_of_ms: self.as_of.map(|time| time.0),
            wall_ms: self.wall.ok_or_else(|| damaged("time"))?.0,
            windows,
            scopes: scopes.map_err(|_| damaged("list of scopes"))?,
            name,
        })
    }
}

/// The rows that `select` finds; `name` is for the statement that reads the row of one job.
pub(super) async fn read(
    session: &Session,
    select: &PreparedStatement,
    name: Option<&str>,
) -> Result<Vec<JobRow>, CqlError> {
    let result = match name {
        Some(name) => session.execute_unpaged(select, (name,)).await?,
        None => session.execute_unpaged(select, ()).await?,
    };
    let broken = |error: String| CqlError::silent(error);
    let rows = result.into_rows_result().map_err(|error| broken(error.to_string()))?;
    let rows = rows.rows::<Columns>().map_err(|error| CqlError::Fatal(error.to_string()))?;
    let rows = rows.map(|row| row.map_err(|error| broken(error.to_string()))?.row());
    rows.collect()
}

/// The row of the only job in a keyspace; `None` before anything is published.
pub(super) async fn only(
    session: &Session,
    select_all: &PreparedStatement,
    keyspace: &str,
) -> Result<Option<JobRow>, CqlError> {
    let mut rows = read(session, select_all, None).await?;
    match rows.len() {
        0 | 1 => Ok(rows.pop()),
        _ => {
            let names: Vec<_> = rows.iter().map(|row| format!("{:?}", row.name)).collect();
            Err(CqlError::Fatal(format!(
                "keyspace {keyspace:?} holds the jobs {}, but one keyspace is for one job",
                names.join(" and ")
            )))
        }
    }
}
