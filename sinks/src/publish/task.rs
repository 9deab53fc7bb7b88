//! The background task that publishes commits, round by round.
//!
//! A round takes one visible commit and sends every row that changed since the last published one.
//! Nothing waits in memory: the segments are the queue. If the database is slow or down, the next
//! round is larger, and a key that changed ten times meanwhile is sent once. If control records
//! came in between, the round sends all boards, of which there are few, and so repairs them.
//! Invariant: a commit counts as published only after every row of its round was acknowledged or
//! saved as refused.

use std::sync::Arc;

use schemas::hash::KeyHash;
use schemas::manifest::{Header, Manifest};
use schemas::planted::{Bug, planted};
use schemas::rows::{BoardRow, TagRow, board_hash};

use super::{Content, JobRow, Outcome, PublishError, PublishRow, Publisher, refused};
use crate::commits::{CommitError, Snapshot, list_commits, load, load_header, newest};
use crate::invariants::{Broken, Invariant, check};
use crate::storage::Storage;

/// What a task has done, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// The last commit whose rows are all acknowledged.
    pub commit: u64,
    /// The wall clock of the job when it made the commit.
    pub wall_ms: i64,
    /// Rows acknowledged.
    pub rows: u64,
    /// Writes repeated because their outcome was unknown.
    pub resent: u64,
    /// Rows that the database permanently refused.
    pub refused: u64,
}

/// About the most bytes of rows to send in one call.
const CALL_BYTES: usize = 8 << 20;

/// What waits for a database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WaitingRows {
    /// The commit that is being sent, if any is.
    pub commit: Option<u64>,
    /// How many rows of it were sent and not acknowledged.
    pub rows: usize,
    /// The table and key of the first of them.
    pub first: Option<(&'static str, String)>,
    /// Why.
    pub why: Option<String>,
}

struct Round {
    snapshot: Arc<Snapshot>,
    /// Tags that changed after this commit are sent.
    after: u64,
    /// Boards that changed after this commit are sent.
    boards_after: u64,
    /// Whether all tags have been taken, and the last key that was.
    tags_done: bool,
    last: Option<KeyHash>,
    /// Rows that are not known to be acknowledged.
    unknown: Vec<PublishRow>,
    /// The rows that the state does not have, as they were last taken.
    older: Vec<Content>,
}

/// Publishes the commits of one job.
pub struct PublishTask<P> {
    job: String,
    publisher: P,
    /// The last published commit; `None` until the database has answered.
    published: Option<u64>,
    /// Whether to send all rows, whatever the database has.
    rebuild: bool,
    /// The state that is published; refused rows are saved there.
    state: Arc<dyn Storage>,
    round: Option<Round>,
    done: Published,
}

impl<P: Publisher> PublishTask<P> {
    /// A task that has not asked the database yet.
    pub fn new(job: String, publisher: P, state: Arc<dyn Storage>) -> Self {
        Self {
            job,
            publisher,
            published: None,
            rebuild: false,
            state,
            round: None,
            done: Published::default(),
        }
    }

    /// A task that sends every row of the first commit it is given, whatever the database has, even
    /// from another state.
    #[must_use]
    pub fn rebuilding(self) -> Self {
        Self { published: Some(0), rebuild: true, ..self }
    }

    /// What has been done so far.
    pub fn done(&self) -> Published {
        self.done
    }

    /// What waits for the database, if anything does.
    pub fn waiting(&self) -> WaitingRows {
        let why = self.publisher.trouble();
        let Some(round) = &self.round else { return WaitingRows { why, ..WaitingRows::default() } };
        WaitingRows {
            commit: Some(round.snapshot.manifest.header.commit),
            rows: round.unknown.len(),
            first: round.unknown.first().map(|row| row.content.place()),
            why,
        }
    }

    /// Whether the database has all of `newest`.
    pub fn has_published(&self, newest: &Manifest) -> bool {
        let commit = newest.header.commit;
        !self.rebuild && self.round.is_none() && self.published.is_some_and(|p| p >= commit)
    }

    /// The database, for tests.
    pub fn publisher(&mut self) -> &mut P {
        &mut self.publisher
    }

