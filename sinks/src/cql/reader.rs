//! Reads the store: one row for a tag's page, and the job's row in the background.
//!
//! Invariants: an answer names a commit whose rows are all here; its own row may be newer, but with
//! a working quorum never older. Within a keyspace, answers never go back to an older commit.
//! [`crate::active`] decides which keyspace is read.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use schemas::rows::TagRow;
use schemas::tags::TagRules;
use schemas::windows::Window;
use scylla::DeserializeRow;
use scylla::client::session::Session;
use scylla::errors::ExecutionError;
use scylla::policies::speculative_execution::SimpleSpeculativeExecutionPolicy;
use scylla::statement::prepared::PreparedStatement;
use scylla::value::CqlTimestamp;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::{CqlError, CqlSettings, job_row, pointer, schema, session};
use crate::active::{ActiveKeyspace, Keyspace, Keyspaces, Pointer};
use crate::publish::JobRow;
use crate::store::{Answer, AsOf, Board, Store, StoreError, Tag, UnknownScope, evaluate};

/// How often the job's row is read.
const REFRESH: Duration = Duration::from_millis(200);
/// The wait after the first failed attempt, doubled with each further one up to the second value.
const RETRY: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(5)];
/// After this many failures in a row the reader reconnects.
const FAILURES_MAX: u32 = 3;
/// A job's row that was read longer ago than this is stale.
const STALE: Duration = Duration::from_secs(10);
/// A read that takes longer is sent to another replica as well.
const SPECULATE: Duration = Duration::from_millis(50);

/// A session for one keyspace, with its statements.
struct Connected {
    session: Session,
    keyspace: String,
    select_tag: PreparedStatement,
    select_board: PreparedStatement,
    select_jobs: PreparedStatement,
    select_job: PreparedStatement,
}

/// Whether the store answers.
#[derive(Default)]
struct Health {
    /// When the job's row was last read.
    read_at: Option<Instant>,
    /// Why the last attempt to read it failed.
    trouble: Option<String>,
    /// The failures in a row.
    failures: u32,
}

struct Shared {
    cluster: Cluster,
    active: ActiveKeyspace<Connected>,
    health: Mutex<Health>,
}

/// The servers that have the keyspaces.
struct Cluster(CqlSettings);

impl Keyspaces for Cluster {
    type Connection = Connected;
    type Error = CqlError;

    fn given(&self) -> &str {
        &self.0.keyspace
    }

    async fn connect(&self, keyspace: &str) -> Result<Connected, CqlError> {
        let keyspace = keyspace.to_owned();
        Connected::open(&CqlSettings { keyspace, ..self.0.clone() }).await
    }

    async fn pointer(&self, connection: &Connected) -> Result<Option<Pointer>, CqlError> {
        pointer::read(&connection.session, &self.0.keyspace).await
    }

    async fn job(
        &self,
        connection: &Connected,
        name: Option<&str>,
    ) -> Result<Option<JobRow>, CqlError> {
        connection.job(name).await
    }

    fn temporary(what: String) -> CqlError {
        CqlError::Unavailable(what)
    }
}

/// A keyspace as a store, or the keyspace that was promoted to replace it.
pub struct CqlReader {
    shared: Arc<Shared>,
    refresh: JoinHandle<()>,
}

impl Connected {
    async fn open(settings: &CqlSettings) -> Result<Self, CqlError> {
        let speculation =
            SimpleSpeculativeExecutionPolicy { max_retry_count: 1, retry_interval: SPECULATE };
        let profile = session::profile(settings)
            .speculative_execution_policy(Some(Arc::new(speculation)))
            .build();
        let session = session::connect(settings, profile).await?;
        schema::verify(&session, &settings.keyspace).await?;
        let (keyspace, levels) = (&settings.keyspace, &settings.consistency);
        let read = async |text: String, level| {
            let mut statement = session.prepare(text).await?;
            statement.set_consistency(session::consistency(level));
            // The driver sends only idempotent statements to a second replica.
            statement.set_is_idempotent(true);
            Ok::<_, CqlError>(statement)
        };
        let tag = format!(
            "SELECT display, total, recent, first_seen, last_seen, as_of, version \
             FROM \"{keyspace}\".tag WHERE scope = ? AND tag = ?"
        );
        let board = format!(
            "SELECT doc, as_of, version FROM \"{keyspace}\".board WHERE scope = ? AND win = ?"
        );
        let select_tag = read(tag, levels.of(levels.tag).1).await?;
        let select_board = read(board, levels.of(levels.board).1).await?;
        let select_jobs = read(job_row::select_all_text(keyspace), levels.read).await?;
        let select_job = read(job_row::select_text(keyspace), levels.read).await?;
        let keyspace = keyspace.clone();
        Ok(Self { session, keyspace, select_tag, select_board, select_jobs, select_job })
    }

