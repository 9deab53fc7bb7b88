//! A versioned store in memory, which treats timestamped upserts as a database does.

use std::collections::BTreeMap;

use schemas::hash::KeyHash;
use schemas::planted::{Bug, planted};

use super::{Content, JobRow, Outcome, PublishError, PublishRow, Publisher};

/// Rows by table and key; of two writes the one with the higher version wins.
#[derive(Debug, Default)]
pub struct MemoryStore {
    rows: BTreeMap<(bool, KeyHash), PublishRow>,
    jobs: BTreeMap<String, JobRow>,
}

impl MemoryStore {
    /// Applies a write; writes may arrive in any order.
    pub fn apply(&mut self, row: PublishRow) {
        let is_board = matches!(row.content, Content::Board { .. });
        let kept = self.rows.entry((is_board, row.hash)).or_insert_with(|| row.clone());
        if row.version > kept.version {
            let before = std::mem::replace(kept, row);
            if planted(Bug::Increment) {
                add(kept, &before);
            }
        }
    }

    /// The version of a row, by whether it is a board and its key.
    pub fn version(&self, (is_board, hash): (bool, KeyHash)) -> Option<i64> {
        self.rows.get(&(is_board, hash)).map(|row| row.version)
    }

    /// A row, by whether it is a board and its key.
    pub fn row(&self, (is_board, hash): (bool, KeyHash)) -> Option<&PublishRow> {
        self.rows.get(&(is_board, hash))
    }

    /// Every row, tags before boards, in key order.
    pub fn rows(&self) -> impl Iterator<Item = &PublishRow> {
        self.rows.values()
    }
}

/// What a store that increments would do: a planted bug.
fn add(row: &mut PublishRow, before: &PublishRow) {
    if let (Content::Tag { total, .. }, Content::Tag { total: old, .. }) =
        (&mut row.content, &before.content)
    {
        *total += old;
    }
}

impl Publisher for MemoryStore {
    fn job(&mut self, name: &str) -> Result<Option<Option<JobRow>>, PublishError> {
        Ok(Some(self.jobs.get(name).cloned()))
    }

    fn upsert(&mut self, rows: &[PublishRow]) -> Result<Vec<Outcome>, PublishError> {
        rows.iter().cloned().for_each(|row| self.apply(row));
        Ok(vec![Outcome::Acknowledged; rows.len()])
    }

    fn older(&mut self, version: i64, most: usize) -> Result<Option<Vec<Content>>, PublishError> {
        let older = self.rows.values().filter(|row| row.version < version).take(most);
        let emptied = older.map(|row| match row.content.clone() {
            Content::Tag { scope, tag, .. } => Content::no_tag(scope, tag),
            Content::Board { scope, window, .. } => Content::no_board(scope, window),
        });
        Ok(Some(emptied.collect()))
    }

    fn set_job(&mut self, row: &JobRow) -> Result<Outcome, PublishError> {
        let kept = self.jobs.entry(row.name.clone()).or_insert_with(|| row.clone());
        if row.version > kept.version {
            *kept = row.clone();
        }
        Ok(Outcome::Acknowledged)
    }
}
