//! Merging segments in the background, so that a look-up passes few of them.
//!
//! A pure file-to-file k-way merge of neighbours: of equal keys the newest row stays, and every
//! row keeps the commit that last changed it. Invariant: a snapshot answers the same before and
//! after.

use std::sync::Arc;

use schemas::manifest::{Header, Manifest, SegmentMeta, TableName};
use schemas::rows::{Boards, DeadLetters, Ids, Tags};
use schemas::segment::Merge;

use super::files::{CommitError, segment_name};
use super::snapshot::{Named, OpenSegment, open_segment};
use super::writer::{WriteError, write_temporary};
use crate::storage::{Storage, temporary};

/// So many neighbours of one level are merged into one of the next.
const FAN_IN: usize = 4;
/// Segments up to this size are of level zero.
const LEVEL_ZERO_BYTES: u64 = 4 << 20;

/// A finished merge: the next manifest names `output` in place of `inputs`.
#[derive(Clone, Debug)]
pub struct Merged {
    /// The names of the segments that are replaced, neighbours of one table.
    pub inputs: Vec<String>,
    /// The segment that replaces them.
    pub output: SegmentMeta,
}

impl Merged {
    /// Puts the output into a list of segments in place of its inputs. False where the list does
    /// not hold them all any more.
    pub fn apply(&self, segments: &mut Vec<SegmentMeta>) -> bool {
        let is_input = |s: &SegmentMeta| self.inputs.contains(&s.name);
        let Some(at) = segments.iter().position(is_input) else { return false };
        if segments.iter().filter(|s| is_input(s)).count() != self.inputs.len() {
            return false;
        }
        segments[at] = self.output.clone();
        segments.retain(|s| !is_input(s));
        true
    }
}

fn level(segment: &SegmentMeta) -> u32 {
    let units = segment.bytes / LEVEL_ZERO_BYTES;
    if units == 0 { 0 } else { units.ilog2() / FAN_IN.ilog2() + 1 }
}

/// The neighbours to merge next: the lowest level of which `FAN_IN` stand together.
fn plan(manifest: &Manifest) -> Option<Vec<&SegmentMeta>> {
    let candidates = TableName::ALL.iter().filter_map(|table| {
        let segments: Vec<&SegmentMeta> = manifest.segments(*table).collect();
        let highest = segments.iter().map(|s| level(s)).max()?;
        (0..=highest).find_map(|at_most| {
            let runs = segments.chunk_by(|a, b| (level(a) <= at_most) == (level(b) <= at_most));
            let mut low = runs.filter(|run| level(run[0]) <= at_most && run.len() >= FAN_IN);
            low.next().map(|run| (at_most, run.to_vec()))
        })
    });
    candidates.min_by_key(|(level, _)| *level).map(|(_, run)| run)
}

/// The background task that merges the segments of the newest manifest it was shown.
pub struct MergeTask {
    storage: Arc<dyn Storage>,
    /// This start of the job, for the names of its files.
    header: Header,
    merges: u64,
}

impl MergeTask {
    /// A task of the start that made `takeover`.
    pub fn new(storage: Arc<dyn Storage>, takeover: Header) -> Self {
        Self { storage, header: takeover, merges: 0 }
    }

    /// Does the next merge that `manifest` asks for, if any. Ids of hours before the floor's are
    /// left out.
    pub fn step(&mut self, manifest: &Manifest) -> Result<Option<Merged>, CommitError> {
        let Some(inputs) = plan(manifest) else { return Ok(None) };
        let floor_hour = manifest.body.floor_ms.map_or(0, |ms| (ms / 3_600_000) as u32);
        let output = match inputs[0].table {
            TableName::Tags => self.merge::<Tags>(&inputs, |_| true),
            TableName::Boards => self.merge::<Boards>(&inputs, |_| true),
            TableName::DeadLetters => self.merge::<DeadLetters>(&inputs, |_| true),
            TableName::Ids => self.merge::<Ids>(&inputs, |row| row.hour >= floor_hour),
        }?;
        let inputs = inputs.iter().map(|s| s.name.clone()).collect();
        Ok(Some(Merged { inputs, output }))
    }

    fn merge<T: Named>(
        &mut self,
        inputs: &[&SegmentMeta],
        keep: impl Fn(&T::Row<'_>) -> bool,
    ) -> Result<SegmentMeta, CommitError> {
        self.merges += 1;
        let last = inputs[inputs.len() - 1];
        let part = format!("m{}", self.merges);
        let name = segment_name(&self.header, last.last_commit, T::NAME, &part);
        let open: Vec<OpenSegment<T>> =
            inputs.iter().map(|s| open_segment(&*self.storage, s)).collect::<Result<_, _>>()?;
        let mut rows = 0;
        let written = write_temporary(&*self.storage, &name, |out| {
            rows = Merge::new(open.iter().map(|s| &s.rows).collect()).encode(keep, out)?;
            Ok(())
        });
        let (bytes, xxh3) = written.map_err(|error| match error {
            WriteError::Storage(error) => CommitError::Storage(error),
            WriteError::Encode { name, error } => {
                CommitError::Segment { file: name, error: error.to_string() }
            }
        })?;
        self.storage.rename(&temporary(&name), &name)?;
        self.storage.sync_folder("segments")?;
        Ok(SegmentMeta {
            name,
            table: T::NAME,
            first_commit: inputs.iter().map(|s| s.first_commit).min().unwrap_or_default(),
            last_commit: inputs.iter().map(|s| s.last_commit).max().unwrap_or_default(),
            rows: rows as u64,
            bytes,
            xxh3,
            last_hour: inputs.iter().filter_map(|s| s.last_hour).max(),
        })
    }
}
