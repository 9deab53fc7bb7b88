//! Rows that a database will never take, kept for people: one small file of each.
//!
//! Invariant: a refused row is durable here before its commit counts as published. A row that is
//! refused again replaces its file, so there are never more files than such rows.

use serde::Serialize;

use super::{Content, PublishRow};
use crate::storage::{Storage, StorageError, replace};

/// The folder of the files.
pub const REFUSED: &str = "refused";

/// How the names of the files end.
const ENDING: &str = ".ndjson";

/// What a file holds, as one line of JSON.
#[derive(Debug, Serialize)]
#[serde(tag = "table", rename_all = "snake_case")]
enum Refused<'r> {
    Tag { scope: &'r str, tag: &'r str, display: &'r str, total: i64, version: i64, why: &'r str },
    Board { scope: &'r str, win: &'r str, bytes: usize, version: i64, why: &'r str },
}

/// The rows kept in a state, each as one line of JSON, in the order of their files' names.
pub fn refused(storage: &dyn Storage) -> Result<Vec<String>, StorageError> {
    let mut names = storage.list(REFUSED)?;
    names.sort_unstable();
    let line = |name: String| {
        let bytes = storage.open(&format!("{REFUSED}/{name}"))?;
        Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
    };
    names.into_iter().filter(|name| name.ends_with(ENDING)).map(line).collect()
}

/// Keeps a row that was refused.
pub(super) fn keep(storage: &dyn Storage, row: &PublishRow, why: &str) -> Result<(), StorageError> {
    let version = row.version;
    let refused = match &row.content {
        Content::Tag { scope, tag, display, total, .. } => {
            Refused::Tag { scope, tag, display, total: *total, version, why }
        }
        Content::Board { scope, window, doc, .. } => {
            Refused::Board { scope, win: window, bytes: doc.len(), version, why }
        }
    };
    // Texts and numbers always have a JSON form.
    let mut line = serde_json::to_vec(&refused).unwrap_or_default();
    line.push(b'\n');
    let table = if matches!(row.content, Content::Tag { .. }) { "tag" } else { "board" };
    let name = format!("{REFUSED}/{table}-{:016x}{:016x}{ENDING}", row.hash.hi, row.hash.lo);
    replace(storage, &name, &line)
}
