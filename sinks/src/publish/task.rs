//! The background task that publishes commits, round by round.
//!
//! A round takes one visible commit and sends every row that changed after the last published
//! one. Nothing waits in memory: the segments are the queue. A database that is slow or down makes
//! the next round larger, and a key that changed ten times meanwhile is sent once.

use std::sync::Arc;

use schemas::hash::KeyHash;
use schemas::manifest::Header;
use schemas::planted::{Bug, planted};

use super::{JobRow, Outcome, PublishError, PublishRow, Publisher};
use crate::commits::Snapshot;
use crate::invariants::{Broken, Invariant, check};

/// What a task has done, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// The last commit of which all rows are acknowledged.
    pub commit: u64,
    /// Rows acknowledged.
    pub rows: u64,
    /// Writes sent again because their outcome was unknown.
    pub resent: u64,
    /// Rows that the database will never take.
    pub refused: u64,
}

struct Round {
    snapshot: Arc<Snapshot>,
    /// Whether all tags have been taken up, and the last key that has been.
    tags_done: bool,
    last: Option<KeyHash>,
    /// Rows sent and not yet acknowledged.
    unknown: Vec<PublishRow>,
}

/// Publishes the commits of one job.
pub struct PublishTask<P> {
    job: String,
    publisher: P,
    /// None until the database has told.
    published: Option<u64>,
    round: Option<Round>,
    done: Published,
}

impl<P: Publisher> PublishTask<P> {
    /// A task that has not asked the database yet.
    pub fn new(job: String, publisher: P) -> Self {
        Self { job, publisher, published: None, round: None, done: Published::default() }
    }

    /// What has been done so far.
    pub fn done(&self) -> Published {
        self.done
    }

    /// The database, for tests.
    pub fn publisher(&mut self) -> &mut P {
        &mut self.publisher
    }

    /// Does a piece of work; `newest` is the newest visible commit. False where all of it has been
    /// published, or the database does not answer.
    pub fn step(&mut self, newest: &Arc<Snapshot>) -> Result<bool, PublishError> {
        let Some(published) = self.ask(newest)? else { return Ok(false) };
        let mut round = match self.round.take() {
            Some(round) => round,
            None if newest.manifest.header.commit > published => Round::new(Arc::clone(newest)),
            None => return Ok(false),
        };
        if round.unknown.is_empty() {
            round.take_rows(published, self.publisher.rows_max())?;
        }
        if round.unknown.is_empty() {
            return self.finish(round);
        }
        let outcomes = self.publisher.upsert(&round.unknown)?;
        let before = round.unknown.len();
        let mut outcomes = outcomes.into_iter();
        round.unknown.retain(|row| match outcomes.next() {
            Some(Outcome::Acknowledged) => {
                self.done.rows += 1;
                false
            }
            Some(Outcome::Refused(why)) => {
                tracing::error!(row = ?row.content, why, "the store refused a row for good");
                self.done.refused += 1;
                false
            }
            Some(Outcome::Unknown) | None => true,
        });
        self.done.resent += round.unknown.len() as u64;
        let moved = round.unknown.len() < before;
        self.round = Some(round);
        Ok(moved)
    }

    fn ask(&mut self, newest: &Snapshot) -> Result<Option<u64>, PublishError> {
        if self.published.is_none()
            && let Some(row) = self.publisher.job(&self.job)?
        {
            let header = &newest.manifest.header;
            if let Some(row) = &row
                && is_of_another_state(row, header)
            {
                return Err(PublishError::StoreAhead {
                    published: row.published,
                    generation: row.generation,
                    newest: header.commit,
                });
            }
            self.done.commit = row.map_or(0, |row| row.published);
            if planted(Bug::ForgottenDirtyRow) {
                self.done.commit = header.commit;
            }
            self.published = Some(self.done.commit);
        }
        Ok(self.published)
    }

    fn finish(&mut self, round: Round) -> Result<bool, PublishError> {
        let manifest = &round.snapshot.manifest;
        let row = JobRow {
            name: self.job.clone(),
            history: manifest.header.history,
            generation: manifest.header.generation,
            published: manifest.header.commit,
            version: manifest.header.version,
            as_of_ms: manifest.body.as_of_ms,
        };
        match self.publisher.set_job(&row)? {
            Outcome::Acknowledged => {
                self.published = Some(row.published);
                self.done.commit = row.published;
                Ok(true)
            }
            Outcome::Refused(why) => Err(PublishError::Fatal(format!("its job row: {why}"))),
            Outcome::Unknown => {
                self.done.resent += 1;
                self.round = Some(round);
                Ok(false)
            }
        }
    }
}

/// Whether a state whose newest commit is `newest` cannot have written `row`. Versions rise from
/// commit to commit; against a higher one every write would be lost though it is acknowledged.
fn is_of_another_state(row: &JobRow, newest: &Header) -> bool {
    let by_commit = row.published.cmp(&newest.commit);
    by_commit.is_gt() || by_commit != row.version.cmp(&newest.version)
}

impl Round {
    fn new(snapshot: Arc<Snapshot>) -> Self {
        Self { snapshot, tags_done: false, last: None, unknown: Vec::new() }
    }

    /// Takes up the next rows that changed after `published`: tags, then boards.
    fn take_rows(&mut self, published: u64, most: usize) -> Result<(), Broken> {
        let Header { commit, version, .. } = self.snapshot.manifest.header;
        let mut changed = 0;
        let row = |hash, content| PublishRow { hash, version, content };
        if !self.tags_done {
            let tags = self.snapshot.tags_changed(published, self.last).take(most);
            self.unknown.extend(tags.map(|(hash, tag)| {
                changed = tag.commit.max(changed);
                row(hash, tag.into())
            }));
            self.tags_done = self.unknown.is_empty();
            self.last = self.unknown.last().map(|row| row.hash);
            if planted(Bug::PageLosesRow) && self.unknown.len() == most {
                self.unknown.pop();
            }
        }
        if self.tags_done {
            let boards = self.snapshot.boards_changed(published, self.last).take(most);
            self.unknown.extend(boards.map(|(hash, board)| {
                changed = board.commit.max(changed);
                row(hash, board.into())
            }));
            self.last = self.unknown.last().map(|row| row.hash).or(self.last);
        }
        let what = || format!("a row of commit {changed} is to be published from commit {commit}");
        check(Invariant::Committed, changed <= commit, what)
    }
}
