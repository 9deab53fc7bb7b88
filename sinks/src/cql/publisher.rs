//! The publisher to a database. It connects with the first request, and an outcome is unknown if
//! the database does not answer.

use std::sync::Arc;

use scylla::client::session::Session;
use scylla::errors::DeserializationError;
use scylla::policies::retry::FallthroughRetryPolicy;
use scylla::statement::prepared::PreparedStatement;
use tokio::runtime::{Builder, Runtime};

use super::concurrency::Concurrency;
use super::error::Failed;
use super::scan::Scan;
use super::wave::{self, Upserts};
use super::{CqlError, CqlSettings, check, job_row, schema, session};
use crate::publish::{Content, JobRow, Outcome, PublishError, PublishRow, Publisher};

/// The most rows in one call: enough to keep many in flight, few enough to need little memory.
const ROWS_MAX: usize = 16_384;

/// A session, with its statements.
struct Connected {
    session: Session,
    upserts: Upserts,
    upsert_job: PreparedStatement,
    select_jobs: PreparedStatement,
}

/// The result of a request.
type Answer<T> = Result<T, CqlError>;

/// Publishes to a keyspace.
pub struct CqlPublisher {
    settings: CqlSettings,
    /// The driver's thread; `None` only while this is being dropped.
    runtime: Option<Runtime>,
    connected: Option<Connected>,
    limit: Concurrency,
    /// Why the last request was not, or not wholly, done.
    trouble: Option<String>,
}

impl Connected {
    async fn open(settings: &CqlSettings) -> Result<Self, CqlError> {
        let session = session::connect(settings, session::profile(settings).build()).await?;
        schema::verify(&session, &settings.keyspace).await?;
        let profile = session::profile(settings)
            .retry_policy(Arc::new(FallthroughRetryPolicy::new()))
            .build()
            .into_handle();
        let (keyspace, levels) = (&settings.keyspace, &settings.consistency);
        let write = async |text: String, level| {
            let mut statement = session.prepare(text).await?;
            statement.set_is_idempotent(true);
            statement.set_consistency(session::consistency(level));
            statement.set_execution_profile_handle(Some(profile.clone()));
            Ok::<_, CqlError>(statement)
        };
        let upserts = Upserts {
            tag: write(wave::tag_text(keyspace), levels.of(levels.tag).0).await?,
            board: write(wave::board_text(keyspace), levels.of(levels.board).0).await?,
        };
        let upsert_job = write(job_row::upsert_text(keyspace), levels.write).await?;
        let mut select_jobs = session.prepare(job_row::select_all_text(keyspace)).await?;
        select_jobs.set_is_idempotent(true);
        Ok(Self { session, upserts, upsert_job, select_jobs })
    }
}

impl CqlPublisher {
    /// A publisher that has not connected yet.
    pub fn new(settings: CqlSettings) -> Result<Self, CqlError> {
        settings.check()?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("cql")
            .enable_all()
            .build()
            .map_err(|error| CqlError::Fatal(format!("cannot start a thread: {error}")))?;
        Ok(Self {
            settings,
            runtime: Some(runtime),
            connected: None,
            limit: Concurrency::new(),
            trouble: None,
        })
    }

    /// Whether the keyspace holds any tag.
    pub fn is_empty(&mut self) -> Result<Option<bool>, PublishError> {
        let text = format!("SELECT scope FROM \"{}\".tag LIMIT 1", self.settings.keyspace);
        self.with(async |connected, _, _| {
            let rows = session::query_rows(&connected.session, text, ()).await?;
            Ok(rows.rows_num() == 0)
        })
    }

    /// Runs a request; `None` if the database does not answer.
    fn with<T>(
        &mut self,
        request: impl AsyncFnOnce(&Connected, &CqlSettings, &mut Concurrency) -> Answer<T>,
    ) -> Result<Option<T>, PublishError> {
        let Some(runtime) = &self.runtime else { unreachable!("only Drop takes the runtime") };
        let (settings, limit) = (&self.settings, &mut self.limit);
        let kept = self.connected.take();
        let done = runtime.block_on(async {
            let connected = match kept {
                Some(connected) => connected,
                None => Connected::open(settings).await?,
            };
            limit.nodes(connected.session.get_cluster_state().get_nodes_info().len());
            let done = request(&connected, settings, limit).await;
            Ok((connected, done?))
        });
        match done {
            Ok((connected, answer)) => {
                self.connected = Some(connected);
                self.trouble = None;
                Ok(Some(answer))
            }
            // Drop the connections too: new ones may find another way.
            Err(CqlError::Unavailable(why)) => {
                self.trouble = Some(why);
                Ok(None)
            }
            Err(CqlError::Fatal(why)) => Err(PublishError::Fatal(why)),
        }
    }
}

