//! The files of commits: their names, and how manifests are created and found.
//!
//! Invariant: creating a manifest is the commit; it either happens completely or not at all.

use schemas::manifest::{COMMIT_MAX, Header, Manifest, ManifestError, decode};
use schemas::planted::{Bug, planted};
use schemas::rows::TableName;
use schemas::segment::SegmentError;
use thiserror::Error;

use crate::invariants::{Broken, Invariant, count};
use crate::storage::{Storage, StorageError, remove_if_exists, replace, temporary};

const RESTORE: &str =
    "Restore the file, or go back to an older commit with `tagflow checkpoint rollback`";

/// Why a commit could not be made or read.
#[derive(Debug, Error)]
pub enum CommitError {
    /// The storage failed, and the outcome is unknown: the whole operation is repeated, or the job
    /// ends.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// Another job created this commit: this job no longer owns the state.
    #[error("commit {commit} was made by another job, which has superseded this one")]
    Fenced {
        /// The number of the commit.
        commit: u64,
    },
    /// A manifest is damaged, or of another build. Falling back to an older commit takes an
    /// explicit rollback, since readers may have seen this one.
    #[error("{}", unreadable(file, error))]
    Manifest {
        /// The damaged file.
        file: String,
        /// What is wrong.
        error: ManifestError,
    },
    /// A segment is damaged.
    #[error("{file} is damaged: {damage}. {RESTORE}")]
    Segment {
        /// The damaged file.
        file: String,
        /// What is wrong.
        damage: Damage,
    },
    /// A merged segment could not be encoded.
    #[error("cannot encode {name}: {error}")]
    Encode {
        /// The segment.
        name: String,
        /// What is wrong.
        error: SegmentError,
    },
    /// The commit does not exist, or has been removed.
    #[error("there is no commit {0}; `tagflow checkpoint ls` shows those that are kept")]
    Missing(u64),
    /// Readers have seen a commit whose manifest is missing.
    #[error("{file} is missing, and readers have seen commit {commit}. {RESTORE}")]
    Gone {
        /// The missing file.
        file: String,
        /// The commit.
        commit: u64,
    },
    /// An invariant is violated.
    #[error(transparent)]
    Broken(#[from] Broken),
    /// The pointer to the visible commit is damaged.
    #[error("{0} is damaged: it does not name a commit. `tagflow run` recreates it")]
    Visible(String),
    /// A pointer to a visible commit that no job of this state has written. It would hide all
    /// commits to come.
    #[error("{file} does not belong to this state: {why}. Remove the file")]
    Foreign {
        /// The pointer.
        file: String,
        /// How that is known.
        why: String,
    },
    /// The folder was removed or replaced while a reader followed it.
    #[error(
        "{0} is of another state now than the one that was opened: the folder was removed or \
         replaced. The last commit of the former one is shown; restart `tagflow serve`"
    )]
    Another(String),
}

fn unreadable(file: &str, error: &ManifestError) -> String {
    match error {
        ManifestError::Format(_) | ManifestError::Content(_) => format!(
            "{file} was made by another version of Tagflow: {error}. Use that version, or count \
             the log again into a new state folder"
        ),
        _ => format!("{file} is damaged: {error}. {RESTORE}"),
    }
}

/// What is wrong with a segment.
#[derive(Debug, Error)]
pub enum Damage {
    /// The file does not exist.
    #[error("it is missing")]
    Missing,
    /// The size is not that in the manifest.
    #[error("it has {found} of {expected} bytes")]
    Size {
        /// The size of the file.
        found: u64,
        /// The size in the manifest.
        expected: u64,
    },
    /// The checksum is not that in the manifest.
    #[error("its checksum does not match")]
    Checksum,
    /// The number of rows is not that in the manifest.
    #[error("it has {found} of {expected} rows")]
    Rows {
        /// The rows of the file.
        found: u64,
        /// The rows in the manifest.
        expected: u64,
    },
    /// The checksum matches, but the content is not a segment of this table.
    #[error(transparent)]
    Content(SegmentError),
}

/// The name of a commit's manifest.
pub fn manifest_name(commit: u64) -> String {
    format!("commits/{commit:010}.manifest")
}

/// The name of a generation's pointer to its visible commit.
pub(super) fn visible_name(generation: u64) -> String {
    format!("visible/{generation:010}")
}

/// The name of a new segment. `part` distinguishes the segments of one commit and table, so that a
/// name is never used twice.
pub fn segment_name(header: &Header, commit: u64, table: TableName, part: &str) -> String {
    debug_assert!(!part.contains(['-', '/']), "{part:?} is one part of a name");
    let owner = header.owner.get(..8).unwrap_or(&header.owner);
    let generation = header.generation;
    format!("segments/{generation:010}-{owner}-{commit:010}-{}-{part}.arrow", table.as_str())
}

/// The numbers of all commits that exist, in ascending order.
pub fn list_commits(storage: &dyn Storage) -> Result<Vec<u64>, StorageError> {
    let names = storage.list("commits")?;
    let number = |name: &String| {
        let commit = name.strip_suffix(".manifest")?.parse().ok()?;
        // A number in another form, or one that no job reaches, is not ours.
        (commit <= COMMIT_MAX && manifest_name(commit) == format!("commits/{name}"))
            .then_some(commit)
    };
    let mut commits: Vec<u64> = names.iter().filter_map(number).collect();
    commits.sort_unstable();
    Ok(commits)
}