    /// Does a part of the work; `newest` is the newest visible commit. Returns false if all of it
    /// is published, or if the database does not answer.
    pub fn step(&mut self, newest: &Arc<Snapshot>) -> Result<bool, PublishError> {
        let Some(published) = self.ask(newest)? else { return Ok(false) };
        let mut round = match self.round.take() {
            Some(round) => round,
            None if self.rebuild || newest.manifest.header.commit > published => {
                let boards_after =
                    if self.has_controls_since(published, newest) { 0 } else { published };
                Round::new(Arc::clone(newest), published, boards_after)
            }
            None => return Ok(false),
        };
        if round.unknown.is_empty() {
            round.take_rows(self.publisher.rows_max())?;
        }
        if round.unknown.is_empty() && self.rebuild && !self.take_older(&mut round)? {
            self.round = Some(round);
            return Ok(false);
        }
        if round.unknown.is_empty() {
            return self.finish(round);
        }
        let outcomes = self.publisher.upsert(&round.unknown);
        let moved = outcomes.and_then(|outcomes| self.learn(&mut round.unknown, outcomes));
        self.round = Some(round);
        moved
    }

    /// Whether control records may have been taken since commit `published`.
    fn has_controls_since(&self, published: u64, newest: &Snapshot) -> bool {
        let control = newest.manifest.body.control;
        load(&*self.state, published).map_or(true, |before| before.body.control != control)
    }

    /// Takes the rows that the state does not have, to empty them: readers must not see what was
    /// there before a rebuild. Returns false if the database does not answer.
    fn take_older(&mut self, round: &mut Round) -> Result<bool, PublishError> {
        let Manifest { header, body } = &round.snapshot.manifest;
        let most = self.publisher.rows_max();
        let Some(older) = self.publisher.older(header.version, most)? else { return Ok(false) };
        // If emptying them left the same rows, they were refused.
        if older != round.older {
            let hasher = body.hash_key.hasher();
            let row = |content: &Content| PublishRow {
                hash: match content {
                    Content::Tag { scope, tag, .. } => hasher.scoped(scope, hasher.tag(tag)),
                    Content::Board { scope, window, .. } => board_hash(scope, window),
                },
                version: header.version,
                content: content.clone(),
            };
            round.unknown = older.iter().map(row).collect();
            round.older = older;
        }
        Ok(true)
    }

    /// Removes the rows whose outcome is known; returns whether there were any.
    fn learn(
        &mut self,
        rows: &mut Vec<PublishRow>,
        outcomes: Vec<Outcome>,
    ) -> Result<bool, PublishError> {
        assert!(outcomes.len() <= rows.len(), "an outcome for a row that was not sent");
        let before = rows.len();
        let mut outcomes = outcomes.into_iter();
        let mut saved = Ok(());
        rows.retain(|row| match outcomes.next() {
            Some(Outcome::Acknowledged) => {
                self.done.rows += 1;
                false
            }
            Some(Outcome::Refused(why)) => {
                let (table, key) = row.content.place();
                tracing::error!(table, key, why, "the store permanently refused a row");
                // A row that cannot be saved is sent, and refused, once more.
                match refused::save(&*self.state, row, &why) {
                    Ok(()) => {
                        self.done.refused += 1;
                        false
                    }
                    Err(error) => {
                        saved = Err(error);
                        true
                    }
                }
            }
            Some(Outcome::Unknown) => {
                self.done.resent += 1;
                true
            }
            // It was not sent.
            None => true,
        });
        saved?;
        Ok(rows.len() < before)
    }

    fn ask(&mut self, newest: &Snapshot) -> Result<Option<u64>, PublishError> {
        if self.published.is_none()
            && let Some(row) = self.publisher.job(&self.job)?
        {
            let header = &newest.manifest.header;
            if let Some(row) = &row {
                row.check(Some(&*self.state))?;
                self.done.wall_ms = row.wall_ms;
            }
            self.done.commit = row.map_or(0, |row| row.published);
            if planted(Bug::ForgottenDirtyRow) {
                self.done.commit = header.commit;
            }
            self.published = Some(self.done.commit);
        }
        Ok(self.published)
    }

    /// Whether the database answers. Fails if another state has published there meanwhile, as when
    /// two jobs start at once on an empty keyspace.
    fn is_ours(&mut self) -> Result<bool, PublishError> {
        if self.rebuild {
            return Ok(true);
        }
        let Some(row) = self.publisher.job(&self.job)? else { return Ok(false) };
        row.map_or(Ok(()), |row| row.check(Some(&*self.state)))?;
        Ok(true)
    }

