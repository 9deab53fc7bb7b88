//! Going back to an older commit: an explicit act, made as a takeover with the older content.
//!
//! Invariants: version and `as_of` stay above the old ones, as far as those can still be read;
//! every key touched since is marked as changed, with its restored row, or a total of 0, or an
//! empty board; the files carry names of the new generation, so that no older owner can remove
//! them.

use std::collections::{BTreeMap, HashMap};

use schemas::hash::KeyHash;
use schemas::manifest::{Body, Header, Manifest, SegmentMeta, checksum};
use schemas::rows::{BoardRow, Boards, DeadLetters, Ids, Repairs, TagRow, Tags, board_hash};
use schemas::segment::{Rows, Segment};
use thiserror::Error;

use super::files::{CommitError, create, list_commits, load, make_visible, segment_name, visible};
use super::snapshot::{Named, Snapshot, open_table};
use super::takeover::Start;
use super::writer::{WriteError, write_temporary};
use crate::storage::{Storage, StorageError, temporary};

/// Why a rollback was refused.
#[derive(Debug, Error)]
pub enum RollbackError {
    /// The state could not be read or written.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The restored rows could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The commit is the newest already.
    #[error("commit {0} is the newest: there is nothing to go back from")]
    Newest(u64),
}

impl From<StorageError> for RollbackError {
    fn from(error: StorageError) -> Self {
        Self::Commit(error.into())
    }
}

/// Makes a new commit with the content of commit `to`. The second result names the files whose
/// rows could not be read, so that keys in them alone are not marked as changed.
pub fn rollback(
    storage: &dyn Storage,
    to: u64,
    start: &Start,
) -> Result<(Manifest, Vec<String>), RollbackError> {
    let commits = list_commits(storage)?;
    let last = commits.last().copied().ok_or(CommitError::Missing(to))?;
    // A number that readers have seen is not used again, though its manifest be gone.
    let newest = visible(storage).ok().flatten().map_or(last, |shown| last.max(shown));
    if newest == to {
        return Err(RollbackError::Newest(to));
    }
    let old = load(storage, to)?;
    // The newest manifests may be damaged: that is what going back is for.
    let later: Vec<Manifest> =
        commits.iter().filter(|c| **c > to).filter_map(|c| load(storage, *c).ok()).collect();
    let header = header(&old, &later, newest, start);
    let mut segments = relink(storage, &old, &header)?;
    let mut since = Since::new(storage, &old, &later);
    let snapshot = Snapshot::open(storage, old.clone(), None)?;
    let tags = since.tags(&snapshot, header.commit)?;
    segments.extend(write_rows(storage, tags, &header)?);
    let boards = since.boards(&snapshot, header.commit)?;
    segments.extend(write_rows(storage, boards, &header)?);
    storage.sync_folder("segments")?;
    let Since { as_of_ms, unreadable, .. } = since;
    let body = Body { as_of_ms, finished: None, clean: true, segments, ..old.body };
    let manifest = Manifest { header, body };
    create(storage, &manifest)?;
    make_visible(storage, &manifest.header)?;
    Ok((manifest, unreadable))
}

fn header(old: &Manifest, later: &[Manifest], newest: u64, start: &Start) -> Header {
    let all = || later.iter().chain([old]);
    let version = all().map(|m| m.header.version + 1).max().unwrap_or_default();
    Header {
        commit: newest + 1,
        history: all().map(|m| m.header.history).max().unwrap_or_default() + 1,
        generation: newest + 1,
        owner: start.owner.clone(),
        takeover: true,
        version: version.max(start.wall_ms * 1000),
        wall_ms: start.wall_ms,
    }
}

/// Links the files of `old` under names of the new generation, after checking every one.
fn relink(
    storage: &dyn Storage,
    old: &Manifest,
    header: &Header,
) -> Result<Vec<SegmentMeta>, CommitError> {
    open_table::<Tags>(storage, old)?;
    open_table::<Boards>(storage, old)?;
    open_table::<Ids>(storage, old)?;
    open_table::<DeadLetters>(storage, old)?;
    open_table::<Repairs>(storage, old)?;
    let linked = old.body.segments.iter().enumerate().map(|(i, meta)| {
        let name = segment_name(header, meta.last_commit, meta.table, &format!("r{i}"));
        storage.link(&meta.name, &name)?;
        Ok(SegmentMeta { name, ..meta.clone() })
    });
    linked.collect()
}

/// A row that changed since the old commit: what is needed to write it as one that is gone.
struct Touched<Texts> {
    commit: u64,
    texts: Texts,
    /// The least and the greatest event time, and `as_of`.
    times: [i64; 3],
}

type TouchedKeys<Texts> = BTreeMap<KeyHash, Touched<Texts>>;

fn touch<Texts>(keys: &mut TouchedKeys<Texts>, hash: KeyHash, row: Touched<Texts>) {
    if keys.get(&hash).is_none_or(|known| known.commit < row.commit) {
        keys.insert(hash, row);
    }
}

/// What has happened since the old commit, as far as its files can be read.
struct Since<'s> {
    storage: &'s dyn Storage,
    old: &'s Manifest,
    /// What later manifests say of their files.
    metas: HashMap<&'s str, &'s SegmentMeta>,
    as_of_ms: Option<i64>,
    unreadable: Vec<String>,
}

