//! State folders and commits, as commands name them. Invariant: reading never creates a state.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use schemas::manifest::Manifest;
use schemas::printable::shown;
use schemas::time::{TimeUnit, format_ms};
use sinks::commits::{CommitError, Snapshot, list_commits, load, visible};
use sinks::storage::{DiskStorage, Storage};

use crate::error::CliError;

/// The state folder of a command that reads.
#[derive(clap::Args)]
pub(crate) struct StateArg {
    /// The job's state folder [default: the variable `TAGFLOW_STATE`]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
}

impl StateArg {
    /// The folder.
    pub(crate) fn folder(&self) -> Result<PathBuf, CliError> {
        folder(self.state.as_deref(), None)
    }
}

/// The variable that names a state folder where nothing else does.
const STATE_VARIABLE: &str = "TAGFLOW_STATE";

/// The state folder: the one that `--state` names, else the one of a configuration, else that of
/// the environment.
pub(crate) fn folder(given: Option<&Path>, configured: Option<&Path>) -> Result<PathBuf, CliError> {
    let named = given.or(configured).map(Path::to_owned);
    // An empty variable names nothing.
    let variable = || std::env::var_os(STATE_VARIABLE).filter(|folder| !folder.is_empty());
    let Some(folder) = named.or_else(|| variable().map(PathBuf::from)) else {
        let what = format!("name the state folder with --state DIR, or set {STATE_VARIABLE}");
        return Err(CliError::Usage(what));
    };
    for link in folder.ancestors().filter(|path| path.is_symlink()) {
        // It could not be created: the name is taken.
        if matches!(link.try_exists(), Ok(false)) {
            return Err(CliError::Failed(format!("{} is a link that leads nowhere", shown(link))));
        }
    }
    match std::fs::metadata(&folder) {
        Ok(found) if !found.is_dir() => {
            let what = format!("{} is no folder, and a state is one", shown(&folder));
            Err(CliError::Failed(what))
        }
        // Whether it can be used is found out by using it.
        _ => Ok(folder),
    }
}

/// Opens an existing state for reading.
pub(crate) fn open(state: &Path) -> Result<Arc<dyn Storage>, CliError> {
    let storage =
        DiskStorage::open_existing(state).map_err(|error| CliError::Failed(error.to_string()))?;
    Ok(Arc::new(storage))
}

/// A commit, as named by `--at`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CommitAt {
    /// The commit with this number.
    Commit(u64),
    /// The last commit whose stream time is not after this time.
    Time(i64),
}

impl FromStr for CommitAt {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            // Larger numbers are times in milliseconds: no job makes that many commits.
            Ok(commit) if commit < 100_000_000_000 => Ok(Self::Commit(commit)),
            Ok(_) => TimeUnit::Millis.parse(text).map(Self::Time).map_err(|e| e.to_string()),
            Err(_) => TimeUnit::Rfc3339.parse(text).map(Self::Time).map_err(|_| {
                "expected a commit number, or a time: 2026-05-01T12:00:00Z, or milliseconds"
                    .to_owned()
            }),
        }
    }
}

/// The manifest of the commit `at`, or of the visible one.
pub(crate) fn manifest(storage: &dyn Storage, at: Option<CommitAt>) -> Result<Manifest, CliError> {
    if let Some(CommitAt::Commit(commit)) = at {
        return Ok(load(storage, commit)?);
    }
    let newest = visible(storage)?.ok_or_else(|| {
        CliError::Failed("this state has no commit yet; `tagflow run` makes the first".to_owned())
    })?;
    match at {
        Some(CommitAt::Time(ms)) => at_time(storage, newest, ms),
        _ => Ok(load(storage, newest)?),
    }
}

/// The last commit up to `newest` whose stream time is at most `ms`.
fn at_time(storage: &dyn Storage, newest: u64, ms: i64) -> Result<Manifest, CliError> {
    let commits = list_commits(storage)?;
    let kept = commits.partition_point(|commit| *commit <= newest);
    let mut later = None;
    // Stream time never decreases from commit to commit.
    for commit in commits[..kept].iter().rev() {
        let manifest = match load(storage, *commit) {
            // Only its header is left, as a fence.
            Err(CommitError::Missing(_)) => continue,
            other => other?,
        };
        match manifest.body.as_of_ms {
            Some(as_of_ms) if as_of_ms <= ms => return Ok(manifest),
            as_of_ms => later = as_of_ms.or(later),
        }
    }
    let oldest =
        later.map_or_else(String::new, |ms| format!("; the oldest is at {}", format_ms(ms)));
    let time = format_ms(ms);
    Err(CliError::Failed(format!("{time} is before the oldest commit kept{oldest}")))
}

/// Opens the commit `at`, or the visible one.
pub(crate) fn snapshot(
    storage: &dyn Storage,
    at: Option<CommitAt>,
) -> Result<Arc<Snapshot>, CliError> {
    Ok(Arc::new(Snapshot::open(storage, manifest(storage, at)?, None)?))
}
