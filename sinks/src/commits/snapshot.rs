//! One commit, open for reading: its files are mapped and stay readable after their removal.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use schemas::hash::KeyHash;
use schemas::manifest::{Manifest, SegmentMeta, TableName, checksum};
use schemas::rows::{BoardRow, Boards, DeadLetters, Ids, Repairs, TagRow, Tags, board_hash};
use schemas::segment::{Segment, Table};

use super::files::{CommitError, load};
use super::filter::Filter;
use crate::invariants::{Invariant, count};
use crate::storage::Storage;

/// A table by its type.
pub trait Named: Table {
    /// Its name.
    const NAME: TableName;
}

impl Named for Tags {
    const NAME: TableName = TableName::Tags;
}
impl Named for Boards {
    const NAME: TableName = TableName::Boards;
}
impl Named for Ids {
    const NAME: TableName = TableName::Ids;
}
impl Named for DeadLetters {
    const NAME: TableName = TableName::DeadLetters;
}
impl Named for Repairs {
    const NAME: TableName = TableName::Repairs;
}

/// An open file of a commit.
pub struct OpenSegment<T: Table> {
    /// What the manifest says of it.
    pub meta: SegmentMeta,
    /// Its rows.
    pub rows: Segment<T>,
    filter: OnceLock<Filter>,
}

impl<T: Table> OpenSegment<T> {
    /// The row of a key; asks a filter first, which is built on the first use.
    pub fn get_filtered(&self, hash: KeyHash) -> Option<T::Row<'_>> {
        let filter = self.filter.get_or_init(|| Filter::new(self.rows.hashes(), self.rows.len()));
        if filter.may_contain(hash) { self.rows.get(hash) } else { None }
    }

    /// The bytes of the filter, where there is one.
    pub fn filter_bytes(&self) -> usize {
        self.filter.get().map_or(0, Filter::bytes)
    }
}

/// Opens one file of a commit after checking its checksum.
pub fn open_segment<T: Table>(
    storage: &dyn Storage,
    meta: &SegmentMeta,
) -> Result<OpenSegment<T>, CommitError> {
    let damaged = |error: String| CommitError::Segment { file: storage.display(&meta.name), error };
    let bytes = match storage.open(&meta.name) {
        Err(error) if error.is_not_found() => return Err(damaged("it is missing".into())),
        other => other?,
    };
    count(Invariant::Refused);
    if bytes.len() as u64 != meta.bytes {
        return Err(damaged(format!("it has {} of {} bytes", bytes.len(), meta.bytes)));
    }
    if checksum(&bytes) != meta.xxh3 {
        return Err(damaged("its checksum is wrong".into()));
    }
    let rows = Segment::open(bytes).map_err(|error| damaged(error.to_string()))?;
    Ok(OpenSegment { meta: meta.clone(), rows, filter: OnceLock::new() })
}

/// Opens one file of a commit, which may go meanwhile: its manifest goes before its files, so where
/// that is gone as well nothing is damaged, and the commit is not kept any more.
fn open_kept<T: Table>(
    storage: &dyn Storage,
    manifest: &Manifest,
    meta: &SegmentMeta,
) -> Result<OpenSegment<T>, CommitError> {
    match open_segment(storage, meta) {
        Err(damaged @ CommitError::Segment { .. }) => match load(storage, manifest.header.commit) {
            Err(gone @ CommitError::Missing(_)) => Err(gone),
            _ => Err(damaged),
        },
        opened => opened,
    }
}

/// Opens all files of one table, the oldest first.
pub fn open_table<T: Named>(
    storage: &dyn Storage,
    manifest: &Manifest,
) -> Result<Vec<OpenSegment<T>>, CommitError> {
    manifest.segments(T::NAME).map(|meta| open_kept(storage, manifest, meta)).collect()
}

/// The tags and boards of one commit. Cheap to clone out of an older one: files both name are
/// opened once.
pub struct Snapshot {
    /// The commit.
    pub manifest: Manifest,
    /// Tag segments, the oldest first.
    pub tags: Vec<Arc<OpenSegment<Tags>>>,
    /// Board segments, the oldest first.
    pub boards: Vec<Arc<OpenSegment<Boards>>>,
}

impl Snapshot {
    /// Opens a commit. What `before` has open already is shared.
    pub fn open(
        storage: &dyn Storage,
        manifest: Manifest,
        before: Option<&Self>,
    ) -> Result<Self, CommitError> {
        let (old_tags, old_boards) =
            before.map_or((&[][..], &[][..]), |b| (&b.tags[..], &b.boards[..]));
        let tags = share(storage, &manifest, old_tags)?;
        let boards = share(storage, &manifest, old_boards)?;
        Ok(Self { manifest, tags, boards })
    }

    /// A tag's row, the newest one there is.
    pub fn tag(&self, hash: KeyHash) -> Option<TagRow<'_>> {
        self.tags.iter().rev().find_map(|segment| segment.rows.get(hash))
    }

    /// The same through the segments' filters, for a job that asks mostly for keys that are new.
    pub fn tag_filtered(&self, hash: KeyHash) -> Option<TagRow<'_>> {
        self.tags.iter().rev().find_map(|segment| segment.get_filtered(hash))
    }

    /// The row of a board.
    pub fn board(&self, scope: &str, window: &str) -> Option<BoardRow<'_>> {
        let hash = board_hash(scope, window);
        self.boards.iter().rev().find_map(|segment| segment.rows.get(hash))
    }
}

fn share<T: Named>(
    storage: &dyn Storage,
    manifest: &Manifest,
    old: &[Arc<OpenSegment<T>>],
) -> Result<Vec<Arc<OpenSegment<T>>>, CommitError> {
    let open: HashMap<&str, &Arc<OpenSegment<T>>> =
        old.iter().map(|segment| (segment.meta.name.as_str(), segment)).collect();
    let shared = manifest.segments(T::NAME).map(|meta| match open.get(meta.name.as_str()) {
        Some(segment) => Ok(Arc::clone(segment)),
        None => Ok(Arc::new(open_kept(storage, manifest, meta)?)),
    });
    shared.collect()
}
