//! Publishing: sends the rows that a commit changed to a database.
//!
//! Rows carry absolute values and the version of the manifest they come from, so any write may be
//! repeated, and the newest version wins. Invariant: only rows of visible commits are sent, and
//! `published = n` is written once all rows of the commits up to n are acknowledged.

mod memory;
mod refused;
mod task;

pub use memory::MemoryStore;
pub use refused::{REFUSED, refused};
use schemas::hash::KeyHash;
use schemas::rows::{BoardRow, TagRow};
use schemas::windows::Windows;
pub use task::{PublishTask, Published, WaitingRows};
use thiserror::Error;

pub use crate::backoff::Backoff;
use crate::commits::CommitError;
use crate::invariants::Broken;
use crate::storage::StorageError;

/// A row being sent to the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishRow {
    /// Its key in the commits.
    pub hash: KeyHash,
    /// The version of its manifest, which is the timestamp of the write, in microseconds.
    pub version: i64,
    /// Its columns.
    pub content: Content,
}

/// The columns of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A row of table `tag`.
    Tag {
        /// Primary key, first part.
        scope: String,
        /// Primary key, second part.
        tag: String,
        /// The display form.
        display: String,
        /// The number of posts; 0 if none is left.
        total: i64,
        /// The bucket list.
        recent: Vec<u8>,
        /// The least event time, in milliseconds.
        first_seen: i64,
        /// The greatest event time.
        last_seen: i64,
        /// The stream time at which the buckets were folded.
        as_of: i64,
    },
    /// A row of table `board`.
    Board {
        /// Primary key, first part.
        scope: String,
        /// Primary key, second part.
        window: String,
        /// The entries as JSON.
        doc: String,
        /// The stream time of its last change.
        as_of: i64,
    },
}

impl From<TagRow<'_>> for Content {
    fn from(row: TagRow<'_>) -> Self {
        Self::Tag {
            scope: row.scope.to_owned(),
            tag: row.tag.to_owned(),
            display: row.display.to_owned(),
            total: row.total,
            recent: row.recent.to_vec(),
            first_seen: row.first_seen,
            last_seen: row.last_seen,
            as_of: row.as_of,
        }
    }
}

impl Content {
    /// A row of table `tag` without posts.
    pub fn no_tag(scope: String, tag: String) -> Self {
        let (display, recent) = (tag.clone(), Vec::new());
        let [total, first_seen, last_seen, as_of] = [0; 4];
        Self::Tag { scope, tag, display, total, recent, first_seen, last_seen, as_of }
    }

    /// A row of table `board` without entries.
    pub fn no_board(scope: String, window: String) -> Self {
        Self::Board { scope, window, doc: "[]".to_owned(), as_of: 0 }
    }

    /// Its table and, for messages, its primary key.
    pub fn place(&self) -> (&'static str, String) {
        match self {
            Self::Tag { scope, tag, .. } => ("tag", format!("{scope:?} {tag:?}")),
            Self::Board { scope, window, .. } => ("board", format!("{scope:?} {window:?}")),
        }
    }
}

impl From<BoardRow<'_>> for Content {
    fn from(row: BoardRow<'_>) -> Self {
        Self::Board {
            scope: row.scope.to_owned(),
            window: row.window.to_owned(),
            doc: row.doc.to_owned(),
            as_of: row.as_of,
        }
    }
}

/// The job's row in the database: what has been published, and what readers need to know about that
/// commit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobRow {
    /// The job's name.
    pub name: String,
    /// The history of the commit.
    pub history: u64,
    /// The generation that published it.
    pub generation: u64,
    /// The owner of that generation, which is unique to its state.
    pub owner: String,
    /// The last commit whose rows are all acknowledged.
    pub published: u64,
    /// Its version.
    pub version: i64,
    /// Its stream time.
    pub as_of_ms: Option<i64>,
    /// The job's wall clock when it made the commit, in milliseconds.
    pub wall_ms: i64,
    /// The windows of the tags' buckets.
    pub windows: Windows,
    /// The scopes besides the whole stream; `None` if they are not known.
    pub scopes: Option<Vec<String>>,
}

