//! What a command ends with: the message, and the exit code that scripts rely on.

use std::io;

use dataflow::reconcile::ReconcileError;
use dataflow::sources::LogError;
use dataflow::{AcquireError, InputError, RebuildError, RepairError, RunError, StartError};
use schemas::config::{Config, ConfigError};
use schemas::printable::counted;
use schemas::tags::NameError;
use sinks::commits::CommitError;
use sinks::cql::CqlError;
use sinks::storage::StorageError;
use sinks::store::StoreError;
use thiserror::Error;

/// Why a command failed. Exit codes: 1 failed, 2 wrong usage or inconclusive, 3 superseded by
/// another job.
#[derive(Debug, Error)]
pub(crate) enum CliError {
    /// A `dataflow.yaml` with parts that this build lacks, one a line.
    #[error("{}", .0.join("; "))]
    Missing(Vec<String>),
    /// The arguments do not make sense together.
    #[error("{0}")]
    Usage(String),
    /// A `dataflow.yaml` with mistakes.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Something went wrong that no other variant covers.
    #[error("{0}")]
    Failed(String),
    /// A name that no tag can have.
    #[error("{name:?} is not a tag: {error}")]
    Name { name: String, error: NameError },
    /// The job could not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The job failed.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The state could not be rolled back.
    #[error(transparent)]
    Acquire(#[from] AcquireError),
    /// A repair was not made.
    #[error(transparent)]
    Repair(#[from] RepairError),
    /// A store could not be filled.
    #[error(transparent)]
    Rebuild(#[from] RebuildError),
    /// An input cannot be opened.
    #[error(transparent)]
    Input(#[from] InputError),
    /// An input cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A commit cannot be read.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The state's storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The database cannot be used.
    #[error(transparent)]
    Cql(#[from] CqlError),
    /// The store did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A commit, or what a store shows of it, is not what it should be.
    #[error("{} from what {} should be", counted(.0, "value differs", "values differ"), it(*.0))]
    Drift(u64),
    /// The check of a commit was inconclusive.
    #[error("cannot tell: {0}")]
    Reconcile(#[from] ReconcileError),
    /// Another check was inconclusive.
    #[error("cannot tell: {0}")]
    CannotTell(String),
    /// Two states differ.
    #[error("{}", counted(.0, "tag differs", "tags differ"))]
    Differ(u64),
    /// Reading or writing failed.
    #[error("{doing}: {source}")]
    Io { doing: String, source: io::Error },
}

fn it(number: u64) -> &'static str {
    if number == 1 { "it" } else { "they" }
}

impl CliError {
    /// The parts of a file that this build lacks.
    pub(crate) fn missing(file: &str, config: &Config) -> Self {
        Self::Missing(config.missing_parts().iter().map(|part| format!("{file}:{part}")).collect())
    }

    /// An error of reading or writing.
    pub(crate) fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Io { doing, source }
    }

    /// What it says, in lines.
    pub(crate) fn lines(&self) -> Vec<String> {
        match self {
            Self::Config(ConfigError { file, mistakes }) => {
                mistakes.iter().map(|mistake| format!("{file}:{mistake}")).collect()
            }
            Self::Missing(parts) => parts.clone(),
            other => vec![other.to_string()],
        }
    }

    /// The exit code.
    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::Usage(_)
            | Self::Config(_)
            | Self::Name { .. }
            | Self::Reconcile(_)
            | Self::CannotTell(_)
            | Self::Store(StoreError::Scope(_)) => 2,
            Self::Start(error) if error.is_fenced() => 3,
            Self::Run(error) if error.is_fenced() => 3,
            Self::Acquire(error) if error.is_fenced() => 3,
            Self::Repair(error) if error.is_fenced() => 3,
            Self::Rebuild(error) if error.is_fenced() => 3,
            _ => 1,
        }
    }

    /// The same for a command whose exit code 1 means that values differ: other failures become
    /// inconclusive.
    pub(crate) fn inconclusive(self) -> Self {
        let differs = matches!(self, Self::Drift(_) | Self::Differ(_));
        if self.code() == 1 && !differs {
            return Self::CannotTell(self.to_string());
        }
        self
    }

    /// Whether the reader of our output is gone, which is not an error.
    pub(crate) fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::BrokenPipe)
    }
}