impl<'s> Since<'s> {
    fn new(storage: &'s dyn Storage, old: &'s Manifest, later: &'s [Manifest]) -> Self {
        let all = || later.iter().chain([old]);
        let metas = all().flat_map(|m| &m.body.segments).map(|s| (s.name.as_str(), s)).collect();
        let as_of_ms = all().filter_map(|m| m.body.as_of_ms).max();
        Self { storage, old, metas, as_of_ms, unreadable: Vec::new() }
    }

    /// Shows `look` every row of a table's files newer than the old commit, whose manifests may be
    /// damaged as well as they themselves. `look` tells whether a row is as it was written.
    fn rows<T: Named>(
        &mut self,
        mut look: impl FnMut(KeyHash, &T::Row<'_>) -> bool,
    ) -> Result<(), CommitError> {
        for file in self.storage.list("segments")? {
            if commit_of::<T>(&file).is_none_or(|commit| commit <= self.old.header.commit) {
                continue;
            }
            let name = format!("segments/{file}");
            let bytes = self.storage.open(&name)?;
            let meta = self.metas.get(name.as_str());
            let mut whole = meta.is_none_or(|meta| meta.xxh3 == checksum(&bytes));
            match Segment::<T>::open(bytes) {
                Ok(segment) => segment.iter().for_each(|(hash, row)| whole &= look(hash, &row)),
                Err(_) => whole = false,
            }
            if !whole {
                self.unreadable.push(self.storage.display(&name));
            }
        }
        Ok(())
    }

    /// The tag rows to mark as changed by `commit`.
    fn tags(&mut self, snapshot: &Snapshot, commit: u64) -> Result<Rows<Tags>, CommitError> {
        let (to, hasher) = (self.old.header.commit, self.old.body.hash_key.hasher());
        let (mut keys, mut as_of_ms) = (TouchedKeys::new(), self.as_of_ms);
        self.rows::<Tags>(|hash, row| {
            if hash != hasher.scoped(row.scope, hasher.tag(row.tag)) {
                return false;
            }
            if row.commit > to && row.commit < commit {
                as_of_ms = as_of_ms.max(Some(row.as_of));
                let texts = [row.scope, row.tag, row.display].map(str::to_owned);
                let times = [row.first_seen, row.last_seen, row.as_of];
                touch(&mut keys, hash, Touched { commit: row.commit, texts, times });
            }
            true
        })?;
        self.as_of_ms = as_of_ms;
        let mut rows = Rows::default();
        for (hash, Touched { texts: [scope, tag, display], times, .. }) in &keys {
            let [first_seen, last_seen, as_of] = *times;
            let (total, recent) = (0, &[][..]);
            let gone =
                TagRow { scope, tag, display, total, recent, first_seen, last_seen, as_of, commit };
            rows.push(*hash, &TagRow { commit, ..snapshot.tag(*hash).unwrap_or(gone) });
        }
        Ok(rows)
    }

    /// The boards to mark as changed by `commit`.
    fn boards(&mut self, snapshot: &Snapshot, commit: u64) -> Result<Rows<Boards>, CommitError> {
        let (to, mut keys) = (self.old.header.commit, TouchedKeys::new());
        self.rows::<Boards>(|hash, row| {
            if hash != board_hash(row.scope, row.window) {
                return false;
            }
            if row.commit > to && row.commit < commit {
                let texts = [row.scope, row.window].map(str::to_owned);
                touch(
                    &mut keys,
                    hash,
                    Touched { commit: row.commit, texts, times: [row.as_of; 3] },
                );
            }
            true
        })?;
        let mut rows = Rows::default();
        for (hash, Touched { texts: [scope, window], times: [as_of, ..], .. }) in &keys {
            let gone = BoardRow { scope, window, doc: "[]", as_of: *as_of, commit };
            let row = snapshot.board(scope, window).unwrap_or(gone);
            rows.push(*hash, &BoardRow { commit, ..row });
        }
        Ok(rows)
    }
}

/// The commit in the name of a file of this table's rows.
fn commit_of<T: Named>(file: &str) -> Option<u64> {
    let mut parts = file.split('-');
    let (commit, table) = (parts.nth(2)?, parts.next()?);
    (table == T::NAME.as_str()).then(|| commit.parse().ok())?
}

fn write_rows<T: Named>(
    storage: &dyn Storage,
    rows: Rows<T>,
    header: &Header,
) -> Result<Option<SegmentMeta>, RollbackError> {
    if rows.is_empty() {
        return Ok(None);
    }
    let name = segment_name(header, header.commit, T::NAME, "w0");
    let count = rows.len() as u64;
    let (bytes, xxh3) = write_temporary(storage, &name, |out| rows.encode(out))?;
    storage.rename(&temporary(&name), &name)?;
    Ok(Some(SegmentMeta {
        name,
        table: T::NAME,
        first_commit: header.commit,
        last_commit: header.commit,
        rows: count,
        bytes,
        xxh3,
        last_hour: None,
    }))
}
