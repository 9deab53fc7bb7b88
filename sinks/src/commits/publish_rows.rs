//! The rows that changed after a commit: what a publisher has to send.

use std::sync::Arc;

use schemas::hash::KeyHash;
use schemas::rows::{BoardRow, Boards, Table, TagRow, Tags};
use schemas::segment::Merge;

use super::snapshot::{OpenSegment, Snapshot};

impl Snapshot {
    /// The tag rows behind key `from` whose last change came after commit `after`, in key order.
    pub fn tags_changed(
        &self,
        after: u64,
        from: Option<KeyHash>,
    ) -> impl Iterator<Item = (KeyHash, TagRow<'_>)> {
        changed(self.table::<Tags>(), after, from).filter(move |(_, row)| row.commit > after)
    }

    /// The boards behind key `from` whose last change came after commit `after`, in key order.
    pub fn boards_changed(
        &self,
        after: u64,
        from: Option<KeyHash>,
    ) -> impl Iterator<Item = (KeyHash, BoardRow<'_>)> {
        changed(self.table::<Boards>(), after, from).filter(move |(_, row)| row.commit > after)
    }
}

/// The newest rows of the segments that hold anything after commit `after`.
fn changed<T: Table>(
    segments: &[Arc<OpenSegment<T>>],
    after: u64,
    from: Option<KeyHash>,
) -> Merge<'_, T> {
    let newer = segments.iter().filter(|s| s.meta.last_commit > after);
    let merge = Merge::new(newer.map(|s| &s.rows).collect());
    match from {
        Some(from) => merge.behind(from),
        None => merge,
    }
}