/// The newest commit, whether visible or not, or `None` in an empty state.
pub fn newest(storage: &dyn Storage) -> Result<Option<Manifest>, CommitError> {
    // Read before the list, since a manifest is created before it becomes visible.
    let visible = match visible(storage) {
        Err(CommitError::Visible(file)) => {
            tracing::warn!(file, "the pointer to the visible commit is damaged and is recreated");
            None
        }
        visible => visible?,
    };
    for generation in generations(storage)? {
        check_pointer(storage, generation)?;
    }
    let last = list_commits(storage)?.last().copied();
    if let Some(commit) = visible.filter(|_| visible > last) {
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

/// The header of a commit and, unless it has been stripped, its body.
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
        let error = format!("it belongs to commit {}", header.commit);
        return Err(damaged(ManifestError::Content(error)));
    }
    Ok((header, body))
}

/// The header of a commit.
pub fn load_header(storage: &dyn Storage, commit: u64) -> Result<Header, CommitError> {
    load_parts(storage, commit).map(|(header, _)| header)
}

/// Creates the manifest of a commit unless another exists. This *is* the commit. If it fails for
/// lack of something, it can be repeated.
pub fn create(storage: &dyn Storage, manifest: &Manifest) -> Result<(), CommitError> {
    let commit = manifest.header.commit;
    let name = manifest_name(commit);
    let damaged = |error| CommitError::Manifest { file: storage.display(&name), error };
    assert!(manifest.header.generation > 0, "generations are numbered from 1");
    assert!(manifest.header.generation <= commit, "a generation begins with its takeover");
    let bytes = manifest.encode().map_err(damaged)?;
    let temporary = format!("{}-{}", temporary(&name), manifest.header.owner);
    remove_if_exists(storage, &temporary)?;
    storage.append(&temporary, &bytes)?;
    storage.sync(&temporary)?;
    if planted(Bug::NoFence) && storage.open(&name).is_ok() {
        storage.unlink(&name)?;
    }
    let created = storage.link(&temporary, &name)?;
    storage.unlink(&temporary)?;
    // An object store may answer "exists" when a create that succeeded is retried: compare.
    if !created && storage.open(&name)? != bytes {
        return Err(CommitError::Fenced { commit });
    }
    Ok(storage.sync_folder("commits")?)
}

/// Makes a durable commit visible to readers.
pub fn make_visible(storage: &dyn Storage, header: &Header) -> Result<(), CommitError> {
    let name = visible_name(header.generation);
    Ok(replace(storage, &name, format!("{}\n", header.commit).as_bytes())?)
}

/// The commit that readers see: the pointer of the highest generation names it. `None` before the
/// first commit.
pub fn visible(storage: &dyn Storage) -> Result<Option<u64>, CommitError> {
    let mut removed = None;
    loop {
        let Some(generation) = generations(storage)?.last().copied() else { return Ok(None) };
        check_pointer(storage, generation)?;
        match read_visible(storage, generation) {
            // A pointer is removed only after a newer generation has written its own: retry.
            Err(CommitError::Storage(error))
                if error.is_not_found() && removed != Some(generation) =>
            {
                removed = Some(generation);
            }
            Ok(commit) => {
                check_named(storage, generation, commit)?;
                return Ok(Some(commit));
            }
            Err(error) => return Err(error),
        }
    }
}

/// The generations that have a pointer, in ascending order.
pub(super) fn generations(storage: &dyn Storage) -> Result<Vec<u64>, StorageError> {
    let names = storage.list("visible")?;
    let generation = |name: &String| {
        let generation = name.parse().ok()?;
        (visible_name(generation) == format!("visible/{name}")).then_some(generation)
    };
    let mut generations: Vec<u64> = names.iter().filter_map(generation).collect();
    generations.sort_unstable();
    Ok(generations)
}

/// Refuses a pointer of a generation that never began: its takeover would still exist.
fn check_pointer(storage: &dyn Storage, generation: u64) -> Result<(), CommitError> {
    let began = match load_header(storage, generation) {
        Ok(header) => header.takeover && header.generation == generation,
        Err(CommitError::Missing(_)) => false,
        // A damaged takeover does not hide the good commits after it.
        Err(CommitError::Manifest { .. }) => true,
        Err(error) => return Err(error),
    };
    if began {
        return Ok(());
    }
    let file = storage.display(&visible_name(generation));
    Err(CommitError::Foreign { file, why: format!("no job began with commit {generation}") })
}

/// Refuses a pointer that names a commit of another generation. One that is missing or damaged is
/// told where it is read.
fn check_named(storage: &dyn Storage, generation: u64, commit: u64) -> Result<(), CommitError> {
    match load_header(storage, commit) {
        Ok(header) if header.generation != generation => {
            let file = storage.display(&visible_name(generation));
            let of = header.generation;
            let why =
                format!("it names commit {commit}, which the job that began with commit {of} made");
            Err(CommitError::Foreign { file, why })
        }
        Ok(_) | Err(CommitError::Missing(_) | CommitError::Manifest { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// The commit that the pointer of `generation` names.
pub(super) fn read_visible(storage: &dyn Storage, generation: u64) -> Result<u64, CommitError> {
    let name = visible_name(generation);
    let bytes = storage.open(&name)?;
    let text = std::str::from_utf8(&bytes).ok().and_then(|text| text.strip_suffix('\n'));
    let commit = text.and_then(|text| text.parse().ok()).filter(|commit| *commit <= COMMIT_MAX);
    commit.ok_or_else(|| CommitError::Visible(storage.display(&name)))
}
