//! The files of commits: their names, and how a manifest comes into being and is found again.

use schemas::manifest::{Header, Manifest, ManifestError, decode};
use schemas::planted::{Bug, planted};
use schemas::rows::TableName;
use thiserror::Error;

use crate::invariants::{Broken, Invariant, count};
use crate::storage::{Storage, StorageError, replace, temporary};

/// Why a commit could not be made or read.
#[derive(Debug, Error)]
pub enum CommitError {
    /// The storage failed; nothing is known about the outcome and the process must end.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// Another job has created this number: this one is no longer the owner.
    #[error("commit {commit} was made by another job: this one has been superseded")]
    Fenced {
        /// The number that was to be created.
        commit: u64,
    },
    /// A manifest is damaged. Nothing falls back by itself: readers may have seen this commit.
    #[error(
        "{file} is damaged: {error}. Restore the file, or go back with `tagflow checkpoint rollback`"
    )]
    Manifest {
        /// The damaged file.
        file: String,
        /// What is wrong.
        error: ManifestError,
    },
    /// A segment is damaged.
    #[error(
        "{file} is damaged: {error}. Restore the file, or go back with `tagflow checkpoint rollback`"
    )]
    Segment {
        /// The damaged file.
        file: String,
        /// What is wrong.
        error: String,
    },
    /// There is no such commit, or no longer.
    #[error("there is no commit {0}; `tagflow checkpoint ls` shows those that are kept")]
    Missing(u64),
    /// Readers have seen a commit whose manifest is not there.
    #[error(
        "{file} is missing, and readers have seen commit {commit}. Restore the file, or go back with `tagflow checkpoint rollback`"
    )]
    Gone {
        /// The missing file.
        file: String,
        /// The commit.
        commit: u64,
    },
    /// Something that always holds does not.
    #[error(transparent)]
    Broken(#[from] Broken),
    /// The pointer to the visible commit is damaged.
    #[error("{0} is damaged: it does not name a commit")]
    Visible(String),
}

/// The name of a commit's manifest.
pub fn manifest_name(commit: u64) -> String {
    format!("commits/{commit:010}.manifest")
}

/// The name of a generation's pointer to its visible commit.
pub(super) fn visible_name(generation: u64) -> String {
    format!("visible/{generation:010}")
}

/// The name of a new segment. `part` tells apart those of one commit and table, so that a name is
/// never used twice.
pub fn segment_name(header: &Header, commit: u64, table: TableName, part: &str) -> String {
    let owner = header.owner.get(..8).unwrap_or(&header.owner);
    let generation = header.generation;
    format!("segments/{generation:010}-{owner}-{commit:010}-{}-{part}.arrow", table.as_str())
}

/// The numbers of all commits that exist, ascending.
pub fn list_commits(storage: &dyn Storage) -> Result<Vec<u64>, StorageError> {
    let names = storage.list("commits")?;
    let number = |name: &String| name.strip_suffix(".manifest")?.parse().ok();
    let mut commits: Vec<u64> = names.iter().filter_map(number).collect();
    commits.sort_unstable();
    Ok(commits)
}

/// The newest commit, visible or not; none in an empty state.
pub fn newest(storage: &dyn Storage) -> Result<Option<Manifest>, CommitError> {
    // Looked at before the list, for a manifest is made before it is shown.
    let shown = match visible(storage) {
        Err(CommitError::Visible(file)) => {
            tracing::warn!(file, "the pointer to the visible commit is damaged; it is made anew");
            None
        }
        shown => shown?,
    };
    let last = list_commits(storage)?.last().copied();
    if let Some(commit) = shown.filter(|_| shown > last) {
        let file = storage.display(&manifest_name(commit));
        return Err(CommitError::Gone { file, commit });
    }
    last.map(|commit| load(storage, commit)).transpose()
}

/// The manifest of a commit.
pub fn load(storage: &dyn Storage, commit: u64) -> Result<Manifest, CommitError> {
    let (header, body) = load_parts(storage, commit)?;
    let body = body.ok_or(CommitError::Missing(commit))?;
    Ok(Manifest { header, body })
}

/// The header of a commit and, unless it was shrunk, its body.
pub(super) fn load_parts(
    storage: &dyn Storage,
    commit: u64,
) -> Result<(Header, Option<schemas::manifest::Body>), CommitError> {
    let name = manifest_name(commit);
    let bytes = match storage.open(&name) {
        Err(error) if error.is_not_found() => return Err(CommitError::Missing(commit)),
        other => other?,
    };
    let damaged = |error| CommitError::Manifest { file: storage.display(&name), error };
    count(Invariant::Refused);
    let (header, body) = decode(&bytes).map_err(damaged)?;
    if header.commit != commit {
        let error = format!("it is that of commit {}", header.commit);
        return Err(damaged(ManifestError::Content(error)));
    }
    Ok((header, body))
}

/// The header of a commit.
pub fn load_header(storage: &dyn Storage, commit: u64) -> Result<Header, CommitError> {
    load_parts(storage, commit).map(|(header, _)| header)
}

/// Creates the manifest of a commit if no other exists: this *is* the commit.
pub fn create(storage: &dyn Storage, manifest: &Manifest) -> Result<(), CommitError> {
    let commit = manifest.header.commit;
    let name = manifest_name(commit);
    let damaged = |error| CommitError::Manifest { file: storage.display(&name), error };
    let bytes = manifest.encode().map_err(damaged)?;
    let temporary = format!("{}-{}", temporary(&name), manifest.header.owner);
    match storage.unlink(&temporary) {
        Err(error) if !error.is_not_found() => return Err(error.into()),
        _ => {}
    }
    storage.append(&temporary, &bytes)?;
    storage.sync(&temporary)?;
    if planted(Bug::NoFence) && storage.open(&name).is_ok() {
        storage.unlink(&name)?;
    }
    let created = storage.link(&temporary, &name)?;
    storage.unlink(&temporary)?;
    // Object stores answer "exists" to a retried create that had succeeded: compare.
    if !created && storage.open(&name)? != bytes {
        return Err(CommitError::Fenced { commit });
    }
    Ok(storage.sync_folder("commits")?)
}

/// Shows a durable commit to readers.
pub fn make_visible(storage: &dyn Storage, header: &Header) -> Result<(), CommitError> {
    let name = visible_name(header.generation);
    Ok(replace(storage, &name, format!("{}\n", header.commit).as_bytes())?)
}

/// The commit that readers see, by the pointer of the highest generation; none before the first.
pub fn visible(storage: &dyn Storage) -> Result<Option<u64>, CommitError> {
    let mut gone = None;
    loop {
        let names = storage.list("visible")?;
        let newest = names.iter().filter_map(|name| name.parse::<u64>().ok()).max();
        let Some(generation) = newest else { return Ok(None) };
        match read_visible(storage, generation) {
            // It is removed only once a newer generation has its own: look again.
            Err(CommitError::Storage(error))
                if error.is_not_found() && gone != Some(generation) =>
            {
                gone = Some(generation);
            }
            other => return other.map(Some),
        }
    }
}

/// The commit that the pointer of `generation` names.
pub(super) fn read_visible(storage: &dyn Storage, generation: u64) -> Result<u64, CommitError> {
    let name = visible_name(generation);
    let bytes = storage.open(&name)?;
    let text = std::str::from_utf8(&bytes).ok().and_then(|text| text.strip_suffix('\n'));
    let commit = text.and_then(|text| text.parse().ok());
    commit.ok_or_else(|| CommitError::Visible(storage.display(&name)))
}