    /// The job's row; by its name if that is known, which avoids a scan.
    async fn job(&self, name: Option<&str>) -> Result<Option<JobRow>, CqlError> {
        match name {
            Some(_) => Ok(job_row::read(&self.session, &self.select_job, name).await?.pop()),
            None => job_row::only(&self.session, &self.select_jobs, &self.keyspace).await,
        }
    }
}

impl CqlReader {
    /// Connects, and then reads the job's row in the background of this runtime. Keeps trying if
    /// the database does not answer; fails on anything else.
    pub async fn open(settings: CqlSettings) -> Result<Self, CqlError> {
        let shared = Arc::new(Shared {
            cluster: Cluster(settings),
            active: ActiveKeyspace::default(),
            health: Mutex::default(),
        });
        match shared.step().await {
            Err(CqlError::Fatal(why)) => return Err(CqlError::Fatal(why)),
            done => shared.note(done.err()),
        }
        let refresh = tokio::spawn(refresh(Arc::clone(&shared)));
        Ok(Self { shared, refresh })
    }

    /// Why the last attempt to read the job's row failed, if it did.
    pub fn trouble(&self) -> Option<String> {
        self.shared.health.lock().trouble.clone()
    }
}

impl Drop for CqlReader {
    fn drop(&mut self) {
        self.refresh.abort();
    }
}

async fn refresh(shared: Arc<Shared>) {
    let mut retry = RETRY[0];
    loop {
        let done = shared.step().await;
        let wait = if done.is_ok() { REFRESH } else { retry };
        retry = if done.is_ok() { RETRY[0] } else { (retry * 2).min(RETRY[1]) };
        shared.note(done.err());
        sleep(wait).await;
    }
}

impl Shared {
    /// Connects if necessary, follows a promotion, and reads the job's row.
    async fn step(&self) -> Result<(), CqlError> {
        // A single late answer is no reason to reconnect.
        let reconnect = self.health.lock().failures >= FAILURES_MAX;
        let (was_read, done) = self.active.step(&self.cluster, reconnect).await;
        if was_read {
            self.health.lock().read_at = Some(Instant::now());
        }
        done
    }

    /// Notes the result of a step, and logs each problem once.
    fn note(&self, trouble: Option<CqlError>) {
        let trouble = trouble.map(|error| error.to_string());
        let mut health = self.health.lock();
        health.failures = if trouble.is_some() { health.failures + 1 } else { 0 };
        if health.trouble != trouble {
            match &trouble {
                Some(trouble) => tracing::error!(store = %self.cluster.0.uri(), "{trouble}"),
                None => tracing::info!(store = %self.cluster.0.uri(), "the store answers"),
            }
        }
        health.trouble = trouble;
    }

    /// The session and the job's row, if both are there and the row is fresh.
    fn ready(&self) -> Result<(Arc<Keyspace<Connected>>, Arc<JobRow>), StoreError> {
        let health = self.health.lock();
        let why = || {
            let silent = || format!("the database has not answered for {} s", STALE.as_secs());
            StoreError::Unavailable(health.trouble.clone().unwrap_or_else(silent))
        };
        if health.read_at.is_none_or(|at| at.elapsed() > STALE) {
            return Err(why());
        }
        let (active, row) = self.active.current().ok_or_else(why)?;
        Ok((active, row.ok_or(StoreError::Empty)?))
    }
}

/// A request that failed.
fn failed(error: ExecutionError) -> StoreError {
    StoreError::Unavailable(CqlError::from(error).to_string())
}

/// An answer that cannot be understood.
fn unclear(error: impl std::fmt::Display) -> StoreError {
    StoreError::Unavailable(CqlError::unclear(error).to_string())
}

#[derive(DeserializeRow)]
struct TagColumns {
    display: Option<String>,
    total: Option<i64>,
    recent: Option<Vec<u8>>,
    first_seen: Option<CqlTimestamp>,
    last_seen: Option<CqlTimestamp>,
    as_of: Option<CqlTimestamp>,
    version: Option<i64>,
}

