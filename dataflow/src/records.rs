//! The records that travel between operators. Events and mentions travel in batches; tags travel as
//! hashes, and their spellings as one text beside them.
//!
//! Invariant: a batch holds records for one worker only.

use std::collections::BTreeMap;

use schemas::control::{Author, Control};
use schemas::hash::KeyHash;
use schemas::manifest::{Block, Counters, Partition, SegmentMeta};
use serde::{Deserialize, Serialize};

use crate::largest::Largest;
use crate::pool::{Batch, Pool};

/// Input name → partition → how far it has been read.
pub(crate) type Inputs = BTreeMap<String, BTreeMap<String, Partition>>;

/// Decoded events bound for the worker that owns their ids. They are one record of the
/// stream, so that neither a tag nor an ordinary event needs an allocation.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Posts {
    /// The worker.
    pub(crate) worker: u64,
    /// The events.
    pub(crate) posts: Vec<Post>,
    /// The distinct tags of all events, event by event.
    pub(crate) tags: Vec<TagUse>,
    /// The spellings of all tags.
    pub(crate) spellings: Spellings,
}

/// A decoded event.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Post {
    /// The hash of (input, event id).
    pub(crate) id: KeyHash,
    /// Event time in milliseconds.
    pub(crate) ts_ms: i64,
    /// Where its tags begin and end in [`Posts::tags`].
    pub(crate) tags: (u32, u32),
    /// The scopes it belongs to besides the whole stream, as indices.
    pub(crate) scopes: Box<[u16]>,
    /// How dedup treats it.
    pub(crate) route: Route,
}

/// A tag of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TagUse {
    /// The hash of its key.
    pub(crate) hash: KeyHash,
    /// How the event spells it, in [`Posts::spellings`].
    pub(crate) spelling: Spelling,
}

/// Texts, one after the other.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Spellings(String);

/// A text in [`Spellings`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Spelling {
    start: u32,
    /// A tag has at most 100 code points, so at most 400 bytes.
    bytes: u16,
}

impl Spellings {
    /// Appends a text.
    pub(crate) fn push(&mut self, text: &str) -> Spelling {
        debug_assert!(u16::try_from(text.len()).is_ok(), "a tag of {} bytes", text.len());
        let Ok(start) = u32::try_from(self.0.len()) else {
            unreachable!("{} bytes of tags in one batch: slices are cut by bytes", self.0.len());
        };
        self.0.push_str(text);
        Spelling { start, bytes: text.len() as u16 }
    }

    /// The bytes of all texts.
    pub(crate) fn bytes(&self) -> usize {
        self.0.len()
    }

    /// A text.
    pub(crate) fn get(&self, Spelling { start, bytes }: Spelling) -> &str {
        &self.0[start as usize..start as usize + usize::from(bytes)]
    }
}

/// The batches that are being filled, one for each worker.
pub(crate) struct PostBatches {
    batches: Vec<Posts>,
    /// About how much memory what is in them takes on its way to the tags.
    bytes: usize,
}

impl PostBatches {
    /// Empty batches for `peers` workers.
    pub(crate) fn new(peers: usize) -> Self {
        let batch = |worker| Posts { worker, ..Posts::default() };
        Self { batches: (0..peers as u64).map(batch).collect(), bytes: 0 }
    }

    /// About how much memory what is in them takes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Notes that what was added takes this much memory.
    pub(crate) fn weigh(&mut self, bytes: usize) {
        self.bytes += bytes;
    }

    /// The batch of the worker that owns an id.
    pub(crate) fn of(&mut self, id: KeyHash) -> &mut Posts {
        let worker = id.bin() as usize % self.batches.len();
        &mut self.batches[worker]
    }

    /// Takes the batches that hold events, and replaces them by `spare` ones.
    pub(crate) fn take(&mut self, spare: &Pool<Posts>) -> impl Iterator<Item = Posts> {
        self.bytes = 0;
        self.batches.iter_mut().filter(|batch| !batch.posts.is_empty()).map(|batch| {
            let worker = batch.worker;
            std::mem::replace(batch, Posts { worker, ..spare.take() })
        })
    }
}

impl Post {
    /// About how much memory it and its mentions take, if its tags have `texts` bytes.
    pub(crate) fn bytes(&self, texts: usize) -> usize {
        let tags = (self.tags.1 - self.tags.0) as usize;
        let uses = tags * (size_of::<TagUse>() + size_of::<Mention>()) + texts;
        let record = match &self.route {
            Route::OnceAboveFloor(origin) => size_of::<Origin>() + origin.raw.len(),
            Route::Order(order) => size_of::<Order>() + order.control.bytes(),
            Route::Once | Route::Unchecked => 0,
        };
        size_of::<Self>() + (1 + self.scopes.len()) * uses + record
    }
}

impl Batch for Posts {
    fn bytes(&self) -> usize {
        let Self { worker: _, posts, tags, spellings } = self;
        posts.capacity() * size_of::<Post>()
            + tags.capacity() * size_of::<TagUse>()
            + spellings.0.capacity()
    }

    fn clear(&mut self) {
        let Self { worker: _, posts, tags, spellings } = self;
        posts.clear();
        tags.clear();
        spellings.0.clear();
    }
}

/// How dedup treats an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Route {
    /// It passes if its id is new.
    Once,
    /// It is beyond the horizon and passes anyway; its id is neither looked up nor remembered.
    Unchecked,
    /// It passes if its id is new, unless it lies below the floor of remembered ids.
    OnceAboveFloor(Box<Origin>),
    /// It is not an event but a control record.
    Order(Box<Order>),
}

/// A control record bound for the worker that owns what it changes, whose hash is the post's id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Order {
    /// The number of the file that it came in.
    pub(crate) request: u64,
    /// Who requested it, when and why.
    pub(crate) author: Author,
    /// What to do.
    pub(crate) control: Control,
}

