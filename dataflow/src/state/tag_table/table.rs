//! Totals and buckets of the tags that are in use: the hot part of the state.
//!
//! A tag that is not here may have a row in the read set's segments, which is loaded when the next
//! mention comes. Invariants: a tag in memory is newer than or equal to its row; one that changed
//! after the read set stays in memory.

use prefetch_index::prefetch_index;
use schemas::hash::KeyHash;
use schemas::planted::{Bug, planted};
use schemas::rows::{TagRow, Tags};
use schemas::segment::Rows;
use schemas::windows::{Buckets, BucketsError, Tiers};

use super::tag::{Tag, TagError, View};
use crate::records::{Mention, Mentions};
use crate::settings::Idle;
use crate::state::tag_index::TagIndex;
use crate::status::Work;

/// The slab grows by so many tags, so that none is ever moved.
pub(crate) const CHUNK: usize = 4096;
/// So many tags are found before the first of them is touched.
pub(super) const FOUND_AHEAD: usize = 32;

/// The bucket list of a tag is fetched while so many before it are folded.
const FOLDED_AHEAD: usize = 8;

/// The tags in memory.
pub(crate) struct TagTable {
    pub(super) idle: Idle,
    /// What was done since somebody took it.
    pub(crate) work: Work,
    pub(super) tiers: Tiers,
    /// Scope names; 0 is the whole stream, `""`.
    pub(super) scopes: Vec<String>,
    /// The tags' places in the slab.
    index: TagIndex,
    pub(super) slab: Vec<Vec<Option<Tag>>>,
    pub(super) free: Vec<u32>,
    /// Those that changed in the commit under way.
    changed: Vec<u32>,
    pub(super) commit: u64,
    swept: usize,
    /// What all tags hold outside the slab.
    pub(super) heap_bytes: usize,
}

impl TagTable {
    /// An empty table whose first mentions belong to `commit`.
    pub(crate) fn new(tiers: Tiers, scopes: Vec<String>, commit: u64, idle: Idle) -> Self {
        Self {
            idle,
            work: Work::default(),
            tiers,
            scopes,
            index: TagIndex::new(),
            slab: Vec::new(),
            free: Vec::new(),
            changed: Vec::new(),
            commit,
            swept: 0,
            heap_bytes: 0,
        }
    }

    fn tag(&self, index: u32) -> Option<&Tag> {
        self.slab[index as usize / CHUNK][index as usize % CHUNK].as_ref()
    }

    /// Has a tag fetched. It takes two lines of cache: its beginning is in one, and the beginning
    /// of what is behind it in the other, nearly always.
    fn prefetch(&self, index: u32) {
        let (chunk, at) = (&self.slab[index as usize / CHUNK], index as usize % CHUNK);
        prefetch_index(chunk, at);
        prefetch_index(chunk, at + 1);
    }

    fn find(&self, hash: KeyHash) -> Option<u32> {
        self.index.like(hash).find(|index| self.tag(*index).is_some_and(|tag| tag.hash == hash))
    }

    pub(super) fn insert(&mut self, tag: Tag) -> u32 {
        let hash = tag.hash;
        let index = match self.free.pop() {
            Some(index) => {
                self.slab[index as usize / CHUNK][index as usize % CHUNK] = Some(tag);
                index
            }
            None => {
                if self.slab.last().is_none_or(|chunk| chunk.len() == CHUNK) {
                    self.slab.push(Vec::with_capacity(CHUNK));
                }
                let chunks = self.slab.len();
                let chunk = &mut self.slab[chunks - 1];
                chunk.push(Some(tag));
                ((chunks - 1) * CHUNK + chunk.len() - 1) as u32
            }
        };
        self.index.insert(hash, index);
        index
    }

    /// Takes a row of the read set into memory. None for a scope that is not counted any more.
    pub(crate) fn load(
        &mut self,
        hash: KeyHash,
        row: &TagRow<'_>,
    ) -> Result<Option<u32>, TagError> {
        let buckets = self.buckets_of(row)?;
        Ok(self.take_in(hash, row, buckets))
    }

