//! Checks a keyspace before a job depends on it, and says what each finding costs.

use std::fmt;

use schemas::config::{Consistency, ConsistencyPair};
use schemas::printable::counted;
use scylla::client::session::Session;
use scylla::cluster::metadata::Strategy;
use scylla::statement::prepared::PreparedStatement;
use scylla::value::CqlTimestamp;

use super::error::Failed;
use super::schema::{self, SchemaDiff};
use super::session::{connect, consistency, datacenter, is_scylla, profile, query_rows};
use super::wave::board_text;
use super::{CqlError, CqlSettings, pointer};

/// The scope of the test row. A scope of a job contains "=".
pub(super) const PROBE: &str = "__probe";
/// Clocks that differ by more deserve a warning: the later of two writes wins by their clocks.
const SKEW_MS: i64 = 1000;
/// How far in the future a row must be accepted; a guardrail of the server may forbid it.
const SKEW_MAX_MS: i64 = 60_000;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// All is well.
    Good,
    /// It works, at the cost that the text names.
    Warning,
    /// It does not work.
    Error,
}

impl Level {
    /// Its name in listings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// One result of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How much it matters.
    pub level: Level,
    /// What was found, and what to do.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<8}{}", self.level.name(), self.what)
    }
}

impl Finding {
    pub(super) fn good(what: String) -> Self {
        Self { level: Level::Good, what }
    }

    fn warning(what: String) -> Self {
        Self { level: Level::Warning, what }
    }

    fn error(what: String) -> Self {
        Self { level: Level::Error, what }
    }
}

/// Writes the test row at `version`.
pub(super) async fn probe(
    session: &Session,
    upsert_board: &PreparedStatement,
    version: i64,
) -> Result<(), CqlError> {
    let values = (PROBE, PROBE, &b"[]"[..], CqlTimestamp(0), version, version);
    match session.execute_unpaged(upsert_board, values).await {
        Ok(_) => Ok(()),
        Err(error) => match Failed::from(&error) {
            Failed::Refused(why) => Err(CqlError::Fatal(format!(
                "the database takes no row at version {version}: {why}"
            ))),
            failed => Err(failed.into()),
        },
    }
}

/// Checks everything that a job and its readers need. `wall_ms` is this host's clock.
pub async fn check(
    settings: &CqlSettings,
    wall_ms: impl Fn() -> i64,
) -> Result<Vec<Finding>, CqlError> {
    let session = connect(settings, profile(settings).build()).await?;
    let mut findings = vec![servers(&session).await?];
    let keyspace = &settings.keyspace;
    let Some(found) = schema::tables(&session, keyspace).await? else {
        let what = format!("there is no keyspace {keyspace:?}; `tagflow store init` creates it");
        findings.push(Finding::error(what));
        return Ok(findings);
    };
    let SchemaDiff { missing_tables, wrong, foreign } = schema::diff(&found);
    let cure = "`tagflow store init` creates it";
    let missing = missing_tables.iter().map(|table| format!("there is no table {table}; {cure}"));
    findings.extend(missing.chain(wrong).map(Finding::error));
    if findings.iter().all(|finding| finding.level < Level::Error) {
        findings.push(Finding::good("the tables are those of this build".to_owned()));
        findings.push(write_and_read(&session, settings, wall_ms()).await?);
        findings.push(active(&session, keyspace).await?);
    }
    let additional = |what: String| Finding::warning(format!("{what}, which Tagflow ignores"));
    findings.extend(foreign.into_iter().map(additional));
    findings.push(clocks(&session, &wall_ms).await?);
    findings.extend(replication_findings(&session, settings, None)?);
    Ok(findings)
}

async fn servers(session: &Session) -> Result<Finding, CqlError> {
    let text = "SELECT release_version FROM system.local";
    let rows = query_rows(session, text, ()).await?;
    let (release,) = rows.first_row::<(String,)>().map_err(CqlError::unclear)?;
    let kind = if is_scylla(session) { "ScyllaDB, as Cassandra" } else { "Cassandra" };
    let nodes = session.get_cluster_state().get_nodes_info().len();
    let nodes = counted(nodes, "node", "nodes");
    Ok(Finding::good(format!("{kind} {release} answers, {nodes} in all")))
}

/// Which keyspace the readers see that were given this one.
async fn active(session: &Session, given: &str) -> Result<Finding, CqlError> {
    let Some(pointer) = pointer::read(session, given).await? else {
        return Ok(Finding::good(format!("readers of {given:?} see it; no keyspace was promoted")));
    };
    let what = format!("readers of {given:?} see {:?}, which was promoted", pointer.keyspace);
    Ok(match schema::verify(session, &pointer.keyspace).await {
        Ok(()) => Finding::good(what),
        Err(CqlError::Fatal(why)) => Finding::error(format!("{what}: {why}")),
        Err(error) => return Err(error),
    })
}

