//! Going back to an older commit: an explicit act, made as a takeover with the older content.
//!
//! Invariants: version and `as_of` stay above the old ones; every key touched since is marked as
//! changed, with its restored row or a total of 0; the files carry names of the new generation, so
//! that no older owner can remove them.

use std::collections::BTreeMap;

use schemas::hash::KeyHash;
use schemas::manifest::{Body, Header, Manifest, SegmentMeta, TableName};
use schemas::rows::{Boards, DeadLetters, Ids, TagRow, Tags};
use schemas::segment::{Rows, Segment};
use thiserror::Error;

use super::files::{CommitError, create, list_commits, load, make_visible, segment_name};
use super::snapshot::{Snapshot, open_table};
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
    let newest = commits.last().copied().ok_or(CommitError::Missing(to))?;
    if newest == to {
        return Err(RollbackError::Newest(to));
    }
    let old = load(storage, to)?;
    // The newest manifests may be damaged: that is what going back is for.
    let later: Vec<Manifest> =
        commits.iter().filter(|c| **c > to).filter_map(|c| load(storage, *c).ok()).collect();
    let header = header(&old, &later, newest, start);
    let mut segments = relink(storage, &old, &header)?;
    let (rows, unreadable) = restored_rows(storage, &old, &header)?;
    if !rows.is_empty() {
        segments.push(write_rows(storage, rows, &header)?);
    }
    storage.sync_folder("segments")?;
    let as_of_ms = later.iter().filter_map(|m| m.body.as_of_ms).max().max(old.body.as_of_ms);
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
    let linked = old.body.segments.iter().enumerate().map(|(i, meta)| {
        let name = segment_name(header, meta.last_commit, meta.table, &format!("r{i}"));
        storage.link(&meta.name, &name)?;
        Ok(SegmentMeta { name, ..meta.clone() })
    });
    linked.collect()
}

/// A tag row that owns its texts.
struct Touched {
    scope: String,
    tag: String,
    display: String,
    times: [i64; 3],
}

/// The rows to mark as changed: of every key in a tag file newer than `old`.
fn restored_rows(
    storage: &dyn Storage,
    old: &Manifest,
    header: &Header,
) -> Result<(Rows<Tags>, Vec<String>), CommitError> {
    let mut touched: BTreeMap<KeyHash, Touched> = BTreeMap::new();
    let mut unreadable = Vec::new();
    for file in storage.list("segments")? {
        let newer = tag_commit(&file).is_some_and(|c| c > old.header.commit && c < header.commit);
        if !newer {
            continue;
        }
        let name = format!("segments/{file}");
        let Ok(segment) = Segment::<Tags>::open(storage.open(&name)?) else {
            unreadable.push(storage.display(&name));
            continue;
        };
        for (hash, row) in segment.iter().filter(|(_, row)| row.commit > old.header.commit) {
            touched.entry(hash).or_insert_with(|| Touched {
                scope: row.scope.to_owned(),
                tag: row.tag.to_owned(),
                display: row.display.to_owned(),
                times: [row.first_seen, row.last_seen, row.as_of],
            });
        }
    }
    let snapshot = Snapshot::open(storage, old.clone(), None)?;
    let mut rows = Rows::default();
    for (hash, t) in &touched {
        let [first_seen, last_seen, as_of] = t.times;
        let (scope, tag, display) = (t.scope.as_str(), t.tag.as_str(), t.display.as_str());
        let nothing = TagRow {
            scope,
            tag,
            display,
            total: 0,
            recent: &[],
            first_seen,
            last_seen,
            as_of,
            commit: 0,
        };
        let row = snapshot.tag(*hash).unwrap_or(nothing);
        rows.push(*hash, &TagRow { commit: header.commit, ..row });
    }
    Ok((rows, unreadable))
}

/// The commit in the name of a file of tag rows.
fn tag_commit(file: &str) -> Option<u64> {
    let mut parts = file.split('-');
    let (commit, table) = (parts.nth(2)?, parts.next()?);
    (table == TableName::Tags.as_str()).then(|| commit.parse().ok())?
}

fn write_rows(
    storage: &dyn Storage,
    rows: Rows<Tags>,
    header: &Header,
) -> Result<SegmentMeta, RollbackError> {
    let name = segment_name(header, header.commit, TableName::Tags, "w0");
    let count = rows.len() as u64;
    let (bytes, xxh3) = write_temporary(storage, &name, |out| rows.encode(out))?;
    storage.rename(&temporary(&name), &name)?;
    Ok(SegmentMeta {
        name,
        table: TableName::Tags,
        first_commit: header.commit,
        last_commit: header.commit,
        rows: count,
        bytes,
        xxh3,
        last_hour: None,
    })
}
