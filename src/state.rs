//! State folders as commands name them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use schemas::manifest::Manifest;
use sinks::commits::{Snapshot, load, visible};
use sinks::storage::{DiskStorage, Storage};

use crate::error::CliError;

/// The state folder of a command that reads.
#[derive(clap::Args)]
pub(crate) struct StateArg {
    /// The job's state folder
    #[arg(long, value_name = "DIR")]
    pub(crate) state: PathBuf,
}

/// Opens an existing state for reading.
pub(crate) fn open(state: &Path) -> Result<Arc<dyn Storage>, CliError> {
    let storage = DiskStorage::open_existing(state).ok_or_else(|| {
        let state = state.display();
        CliError::Failed(format!("{state} holds no Tagflow state; `tagflow run` makes one"))
    })?;
    Ok(Arc::new(storage))
}

/// The manifest of commit `at`, or of the visible one.
pub(crate) fn manifest(storage: &dyn Storage, at: Option<u64>) -> Result<Manifest, CliError> {
    let commit = match at {
        Some(commit) => commit,
        None => visible(storage)?.ok_or_else(|| {
            CliError::Failed("this state has no commit yet; `tagflow run` makes one".to_owned())
        })?,
    };
    Ok(load(storage, commit)?)
}

/// Opens commit `at`, or the visible one.
pub(crate) fn snapshot(storage: &dyn Storage, at: Option<u64>) -> Result<Arc<Snapshot>, CliError> {
    Ok(Arc::new(Snapshot::open(storage, manifest(storage, at)?, None)?))
}