    fn finish(&mut self, round: Round) -> Result<bool, PublishError> {
        if !self.is_ours()? {
            self.round = Some(round);
            return Ok(false);
        }
        let row = JobRow::of(&self.job, &round.snapshot.manifest);
        match self.publisher.set_job(&row)? {
            Outcome::Acknowledged => {
                self.published = Some(row.published);
                self.rebuild = false;
                (self.done.commit, self.done.wall_ms) = (row.published, row.wall_ms);
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

impl JobRow {
    /// The row of a database that has all rows of `manifest`.
    pub fn of(job: &str, manifest: &Manifest) -> Self {
        Self {
            name: job.to_owned(),
            history: manifest.header.history,
            generation: manifest.header.generation,
            owner: manifest.header.owner.clone(),
            published: manifest.header.commit,
            version: manifest.header.version,
            as_of_ms: manifest.body.as_of_ms,
            wall_ms: manifest.header.wall_ms,
            windows: manifest.body.windows.clone(),
            scopes: manifest.body.scopes.clone(),
        }
    }

    /// Fails if `state` cannot have written this row: it has no commit of the row's generation and
    /// owner, or it continued from an earlier commit. The first commit of a generation is never
    /// removed, so the answer is always known. Versions rise from commit to commit; if the database
    /// had a higher one, every write would be acknowledged and lost.
    pub fn check(&self, state: Option<&dyn Storage>) -> Result<(), PublishError> {
        let newest = state.map(newest).transpose()?.flatten().map(|newest| newest.header);
        let is_ours = match (state, &newest) {
            (Some(state), Some(newest)) => {
                let by_commit = self.published.cmp(&newest.commit);
                !by_commit.is_gt()
                    && by_commit == self.version.cmp(&newest.version)
                    && self.is_of(state)?
            }
            _ => false,
        };
        if is_ours {
            return Ok(());
        }
        Err(PublishError::StoreAhead {
            published: self.published,
            generation: self.generation,
            newest: newest.map_or(0, |newest| newest.commit),
        })
    }

    /// Whether the published commit, or the last one before it that `state` still has, is of the
    /// generation that published. The first commit of a later generation would still be there.
    fn is_of(&self, state: &dyn Storage) -> Result<bool, CommitError> {
        let commits = list_commits(state)?;
        let last = commits.into_iter().take_while(|commit| *commit <= self.published).last();
        let Some(last) = last else { return Ok(false) };
        let header = load_header(state, last)?;
        Ok(header.generation == self.generation && header.owner == self.owner)
    }
}

/// Accepts rows until they take `most` bytes, and at least one.
fn page<R>(most: usize, bytes: impl Fn(&R) -> usize) -> impl FnMut(&R) -> bool {
    let mut taken = 0;
    move |row| {
        let has_room = taken < most;
        taken += bytes(row);
        has_room
    }
}

impl Round {
    fn new(snapshot: Arc<Snapshot>, after: u64, boards_after: u64) -> Self {
        assert!(boards_after <= after, "boards are sent with their tags, or all of them");
        Self {
            snapshot,
            after,
            boards_after,
            tags_done: false,
            last: None,
            unknown: Vec::new(),
            older: Vec::new(),
        }
    }

    /// Takes the next rows that changed: tags, then boards.
    fn take_rows(&mut self, most: usize) -> Result<(), Broken> {
        assert!(self.unknown.is_empty(), "rows are taken before others are acknowledged");
        let Header { commit, version, .. } = self.snapshot.manifest.header;
        let mut changed = 0;
        let row = |hash, content| PublishRow { hash, version, content };
        if !self.tags_done {
            let tags = self.snapshot.tags_changed(self.after, self.last).take(most);
            let bytes = |tag: &TagRow<'_>| {
                tag.scope.len() + tag.tag.len() + tag.display.len() + tag.recent.len()
            };
            let page =
                tags.take_while(page(CALL_BYTES, move |(_, tag): &(_, TagRow<'_>)| bytes(tag)));
            self.unknown.extend(page.map(|(hash, tag)| {
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
            let boards = self.snapshot.boards_changed(self.boards_after, self.last).take(most);
            let page = boards
                .take_while(page(CALL_BYTES, |(_, board): &(_, BoardRow<'_>)| board.doc.len()));
            self.unknown.extend(page.map(|(hash, board)| {
                changed = board.commit.max(changed);
                row(hash, board.into())
            }));
            self.last = self.unknown.last().map(|row| row.hash).or(self.last);
        }
        let what = || format!("a row of commit {changed} would be published from commit {commit}");
        check(Invariant::Committed, changed <= commit, what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn call_ends_once_its_rows_take_enough_bytes_and_has_at_least_one() {
        for (sizes, taken) in [(vec![5, 5, 5], 2), (vec![50, 1], 1), (vec![1; 20], 9)] {
            let rows = sizes.iter().take_while(page(9, |size: &&usize| **size));
            assert_eq!(rows.count(), taken, "{sizes:?}");
        }
    }
}