/// Whether a row keeps the exact time it is written at, now and a minute from now.
async fn write_and_read(
    session: &Session,
    settings: &CqlSettings,
    wall_ms: i64,
) -> Result<Finding, CqlError> {
    let mut upsert = session.prepare(board_text(&settings.keyspace)).await?;
    let levels = &settings.consistency;
    upsert.set_consistency(consistency(levels.of(levels.board).0));
    let text = format!(
        "SELECT writetime(doc) FROM \"{}\".board WHERE scope = ? AND win = ?",
        settings.keyspace
    );
    for version in [wall_ms * 1000, (wall_ms + SKEW_MAX_MS) * 1000] {
        if let Err(CqlError::Fatal(why)) = probe(session, &upsert, version).await {
            return Ok(Finding::error(format!("{why}; a guardrail on timestamps may forbid it")));
        }
        let rows = query_rows(session, text.as_str(), (PROBE, PROBE)).await?;
        let row = rows.maybe_first_row::<(i64,)>();
        let written = row.map_err(CqlError::unclear)?.map(|row| row.0);
        // An earlier check may have left a newer row.
        if written.is_none_or(|written| written < version) {
            let got = written.map_or("no row".to_owned(), |time| format!("time {time}"));
            return Ok(Finding::error(format!("a row written at {version} came back with {got}")));
        }
    }
    Ok(Finding::good("a row keeps the time it is written at".to_owned()))
}

async fn clocks(session: &Session, wall_ms: &impl Fn() -> i64) -> Result<Finding, CqlError> {
    let before = wall_ms();
    let text = "SELECT toTimestamp(now()) FROM system.local";
    let rows = query_rows(session, text, ()).await?;
    let (now,) = rows.first_row::<(CqlTimestamp,)>().map_err(CqlError::unclear)?;
    let skew = now.0 - i64::midpoint(before, wall_ms());
    let what = format!("the clocks of this host and of a server differ by {skew} ms");
    Ok(match skew.abs() {
        0..=SKEW_MS => Finding::good(what),
        _ => Finding::warning(format!(
            "{what}; rows changed by hand there may win over the job's until the job's clock catches up"
        )),
    })
}

/// How many copies of a row there are, and what a lost node costs. `asked` is the replication that
/// `store init` was given.
pub(super) fn replication_findings(
    session: &Session,
    settings: &CqlSettings,
    asked: Option<u32>,
) -> Result<Vec<Finding>, CqlError> {
    let nearest = datacenter(session, settings)?;
    let state = session.get_cluster_state();
    let local = |node: &&std::sync::Arc<_>| is_in(node, &nearest);
    let nodes = state.get_nodes_info().iter().filter(local).count();
    let (copies, all) = match state.get_keyspace(&settings.keyspace).map(|k| &k.strategy) {
        Some(Strategy::NetworkTopologyStrategy { datacenter_repfactors, .. }) => {
            let local = datacenter_repfactors.get(&nearest).copied().unwrap_or(0);
            (local, datacenter_repfactors.values().sum())
        }
        Some(Strategy::SimpleStrategy { replication_factor, .. }) => {
            (*replication_factor, *replication_factor)
        }
        _ => {
            let what = "the driver does not know the replication of the keyspace".to_owned();
            return Ok(vec![Finding::warning(what)]);
        }
    };
    Ok(judge(settings, &nearest, asked, Copies { nodes, local: copies, all }))
}

fn is_in(node: &scylla::cluster::Node, datacenter: &str) -> bool {
    node.datacenter.as_deref() == Some(datacenter)
}

/// The copies of a row.
#[derive(Clone, Copy, Debug)]
struct Copies {
    /// The nodes in the nearest data centre.
    nodes: usize,
    /// The copies there.
    local: usize,
    /// The copies everywhere.
    all: usize,
}

