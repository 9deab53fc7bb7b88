//! Going back to an older commit, on request only: a takeover with the older content.
//!
//! Invariants: version and `as_of` stay above all previous ones that can still be read. Every key
//! touched since is marked as changed, with its restored row or an empty one. The files get names
//! of the new generation, so that no older owner can remove them.

use std::collections::{BTreeMap, HashMap};

use schemas::hash::KeyHash;
use schemas::manifest::{Body, Header, Manifest, SegmentMeta, checksum, is_time};
use schemas::rows::{Served, Table, TableName, TableVisitor};
use schemas::segment::{Rows, Segment};
use thiserror::Error;

use super::files::{CommitError, create, list_commits, load, make_visible, segment_name, visible};
use super::snapshot::Snapshot;
use super::takeover::Claimant;
use super::writer::{WriteError, write_temporary};
use crate::storage::{Storage, StorageError, temporary};

/// Why a rollback failed.
#[derive(Debug, Error)]
pub enum RollbackError {
    /// The state could not be read or written.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The restored rows could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The commit is already the newest.
    #[error("commit {0} is already the newest")]
    Newest(u64),
}

impl From<StorageError> for RollbackError {
    fn from(error: StorageError) -> Self {
        Self::Commit(error.into())
    }
}

/// Makes a new commit with the content of commit `to`. The second result lists files that could not
/// be read; keys that only they hold are not marked as changed.
pub fn rollback(
    storage: &dyn Storage,
    to: u64,
    claimant: &Claimant,
) -> Result<(Manifest, Vec<String>), RollbackError> {
    let commits = list_commits(storage)?;
    let last = commits.last().copied().ok_or(CommitError::Missing(to))?;
    // A number that readers have seen is not reused, even if its manifest is gone. The pointer may
    // be damaged like anything else.
    let shown = match visible(storage) {
        Err(foreign @ CommitError::Foreign { .. }) => return Err(foreign.into()),
        shown => shown.ok().flatten(),
    };
    let newest = shown.map_or(last, |shown| last.max(shown));
    if newest == to {
        return Err(RollbackError::Newest(to));
    }
    let old = load(storage, to)?;
    // The newest manifests may be damaged: rollbacks exist for that.
    let later: Vec<Manifest> =
        commits.iter().filter(|c| **c > to).filter_map(|c| load(storage, *c).ok()).collect();
    let header = header(&old, &later, newest, claimant);
    let snapshot = Snapshot::open_checked(storage, old)?;
    let old = &snapshot.manifest;
    let mut segments = link_segments(storage, old, &header)?;
    let mut since = Since::new(storage, old, &later);
    for table in TableName::ALL {
        let rewrite = Rewrite { since: &mut since, snapshot: &snapshot, header: &header };
        segments.extend(table.visit(rewrite)?);
    }
    storage.sync_folder("segments")?;
    let Since { as_of_ms, unreadable, .. } = since;
    let body = Body { as_of_ms, finished: None, clean: true, segments, ..old.body.clone() };
    let manifest = Manifest { header, body };
    create(storage, &manifest)?;
    make_visible(storage, &manifest.header)?;
    Ok((manifest, unreadable))
}

fn header(old: &Manifest, later: &[Manifest], newest: u64, claimant: &Claimant) -> Header {
    assert!(newest > old.header.commit, "a rollback goes back");
    let (mut version, mut history) = (old.header.version, old.header.history);
    for Manifest { header, .. } in later {
        (version, history) = (version.max(header.version), history.max(header.history));
    }
    Header {
        commit: newest + 1,
        history: history + 1,
        generation: newest + 1,
        owner: claimant.owner.clone(),
        takeover: true,
        version: (version + 1).max(claimant.wall_ms.saturating_mul(1000)),
        wall_ms: claimant.wall_ms,
    }
}

/// Links the files of `old`, all of which have been checked, under names of the new generation.
fn link_segments(
    storage: &dyn Storage,
    old: &Manifest,
    header: &Header,
) -> Result<Vec<SegmentMeta>, CommitError> {
    let linked = old.body.segments.iter().enumerate().map(|(i, meta)| {
        let name = segment_name(header, meta.last_commit, meta.table, &format!("r{i}"));
        storage.link(&meta.name, &name)?;
        Ok(SegmentMeta { name, ..meta.clone() })
    });
    linked.collect()
}

/// What has happened since the old commit, as far as its files can be read.
struct Since<'s> {
    storage: &'s dyn Storage,
    old: &'s Manifest,
    /// What later manifests say about their files.
    metas: HashMap<&'s str, &'s SegmentMeta>,
    as_of_ms: Option<i64>,
    unreadable: Vec<String>,
}