/// A record and where it came from: what a dead letter holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Origin {
    /// The input's name.
    pub(crate) input: String,
    /// The partition's identity.
    pub(crate) partition: String,
    /// The record's position in it.
    pub(crate) position: u64,
    /// The record, or its beginning.
    pub(crate) raw: Vec<u8>,
    /// How many bytes the record has.
    pub(crate) bytes: u64,
}

/// What the posts of one worker in a slice add to the tags of another. One record of the stream.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Mentions {
    /// The worker that owns the tags.
    pub(crate) worker: u64,
    /// One for each tag, scope and slot.
    pub(crate) mentions: Vec<Mention>,
    /// Their spellings, among others that lost to an earlier one.
    pub(crate) spellings: Spellings,
    /// Control records about tags, in the order of their requests.
    pub(crate) orders: Vec<(KeyHash, Box<Order>)>,
}

impl Batch for Mentions {
    fn bytes(&self) -> usize {
        let Self { worker: _, mentions, spellings, orders } = self;
        mentions.capacity() * size_of::<Mention>()
            + spellings.0.capacity()
            + orders.capacity() * size_of::<(KeyHash, Box<Order>)>()
    }

    fn clear(&mut self) {
        let Self { worker: _, mentions, spellings, orders } = self;
        mentions.clear();
        spellings.0.clear();
        orders.clear();
    }
}

/// How many posts of a slice carry a tag, within one bucket of the finest window.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Mention {
    /// The hash of (scope, tag).
    pub(crate) tag: KeyHash,
    /// The slot of the finest window.
    pub(crate) slot: u32,
    /// The number of posts.
    pub(crate) count: u32,
    /// The earliest of their event times.
    pub(crate) first_ms: i64,
    /// The latest.
    pub(crate) last_ms: i64,
    /// The spelling in the earliest post. Among several, the least by bytes.
    pub(crate) spelling: Spelling,
    /// Index of the scope; 0 is the whole stream.
    pub(crate) scope: u16,
}

/// The ticker's signal that a commit ends, and the clocks at that moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tick {
    /// The commit.
    pub(crate) commit: u64,
    /// The wall clock in milliseconds.
    pub(crate) wall_ms: i64,
    /// The monotonic clock in microseconds.
    pub(crate) mono_us: u64,
    /// Why this is the last commit of the run, if it is.
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

/// How far a partition was read when a commit ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PartitionUpdate {
    /// The commit.
    pub(crate) commit: u64,
    /// The input's name.
    pub(crate) input: String,
    /// The partition's identity.
    pub(crate) partition: String,
    /// What has changed.
    pub(crate) progress: PartitionProgress,
}

/// What has changed about a partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum PartitionProgress {
    /// A partition that one worker reads in order.
    Ordered {
        /// Its state.
        state: Partition,
        /// The largest event time accepted so far, as far as this partition's worker knows.
        largest: Option<Largest>,
    },
    /// It has lost its name, and is called this from now on.
    Rotated(String),
    /// A block of a file that is read block by block.
    Block {
        /// Its number.
        number: u64,
        /// Its state.
        state: Block,
    },
}

/// A commit ends. This is what every worker needs to close it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Close {
    /// The worker this copy is for.
    pub(crate) worker: u64,
    /// The commit.
    pub(crate) commit: u64,
    /// Stream time in milliseconds. `None` before the first event.
    pub(crate) as_of_ms: Option<i64>,
    /// Ids of events before this are forgotten.
    pub(crate) floor_ms: Option<i64>,
    /// Whether it is the last commit of the run.
    pub(crate) last: bool,
}

/// A part of a commit's manifest. An operator sends its parts once they are durable.
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

/// Where a commit cuts the inputs, and when.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Cut {
    /// The signal that ended the commit.
    pub(crate) tick: Tick,
    /// Stream time.
    pub(crate) as_of_ms: Option<i64>,
    /// The eviction floor.
    pub(crate) floor_ms: Option<i64>,
    /// The largest event time that was accepted so far.
    pub(crate) largest_ts_ms: Option<i64>,
    /// The wall clock when that was read.
    pub(crate) largest_read_ms: Option<i64>,
    /// Whether the wall clock agrees with event times.
    pub(crate) clocks_agree: bool,
    /// Input → partition → how far it has been read.
    pub(crate) inputs: Inputs,
}

/// A tag as one worker ranks it on a board.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ranked {
    /// Index of the scope.
    pub(crate) scope: u16,
    /// Index of the window. The index after the last window stands for all time.
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
    fn batches_keep_spellings_and_go_to_the_owners_of_ids() {
        let (mut batches, spare) = (PostBatches::new(3), Pool::default());
        for bin in [0, 1, 5, 7] {
            let id = KeyHash { hi: bin << 54, lo: bin };
            let batch = batches.of(id);
            let spelling = ["Straße", ""].map(|text| batch.spellings.push(text));
            assert_eq!(spelling.map(|s| batch.spellings.get(s)), ["Straße", ""]);
            let (ts_ms, tags, scopes, route) = (0, (0, 0), Box::default(), Route::Once);
            batch.posts.push(Post { id, ts_ms, tags, scopes, route });
        }
        let taken =
            batches.take(&spare).map(|b| (b.worker, b.posts.iter().map(|p| p.id.lo).collect()));
        assert_eq!(
            taken.collect::<Vec<(u64, Vec<u64>)>>(),
            [(0, vec![0]), (1, vec![1, 7]), (2, vec![5])]
        );
        assert_eq!(batches.take(&spare).count(), 0);
        assert!(size_of::<Post>() <= 64 && size_of::<Mention>() <= 56);
    }
}
