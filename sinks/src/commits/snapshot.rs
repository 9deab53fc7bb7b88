//! One commit, open for reading. Its files are mapped, and stay readable after they are removed.
//!
//! Invariant: a file is read only after its size and checksum have been verified.

use std::any::Any;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use schemas::hash::KeyHash;
use schemas::manifest::{Manifest, SegmentMeta, checksum};
use schemas::rows::{BoardRow, Boards, Table, TableName, TableVisitor, TagRow, Tags, board_hash};
use schemas::segment::{Merge, Segment};

use super::files::{CommitError, Damage, load};
use super::filter::Filter;
use crate::invariants::{Invariant, count};
use crate::storage::Storage;

/// An open file of a commit.
pub struct OpenSegment<T: Table> {
    /// Its entry in the manifest.
    pub meta: SegmentMeta,
    /// Its rows.
    pub rows: Segment<T>,
    filter: OnceLock<Filter>,
}

impl<T: Table> OpenSegment<T> {
    /// The row of a key. Asks a filter first, which is built on first use.
    pub fn get_filtered(&self, hash: KeyHash) -> Option<T::Row<'_>> {
        let filter = self.filter.get_or_init(|| Filter::new(self.rows.hashes(), self.rows.len()));
        if filter.may_contain(hash) { self.rows.get(hash) } else { None }
    }
}

/// Opens one file of a commit after verifying its checksum.
pub fn open_segment<T: Table>(
    storage: &dyn Storage,
    meta: &SegmentMeta,
) -> Result<OpenSegment<T>, CommitError> {
    let damaged = |damage| CommitError::Segment { file: storage.display(&meta.name), damage };
    let bytes = match storage.open(&meta.name) {
        Err(error) if error.is_not_found() => return Err(damaged(Damage::Missing)),
        other => other?,
    };
    count(Invariant::Refused);
    let (found, expected) = (bytes.len() as u64, meta.bytes);
    if found != expected {
        return Err(damaged(Damage::Size { found, expected }));
    }
    if checksum(&bytes) != meta.xxh3 {
        return Err(damaged(Damage::Checksum));
    }
    let rows = Segment::<T>::open(bytes).map_err(|error| damaged(Damage::Content(error)))?;
    let (found, expected) = (rows.len() as u64, meta.rows);
    if found != expected {
        return Err(damaged(Damage::Rows { found, expected }));
    }
    Ok(OpenSegment { meta: meta.clone(), rows, filter: OnceLock::new() })
}

/// Opens one file of a commit that may be removed meanwhile. A manifest is removed before its
/// files: if it is gone as well, nothing is damaged, and the commit is no longer kept.
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
pub fn open_table<T: Table>(
    storage: &dyn Storage,
    manifest: &Manifest,
) -> Result<Vec<OpenSegment<T>>, CommitError> {
    manifest.segments(T::NAME).map(|meta| open_kept(storage, manifest, meta)).collect()
}

/// The files of one table, the oldest first.
type Shared<T> = Vec<Arc<OpenSegment<T>>>;

/// The tables of one commit that readers see, open. Cheap to open after an older one: files that
/// both name are opened once.
pub struct Snapshot {
    /// The commit.
    pub manifest: Manifest,
    /// A [`Shared`] of each served table.
    tables: Vec<Box<dyn Any + Send + Sync>>,
}

impl Snapshot {
    /// Opens a commit. What `before` has open already is shared.
    pub fn open(
        storage: &dyn Storage,
        manifest: Manifest,
        before: Option<&Self>,
    ) -> Result<Self, CommitError> {
        let mut tables = Vec::new();
        for table in TableName::ALL {
            tables.extend(table.visit(OpenServed { storage, manifest: &manifest, before })?);
        }
        Ok(Self { manifest, tables })
    }

    /// Opens a commit after checking the files of all its tables, even of those no reader sees.
    pub fn open_checked(storage: &dyn Storage, manifest: Manifest) -> Result<Self, CommitError> {
        for table in TableName::ALL {
            table.visit(CheckUnserved { storage, manifest: &manifest })?;
        }
        Self::open(storage, manifest, None)
    }

    /// The files of a served table, the oldest first.
    pub fn table<T: Table>(&self) -> &[Arc<OpenSegment<T>>] {
        match self.tables.iter().find_map(|table| table.downcast_ref::<Shared<T>>()) {
            Some(segments) => segments,
            None => unreachable!("no reader sees {}: its `SERVED` is not set", T::NAME.as_str()),
        }
    }

    /// The rows of a served table in key order, the newest of each key.
    pub fn rows<T: Table>(&self) -> Merge<'_, T> {
        Merge::new(self.table::<T>().iter().map(|segment| &segment.rows).collect())
    }

    /// A served table's row, the newest one there is.
    pub fn row<T: Table>(&self, hash: KeyHash) -> Option<T::Row<'_>> {
        self.table::<T>().iter().rev().find_map(|segment| segment.rows.get(hash))
    }

    /// A tag's row.
    pub fn tag(&self, hash: KeyHash) -> Option<TagRow<'_>> {
        self.row::<Tags>(hash)
    }

    /// A tag's row, looked up through the segments' filters: for a job that mostly sees new keys.
    pub fn tag_filtered(&self, hash: KeyHash) -> Option<TagRow<'_>> {
        self.table::<Tags>().iter().rev().find_map(|segment| segment.get_filtered(hash))
    }

    /// The row of a board.
    pub fn board(&self, scope: &str, window: &str) -> Option<BoardRow<'_>> {
        self.row::<Boards>(board_hash(scope, window))
    }
}

/// Opens a table if readers see it.
struct OpenServed<'o> {
    storage: &'o dyn Storage,
    manifest: &'o Manifest,
    before: Option<&'o Snapshot>,
}

impl TableVisitor for OpenServed<'_> {
    type Output = Result<Option<Box<dyn Any + Send + Sync>>, CommitError>;

    fn visit<T: Table>(self) -> Self::Output {
        if T::SERVED.is_none() {
            return Ok(None);
        }
        let old = self.before.map_or(&[][..], |before| before.table::<T>());
        let open: HashMap<&str, &Arc<OpenSegment<T>>> =
            old.iter().map(|segment| (segment.meta.name.as_str(), segment)).collect();
        let shared =
            self.manifest.segments(T::NAME).map(|meta| match open.get(meta.name.as_str()) {
                Some(segment) => Ok(Arc::clone(segment)),
                None => open_kept(self.storage, self.manifest, meta).map(Arc::new),
            });
        Ok(Some(Box::new(shared.collect::<Result<Shared<T>, _>>()?)))
    }
}

/// Checks the files of a table that readers do not see.
struct CheckUnserved<'o> {
    storage: &'o dyn Storage,
    manifest: &'o Manifest,
}

impl TableVisitor for CheckUnserved<'_> {
    type Output = Result<(), CommitError>;

    fn visit<T: Table>(self) -> Self::Output {
        if T::SERVED.is_none() {
            open_table::<T>(self.storage, self.manifest)?;
        }
        Ok(())
    }
}
