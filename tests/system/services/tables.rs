//! Reads the tables of a keyspace with the driver, not with the product.

use std::collections::BTreeMap;

use futures::TryStreamExt;
use recount::{Key, Row};
use schemas::windows::{Buckets, Windows};
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::deserialize::row::DeserializeRow;
use scylla::value::CqlTimestamp;
use tokio::runtime::{Builder, Runtime};

/// A connection to the database.
pub(crate) struct Database {
    runtime: Runtime,
    session: Session,
}

/// The row of table `job`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Published {
    pub(crate) commit: i64,
    pub(crate) version: i64,
    pub(crate) as_of_ms: i64,
}

/// A row of table `tag`, with its windows at the requested `as_of`.
#[derive(Clone, Debug)]
pub(crate) struct Tag {
    pub(crate) row: Row,
    pub(crate) version: i64,
}

type JobColumns = (Option<i64>, Option<i64>, Option<CqlTimestamp>);
type TagColumns =
    (String, String, String, i64, Vec<u8>, CqlTimestamp, CqlTimestamp, CqlTimestamp, i64);

/// A row of any table: text, number, blob, times, version, write time.
pub(crate) type RawRow = (String, i64, Vec<u8>, [i64; 3], i64, i64);
type RawColumns =
    (String, String, String, i64, Vec<u8>, CqlTimestamp, CqlTimestamp, CqlTimestamp, i64, i64);

impl Database {
    /// Connects to nodes, as `HOST:PORT,HOST:PORT`.
    pub(crate) fn open(nodes: &str) -> Self {
        Self::try_open(nodes).unwrap()
    }

    /// Connects, if the database answers.
    pub(crate) fn try_open(nodes: &str) -> Option<Self> {
        // A separate thread keeps connections alive between calls.
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let nodes: Vec<&str> = nodes.split(',').collect();
        let session = runtime.block_on(SessionBuilder::new().known_nodes(nodes).build()).ok()?;
        Some(Self { runtime, session })
    }

    /// All rows of a statement's result, or an error if the database does not answer.
    pub(crate) fn rows<R>(&self, statement: &str) -> Result<Vec<R>, String>
    where
        R: for<'f, 'm> DeserializeRow<'f, 'm> + 'static,
    {
        self.runtime.block_on(async {
            let pages = self.session.query_iter(statement, ()).await.map_err(|e| e.to_string())?;
            let rows = pages.rows_stream::<R>().map_err(|e| e.to_string())?;
            rows.try_collect().await.map_err(|e| e.to_string())
        })
    }

    /// The job row of the keyspace, or `None` before the first commit is complete.
    pub(crate) fn published(&self, keyspace: &str) -> Result<Option<Published>, String> {
        let statement = format!("SELECT published, version, as_of FROM {keyspace}.job");
        let rows = self.rows::<JobColumns>(&statement)?;
        let published = |&(commit, version, as_of): &JobColumns| {
            let as_of_ms = as_of.map_or(0, |time| time.0);
            Some(Published { commit: commit?, version: version?, as_of_ms })
        };
        Ok(rows.first().and_then(published))
    }

    /// Every tag of a keyspace, with the default windows at `as_of_ms`.
    pub(crate) fn tags(&self, keyspace: &str, as_of_ms: i64) -> BTreeMap<Key, Tag> {
        let columns = "scope, tag, display, total, recent, first_seen, last_seen, as_of, version";
        let rows = self.rows(&format!("SELECT {columns} FROM {keyspace}.tag")).unwrap();
        let windows = Windows::default();
        let tag = |columns: TagColumns| {
            let (scope, key, display, total, recent, first_seen, last_seen, as_of, version) =
                columns;
            let tiers = windows.tiers();
            let buckets = Buckets::decode(tiers.slot(as_of.0), &recent).unwrap();
            let sum = |window| buckets.sum(&tiers, window, tiers.slot(as_of_ms));
            let (first_seen, last_seen, c1h, c24h) = (first_seen.0, last_seen.0, sum(0), sum(1));
            let row = Row { scope, key, display, total, first_seen, last_seen, c1h, c24h };
            ((row.scope.clone(), row.key.clone()), Tag { row, version })
        };
        rows.into_iter().map(tag).collect()
    }

    /// Every column of every tag and board as stored, with its write time.
    pub(crate) fn bytes(&self, keyspace: &str) -> BTreeMap<Key, RawRow> {
        let tags = "scope, tag, display, total, recent, first_seen, last_seen, as_of, version, \
                    writetime(total)";
        let boards = "scope, win, win, version, doc, as_of, as_of, as_of, version, writetime(doc)";
        let mut all = BTreeMap::new();
        for (table, columns) in [("tag", tags), ("board", boards)] {
            let rows = self.rows(&format!("SELECT {columns} FROM {keyspace}.{table}")).unwrap();
            all.extend(rows.into_iter().map(|row: RawColumns| {
                let (scope, key, display, total, blob, first, last, as_of, version, written) = row;
                let times = [first.0, last.0, as_of.0];
                ((scope, format!("{table} {key}")), (display, total, blob, times, version, written))
            }));
        }
        all
    }

    /// Copies the row of a tag from one keyspace to another.
    pub(crate) fn copy_tag(&self, from: &str, to: &str, tag: &str) {
        let columns = "scope, tag, display, total, recent, first_seen, last_seen, as_of, version";
        let of = format!("WHERE scope = '' AND tag = '{tag}'");
        let rows = self.rows::<TagColumns>(&format!("SELECT {columns} FROM {from}.tag {of}"));
        let [row] = &rows.unwrap()[..] else { panic!("{from} has no {tag}") };
        let (scope, key, display, total, recent, first, last, as_of, version) = row;
        let (first, last, as_of) = (first.0, last.0, as_of.0);
        let recent: String = recent.iter().map(|byte| format!("{byte:02x}")).collect();
        self.execute(&format!(
            "INSERT INTO {to}.tag ({columns}) VALUES ('{scope}', '{key}', '{display}', {total}, \
             0x{recent}, {first}, {last}, {as_of}, {version})"
        ));
    }

    /// Runs a statement without a result.
    pub(crate) fn execute(&self, statement: &str) {
        self.runtime.block_on(self.session.query_unpaged(statement, ())).unwrap();
    }

    /// Drops a keyspace.
    pub(crate) fn remove(&self, keyspace: &str) {
        self.execute(&format!("DROP KEYSPACE IF EXISTS {keyspace}"));
    }
}

/// The first tag that differs between a keyspace and an export. An export has no tag with a total
/// of 0.
pub(crate) fn difference_to(want: &BTreeMap<Key, Row>, got: &BTreeMap<Key, Tag>) -> Option<String> {
    let counted = got.iter().filter(|(_, tag)| tag.row.total != 0);
    let got = counted.map(|(key, tag)| (key.clone(), tag.row.clone())).collect();
    super::difference(want, &got)
}
