//! What a run counted, in a form that can be compared: a benchmark of wrong counts is worthless.

use std::error::Error;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

/// Sums over all counts of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sums {
    /// Accepted events, each once.
    pub(crate) events: u64,
    pub(crate) duplicates: u64,
    /// The number of different tags.
    pub(crate) keys: u64,
    /// The sum of all totals.
    pub(crate) total: i64,
    /// The sum of their squares.
    pub(crate) squares: i64,
    /// The sum of the hashes of all rows: equal only if all counts are.
    rows: u64,
}

/// A line of `checkpoint export`: a row, or the summary at the end.
#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Row { scope: String, key: String, total: i64, first_seen: i64, last_seen: i64 },
    End { events: u64, duplicates: u64, dead_letters: u64, unsupported: u64, beyond_horizon: u64 },
}

impl Sums {
    /// Adds a tag's row.
    pub(crate) fn add(&mut self, key: &str, total: i64, first: i64, last: i64) {
        // This hasher has no random part, so that two processes agree.
        let mut hasher = DefaultHasher::new();
        (key, total, first, last).hash(&mut hasher);
        self.keys += 1;
        self.total += total;
        self.squares += total * total;
        self.rows = self.rows.wrapping_add(hasher.finish());
    }

    /// A summary to print.
    pub(crate) fn summary(&self) -> String {
        let Self { events, duplicates, keys, total, .. } = self;
        format!(
            "All runs agree on {events} events, {duplicates} duplicates, {keys} tags, {total} uses."
        )
    }

    /// The sums of a state's visible commit.
    pub(crate) fn of_state(tagflow: &Path, state: &Path) -> Result<Self, Box<dyn Error>> {
        let mut export = Command::new(tagflow)
            .args(["checkpoint", "export", "--state"])
            .arg(state)
            .stdout(Stdio::piped())
            .spawn()?;
        let out = export.stdout.take().ok_or("no standard output")?;
        let mut sums = Self::default();
        for line in BufReader::new(out).lines() {
            match serde_json::from_str(&line?)? {
                Line::Row { scope, key, total, first_seen, last_seen } if scope.is_empty() => {
                    sums.add(&key, total, first_seen, last_seen);
                }
                Line::Row { scope, .. } => {
                    return Err(format!("the state has scope {scope}").into());
                }
                Line::End { events, duplicates, dead_letters, unsupported, beyond_horizon } => {
                    if dead_letters + unsupported + beyond_horizon > 0 {
                        return Err("the job refused events that the baseline counts".into());
                    }
                    (sums.events, sums.duplicates) = (events, duplicates);
                }
            }
        }
        let status = export.wait()?;
        if status.success() {
            Ok(sums)
        } else {
            Err(format!("the export failed with {status}").into())
        }
    }
}
