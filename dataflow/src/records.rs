//! The records that travel between operators. Tags travel as hashes with their spelling packed
//! beside them; no record owns more than a few short allocations.

use std::collections::BTreeMap;

use schemas::control::{Asker, Control};
use schemas::hash::KeyHash;
use schemas::manifest::{Block, Counters, Partition, SegmentMeta};
use serde::{Deserialize, Serialize};

/// Input name → partition identity → how far it has been read.
pub(crate) type Inputs = BTreeMap<String, BTreeMap<String, Partition>>;

/// A decoded event on its way to dedup.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Post {
    /// The hash of (input, event id).
    pub(crate) id: KeyHash,
    /// Event time in milliseconds.
    pub(crate) ts_ms: i64,
    /// Its distinct tags.
    pub(crate) tags: PackedTags,
    /// Indices of the scopes it belongs to, besides the whole stream.
    pub(crate) scopes: Box<[u16]>,
    /// What dedup has to do with it.
    pub(crate) route: Route,
}

/// How an event passes dedup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Route {
    /// Once per id.
    Once,
    /// Beyond the horizon, and to be counted as it is: its id is neither asked for nor kept.
    AsItIs,
    /// Once per id, unless the eviction floor says that it is beyond the horizon.
    UnlessBelowFloor(Box<Origin>),
    /// It is no event, or one that was refused before: somebody asked for it.
    Asked(Box<Order>),
}

/// A control record on its way to the owner of what it changes, whose hash is the post's id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Order {
    /// The number of the file it came in.
    pub(crate) request: u64,
    /// Who asked, when and why.
    pub(crate) asker: Asker,
    /// What to do.
    pub(crate) control: Control,
}

/// Where a record came from, and its bytes: what a dead letter needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Origin {
    /// The input's name.
    pub(crate) input: String,
    /// The partition's identity.
    pub(crate) partition: String,
    /// The record's position in it.
    pub(crate) position: u64,
    /// The record.
    pub(crate) raw: Vec<u8>,
}

/// The distinct tags of a post: of each the hash of its key and its spelling, in one allocation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PackedTags(Box<[u8]>);

/// Bytes before a spelling: the hash and the spelling's length.
const HEAD: usize = 18;

impl PackedTags {
    /// Packs what [`Self::append`] collected.
    pub(crate) fn new(packed: &[u8]) -> Self {
        Self(packed.into())
    }

    /// Appends a tag to a buffer that becomes a list of tags.
    pub(crate) fn append(packed: &mut Vec<u8>, hash: KeyHash, spelling: &str) {
        packed.extend_from_slice(&hash.hi.to_le_bytes());
        packed.extend_from_slice(&hash.lo.to_le_bytes());
        // A tag has at most 100 code points, so at most 400 bytes.
        packed.extend_from_slice(&(spelling.len() as u16).to_le_bytes());
        packed.extend_from_slice(spelling.as_bytes());
    }

    /// The tags.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (KeyHash, &str)> {
        let mut rest = &*self.0;
        std::iter::from_fn(move || {
            let (head, tail) = rest.split_at_checked(HEAD)?;
            let word = |at: usize| head.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
            let hash = KeyHash { hi: word(0)?, lo: word(8)? };
            let length = usize::from(u16::from_le_bytes([head[16], head[17]]));
            let (spelling, tail) = tail.split_at_checked(length)?;
            rest = tail;
            Some((hash, std::str::from_utf8(spelling).ok()?))
        })
    }
}

/// So many posts of a slice carry one tag, in one bucket of the finest width.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Mention {
    /// The hash of (scope, tag).
    pub(crate) tag: KeyHash,
    /// The slot of the finest window.
    pub(crate) slot: u32,
    /// The number of posts.
    pub(crate) count: u32,
    /// The least of their event times.
    pub(crate) first_ms: i64,
    /// The greatest.
    pub(crate) last_ms: i64,
    /// The text, when the receiver may not know it.
    pub(crate) text: Option<Box<Text>>,
}

