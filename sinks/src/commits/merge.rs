//! Compaction: merging segments in the background, so that a look-up has to search only a few.
//!
//! A merge reads neighbouring files and writes one: the newest row of each key, with the commit
//! that last changed it. Invariant: a snapshot gives the same answers before and after.

use std::sync::Arc;

use schemas::manifest::{Header, Manifest, SegmentMeta};
use schemas::rows::{Table, TableName, TableVisitor, hour_of};
use schemas::segment::Merge;

use super::files::{CommitError, segment_name};
use super::snapshot::{OpenSegment, open_segment};
use super::writer::{WriteError, write_temporary};
use crate::storage::{Storage, temporary};

/// How many neighbours of one level make one segment of the next.
const FAN_IN: usize = 4;
/// Segments smaller than this are of level zero.
const LEVEL_ZERO_BYTES: u64 = 4 << 20;

/// A finished merge: the next manifest names `output` in place of `inputs`.
#[derive(Clone, Debug)]
pub struct Merged {
    /// The names of the segments to replace: neighbours in one table.
    pub inputs: Vec<String>,
    /// The segment that replaces them.
    pub output: SegmentMeta,
}

impl Merged {
    /// Replaces the inputs by the output in a list of segments. Returns false if the list no longer
    /// holds all of them.
    pub fn apply(&self, segments: &mut Vec<SegmentMeta>) -> bool {
        debug_assert!(!self.inputs.contains(&self.output.name), "names are never reused");
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

/// The neighbours to merge next, if any. From the oldest segment on, a group ends with the last
/// segment of the highest remaining level. Levels thus fall from group to group, and a large old
/// segment is not rewritten for a few small new ones. Of the groups with at least `FAN_IN`
/// segments, the one with the lowest level is merged.
fn plan(manifest: &Manifest) -> Option<Vec<&SegmentMeta>> {
    let candidates = TableName::ALL.iter().filter_map(|table| {
        let segments: Vec<&SegmentMeta> = manifest.segments(*table).collect();
        let (mut rest, mut lowest) = (&segments[..], None);
        while let Some(highest) = rest.iter().map(|s| level(s)).max() {
            let Some(last) = rest.iter().rposition(|s| level(s) == highest) else {
                unreachable!("some segment has the highest level");
            };
            let (group, newer) = rest.split_at(last + 1);
            if group.len() >= FAN_IN {
                lowest = Some((highest, group.to_vec()));
            }
            rest = newer;
        }
        lowest
    });
    candidates.min_by_key(|(level, _)| *level).map(|(_, group)| group)
}

/// The background task that merges segments.
pub struct MergeTask {
    storage: Arc<dyn Storage>,
    /// This run of the job, for the names of its files.
    header: Header,
    merges: u64,
}

impl MergeTask {
    /// The task of the job that made `takeover`.
    pub fn new(storage: Arc<dyn Storage>, takeover: Header) -> Self {
        Self { storage, header: takeover, merges: 0 }
    }

    /// Does the next merge that is due in `manifest`, if any. Rows that expired before its floor
    /// are dropped.
    pub fn step(&mut self, manifest: &Manifest) -> Result<Option<Merged>, CommitError> {
        let Some(inputs) = plan(manifest) else { return Ok(None) };
        self.merges += 1;
        let floor_hour = manifest.body.floor_ms.map_or(0, hour_of);
        let output = inputs[0].table.visit(Inputs { task: self, inputs: &inputs, floor_hour })?;
        let inputs = inputs.iter().map(|s| s.name.clone()).collect();
        Ok(Some(Merged { inputs, output }))
    }
}

/// The segments of one merge.
struct Inputs<'m> {
    task: &'m MergeTask,
    inputs: &'m [&'m SegmentMeta],
    floor_hour: u32,
}