    /// The same where the row has a bucket in some window at slot `as_of`; others stay cold.
    pub(crate) fn load_live(
        &mut self,
        hash: KeyHash,
        row: &TagRow<'_>,
        as_of: u32,
    ) -> Result<(), TagError> {
        let buckets = self.buckets_of(row)?;
        if buckets.is_live(&self.tiers, as_of) {
            self.take_in(hash, row, buckets);
        }
        Ok(())
    }

    fn buckets_of(&self, row: &TagRow<'_>) -> Result<Buckets, TagError> {
        Buckets::decode(self.tiers.slot(row.as_of), row.recent)
            .map_err(|BucketsError| TagError::Row(row.tag.to_owned()))
    }

    fn take_in(&mut self, hash: KeyHash, row: &TagRow<'_>, buckets: Buckets) -> Option<u32> {
        let scope = self.scopes.iter().position(|s| s == row.scope)?;
        // A tag that is gone has been seen at no time.
        let (first_ms, last_ms) =
            if row.total == 0 { (i64::MAX, i64::MIN) } else { (row.first_seen, row.last_seen) };
        let mut tag = Tag {
            hash,
            total: row.total,
            first_ms,
            last_ms,
            buckets,
            text: Box::default(),
            key_bytes: 0,
            scope: scope as u16,
            commit: row.commit,
        };
        tag.set_text(row.tag, row.display);
        self.heap_bytes += tag.heap_bytes();
        Some(self.insert(tag))
    }

