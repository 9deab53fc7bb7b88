//! Totals and buckets of the tags that are in use: the hot part of the state.
//!
//! A tag that is not in memory may have a row in the segments of the read set, which is loaded when
//! the tag is next mentioned. Invariants: a tag in memory is at least as new as its row; a tag that
//! changed after the read set stays in memory.

use schemas::hash::KeyHash;
use schemas::planted::{Bug, planted};
use schemas::rows::{TagRow, Tags};
use schemas::segment::Rows;
use schemas::windows::{Buckets, BucketsError, Tiers};

use super::slab::Slab;
use super::tag::{Tag, TagError, View};
use crate::records::{Mention, Mentions};
use crate::settings::Idle;
use crate::state::tag_index::TagIndex;
use crate::status::Work;

/// This many tags are looked up before the first of them is changed.
pub(super) const LOOKED_UP_AHEAD: usize = 32;
/// The bucket list of a tag is fetched while this many before it are folded.
const FOLDED_AHEAD: usize = 8;

/// About half the memory that the row of a tag takes besides its texts and buckets: other rows wait
/// from when they are made until they are written, those of tags are made at the end of a commit.
const ROW_BYTES: usize = 60;

/// The tags in memory.
pub(crate) struct TagTable {
    pub(super) idle: Idle,
    /// What was done since this was last taken.
    pub(crate) work: Work,
    pub(super) tiers: Tiers,
    /// The names of the scopes. The first is the whole stream, `""`.
    pub(super) scopes: Vec<String>,
    /// The tags' places in the slab.
    index: TagIndex,
    pub(super) slab: Slab,
    /// The places of the tags that changed in the commit under way.
    changed: Vec<u32>,
    /// About half the memory that their rows will take.
    pub(crate) row_bytes: usize,
    pub(super) commit: u64,
    /// The part of the slab that the next sweep goes through.
    next_sweep: usize,
    /// The memory that all tags hold outside the slab.
    pub(super) heap_bytes: usize,
}

impl TagTable {
    /// An empty table whose first mentions belong to `commit`.
    pub(crate) fn new(tiers: Tiers, scopes: Vec<String>, commit: u64, idle: Idle) -> Self {
        assert!(idle.parts > 0, "a sweep goes through one part of several");
        Self {
            idle,
            work: Work::default(),
            tiers,
            scopes,
            index: TagIndex::new(),
            slab: Slab::default(),
            changed: Vec::new(),
            row_bytes: 0,
            commit,
            next_sweep: 0,
            heap_bytes: 0,
        }
    }

    fn find(&self, hash: KeyHash) -> Option<u32> {
        let is_it = |place: &u32| self.slab.get(*place).is_some_and(|tag| tag.hash == hash);
        self.index.candidates(hash).find(is_it)
    }

    pub(super) fn insert(&mut self, tag: Tag) -> u32 {
        debug_assert!(self.find(tag.hash).is_none(), "a tag is in memory once");
        let hash = tag.hash;
        let place = self.slab.insert(tag);
        self.index.insert(hash, place);
        place
    }

    /// The index of a scope. `None` if it is no longer counted.
    pub(super) fn scope_index(&self, name: &str) -> Option<u16> {
        self.scopes.iter().position(|scope| scope == name).map(|index| index as u16)
    }

    /// Loads a row of the read set. `None` if its scope is no longer counted.
    fn load(&mut self, hash: KeyHash, row: &TagRow<'_>) -> Result<Option<u32>, TagError> {
        let buckets = self.buckets_of(row)?;
        Ok(self.insert_row(hash, row, buckets))
    }

    /// Loads a row if it has a bucket in some window at slot `as_of`. Others stay cold.
    pub(crate) fn load_live(
        &mut self,
        hash: KeyHash,
        row: &TagRow<'_>,
        as_of: u32,
    ) -> Result<(), TagError> {
        let buckets = self.buckets_of(row)?;
        if buckets.is_live(&self.tiers, as_of) {
            self.insert_row(hash, row, buckets);
        }
        Ok(())
    }

