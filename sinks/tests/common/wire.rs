//! What lies between a publisher and its database: requests and answers get lost, writes come late
//! or twice, long after the process that sent them has died.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard};

use sinks::publish::{Content, JobRow, MemoryStore, Outcome, PublishError, PublishRow, Publisher};

use super::Rng;

/// One write on its way.
#[derive(Clone, Debug)]
pub(crate) enum Write {
    Row(PublishRow),
    Job(JobRow),
}

/// How often what goes wrong, in percent.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    /// The write never happens.
    pub(crate) lost: u64,
    /// It happens, and nobody is told.
    pub(crate) unanswered: u64,
    /// It happens later, and nobody is told.
    pub(crate) late: u64,
    /// It happens now and again later.
    pub(crate) twice: u64,
    /// The database does not say what has been published, or answers a part of the rows.
    pub(crate) silent: u64,
}

/// The wire, its database, and what has gone over it.
pub(crate) struct Line {
    pub(crate) store: MemoryStore,
    pub(crate) faults: Faults,
    pub(crate) late: Vec<Write>,
    /// Every write that was sent since somebody looked.
    pub(crate) sent: Vec<Write>,
    /// How often each fault has struck: lost, unanswered, late, twice, silent.
    pub(crate) struck: [u64; 5],
    /// The most rows in one call.
    pub(crate) most_rows: usize,
    rng: Rng,
}

/// A publisher at one end of the wire.
#[derive(Clone)]
pub(crate) struct Wire(Arc<Mutex<Line>>);

impl Line {
    fn apply(&mut self, write: Write) {
        match write {
            Write::Row(row) => self.store.apply(row),
            Write::Job(row) => assert_eq!(self.store.set_job(&row).unwrap(), Outcome::Acknowledged),
        }
    }

    fn send(&mut self, write: Write) -> Outcome {
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

    /// Delivers the late write `which`.
    pub(crate) fn deliver(&mut self, which: usize) {
        let write = self.late.swap_remove(which);
        self.apply(write);
    }

    /// The row of job `job`.
    pub(crate) fn job(&mut self) -> Option<JobRow> {
        self.store.job("job").unwrap().unwrap()
    }
}

impl Wire {
    pub(crate) fn new(faults: Faults, seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Line {
            store: MemoryStore::default(),
            faults,
            late: Vec::new(),
            sent: Vec::new(),
            struck: [0; 5],
            most_rows: 0,
            rng: Rng(seed),
        })))
    }

    pub(crate) fn line(&self) -> MutexGuard<'_, Line> {
        self.0.lock().unwrap()
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
        assert_eq!(keys.len(), rows.len(), "no two rows have one key");
        let mut outcomes: Vec<_> =
            rows.iter().map(|row| line.send(Write::Row(row.clone()))).collect();
        if line.is_silent() {
            outcomes.truncate(outcomes.len() / 2);
        }
        Ok(outcomes)
    }

    fn set_job(&mut self, row: &JobRow) -> Result<Outcome, PublishError> {
        Ok(self.line().send(Write::Job(row.clone())))
    }
}