fn judge(
    settings: &CqlSettings,
    datacenter: &str,
    asked: Option<u32>,
    copies: Copies,
) -> Vec<Finding> {
    let Copies { nodes, local, all } = copies;
    assert!(local <= all, "{local} of {all} copies are in the nearest data centre");
    let (rows, on) = (counted(local, "copy", "copies"), counted(nodes, "node", "nodes"));
    let what = format!("{rows} of a row on {on} of {datacenter}");
    let mut findings = vec![match local {
        0 => Finding::error(format!("{what}: name the data centre that has the copies")),
        _ if local > nodes => Finding::error(format!("{what}: more copies than nodes")),
        1 | 2 => Finding::warning(format!(
            "{what}: with one node down, some tags cannot be written or read; with three copies and \
             LOCAL_QUORUM, all can"
        )),
        _ => Finding::good(what),
    }];
    if let Some(asked) = asked.filter(|asked| *asked as usize != local) {
        findings.push(Finding::warning(format!(
            "the keyspace exists already, with {local} copies instead of {asked}; ALTER KEYSPACE \
             changes that"
        )));
    }
    findings.extend(overlap(&settings.consistency, copies));
    findings
}

/// The tables whose reads may miss a finished write, and what that costs.
fn overlap(levels: &ConsistencyPair, copies: Copies) -> Vec<Finding> {
    let tables = [
        ("job", (levels.write, levels.read)),
        ("tag", levels.of(levels.tag)),
        ("board", levels.of(levels.board)),
    ];
    let judged = tables.into_iter().filter_map(|(table, (write, read))| {
        let (w, r) = (replicas(write, copies), replicas(read, copies));
        // Local levels overlap only in their own data centre, where both are used.
        let of = if is_global(write) || is_global(read) { copies.all } else { copies.local };
        (w + r <= of).then(|| {
            let cost = if table == "job" {
                "a commit may be shown some time after it is published"
            } else {
                "a page may show an older count for a while after a commit"
            };
            Finding::warning(format!(
                "table {table}: writes wait for {w} and reads ask {r} of {of} copies: {cost}; raise \
                 the levels until both together exceed {of}"
            ))
        })
    });
    judged.collect()
}

fn is_global(level: Consistency) -> bool {
    matches!(level, Consistency::One | Consistency::Quorum | Consistency::All)
}

/// How many copies a level asks for.
fn replicas(level: Consistency, copies: Copies) -> usize {
    match level {
        Consistency::One | Consistency::LocalOne => 1,
        Consistency::LocalQuorum => copies.local / 2 + 1,
        Consistency::Quorum => copies.all / 2 + 1,
        Consistency::All => copies.all,
    }
}

#[cfg(test)]
mod tests {
    use schemas::config::{StoreUri, TableConsistency};

    use super::*;

    fn levels(write: Consistency, read: Consistency, copies: Copies) -> Vec<Level> {
        let uri: StoreUri = "cql://a:1/k".parse().unwrap();
        let mut settings = CqlSettings::from(&uri);
        (settings.consistency.write, settings.consistency.read) = (write, read);
        judge(&settings, "dc1", None, copies).iter().map(|finding| finding.level).collect()
    }

    #[test]
    fn cost_of_a_lost_node_is_reported() {
        let quorum = Consistency::LocalQuorum;
        let judged = |nodes, local| levels(quorum, quorum, Copies { nodes, local, all: local });
        assert_eq!(judged(3, 3), [Level::Good]);
        assert_eq!(judged(3, 1), [Level::Warning]);
        assert_eq!(judged(3, 2), [Level::Warning]);
        assert_eq!(judged(3, 0)[0], Level::Error);
        assert_eq!(judged(2, 3), [Level::Error]);
    }

    #[test]
    fn reads_that_may_miss_a_write_are_reported() {
        let three = Copies { nodes: 3, local: 3, all: 3 };
        let two_centres = Copies { nodes: 3, local: 3, all: 6 };
        let (one, quorum) = (Consistency::One, Consistency::LocalQuorum);
        let each = [Level::Good, Level::Warning, Level::Warning, Level::Warning];
        assert_eq!(levels(one, one, three), each);
        assert_eq!(levels(quorum, one, three), each);
        let read = |level| TableConsistency { write: None, read: Some(level) };
        let mut pair = ConsistencyPair { board: read(one), ..ConsistencyPair::default() };
        let [finding] = &*overlap(&pair, three) else { panic!("one table") };
        assert!(finding.what.contains("table board"), "{finding}");
        (pair.read, pair.tag, pair.board) = (one, read(quorum), read(quorum));
        let [finding] = &*overlap(&pair, three) else { panic!("one table") };
        assert!(finding.what.contains("table job"), "{finding}");
        assert_eq!(levels(quorum, quorum, two_centres), [Level::Good]);
        assert_eq!(levels(Consistency::Quorum, quorum, two_centres), each);
        assert_eq!(levels(Consistency::All, one, two_centres), [Level::Good]);
    }
}