fn foreign(keyspace: &str, other: &str, name: &str) -> String {
    format!(
        "keyspace {keyspace:?} holds the job {other:?}, not {name:?}, and one keyspace is for one job; \
         name another keyspace, or remove the row with DELETE FROM job WHERE name = '{other}'"
    )
}

impl Publisher for CqlPublisher {
    fn job(&mut self, name: &str) -> Result<Option<Option<JobRow>>, PublishError> {
        let row = self.with(async |connected, settings, _| {
            let Connected { session, select_jobs, .. } = connected;
            job_row::only(session, select_jobs, &settings.keyspace).await
        })?;
        match row {
            Some(Some(row)) if row.name != name => {
                Err(PublishError::Fatal(foreign(&self.settings.keyspace, &row.name, name)))
            }
            row => Ok(row),
        }
    }

    fn upsert(&mut self, rows: &[PublishRow]) -> Result<Vec<Outcome>, PublishError> {
        assert!(rows.len() <= ROWS_MAX, "{} rows, and the most is {ROWS_MAX}", rows.len());
        let sent = self.with(async |connected, settings, limit| {
            let Connected { session, upserts, .. } = connected;
            let sent = wave::send(session, upserts, rows, limit).await;
            if let Some(why) = sent.fatal {
                return Err(CqlError::Fatal(why));
            }
            // The row is at fault only if another row of the same version is taken.
            if sent.outcomes.iter().any(|outcome| matches!(outcome, Outcome::Refused(_))) {
                schema::verify(session, &settings.keyspace).await?;
                let version = rows.first().map_or(0, |row| row.version);
                check::probe(session, &upserts.board, version).await?;
            }
            match sent.trouble {
                Some(why) if !sent.answered => Err(CqlError::Unavailable(why)),
                trouble => Ok((sent.outcomes, trouble)),
            }
        })?;
        // Without an answer the outcome of every row is unknown, as of rows that were not sent.
        let Some((outcomes, trouble)) = sent else { return Ok(Vec::new()) };
        self.trouble = trouble;
        Ok(outcomes)
    }

    fn trouble(&self) -> Option<String> {
        self.trouble.as_ref().map(|why| format!("{}: {why}", self.settings.uri()))
    }

    fn set_job(&mut self, row: &JobRow) -> Result<Outcome, PublishError> {
        let done = self.with(async |connected, _, _| {
            let Connected { session, upsert_job, .. } = connected;
            match session.execute_unpaged(upsert_job, job_row::values(row)).await {
                Ok(_) => Ok((Outcome::Acknowledged, None)),
                Err(error) => match Failed::from(&error) {
                    Failed::Refused(why) => Ok((Outcome::Refused(why), None)),
                    Failed::Overload(why) => Ok((Outcome::Unknown, Some(why))),
                    failed => Err(failed.into()),
                },
            }
        })?;
        let Some((outcome, trouble)) = done else { return Ok(Outcome::Unknown) };
        self.trouble = trouble;
        Ok(outcome)
    }

    fn job_version(&mut self, name: &str) -> Result<Option<Option<i64>>, PublishError> {
        let text = format!("SELECT name, version FROM \"{}\".job", self.settings.keyspace);
        let rows = self.with(async |connected, _, _| {
            let rows = session::query_rows(&connected.session, text, ()).await?;
            let rows = rows.rows::<(String, Option<i64>)>();
            let rows = rows.map_err(|error| CqlError::Fatal(error.to_string()))?;
            let broken = |error: DeserializationError| CqlError::Fatal(error.to_string());
            rows.map(|row| row.map_err(broken)).collect::<Result<Vec<_>, _>>()
        })?;
        let Some(rows) = rows else { return Ok(None) };
        if let Some((other, _)) = rows.iter().find(|(other, _)| other != name) {
            return Err(PublishError::Fatal(foreign(&self.settings.keyspace, other, name)));
        }
        // A row without a version was written by hand; any version is newer.
        Ok(Some(rows.first().map(|(_, version)| version.unwrap_or(0))))
    }

    fn older(&mut self, version: i64, most: usize) -> Result<Option<Vec<Content>>, PublishError> {
        self.with(async |Connected { session, .. }, settings, _| {
            let scan = Scan { session, keyspace: &settings.keyspace };
            let mut older = Vec::new();
            let is_older = |row: Option<i64>| row.is_none_or(|row| row < version);
            scan.tags(|row| {
                if is_older(row.version) && older.len() < most {
                    older.push(Content::no_tag(row.scope, row.tag));
                }
            })
            .await?;
            scan.boards(|row| {
                if is_older(row.version) && older.len() < most {
                    older.push(Content::no_board(row.scope, row.window));
                }
            })
            .await?;
            Ok(older)
        })
    }

    fn rows_max(&self) -> usize {
        ROWS_MAX
    }
}

impl Drop for CqlPublisher {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Requests in flight may still arrive, which does no harm.
            runtime.shutdown_background();
        }
    }
}