impl TableVisitor for Inputs<'_> {
    type Output = Result<SegmentMeta, CommitError>;

    fn visit<T: Table>(self) -> Self::Output {
        let Self { task: MergeTask { storage, header, merges }, inputs, floor_hour } = self;
        let commits = inputs.iter().map(|s| (s.first_commit, s.last_commit));
        let Some((first_commit, last_commit)) = commits.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))
        else {
            unreachable!("a merge has inputs: checked by `plan`");
        };
        assert!(inputs.iter().all(|s| s.table == T::NAME), "a merge reads one table");
        let newest = inputs[inputs.len() - 1];
        let name = segment_name(header, newest.last_commit, T::NAME, &format!("m{merges}"));
        let open: Vec<OpenSegment<T>> =
            inputs.iter().map(|s| open_segment(&**storage, s)).collect::<Result<_, _>>()?;
        let mut rows = 0;
        let written = write_temporary(&**storage, &name, |out| {
            rows = Merge::new(open.iter().map(|s| &s.rows).collect()).encode(floor_hour, out)?;
            Ok(())
        });
        let written = written.map_err(|error| match error {
            WriteError::Storage(error) => CommitError::Storage(error),
            WriteError::Encode { name, error } => CommitError::Encode { name, error },
        });
        let named = written.and_then(|file| {
            storage.rename(&temporary(&name), &name)?;
            storage.sync_folder("segments")?;
            Ok(file)
        });
        if named.is_err() {
            // The next attempt has another name, and needs the room.
            for left in [&temporary(&name), &name] {
                let _ = storage.unlink(left);
            }
        }
        let (bytes, xxh3) = named?;
        debug_assert!(rows as u64 <= inputs.iter().map(|s| s.rows).sum(), "a merge adds no row");
        Ok(SegmentMeta {
            name,
            table: T::NAME,
            first_commit,
            last_commit,
            rows: rows as u64,
            bytes,
            xxh3,
            last_hour: inputs.iter().filter_map(|s| s.last_hour).max(),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use schemas::hash::HashKey;
    use schemas::manifest::{Body, Counters};
    use schemas::rows::Tags;
    use schemas::windows::Windows;

    use super::*;

    fn segment(name: String, bytes: u64) -> SegmentMeta {
        let (table, xxh3) = (Tags::NAME, String::new());
        let (first_commit, last_commit, rows) = (1, 1, 1);
        SegmentMeta { name, table, first_commit, last_commit, rows, bytes, xxh3, last_hour: None }
    }

    fn empty() -> Manifest {
        let header = Header {
            commit: 1,
            history: 0,
            generation: 1,
            owner: String::new(),
            takeover: true,
            version: 1,
            wall_ms: 0,
        };
        let body = Body {
            as_of_ms: None,
            floor_ms: None,
            largest_ts_ms: None,
            largest_read_ms: None,
            hash_key: HashKey::new(0),
            rules: 1,
            windows: Windows::default(),
            scopes: None,
            mappings: std::collections::BTreeMap::new(),
            read_otherwise: std::collections::BTreeMap::new(),
            finished: None,
            clean: false,
            inputs: std::collections::BTreeMap::new(),
            control: 0,
            counters: Counters::default(),
            segments: Vec::new(),
        };
        Manifest { header, body }
    }

    /// Simulates commits with segments of these `sizes`, with at most one merge after each. Returns
    /// the largest number of segments at any time, and the bytes that merges wrote.
    fn simulate(sizes: impl Iterator<Item = u64>) -> (usize, u64) {
        let (mut manifest, mut most, mut merged_bytes) = (empty(), 0, 0);
        for (i, bytes) in sizes.enumerate() {
            manifest.body.segments.push(segment(format!("c{i}"), bytes));
            if let Some(inputs) = plan(&manifest) {
                let bytes = inputs.iter().map(|s| s.bytes).sum();
                let inputs = inputs.iter().map(|s| s.name.clone()).collect();
                let merged = Merged { inputs, output: segment(format!("m{i}"), bytes) };
                assert!(merged.apply(&mut manifest.body.segments));
                merged_bytes += bytes;
            }
            most = most.max(manifest.body.segments.len());
        }
        (most, merged_bytes)
    }

    #[test]
    fn small_commits_do_not_rewrite_a_large_state() {
        // 10 GiB of old rows, then a day of commits of 1 MiB.
        let sizes = || std::iter::once(10 << 30).chain(std::iter::repeat_n(1 << 20, 86_400));
        let written: u64 = sizes().skip(1).sum();
        let (most, merged) = simulate(sizes());
        assert!(most <= 24, "{most} segments");
        // Eight levels lie between 1 MiB and 84 GiB.
        assert!(merged < written * 9, "{} times what was committed", merged / written);
    }

    proptest! {
        #[test]
        fn segments_stay_few_and_merges_cheap(
            sizes in proptest::collection::vec((8_u32..30, 1_u64..8), 1000),
        ) {
            // From 256 bytes to 4 GiB, in any order.
            let sizes: Vec<u64> = sizes.into_iter().map(|(log, n)| n << log).collect();
            let written: u64 = sizes.iter().sum();
            let (most, merged) = simulate(sizes.into_iter());
            prop_assert!(most <= 24, "{} segments", most);
            prop_assert!(merged <= written * 16, "{} times what was written", merged / written);
        }
    }
}