    /// Counts mentions; `cold` looks up the row of a tag that is not in memory.
    pub(crate) fn apply<'c>(
        &mut self,
        batch: &Mentions,
        cold: impl Fn(KeyHash) -> Option<TagRow<'c>>,
    ) -> Result<(), TagError> {
        for some in batch.mentions.chunks(FOUND_AHEAD) {
            // One look-up does not wait for the memory of the one before: first the index is read
            // for all, then their tags, then those tags' bucket lists.
            let mut found = [None; FOUND_AHEAD];
            some.iter().for_each(|mention| self.index.prefetch(mention.tag));
            for (found, mention) in found.iter_mut().zip(some) {
                *found = self.index.like(mention.tag).next();
                found.iter().for_each(|index| self.prefetch(*index));
            }
            for (found, mention) in found.iter_mut().zip(some) {
                let tag = found.and_then(|index| self.tag(index));
                match tag.filter(|tag| tag.hash == mention.tag) {
                    Some(tag) => tag.buckets.prefetch(),
                    None => *found = None,
                }
            }
            for (found, mention) in found.into_iter().zip(some) {
                let index = match found {
                    Some(index) => Some(index),
                    None => self.find_or_load(mention.tag, &cold)?,
                };
                let index = index.unwrap_or_else(|| self.insert(Tag::empty(mention.tag)));
                self.count(index, mention, batch.spellings.get(mention.spelling))?;
            }
        }
        Ok(())
    }

    fn count(&mut self, index: u32, mention: &Mention, spelling: &str) -> Result<(), TagError> {
        self.touch(index);
        let slot = &mut self.slab[index as usize / CHUNK][index as usize % CHUNK];
        let Some(tag) = slot.as_mut() else { return Err(TagError::Gone(mention.tag.lo)) };
        let before = tag.heap_bytes();
        tag.total += i64::from(mention.count);
        tag.last_ms = tag.last_ms.max(mention.last_ms);
        tag.buckets.add(&self.tiers, mention.slot, mention.count);
        let earlier = mention.first_ms < tag.first_ms;
        if earlier || (mention.first_ms == tag.first_ms && spelling < tag.display()) {
            tag.scope = mention.scope;
            tag.set_text(&schemas::tags::key(spelling), spelling);
        }
        self.heap_bytes = self.heap_bytes - before + tag.heap_bytes();
        tag.first_ms = tag.first_ms.min(mention.first_ms);
        Ok(())
    }

    /// The place of a tag that is in memory, or has a row to be taken there.
    pub(super) fn find_or_load<'c>(
        &mut self,
        hash: KeyHash,
        cold: impl FnOnce(KeyHash) -> Option<TagRow<'c>>,
    ) -> Result<Option<u32>, TagError> {
        if let Some(index) = self.find(hash) {
            return Ok(Some(index));
        }
        let Some(row) = cold(hash) else { return Ok(None) };
        self.work.cold_reads += 1;
        self.load(hash, &row)
    }

    /// Takes note that a tag changes in the commit under way.
    pub(super) fn touch(&mut self, index: u32) {
        let slot = &mut self.slab[index as usize / CHUNK][index as usize % CHUNK];
        if let Some(tag) = slot.as_mut().filter(|tag| tag.commit != self.commit) {
            tag.commit = self.commit;
            self.changed.push(index);
        }
    }

    /// Ends the commit under way at stream time `as_of_ms`: the rows that changed in it, which
    /// `each` sees as well.
    pub(crate) fn close(&mut self, as_of_ms: i64, mut each: impl FnMut(View<'_>)) -> Rows<Tags> {
        let as_of = self.tiers.slot(as_of_ms);
        let mut rows = Rows::default();
        let mut recent = Vec::new();
        // In the order of memory, which then comes by itself.
        self.changed.sort_unstable();
        let changed = std::mem::take(&mut self.changed);
        for (i, index) in changed.iter().copied().enumerate() {
            if let Some(tag) = changed.get(i + FOLDED_AHEAD).and_then(|ahead| self.tag(*ahead)) {
                tag.buckets.prefetch();
            }
            let slot = &mut self.slab[index as usize / CHUNK][index as usize % CHUNK];
            let Some(tag) = slot.as_mut() else { continue };
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
        rows
    }

    /// The names of the scopes that tags are counted in.
    pub(crate) fn scopes(&self) -> &[String] {
        &self.scopes
    }

    /// Every tag in memory.
    pub(crate) fn views(&self) -> impl Iterator<Item = View<'_>> {
        self.slab.iter().flatten().flatten().map(Tag::view)
    }

    /// A tag, if it is in memory.
    pub(crate) fn view(&self, hash: KeyHash) -> Option<View<'_>> {
        self.find(hash).and_then(|index| self.tag(index)).map(Tag::view)
    }

    /// Looks through a part of the table and evicts what is neither in use nor newer than the read
    /// set, which holds all changes up to commit `read_set`.
    pub(crate) fn sweep(&mut self, as_of_ms: i64, read_set: u64) {
        let as_of = self.tiers.slot(as_of_ms);
        let part = self.swept;
        self.swept = (self.swept + 1) % self.idle.parts;
        for chunk in (part..self.slab.len()).step_by(self.idle.parts) {
            for i in 0..self.slab[chunk].len() {
                let Some(tag) = &self.slab[chunk][i] else { continue };
                let in_use = (tag.commit > read_set && !planted(Bug::EvictedTooEarly))
                    || tag.commit + self.idle.commits > self.commit
                    || tag.buckets.is_live(&self.tiers, as_of);
                if in_use {
                    continue;
                }
                self.heap_bytes -= tag.heap_bytes();
                let (hash, index) = (tag.hash, (chunk * CHUNK + i) as u32);
                self.index.remove(hash, index);
                self.slab[chunk][i] = None;
                self.free.push(index);
                self.work.evicted += 1;
            }
        }
    }

    /// The number of tags in memory.
    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }

    /// The memory they take.
    pub(crate) fn bytes(&self) -> usize {
        let slab = self.slab.len() * CHUNK * size_of::<Option<Tag>>();
        slab + self.index.bytes() + self.heap_bytes
    }
}