impl TagColumns {
    fn row<'r>(&'r self, scope: &'r str, tag: &'r str) -> Option<TagRow<'r>> {
        Some(TagRow {
            scope,
            tag,
            display: self.display.as_deref()?,
            total: self.total?,
            recent: self.recent.as_deref()?,
            first_seen: self.first_seen?.0,
            last_seen: self.last_seen?.0,
            as_of: self.as_of?.0,
            commit: 0,
        })
    }
}

impl From<&JobRow> for AsOf {
    fn from(row: &JobRow) -> Self {
        Self {
            commit: row.published,
            version: row.version,
            as_of_ms: row.as_of_ms,
            wall_ms: row.wall_ms,
        }
    }
}

impl Connected {
    async fn tag(
        &self,
        job: &JobRow,
        scope: &str,
        key: &str,
    ) -> Result<(AsOf, Option<Tag>), StoreError> {
        let mut at = AsOf::from(job);
        let result = self.session.execute_unpaged(&self.select_tag, (scope, key)).await;
        let rows = result.map_err(failed)?.into_rows_result().map_err(unclear)?;
        let Some(columns) = rows.maybe_first_row::<TagColumns>().map_err(unclear)? else {
            return Ok((at, None));
        };
        let damaged = || StoreError::Row(key.to_owned());
        let row = columns.row(scope, key).ok_or_else(damaged)?;
        let tag = evaluate(&row, &job.windows, job.as_of_ms)?;
        // The row may be of a newer commit than the job's row; the answer then names that version.
        let version = columns.version.ok_or_else(damaged)?;
        if version > at.version {
            at.version = version;
            at.as_of_ms = at.as_of_ms.max(Some(row.as_of));
        }
        debug_assert!(at.version >= job.version, "an answer older than the job's row");
        Ok((at, (tag.total != 0).then_some(tag)))
    }

    async fn board(
        &self,
        scope: &str,
        window: String,
    ) -> Result<Option<(Board, i64, i64)>, StoreError> {
        let result = self.session.execute_unpaged(&self.select_board, (scope, &window)).await;
        let rows = result.map_err(failed)?.into_rows_result().map_err(unclear)?;
        let row = rows.maybe_first_row::<(Vec<u8>, CqlTimestamp, i64)>().map_err(unclear)?;
        let Some((doc, as_of, version)) = row else { return Ok(None) };
        let damaged = |_| StoreError::Row(format!("board {window}"));
        let entries = serde_json::from_slice(&doc).map_err(damaged)?;
        Ok(Some((Board { window, entries }, as_of.0, version)))
    }

    async fn boards(&self, job: &JobRow, scope: &str) -> Result<(AsOf, Vec<Board>), StoreError> {
        let names = job.windows.iter().map(Window::name).chain(["all".to_owned()]);
        let boards = names.map(|window| self.board(scope, window));
        let mut at = AsOf::from(job);
        let boards = futures::future::try_join_all(boards).await?.into_iter().flatten();
        let boards = boards.map(|(board, as_of, version)| {
            if version > at.version {
                at.version = version;
                at.as_of_ms = at.as_of_ms.max(Some(as_of));
            }
            board
        });
        let boards = boards.collect();
        Ok((at, boards))
    }
}

impl Store for CqlReader {
    fn tag<'a>(&'a self, scope: &'a str, key: &'a str) -> Answer<'a, (AsOf, Option<Tag>)> {
        Box::pin(async move {
            // The job's row first, so that the tag's row is not older.
            let (active, job) = self.shared.ready()?;
            UnknownScope::check(scope, job.scopes.as_deref())?;
            active.connection.tag(&job, scope, key).await
        })
    }

    fn boards<'a>(&'a self, scope: &'a str) -> Answer<'a, (AsOf, Vec<Board>)> {
        Box::pin(async move {
            let (active, job) = self.shared.ready()?;
            UnknownScope::check(scope, job.scopes.as_deref())?;
            active.connection.boards(&job, scope).await
        })
    }

    /// The newest: a database does not say by which rules its tags were found.
    fn rules(&self) -> TagRules {
        TagRules::NEWEST
    }

    fn as_of(&self) -> Answer<'_, AsOf> {
        Box::pin(async move {
            let (_, job) = self.shared.ready()?;
            Ok(AsOf::from(&*job))
        })
    }
}
