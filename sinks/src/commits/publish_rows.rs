//! The rows that changed after a commit, which a publisher has to send.
//!
//! Invariant: no row that changed later is left out, whatever has been merged since.

use std::sync::Arc;

use schemas::hash::KeyHash;
use schemas::rows::{BoardRow, Boards, Table, TagRow, Tags};
use schemas::segment::Merge;

use super::snapshot::{OpenSegment, Snapshot};

impl Snapshot {
    /// The tag rows after key `from` that changed after commit `after`, in key order.
    pub fn tags_changed(
        &self,
        after: u64,
        from: Option<KeyHash>,
    ) -> impl Iterator<Item = (KeyHash, TagRow<'_>)> {
        changed(self.table::<Tags>(), after, from).filter(move |(_, row)| row.commit > after)
    }

    /// The boards after key `from` that changed after commit `after`, in key order.
    pub fn boards_changed(
        &self,
        after: u64,
        from: Option<KeyHash>,
    ) -> impl Iterator<Item = (KeyHash, BoardRow<'_>)> {
        changed(self.table::<Boards>(), after, from).filter(move |(_, row)| row.commit > after)
    }
}

/// The newest rows of the segments that hold changes after commit `after`.
fn changed<T: Table>(
    segments: &[Arc<OpenSegment<T>>],
    after: u64,
    from: Option<KeyHash>,
) -> Merge<'_, T> {
    let newer = segments.iter().filter(|s| s.meta.last_commit > after);
    let merge = Merge::new(newer.map(|s| &s.rows).collect());
    match from {
        Some(from) => merge.after(from),
        None => merge,
    }
}
