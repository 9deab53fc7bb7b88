//! Why a job could not run, or ended.

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

/// Why a job could not run, or ended.
#[derive(Debug, Error)]
pub enum JobError {
    /// An input could not be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// An input could not be opened.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The state could not be taken over.
    #[error(transparent)]
    Takeover(#[from] TakeoverError),
    /// A commit could not be made or read.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// A segment could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The state's storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// Control records could not be written or read.
    #[error(transparent)]
    Control(#[from] QueueError),
    /// The state's lock could not be taken.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The tags' state is unusable.
    #[error(transparent)]
    Tag(#[from] TagError),
    /// The state could not go back to an older commit.
    #[error(transparent)]
    Rollback(#[from] RollbackError),
    /// Publishing cannot go on.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// A finished bounded run was started again with another end.
    #[error(
        "this state holds a finished run {0}; a run with another --until needs another state folder"
    )]
    OtherUntil(String),
    /// No random bits.
    #[error(transparent)]
    Random(#[from] RandomError),
    /// A worker thread ended abnormally.
    #[error("a worker failed: {0}")]
    Worker(String),
}

impl JobError {
    /// Whether the program itself is at fault: no circumstance brings that about.
    pub fn is_defect(&self) -> bool {
        matches!(
            self,
            Self::Worker(_)
                | Self::Commit(CommitError::Broken(_))
                | Self::Publish(PublishError::Broken(_))
        )
    }

    /// Whether another job owns the state now: a supervisor must not start this one again.
    pub fn is_fenced(&self) -> bool {
        matches!(
            self,
            Self::Commit(CommitError::Fenced { .. }) | Self::Takeover(TakeoverError::InUse(_))
        )
    }
}
