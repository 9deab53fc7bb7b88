//! One tag in memory, and what boards see of it.
//!
//! Invariant: the text of a tag is its key, followed by its display form unless that is the same.

use schemas::hash::KeyHash;
use schemas::planted::{Bug, planted};
use schemas::windows::{Buckets, Tiers};
use thiserror::Error;

use crate::state::board::Score;

/// Why the tags' state cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TagError {
    /// A row's bucket list is damaged.
    #[error("the row of tag {0:?} is damaged")]
    Row(String),
}

/// One tag in one scope.
pub(crate) struct Tag {
    pub(super) hash: KeyHash,
    pub(super) total: i64,
    pub(super) first_ms: i64,
    pub(super) last_ms: i64,
    pub(super) buckets: Buckets,
    pub(super) text: Box<str>,
    pub(super) key_bytes: u16,
    pub(super) scope: u16,
    /// The commit that last changed it.
    pub(super) commit: u64,
}

impl Tag {
    /// A tag without posts or a text.
    pub(super) fn empty(hash: KeyHash) -> Self {
        Self {
            hash,
            total: 0,
            first_ms: i64::MAX,
            last_ms: i64::MIN,
            buckets: Buckets::default(),
            text: Box::default(),
            key_bytes: 0,
            scope: 0,
            commit: 0,
        }
    }

    pub(super) fn key(&self) -> &str {
        &self.text[..usize::from(self.key_bytes)]
    }

    pub(super) fn display(&self) -> &str {
        let behind = &self.text[usize::from(self.key_bytes)..];
        if behind.is_empty() { self.key() } else { behind }
    }

    pub(super) fn set_text(&mut self, key: &str, display: &str) {
        self.key_bytes = key.len() as u16;
        self.text = if key == display { key.into() } else { [key, display].concat().into() };
    }

    /// The tag as a board sees it.
    pub(super) fn view(&self) -> View<'_> {
        let (key, display) = (self.key(), self.display());
        View { hash: self.hash, scope: self.scope, key, display, tag: self }
    }

    /// The memory it holds outside the slab, in the blocks of 16 bytes that allocators use.
    pub(super) fn heap_bytes(&self) -> usize {
        self.text.len().next_multiple_of(16) + self.buckets.heap_bytes()
    }
}

/// A tag as a board sees it.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) hash: KeyHash,
    pub(crate) scope: u16,
    pub(crate) key: &'a str,
    pub(crate) display: &'a str,
    tag: &'a Tag,
}

impl View<'_> {
    /// Its score in window `index` at slot `as_of`. The index after the last window is all time.
    pub(crate) fn score(&self, tiers: &Tiers, index: usize, as_of: u32) -> Score {
        let Tag { total, buckets, .. } = self.tag;
        if index == tiers.len() {
            return Score { count: *total, bound: *total };
        }
        let score = Score {
            count: buckets.sum(tiers, index, as_of),
            bound: buckets.most(tiers, index, as_of),
        };
        if planted(Bug::BoardForgetsAhead) { score.now() } else { score }
    }
}