/// A file newer than the old commit.
struct Newer<T: Table> {
    name: String,
    segment: Segment<T>,
    /// Whether its checksum is right, if a manifest that can be read has it.
    is_whole: bool,
}

impl<'s> Since<'s> {
    fn new(storage: &'s dyn Storage, old: &'s Manifest, later: &'s [Manifest]) -> Self {
        let all = || later.iter().chain([old]);
        let metas = all().flat_map(|m| &m.body.segments).map(|s| (s.name.as_str(), s)).collect();
        let as_of_ms = all().filter_map(|m| m.body.as_of_ms).max();
        Self { storage, old, metas, as_of_ms, unreadable: Vec::new() }
    }

    /// A table's files newer than the old commit. They are found by name, since manifests may be
    /// damaged as well as files.
    fn newer<T: Table>(&mut self) -> Result<Vec<Newer<T>>, CommitError> {
        let mut newer = Vec::new();
        for file in self.storage.list("segments")? {
            if commit_of::<T>(&file).is_none_or(|commit| commit <= self.old.header.commit) {
                continue;
            }
            let name = format!("segments/{file}");
            let bytes = self.storage.open(&name)?;
            let meta = self.metas.get(name.as_str());
            let is_whole = meta.is_none_or(|meta| meta.xxh3 == checksum(&bytes));
            match Segment::open(bytes) {
                Ok(segment) => newer.push(Newer { name, segment, is_whole }),
                Err(_) => self.unreadable.push(self.storage.display(&name)),
            }
        }
        Ok(newer)
    }

    /// The rows of a table to mark as changed by `commit`: of every key touched since, the row of
    /// `snapshot`, or one without content.
    fn touched<T: Table>(
        &mut self,
        served: &Served<T>,
        snapshot: &Snapshot,
        commit: u64,
    ) -> Result<Rows<T>, CommitError> {
        let (newer, hasher) = (self.newer::<T>()?, self.old.body.hash_key.hasher());
        let mut touched: BTreeMap<KeyHash, T::Row<'_>> = BTreeMap::new();
        for Newer { name, segment, is_whole } in &newer {
            let mut is_whole = *is_whole;
            for (hash, row) in segment.iter() {
                let made = (served.commit)(&row);
                // Nothing else protects a row if the manifests are damaged as well.
                let is_sound = is_time((served.as_of_ms)(&row));
                if !is_sound || (served.key)(&hasher, &row) != hash {
                    is_whole = false;
                } else if made > self.old.header.commit && made < commit {
                    self.as_of_ms = self.as_of_ms.max(Some((served.as_of_ms)(&row)));
                    if touched.get(&hash).is_none_or(|known| (served.commit)(known) < made) {
                        touched.insert(hash, row);
                    }
                }
            }
            if !is_whole {
                self.unreadable.push(self.storage.display(name));
            }
        }
        let mut rows = Rows::default();
        for (hash, mut row) in touched {
            match snapshot.row::<T>(hash) {
                Some(kept) => row = kept,
                None => (served.clear)(&mut row),
            }
            (served.restamp)(&mut row, commit);
            rows.push(hash, &row);
        }
        Ok(rows)
    }
}

/// The commit in the name of a file of this table's rows.
fn commit_of<T: Table>(file: &str) -> Option<u64> {
    let mut parts = file.split('-');
    let (commit, table) = (parts.nth(2)?, parts.next()?);
    (table == T::NAME.as_str()).then(|| commit.parse().ok())?
}

/// Writes the rows of a table that readers must see changed.
struct Rewrite<'r, 's> {
    since: &'r mut Since<'s>,
    snapshot: &'r Snapshot,
    header: &'r Header,
}

impl TableVisitor for Rewrite<'_, '_> {
    type Output = Result<Option<SegmentMeta>, RollbackError>;

    fn visit<T: Table>(self) -> Self::Output {
        let Self { since, snapshot, header } = self;
        let Some(served) = T::SERVED else { return Ok(None) };
        let rows = since.touched(&served, snapshot, header.commit)?;
        if rows.is_empty() {
            return Ok(None);
        }
        assert_eq!(header.commit, header.generation, "a rollback is a takeover");
        let name = segment_name(header, header.commit, T::NAME, "w0");
        let (count, last_hour) = (rows.len() as u64, rows.last_hour());
        let (bytes, xxh3) = write_temporary(since.storage, &name, |out| rows.encode(out))?;
        since.storage.rename(&temporary(&name), &name)?;
        Ok(Some(SegmentMeta {
            name,
            table: T::NAME,
            first_commit: header.commit,
            last_commit: header.commit,
            rows: count,
            bytes,
            xxh3,
            last_hour,
        }))
    }
}
