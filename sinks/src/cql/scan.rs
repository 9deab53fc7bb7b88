//! Reads everything that a keyspace serves, page by page.
//!
//! Invariant: every row is passed on unchanged, even one with a column missing, since the callers
//! look for such rows.

use futures::TryStreamExt;
use scylla::DeserializeRow;
use scylla::client::session::Session;
use scylla::deserialize::row::DeserializeRow as Row;
use scylla::statement::unprepared::Statement;
use scylla::value::CqlTimestamp;

use super::check::PROBE;
use super::session::{connect, profile, query_rows};
use super::{CqlError, CqlSettings, job_row, schema};
use crate::publish::JobRow;
use crate::store::{ServedBoard, ServedTag};

/// The rows in one page.
const PAGE_ROWS: i32 = 1000;

/// A keyspace to read as a whole. Does not follow promotions.
pub struct CqlScan {
    session: Session,
    keyspace: String,
}

/// The same with an existing session.
pub(super) struct Scan<'s> {
    pub(super) session: &'s Session,
    pub(super) keyspace: &'s str,
}

#[derive(DeserializeRow)]
struct TagColumns {
    scope: String,
    tag: String,
    display: Option<String>,
    total: Option<i64>,
    recent: Option<Vec<u8>>,
    first_seen: Option<CqlTimestamp>,
    last_seen: Option<CqlTimestamp>,
    as_of: Option<CqlTimestamp>,
    version: Option<i64>,
}

impl From<TagColumns> for ServedTag {
    fn from(row: TagColumns) -> Self {
        let [first_seen, last_seen, as_of] =
            [row.first_seen, row.last_seen, row.as_of].map(|time| time.map(|time| time.0));
        let TagColumns { scope, tag, display, total, recent, version, .. } = row;
        Self { scope, tag, display, total, recent, first_seen, last_seen, as_of, version }
    }
}

impl CqlScan {
    /// Connects.
    pub async fn open(settings: &CqlSettings) -> Result<Self, CqlError> {
        let session = connect(settings, profile(settings).build()).await?;
        schema::verify(&session, &settings.keyspace).await?;
        Ok(Self { session, keyspace: settings.keyspace.clone() })
    }

    /// The row of its job; an error if nothing was ever published.
    pub async fn job(&self) -> Result<JobRow, CqlError> {
        let keyspace = &self.keyspace;
        let select = self.session.prepare(job_row::select_all_text(keyspace)).await?;
        let row = job_row::only(&self.session, &select, keyspace).await?;
        row.ok_or_else(|| CqlError::Fatal(format!("keyspace {keyspace:?} has no published commit")))
    }

    /// One row of table `tag`.
    pub async fn tag(&self, scope: &str, tag: &str) -> Result<Option<ServedTag>, CqlError> {
        self.scan().tag(scope, tag).await
    }

    /// Calls `each` with every row of table `tag`.
    pub async fn tags(&self, each: impl FnMut(ServedTag)) -> Result<(), CqlError> {
        self.scan().tags(each).await
    }

    /// Calls `each` with every row of table `board`.
    pub async fn boards(&self, each: impl FnMut(ServedBoard)) -> Result<(), CqlError> {
        self.scan().boards(each).await
    }

    fn scan(&self) -> Scan<'_> {
        Scan { session: &self.session, keyspace: &self.keyspace }
    }
}

impl Scan<'_> {
    async fn tag(&self, scope: &str, tag: &str) -> Result<Option<ServedTag>, CqlError> {
        let text = format!("{} WHERE scope = ? AND tag = ?", self.tag_text());
        let rows = query_rows(self.session, text, (scope, tag)).await?;
        let row = rows.maybe_first_row::<TagColumns>();
        Ok(row.map_err(CqlError::unclear)?.map(ServedTag::from))
    }

    fn tag_text(&self) -> String {
        format!(
            "SELECT scope, tag, display, total, recent, first_seen, last_seen, as_of, version \
             FROM \"{}\".tag",
            self.keyspace
        )
    }

    pub(super) async fn tags(&self, mut each: impl FnMut(ServedTag)) -> Result<(), CqlError> {
        self.rows::<TagColumns>(self.tag_text(), |row| each(row.into())).await
    }

    pub(super) async fn boards(&self, mut each: impl FnMut(ServedBoard)) -> Result<(), CqlError> {
        type Columns = (String, String, Option<Vec<u8>>, Option<CqlTimestamp>, Option<i64>);
        let keyspace = self.keyspace;
        let text = format!("SELECT scope, win, doc, as_of, version FROM \"{keyspace}\".board");
        let of = |(scope, window, doc, as_of, version): Columns| {
            // `store check` writes this row.
            if scope != PROBE {
                let as_of = as_of.map(|as_of| as_of.0);
                each(ServedBoard { scope, window, doc, as_of, version });
            }
        };
        self.rows::<Columns>(text, of).await
    }

    async fn rows<R>(&self, text: String, mut each: impl FnMut(R)) -> Result<(), CqlError>
    where
        R: for<'f, 'm> Row<'f, 'm> + 'static,
    {
        let mut statement = Statement::new(text);
        statement.set_page_size(PAGE_ROWS);
        statement.set_is_idempotent(true);
        let broken = |error: String| CqlError::silent(error);
        let pages = self.session.query_iter(statement, ()).await;
        let pages = pages.map_err(|error| broken(error.to_string()))?;
        let mut rows = pages.rows_stream::<R>().map_err(|error| broken(error.to_string()))?;
        while let Some(row) = rows.try_next().await.map_err(|error| broken(error.to_string()))? {
            each(row);
        }
        Ok(())
    }
}