/// What is known about a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is durable in the database.
    Acknowledged,
    /// It may have happened; the same row is sent again.
    Unknown,
    /// The database will never take it.
    Refused(String),
}

/// Why publishing cannot continue. A temporary problem is an [`Outcome::Unknown`] instead.
#[derive(Debug, Error)]
pub enum PublishError {
    /// An invariant is broken.
    #[error(transparent)]
    Broken(#[from] Broken),
    /// The database cannot be used for this job.
    #[error("the store cannot be used: {0}")]
    Fatal(String),
    /// The database does not answer, as the text says, and nothing can be done without an answer.
    #[error("{0}")]
    Unavailable(String),
    /// The database has rows newer than anything this state can write.
    #[error(
        "the store has rows of version {theirs}, which is newer than this state's {ours}, so a clock was wrong. Name another keyspace"
    )]
    Newer {
        /// The version there.
        theirs: i64,
        /// The version here.
        ours: i64,
    },
    /// A refused row could not be saved.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The state's own commits could not be read.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The database has seen commits that this state does not have.
    #[error(
        "the store has published commit {published} (generation {generation}), which is not one of this state, {}. Name another keyspace, or bring back the state that belongs to it, or {}",
        match newest { 0 => "which is empty".to_owned(), n => format!("now at commit {n}") },
        match newest {
            0 => "count without --store and then fill the store: tagflow store rebuild",
            _ => "fill the store from this state: tagflow store rebuild"
        }
    )]
    StoreAhead {
        /// The commit that the store shows.
        published: u64,
        /// The generation that published it.
        generation: u64,
        /// The newest commit of the state; 0 if it is empty.
        newest: u64,
    },
}

/// A database to publish to.
pub trait Publisher: Send {
    /// The row of job `name`: `Some(None)` if the job never published here, `None` if the database
    /// does not answer.
    fn job(&mut self, name: &str) -> Result<Option<Option<JobRow>>, PublishError>;
    /// Sends rows with distinct keys. Returns the outcome of each that was sent, in their order.
    fn upsert(&mut self, rows: &[PublishRow]) -> Result<Vec<Outcome>, PublishError>;
    /// Writes the job's row, at its version.
    fn set_job(&mut self, row: &JobRow) -> Result<Outcome, PublishError>;
    /// Like [`Self::job`], but reads only the version, and so accepts a damaged row.
    fn job_version(&mut self, name: &str) -> Result<Option<Option<i64>>, PublishError> {
        Ok(self.job(name)?.map(|row| row.map(|row| row.version)))
    }
    /// Up to `most` rows older than `version`, emptied: as rows without posts or entries. `None` if
    /// the database does not answer.
    fn older(&mut self, version: i64, most: usize) -> Result<Option<Vec<Content>>, PublishError>;
    /// Why the last request was not, or not wholly, done, if it was not.
    fn trouble(&self) -> Option<String> {
        None
    }
    /// The most rows to send in one call.
    fn rows_max(&self) -> usize {
        4096
    }
}

impl PublishError {
    /// `publisher` did not answer.
    pub fn unavailable(publisher: &(impl Publisher + ?Sized)) -> Self {
        let why = publisher.trouble();
        Self::Unavailable(why.unwrap_or_else(|| "the store does not answer".to_owned()))
    }
}

impl Publisher for Box<dyn Publisher> {
    fn job(&mut self, name: &str) -> Result<Option<Option<JobRow>>, PublishError> {
        (**self).job(name)
    }

    fn upsert(&mut self, rows: &[PublishRow]) -> Result<Vec<Outcome>, PublishError> {
        (**self).upsert(rows)
    }

    fn set_job(&mut self, row: &JobRow) -> Result<Outcome, PublishError> {
        (**self).set_job(row)
    }

    fn job_version(&mut self, name: &str) -> Result<Option<Option<i64>>, PublishError> {
        (**self).job_version(name)
    }

    fn older(&mut self, version: i64, most: usize) -> Result<Option<Vec<Content>>, PublishError> {
        (**self).older(version, most)
    }

    fn trouble(&self) -> Option<String> {
        (**self).trouble()
    }

    fn rows_max(&self) -> usize {
        (**self).rows_max()
    }
}
