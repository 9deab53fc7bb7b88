//! Creates the keyspace and its tables. Doing it again changes nothing.

use std::time::Duration;

use scylla::client::session::Session;

use super::check::{Finding, replication_findings};
use super::schema::{self, CASSANDRA, SCYLLA};
use super::session::{connect, datacenter, is_scylla, profile};
use super::{CqlError, CqlSettings};

/// How long one statement may take: servers first agree on a changed schema, which takes seconds on
/// a busy cluster.
const SCHEMA_WAIT: Duration = Duration::from_secs(30);

/// Creates the keyspace and the tables that are missing, with `replication` copies in the nearest
/// data centre. Fails if a table exists and differs from this build's.
pub async fn init(settings: &CqlSettings, replication: u32) -> Result<Vec<Finding>, CqlError> {
    assert!(replication > 0, "a keyspace without copies");
    let profile = profile(settings).request_timeout(Some(SCHEMA_WAIT)).build();
    let session = connect(settings, profile).await?;
    let keyspace = &settings.keyspace;
    let found = schema::tables(&session, keyspace).await?;
    let mut findings = Vec::new();
    if let Some(found) = &found {
        let diff = schema::diff(found);
        let wrong: Vec<_> = diff.wrong.into_iter().chain(diff.foreign).collect();
        if !wrong.is_empty() {
            return Err(CqlError::Fatal(schema::wrong_tables(keyspace, &wrong)));
        }
        findings.push(Finding::good(format!("keyspace {keyspace:?} exists already")));
    }
    let nearest = datacenter(&session, settings)?;
    for statement in statements(&session, keyspace, &nearest, replication) {
        session.query_unpaged(statement, ()).await?;
    }
    session.refresh_metadata().await.map_err(CqlError::silent)?;
    schema::verify(&session, keyspace).await?;
    findings.push(Finding::good(format!("keyspace {keyspace:?} has the tables of this build")));
    findings.extend(replication_findings(&session, settings, Some(replication))?);
    Ok(findings)
}

/// The statements for this kind of database, with their parameters filled in.
fn statements(
    session: &Session,
    keyspace: &str,
    datacenter: &str,
    replication: u32,
) -> Vec<String> {
    let text = if is_scylla(session) { SCYLLA } else { CASSANDRA };
    let lines = text.lines().filter(|line| !line.starts_with("--"));
    let text = lines.collect::<Vec<_>>().join("\n");
    let statements = text.split(';').map(str::trim).filter(|statement| !statement.is_empty());
    let put = |statement: &str| {
        statement
            .replace("{keyspace}", keyspace)
            // Names of data centres come from the servers and may contain a quote.
            .replace("{datacenter}", &datacenter.replace('\'', "''"))
            .replace("{replication}", &replication.to_string())
    };
    let statements: Vec<_> = statements.map(put).collect();
    assert!(!statements.is_empty(), "the file of statements is empty");
    statements
}
