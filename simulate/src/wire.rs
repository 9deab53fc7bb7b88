//! The connection between a publisher and its database: requests and answers get lost, and writes
//! arrive twice, or late, long after the process that sent them has died.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use schemas::hash::KeyHash;
use sinks::active::Pointer;
use sinks::publish::{Content, JobRow, MemoryStore, Outcome, PublishError, PublishRow, Publisher};

use crate::rng::Rng;

/// A write in flight.
#[derive(Clone, Debug)]
pub enum Write {
    /// A row of a table.
    Row(PublishRow),
    /// The row of the job.
    Job(JobRow),
    /// The keyspace that readers should use.
    Pointer(Pointer),
}

/// How often each fault strikes, in percent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// The write does not happen.
    pub lost: u64,
    /// The write happens, but the answer is lost.
    pub unanswered: u64,
    /// The write happens later, without an answer.
    pub late: u64,
    /// The write happens now and once more later.
    pub twice: u64,
    /// The database does not answer a read, or answers only some of the rows.
    pub silent: u64,
}

/// The connection, its database, and the writes so far.
pub struct Line {
    /// The database.
    pub store: MemoryStore,
    /// How often each fault strikes.
    pub faults: Faults,
    /// Writes that have not arrived yet.
    pub late: Vec<Write>,
    /// The writes that were sent since the last look.
    pub sent: Vec<Write>,
    /// How often each fault has struck: lost, unanswered, late, twice, silent.
    pub struck: [u64; 5],
    /// The most rows in one call.
    pub most_rows: usize,
    /// Calls with as many rows as are allowed.
    pub full_calls: u64,
    /// The newest version of each row that could be read, and the newest published commit.
    versions: BTreeMap<(bool, KeyHash), i64>,
    published: u64,
    /// The first version or published commit that went back.
    pub fell: Option<String>,
    /// The pointer in this keyspace, and its previous value.
    pointers: [Option<Pointer>; 2],
    rng: Rng,
}

/// One end of the connection.
#[derive(Clone)]
pub struct Wire(Arc<Mutex<Line>>);

impl Line {
    fn apply(&mut self, write: Write) {
        match write {
            Write::Row(row) => {
                let key = (matches!(row.content, Content::Board { .. }), row.hash);
                self.store.apply(row);
                let now = self.store.version(key).unwrap_or(i64::MIN);
                let before = self.versions.insert(key, now);
                if before.is_some_and(|before| now < before) {
                    self.fell.get_or_insert(format!("{key:?} went from {before:?} to {now}"));
                }
            }
            Write::Job(row) => {
                let outcome = self.store.set_job(&row);
                debug_assert!(outcome.is_ok(), "a store in memory accepts every write");
                let now = self.job().map_or(0, |row| row.published);
                if now < self.published {
                    let fell = format!("the job went from {} to {now}", self.published);
                    self.fell.get_or_insert(fell);
                }
                self.published = now;
            }
            Write::Pointer(to) => {
                let [now, before] = &mut self.pointers;
                if now.as_ref().is_none_or(|now| to.written_us > now.written_us) {
                    *before = now.replace(to);
                }
            }
        }
    }

    /// Sends a write; returns what the sender learns.
    pub fn send(&mut self, write: Write) -> Outcome {
        self.sent.push(write.clone());
        let Faults { lost, unanswered, late, twice, .. } = self.faults;
        let mut dice = self.rng.below(100);
        let fault = [lost, unanswered, late, twice].iter().position(|percent| {
            let strikes = dice < *percent;
            dice = dice.saturating_sub(*percent);
            strikes
        });
        if let Some(fault) = fault {
            self.struck[fault] += 1;
        }
        match fault {
            Some(0) => return Outcome::Unknown,
            Some(2) => {
                self.late.push(write);
                return Outcome::Unknown;
            }
            Some(3) => self.late.push(write.clone()),
            _ => {}
        }
        self.apply(write);
        if fault == Some(1) { Outcome::Unknown } else { Outcome::Acknowledged }
    }

    fn is_silent(&mut self) -> bool {
        let silent = self.rng.chance(self.faults.silent);
        self.struck[4] += u64::from(silent);
        silent
    }

    /// Whether the request of a reader is not answered.
    pub fn is_unanswered(&mut self) -> bool {
        self.rng.chance(self.faults.lost)
    }

    /// The pointer in this keyspace.
    pub fn pointer(&self) -> Option<Pointer> {
        self.pointers[0].clone()
    }

    /// The pointer as a replica has it that may lag behind.
    pub fn lagging_pointer(&mut self) -> Option<Pointer> {
        let lags = self.rng.chance(self.faults.late);
        self.pointers[usize::from(lags)].clone()
    }

    /// Delivers the late write `which`.
    pub fn deliver(&mut self, which: usize) {
        let write = self.late.swap_remove(which);
        self.apply(write);
    }

    /// The row of the only job.
    pub fn job(&mut self) -> Option<JobRow> {
        let row = self.store.job("job");
        row.unwrap_or_else(|error| unreachable!("a store in memory answers: {error}")).flatten()
    }
}

impl Wire {
    /// A connection to an empty database.
    pub fn new(faults: Faults, seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Line {
            store: MemoryStore::default(),
            faults,
            late: Vec::new(),
            sent: Vec::new(),
            struck: [0; 5],
            most_rows: 0,
            full_calls: 0,
            versions: BTreeMap::new(),
            published: 0,
            fell: None,
            pointers: [None, None],
            rng: Rng(seed),
        })))
    }

    /// Its state.
    pub fn line(&self) -> MutexGuard<'_, Line> {
        self.0.lock()
    }
}

impl Publisher for Wire {
    fn job(&mut self, name: &str) -> Result<Option<Option<JobRow>>, PublishError> {
        let mut line = self.line();
        if line.is_silent() { Ok(None) } else { line.store.job(name) }
    }

    fn upsert(&mut self, rows: &[PublishRow]) -> Result<Vec<Outcome>, PublishError> {
        let mut line = self.line();
        line.most_rows = line.most_rows.max(rows.len());
        let key = |row: &PublishRow| (matches!(row.content, Content::Tag { .. }), row.hash);
        let keys: BTreeSet<_> = rows.iter().map(key).collect();
        assert_eq!(keys.len(), rows.len(), "two rows of a call have the same key");
        let mut outcomes: Vec<_> =
            rows.iter().map(|row| line.send(Write::Row(row.clone()))).collect();
        if line.is_silent() {
            outcomes.truncate(outcomes.len() / 2);
        }
        Ok(outcomes)
    }

    fn older(&mut self, version: i64, most: usize) -> Result<Option<Vec<Content>>, PublishError> {
        let mut line = self.line();
        if line.is_silent() { Ok(None) } else { line.store.older(version, most) }
    }

    fn set_job(&mut self, row: &JobRow) -> Result<Outcome, PublishError> {
        Ok(self.line().send(Write::Job(row.clone())))
    }
}