    fn buckets_of(&self, row: &TagRow<'_>) -> Result<Buckets, TagError> {
        Buckets::decode(self.tiers.slot(row.as_of), row.recent)
            .map_err(|BucketsError| TagError::Row(row.tag.to_owned()))
    }

    fn insert_row(&mut self, hash: KeyHash, row: &TagRow<'_>, buckets: Buckets) -> Option<u32> {
        let scope = self.scope_index(row.scope)?;
        // A tag whose posts are all gone was never seen.
        let (first_ms, last_ms) =
            if row.total == 0 { (i64::MAX, i64::MIN) } else { (row.first_seen, row.last_seen) };
        let mut tag = Tag {
            total: row.total,
            first_ms,
            last_ms,
            buckets,
            scope,
            commit: row.commit,
            ..Tag::empty(hash)
        };
        tag.set_text(row.tag, row.display);
        self.heap_bytes += tag.heap_bytes();
        Some(self.insert(tag))
    }

    /// Counts mentions. `cold` looks up the row of a tag that is not in memory.
    pub(crate) fn apply<'c>(
        &mut self,
        batch: &Mentions,
        cold: impl Fn(KeyHash) -> Option<TagRow<'c>>,
    ) -> Result<(), TagError> {
        for some in batch.mentions.chunks(LOOKED_UP_AHEAD) {
            // So that no look-up waits for the memory of the one before: the index is read for all
            // of them first, then the tags, then the tags' bucket lists.
            let mut found = [None; LOOKED_UP_AHEAD];
            some.iter().for_each(|mention| self.index.prefetch(mention.tag));
            for (found, mention) in found.iter_mut().zip(some) {
                *found = self.index.candidates(mention.tag).next();
                found.iter().for_each(|place| self.slab.prefetch(*place));
            }
            for (found, mention) in found.iter_mut().zip(some) {
                let tag = found.and_then(|place| self.slab.get(place));
                match tag.filter(|tag| tag.hash == mention.tag) {
                    Some(tag) => tag.buckets.prefetch(),
                    None => *found = None,
                }
            }
            for (found, mention) in found.into_iter().zip(some) {
                let place = match found {
                    Some(place) => Some(place),
                    None => self.find_or_load(mention.tag, &cold)?,
                };
                let place = place.unwrap_or_else(|| self.insert(Tag::empty(mention.tag)));
                self.count(place, mention, batch.spellings.get(mention.spelling));
            }
        }
        Ok(())
    }

    fn count(&mut self, place: u32, mention: &Mention, spelling: &str) {
        self.touch(place);
        let tag = self.slab.tag_mut(place);
        debug_assert_eq!(tag.hash, mention.tag, "the tag of another mention");
        let before = tag.heap_bytes();
        tag.total += i64::from(mention.count);
        tag.last_ms = tag.last_ms.max(mention.last_ms);
        tag.buckets.add(&self.tiers, mention.slot, mention.count);
        let is_earlier = mention.first_ms < tag.first_ms;
        if is_earlier || (mention.first_ms == tag.first_ms && spelling < tag.display()) {
            tag.scope = mention.scope;
            tag.set_text(&schemas::tags::key(spelling), spelling);
        }
        let after = tag.heap_bytes();
        self.heap_bytes = self.heap_bytes - before + after;
        self.row_bytes += after.saturating_sub(before) / 2;
        tag.first_ms = tag.first_ms.min(mention.first_ms);
    }

    /// The place of a tag that is in memory, or has a row to be loaded.
    pub(super) fn find_or_load<'c>(
        &mut self,
        hash: KeyHash,
        cold: impl FnOnce(KeyHash) -> Option<TagRow<'c>>,
    ) -> Result<Option<u32>, TagError> {
        if let Some(place) = self.find(hash) {
            return Ok(Some(place));
        }
        let Some(row) = cold(hash) else { return Ok(None) };
        self.work.cold_reads += 1;
        self.load(hash, &row)
    }

    /// Notes that a tag changes in the commit under way.
    pub(super) fn touch(&mut self, place: u32) {
        let tag = self.slab.tag_mut(place);
        if tag.commit != self.commit {
            tag.commit = self.commit;
            self.row_bytes += ROW_BYTES + tag.heap_bytes() / 2;
            self.changed.push(place);
        }
    }

    /// Ends the commit under way at stream time `as_of_ms`: the rows that changed in it. `each` is
    /// called with the same tags.
    pub(crate) fn close(&mut self, as_of_ms: i64, mut each: impl FnMut(View<'_>)) -> Rows<Tags> {
        let as_of = self.tiers.slot(as_of_ms);
        let mut rows = Rows::default();
        let mut recent = Vec::new();
        // In the order of memory, which the processor fetches ahead.
        self.changed.sort_unstable();
        let changed = std::mem::take(&mut self.changed);
        for (i, place) in changed.iter().copied().enumerate() {
            let ahead = changed.get(i + FOLDED_AHEAD).and_then(|place| self.slab.get(*place));
            ahead.into_iter().for_each(|tag| tag.buckets.prefetch());
            let tag = self.slab.tag_mut(place);
            let before = tag.heap_bytes();
            tag.buckets.fold(&self.tiers, as_of);
            self.heap_bytes = self.heap_bytes - before + tag.heap_bytes();
            recent.clear();
            tag.buckets.encode(&mut recent);
            rows.push(
                tag.hash,
                &TagRow {
                    scope: &self.scopes[usize::from(tag.scope)],
                    tag: tag.key(),
                    display: tag.display(),
                    total: tag.total,
                    recent: &recent,
                    first_seen: if tag.total == 0 { 0 } else { tag.first_ms },
                    last_seen: if tag.total == 0 { 0 } else { tag.last_ms },
                    as_of: as_of_ms,
                    commit: tag.commit,
                },
            );
            each(tag.view());
        }
        self.commit += 1;
        self.row_bytes = 0;
        rows
    }

    /// The names of the scopes that are counted.
    pub(crate) fn scopes(&self) -> &[String] {
        &self.scopes
    }

    /// All tags in memory.
    pub(crate) fn views(&self) -> impl Iterator<Item = View<'_>> {
        self.slab.iter().map(Tag::view)
    }

    /// A tag, if it is in memory.
    pub(crate) fn view(&self, hash: KeyHash) -> Option<View<'_>> {
        self.find(hash).and_then(|place| self.slab.get(place)).map(Tag::view)
    }

    /// Goes through a part of the table, and evicts tags that are neither in use nor newer than the
    /// read set, which holds all changes up to commit `read_set`.
    pub(crate) fn sweep(&mut self, as_of_ms: i64, read_set: u64) {
        assert!(self.changed.is_empty(), "tags that have changed are not evicted");
        let Self { idle, work, tiers, index, slab, commit, heap_bytes, .. } = self;
        let as_of = tiers.slot(as_of_ms);
        let is_idle = |tag: &Tag| {
            let is_newer = tag.commit > read_set && !planted(Bug::EvictedTooEarly);
            let in_use = tag.commit + idle.commits > *commit || tag.buckets.is_live(tiers, as_of);
            !is_newer && !in_use
        };
        slab.sweep(self.next_sweep, idle.parts, is_idle, |tag, place| {
            *heap_bytes -= tag.heap_bytes();
            index.remove(tag.hash, place);
            work.evicted += 1;
        });
        self.next_sweep = (self.next_sweep + 1) % self.idle.parts;
    }

    /// The number of tags in memory.
    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }

    /// The memory they take.
    pub(crate) fn bytes(&self) -> usize {
        self.slab.bytes() + self.index.bytes() + self.heap_bytes
    }
}
