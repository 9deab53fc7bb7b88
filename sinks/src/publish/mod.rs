//! Publishing: sending the rows that a commit changed to a database.
//!
//! Rows carry absolute values and the version of the manifest they come from, so that any write
//! may be sent again, and the newest version wins. Invariant: only rows of visible commits are
//! sent, and `published = n` is written when all rows of commits up to n are acknowledged.

mod backoff;
mod memory;
mod refused;
mod task;

pub use backoff::Backoff;
pub use memory::MemoryStore;
pub use refused::{REFUSED, refused};
use schemas::hash::KeyHash;
use schemas::rows::{BoardRow, TagRow};
use schemas::windows::Windows;
pub use task::{PublishTask, Published};
use thiserror::Error;

use crate::commits::CommitError;
use crate::invariants::Broken;
use crate::storage::StorageError;

/// A row on its way to the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishRow {
    /// Its key in the commits.
    pub hash: KeyHash,
    /// The version of the manifest it was read from: the write's timestamp in microseconds.
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
        /// The number of posts; 0 for a tag that is gone.
        total: i64,
        /// The bucket list.
        recent: Vec<u8>,
        /// The least event time, in milliseconds.
        first_seen: i64,
        /// The greatest event time.
        last_seen: i64,
        /// The stream time the buckets were folded at.
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
    /// A row of table `tag` that no post carries.
    pub fn no_tag(scope: String, tag: String) -> Self {
        let (display, recent) = (tag.clone(), Vec::new());
        let [total, first_seen, last_seen, as_of] = [0; 4];
        Self::Tag { scope, tag, display, total, recent, first_seen, last_seen, as_of }
    }

    /// A row of table `board` with nobody on it.
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

/// The database's row of a job: the truth about what has been published, and what its readers
/// need to know of that commit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobRow {
    /// The job's name.
    pub name: String,
    /// The history of the commit.
    pub history: u64,
    /// The generation that published it.
    pub generation: u64,
    /// The owner of that generation: no other state has had this one.
    pub owner: String,
    /// The last commit of which all rows are acknowledged.
    pub published: u64,
    /// Its version.
    pub version: i64,
    /// Its stream time.
    pub as_of_ms: Option<i64>,
    /// The job's wall clock when it made the commit, in milliseconds.
    pub wall_ms: i64,
    /// The windows that tag rows keep buckets for.
    pub windows: Windows,
    /// The scopes that it counts by besides the whole stream; none where that is not known.
    pub scopes: Option<Vec<String>>,
}

/// What is known of one write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is durable in the database.
    Acknowledged,
    /// It may have happened or not; the same bytes are sent again.
    Unknown,
    /// The database will never take it.
    Refused(String),
}

/// Why publishing cannot go on. Anything passing is an [`Outcome::Unknown`] instead.
#[derive(Debug, Error)]
pub enum PublishError {
    /// Something that always holds does not.
    #[error(transparent)]
    Broken(#[from] Broken),
    /// The database is not usable for this job.
    #[error("the store cannot be used: {0}")]
    Fatal(String),
    /// The database does not answer, and nothing can be done without it.
    #[error("the store does not answer")]
    Unavailable,
    /// What the database has is newer than anything this state could write.
    #[error(
        "the store has rows of version {theirs}, newer than this state's {ours}: a clock was wrong, here or there. Name another keyspace"
    )]
    Newer {
        /// The version there.
        theirs: i64,
        /// The version here.
        ours: i64,
    },
    /// A refused row could not be kept.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The state's own commits could not be read.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The database has seen commits that this state does not have.
    #[error(
        "the store has published commit {published} (generation {generation}), which is not one of this state, {}. Name another keyspace, or bring the state back that belongs to it, or {}",
        match newest { 0 => "which is empty".to_owned(), n => format!("now at commit {n}") },
        match newest {
            0 => "count without --store and then make the store follow: tagflow store rebuild",
            _ => "make the store follow this state: tagflow store rebuild"
        }
    )]
    StoreAhead {
        /// What the store says.
        published: u64,
        /// Of which generation.
        generation: u64,
        /// The newest commit of the state; 0 where it is empty.
        newest: u64,
    },
}

/// A database to publish to.
pub trait Publisher: Send {
    /// The row of job `name`; none where it never published here. The outer option is none where
    /// the database does not answer now.
    fn job(&mut self, name: &str) -> Result<Option<Option<JobRow>>, PublishError>;
    /// Sends rows, of which no two have one key; the outcome of each, in their order.
    fn upsert(&mut self, rows: &[PublishRow]) -> Result<Vec<Outcome>, PublishError>;
    /// Writes the job's row, at its version.
    fn set_job(&mut self, row: &JobRow) -> Result<Outcome, PublishError>;
    /// The version of job `name`'s row, whatever else that holds; as [`Self::job`] otherwise.
    fn job_version(&mut self, name: &str) -> Result<Option<Option<i64>>, PublishError> {
        Ok(self.job(name)?.map(|row| row.map(|row| row.version)))
    }
    /// Rows older than `version`, up to `most`, as rows that say that nothing is there. None where
    /// the database does not answer.
    fn older(&mut self, version: i64, most: usize) -> Result<Option<Vec<Content>>, PublishError>;
    /// The most rows it is sent at once.
    fn rows_max(&self) -> usize {
        4096
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

    fn rows_max(&self) -> usize {
        (**self).rows_max()
    }
}
