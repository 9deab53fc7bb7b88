//! The tables that this build needs, and how the tables of a keyspace differ from them.

use std::collections::BTreeMap;

use futures::TryStreamExt;
use scylla::client::session::Session;

use super::CqlError;
use super::session::query_rows;

/// The statements that create the keyspace and the tables on Cassandra.
pub(super) const CASSANDRA: &str = include_str!("../../../schemas/cql/cassandra.cql");
/// The same on ScyllaDB.
pub(super) const SCYLLA: &str = include_str!("../../../schemas/cql/scylla.cql");

/// A column's name, its type and its part in the primary key.
type Column = (&'static str, &'static str, &'static str);

const KEY: &str = "partition_key";
const REGULAR: &str = "regular";

/// Every table with its columns.
pub(super) const TABLES: [(&str, &[Column]); 4] = [
    (
        "tag",
        &[
            ("scope", "text", KEY),
            ("tag", "text", KEY),
            ("display", "text", REGULAR),
            ("total", "bigint", REGULAR),
            ("recent", "blob", REGULAR),
            ("users", "blob", REGULAR),
            ("first_seen", "timestamp", REGULAR),
            ("last_seen", "timestamp", REGULAR),
            ("as_of", "timestamp", REGULAR),
            ("version", "bigint", REGULAR),
        ],
    ),
    (
        "board",
        &[
            ("scope", "text", KEY),
            ("win", "text", KEY),
            ("doc", "blob", REGULAR),
            ("as_of", "timestamp", REGULAR),
            ("version", "bigint", REGULAR),
        ],
    ),
    (
        "job",
        &[
            ("name", "text", KEY),
            ("history", "bigint", REGULAR),
            ("generation", "bigint", REGULAR),
            ("owner", "text", REGULAR),
            ("published", "bigint", REGULAR),
            ("version", "bigint", REGULAR),
            ("as_of", "timestamp", REGULAR),
            ("wall", "timestamp", REGULAR),
            ("windows", "text", REGULAR),
            ("scopes", "text", REGULAR),
        ],
    ),
    (
        "reader",
        &[
            ("name", "text", KEY),
            ("keyspace_name", "text", REGULAR),
            ("promoted", "timestamp", REGULAR),
        ],
    ),
];

/// The tables of a keyspace: name → column → (type, kind).
pub(super) type Tables = BTreeMap<String, BTreeMap<String, (String, String)>>;

/// How the tables of a keyspace differ from those that are needed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct SchemaDiff {
    /// The tables that are missing.
    pub(super) missing_tables: Vec<&'static str>,
    /// The columns that are missing or different.
    pub(super) wrong: Vec<String>,
    /// Additional tables and columns.
    pub(super) foreign: Vec<String>,
}

/// Compares the tables of a keyspace with those that are needed.
pub(super) fn diff(found: &Tables) -> SchemaDiff {
    let mut diff = SchemaDiff::default();
    for (table, columns) in TABLES {
        let Some(found) = found.get(table) else {
            diff.missing_tables.push(table);
            continue;
        };
        for (name, kind, part) in columns {
            match found.get(*name) {
                None => diff.wrong.push(format!("{table} has no column {name} {kind}")),
                Some((found, place)) if found != kind || place != part => {
                    diff.wrong
                        .push(format!("{table}.{name} is {found} ({place}), not {kind} ({part})"));
                }
                Some(_) => {}
            }
        }
        let known = |name: &str| columns.iter().any(|(known, ..)| *known == name);
        for (name, (kind, part)) in found.iter().filter(|(name, _)| !known(name)) {
            let what = format!("{table} has an additional column {name} {kind}");
            let list = if part == REGULAR { &mut diff.foreign } else { &mut diff.wrong };
            list.push(what);
        }
    }
    let known = |name: &str| TABLES.iter().any(|(known, _)| *known == name);
    let tables = found.keys().filter(|name| !known(name));
    diff.foreign.extend(tables.map(|name| format!("an additional table {name}")));
    diff
}

