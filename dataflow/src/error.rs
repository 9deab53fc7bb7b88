//! Why a job could not be started, and what ended it.
//!
//! Invariant: an error keeps what it was made of, so that callers tell errors apart by type and
//! never by text.

use sinks::commits::{
    CommitError, LockError, QueueError, RollbackError, TakeoverError, WriteError,
};
use sinks::publish::PublishError;
use sinks::storage::StorageError;
use thiserror::Error;

use crate::clock::RandomError;
use crate::inputs::InputError;
use crate::sources::LogError;
use crate::state::tag_table::TagError;

/// Why a state could not be acquired, or rolled back.
#[derive(Debug, Error)]
pub enum AcquireError {
    /// The state's storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A commit could not be read.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// Its owner is still running, or another job was faster.
    #[error(transparent)]
    Takeover(#[from] TakeoverError),
    /// Its lock file could not be written.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The system provides no random bits for a new identity.
    #[error(transparent)]
    Random(#[from] RandomError),
    /// It could not be rolled back.
    #[error(transparent)]
    Rollback(#[from] RollbackError),
}

impl AcquireError {
    /// Whether the state belongs to another job, which is still running.
    pub fn is_fenced(&self) -> bool {
        matches!(self, Self::Takeover(TakeoverError::InUse(_)))
    }
}

/// Why a job could not be started.
#[derive(Debug, Error)]
pub enum StartError {
    /// Its state could not be acquired.
    #[error(transparent)]
    Acquire(#[from] AcquireError),
    /// An input could not be opened.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The state's storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A commit could not be read.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The folder of control records could not be read.
    #[error(transparent)]
    Control(#[from] QueueError),
    /// The store cannot be published to.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The state holds a finished bounded run that had another end.
    #[error(
        "this state holds a finished run {0}; a run with another --until needs another state folder"
    )]
    OtherUntil(String),
    /// The worker threads could not be started.
    #[error("cannot start the workers: {0}")]
    Threads(String),
}

impl From<LogError> for StartError {
    fn from(error: LogError) -> Self {
        Self::Input(error.into())
    }
}

impl StartError {
    /// Whether the state belongs to another job.
    pub fn is_fenced(&self) -> bool {
        match self {
            Self::Acquire(error) => error.is_fenced(),
            Self::Commit(error) => matches!(error, CommitError::Fenced { .. }),
            _ => false,
        }
    }
}

/// What ended a job.
#[derive(Debug, Error)]
pub enum RunError {
    /// An input could not be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Control records could not be read.
    #[error(transparent)]
    Control(#[from] QueueError),
    /// A segment could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A commit could not be made or read.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The tags' state is unusable.
    #[error(transparent)]
    Tag(#[from] TagError),
    /// The store refused what was published.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The job was stopped while it waited for something that its state lacks.
    #[error(
        "{error}. The job was stopped before that could be written: commit {commit} is its last. \
         What it read since is in no commit; the next run reads it again"
    )]
    NotDurable {
        /// The last durable commit.
        commit: u64,
        /// What failed at last.
        error: Box<RunError>,
    },
    /// The end of a commit did not reach an operator.
    #[error("commit {0} has no cut, so it cannot be made: this is a defect of Tagflow")]
    NoCut(u64),
    /// A thread of the job ended abnormally.
    #[error("a worker failed: {0}")]
    Worker(String),
}

impl RunError {
    /// Whether the program itself is at fault: nothing in its surroundings can cause this.
    pub fn is_defect(&self) -> bool {
        matches!(
            self,
            Self::Worker(_)
                | Self::NoCut(_)
                | Self::Commit(CommitError::Broken(_))
                | Self::Publish(PublishError::Broken(_))
        )
    }

    /// Whether the state could not be read or written.
    pub(crate) fn is_of_state(&self) -> bool {
        matches!(self, Self::Write(_) | Self::Commit(_) | Self::Control(_))
    }

    /// Whether another job owns the state now. A supervisor must not restart this one.
    pub fn is_fenced(&self) -> bool {
        matches!(self, Self::Commit(CommitError::Fenced { .. }))
    }
}
