//! The rows that a database permanently refuses, saved in one small file each for people to see.
//!
//! Invariant: a refused row is durable here before its commit counts as published. A row that is
//! refused again replaces its file, so there are no more files than refused rows.

use serde::Serialize;

use super::{Content, PublishRow};
use crate::storage::{Storage, StorageError, replace};

/// The folder of the files.
pub const REFUSED: &str = "refused";

/// How the names of the files end.
const ENDING: &str = ".ndjson";

/// The content of a file, one line of JSON.
#[derive(Debug, Serialize)]
#[serde(tag = "table", rename_all = "snake_case")]
enum Refused<'r> {
    Tag { scope: &'r str, tag: &'r str, display: &'r str, total: i64, version: i64, why: &'r str },
    Board { scope: &'r str, win: &'r str, bytes: usize, version: i64, why: &'r str },
}

/// The refused rows of a state, each as one line of JSON, in the order of their files' names.
pub fn refused(storage: &dyn Storage) -> Result<Vec<String>, StorageError> {
    let mut names = storage.list(REFUSED)?;
    names.sort_unstable();
    let line = |name: String| {
        let bytes = storage.open(&format!("{REFUSED}/{name}"))?;
        Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
    };
    names.into_iter().filter(|name| name.ends_with(ENDING)).map(line).collect()
}

/// Saves a refused row.
pub(super) fn save(storage: &dyn Storage, row: &PublishRow, why: &str) -> Result<(), StorageError> {
    let version = row.version;
    let refused = match &row.content {
        Content::Tag { scope, tag, display, total, .. } => {
            Refused::Tag { scope, tag, display, total: *total, version, why }
        }
        Content::Board { scope, window, doc, .. } => {
            Refused::Board { scope, win: window, bytes: doc.len(), version, why }
        }
    };
    let mut line = serde_json::to_vec(&refused)
        .unwrap_or_else(|error| unreachable!("numbers and texts have a JSON form: {error}"));
    line.push(b'\n');
    let table = if matches!(row.content, Content::Tag { .. }) { "tag" } else { "board" };
    let name = format!("{REFUSED}/{table}-{:016x}{:016x}{ENDING}", row.hash.hi, row.hash.lo);
    replace(storage, &name, &line)
}