/// What a tag's row needs besides numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Text {
    /// Index of the scope; 0 is the whole stream.
    pub(crate) scope: u16,
    /// The spelling in the mention's earliest post; of several, the least by bytes.
    pub(crate) spelling: String,
    /// What to do with the tag besides counting.
    pub(crate) order: Option<Box<Order>>,
}

/// The minter's word that a commit ends: the clocks at that moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tick {
    /// The commit.
    pub(crate) commit: u64,
    /// The wall clock in milliseconds.
    pub(crate) wall_ms: i64,
    /// The monotonic clock in microseconds.
    pub(crate) mono_us: u64,
    /// Whether this is the last commit of the run, and why.
    pub(crate) last: Option<Last>,
}

/// Why a commit is the last of its run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Last {
    /// A bounded run has read everything.
    Finished,
    /// The job was asked to stop.
    Stopped,
}

/// What a source knows of its partitions when a commit ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fact {
    /// The commit.
    pub(crate) commit: u64,
    /// The input's name.
    pub(crate) input: String,
    /// The partition's identity.
    pub(crate) partition: String,
    /// What is new.
    pub(crate) news: News,
}

/// What is new about a partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum News {
    /// A partition that one worker reads in order.
    Ordered {
        /// Its state.
        state: Partition,
        /// The largest event time accepted since the start, and the monotonic time of its reading.
        largest: Option<(i64, u64)>,
    },
    /// One block of a file that is read block by block.
    Block {
        /// Its number.
        number: u64,
        /// Its state.
        state: Block,
    },
}

/// A commit ends: what every worker must know to close it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Close {
    /// The worker this copy is for.
    pub(crate) worker: u64,
    /// The commit.
    pub(crate) commit: u64,
    /// Stream time, in milliseconds; none before the first event.
    pub(crate) as_of_ms: Option<i64>,
    /// Ids of events before this are forgotten.
    pub(crate) floor_ms: Option<i64>,
    /// Whether it is the last commit of the run.
    pub(crate) last: bool,
}

/// What goes into a commit's manifest. An operator sends its own once it is durable.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Ack {
    /// A durable segment.
    Segment(SegmentMeta),
    /// What has been counted in this commit.
    Counters(Counters),
    /// The first file of control records that has not been taken.
    Control(u64),
    /// The cut itself.
    Cut(Box<Cut>),
}

/// Where a commit cuts the inputs, and its times.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Cut {
    /// The minter's word.
    pub(crate) tick: Tick,
    /// Stream time.
    pub(crate) as_of_ms: Option<i64>,
    /// The eviction floor.
    pub(crate) floor_ms: Option<i64>,
    /// The largest event time accepted so far.
    pub(crate) largest_ts_ms: Option<i64>,
    /// Whether the wall clock agrees with the events' times.
    pub(crate) clocks_agree: bool,
    /// Input → partition → how far it has been read.
    pub(crate) inputs: Inputs,
}

/// A tag as one worker ranks it on a board.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ranked {
    /// The commit.
    pub(crate) commit: u64,
    /// Index of the scope.
    pub(crate) scope: u16,
    /// Index of the window; the number of windows stands for all time.
    pub(crate) window: u16,
    /// The count.
    pub(crate) count: i64,
    /// The tag's key.
    pub(crate) tag: String,
    /// Its display form.
    pub(crate) display: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_tags_come_back() {
        let tags = [(KeyHash { hi: 1, lo: 2 }, "Straße"), (KeyHash { hi: 3, lo: 4 }, "")];
        let mut packed = Vec::new();
        for (hash, spelling) in tags {
            PackedTags::append(&mut packed, hash, spelling);
        }
        assert_eq!(PackedTags::new(&packed).iter().collect::<Vec<_>>(), tags);
        assert_eq!(PackedTags::default().iter().count(), 0);
        assert!(size_of::<Post>() <= 72 && size_of::<Mention>() <= 48);
    }
}