/// The tables of `keyspace`; `None` if it does not exist.
pub(super) async fn tables(session: &Session, keyspace: &str) -> Result<Option<Tables>, CqlError> {
    let text = "SELECT keyspace_name FROM system_schema.keyspaces WHERE keyspace_name = ?";
    let rows = query_rows(session, text, (keyspace,)).await?;
    if rows.rows_num() == 0 {
        return Ok(None);
    }
    let text = "SELECT table_name, column_name, type, kind FROM system_schema.columns \
                WHERE keyspace_name = ?";
    let pages = session.query_iter(text, (keyspace,)).await;
    let broken = |error: String| CqlError::silent(error);
    let pages = pages.map_err(|error| broken(error.to_string()))?;
    let rows = pages
        .rows_stream::<(String, String, String, String)>()
        .map_err(|error| broken(error.to_string()))?;
    let rows: Vec<_> = rows.try_collect().await.map_err(|error| broken(error.to_string()))?;
    let mut found = Tables::new();
    for (table, column, kind, part) in rows {
        found.entry(table).or_default().insert(column, (kind, part));
    }
    Ok(Some(found))
}

/// Fails if a keyspace lacks anything that is needed.
pub(super) async fn verify(session: &Session, keyspace: &str) -> Result<(), CqlError> {
    let cure = "`tagflow store init` creates what is missing";
    let Some(found) = tables(session, keyspace).await? else {
        return Err(CqlError::Fatal(format!("there is no keyspace {keyspace:?}; {cure}")));
    };
    let SchemaDiff { missing_tables, wrong, .. } = diff(&found);
    if !wrong.is_empty() {
        return Err(CqlError::Fatal(wrong_tables(keyspace, &wrong)));
    }
    if !missing_tables.is_empty() {
        let tables = missing_tables.join(", ");
        return Err(CqlError::Fatal(format!("keyspace {keyspace:?} lacks {tables}; {cure}")));
    }
    Ok(())
}

/// The message about tables that are not this build's.
pub(super) fn wrong_tables(keyspace: &str, wrong: &[String]) -> String {
    format!(
        "the tables of keyspace {keyspace:?} are not those of this build: {}. Name another keyspace",
        wrong.join("; ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tables that the statements of a file create.
    fn made(text: &str) -> Tables {
        let mut found = Tables::new();
        for statement in text.split("CREATE TABLE IF NOT EXISTS \"{keyspace}\".").skip(1) {
            let (name, rest) = statement.split_once(" (\n").unwrap();
            let (body, _) = rest.split_once("\n)").unwrap();
            let (columns, key) = body.split_once("PRIMARY KEY (").unwrap();
            let key = key.trim_matches(['(', ')']);
            for column in columns.lines().filter(|line| !line.trim().is_empty()) {
                let (column, kind) = column.trim().trim_end_matches(',').split_once(' ').unwrap();
                let part = if key.split(", ").any(|k| k == column) { KEY } else { REGULAR };
                let value = (kind.to_owned(), part.to_owned());
                found.entry(name.to_owned()).or_default().insert(column.to_owned(), value);
            }
        }
        found
    }

    #[test]
    fn statements_create_the_needed_tables() {
        for text in [CASSANDRA, SCYLLA] {
            assert_eq!(diff(&made(text)), SchemaDiff::default());
        }
    }

    #[test]
    fn every_difference_is_named() {
        let mut found = made(CASSANDRA);
        found.remove("board");
        found.insert("cats".into(), BTreeMap::new());
        let tag = found.get_mut("tag").unwrap();
        tag.remove("total");
        tag.insert("recent".into(), ("text".into(), REGULAR.into()));
        tag.insert("mood".into(), ("text".into(), REGULAR.into()));
        tag.insert("day".into(), ("date".into(), "clustering".into()));
        let named = diff(&found);
        assert_eq!(named.missing_tables, ["board"]);
        let wrong = "tag has no column total bigint; tag.recent is text (regular), not blob \
                     (regular); tag has an additional column day date";
        assert_eq!(named.wrong.join("; "), wrong);
        assert_eq!(
            named.foreign,
            ["tag has an additional column mood text", "an additional table cats"]
        );
    }
}
