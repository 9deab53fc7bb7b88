//! Stores the tags in chunks that never move, so that a tag's place never changes.

use prefetch_index::prefetch_index;

use super::tag::Tag;

/// The slab grows by this many tags at once.
pub(crate) const CHUNK: usize = 4096;

/// Tags by their places.
#[derive(Default)]
pub(super) struct Slab {
    chunks: Vec<Vec<Option<Tag>>>,
    free: Vec<u32>,
}

/// The chunk of a place, and the position in the chunk.
fn split(place: u32) -> (usize, usize) {
    (place as usize / CHUNK, place as usize % CHUNK)
}

impl Slab {
    /// The tag at a place, if the place is taken.
    pub(super) fn get(&self, place: u32) -> Option<&Tag> {
        let (chunk, at) = split(place);
        self.chunks[chunk][at].as_ref()
    }

    /// The tag at a place that is taken.
    pub(super) fn tag_mut(&mut self, place: u32) -> &mut Tag {
        let (chunk, at) = split(place);
        let Some(tag) = self.chunks[chunk][at].as_mut() else {
            unreachable!(
                "no tag at place {place}: places are removed from the index with their tags"
            );
        };
        tag
    }

    /// Prefetches a tag. It spans two cache lines: its beginning is nearly always in the first, and
    /// its end in the one where the next tag begins.
    pub(super) fn prefetch(&self, place: u32) {
        let (chunk, at) = split(place);
        prefetch_index(&self.chunks[chunk], at);
        prefetch_index(&self.chunks[chunk], at + 1);
    }

    /// Adds a tag. Returns its place.
    pub(super) fn insert(&mut self, tag: Tag) -> u32 {
        if let Some(place) = self.free.pop() {
            let (chunk, at) = split(place);
            debug_assert!(self.chunks[chunk][at].is_none(), "place {place} is free");
            self.chunks[chunk][at] = Some(tag);
            return place;
        }
        if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        let last = self.chunks.len() - 1;
        let chunk = &mut self.chunks[last];
        chunk.push(Some(tag));
        (last * CHUNK + chunk.len() - 1) as u32
    }

    /// Removes the tags of one chunk in `parts`, beginning with `part`, that `is_removed` selects.
    /// `each` is called with every removed tag and its place.
    pub(super) fn sweep(
        &mut self,
        part: usize,
        parts: usize,
        is_removed: impl Fn(&Tag) -> bool,
        mut each: impl FnMut(Tag, u32),
    ) {
        assert!(part < parts, "part {part} of {parts}");
        for (chunk, tags) in self.chunks.iter_mut().enumerate().skip(part).step_by(parts) {
            for (at, slot) in tags.iter_mut().enumerate() {
                if let Some(tag) = slot.take_if(|tag| is_removed(tag)) {
                    let place = (chunk * CHUNK + at) as u32;
                    self.free.push(place);
                    each(tag, place);
                }
            }
        }
    }

    /// All tags.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Tag> {
        self.chunks.iter().flatten().flatten()
    }

    /// The memory that the slab takes, without what tags hold outside it.
    pub(super) fn bytes(&self) -> usize {
        self.chunks.len() * CHUNK * size_of::<Option<Tag>>()
    }

    #[cfg(test)]
    pub(super) fn free_places(&self) -> usize {
        self.free.len()
    }
}
