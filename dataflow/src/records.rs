//! The records that travel between operators. Events and tags travel in batches, tags as hashes
//! with their spellings beside them.

use std::collections::BTreeMap;

use schemas::control::{Asker, Control};
use schemas::hash::KeyHash;
use schemas::manifest::{Block, Counters, Partition, SegmentMeta};
use serde::{Deserialize, Serialize};

use crate::pool::{Batch, Pool};

/// Input name → partition identity → how far it has been read.
pub(crate) type Inputs = BTreeMap<String, BTreeMap<String, Partition>>;

/// Decoded events on their way to the worker that owns their ids: one record of the stream, so
/// that no tag is an allocation of its own, nor an event without scopes or news for dedup.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Posts {
    /// The worker.
    pub(crate) worker: u64,
    /// The events.
    pub(crate) posts: Vec<Post>,
    /// The distinct tags of each, one event's after the other's.
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
    /// Where its tags begin and end.
    pub(crate) tags: (u32, u32),
    /// Indices of the scopes it belongs to, besides the whole stream.
    pub(crate) scopes: Box<[u16]>,
    /// What dedup has to do with it.
    pub(crate) route: Route,
}

/// A tag of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TagUse {
    /// The hash of its key.
    pub(crate) hash: KeyHash,
    /// How the event spells it.
    pub(crate) spelling: Spelling,
}

/// Texts one behind the other.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Spellings(String);

/// A text's place among [`Spellings`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Spelling {
    start: u32,
    /// A tag has at most 100 code points, so at most 400 bytes.
    bytes: u16,
}

impl Spellings {
    /// Appends a text.
    pub(crate) fn push(&mut self, text: &str) -> Spelling {
        let start = self.0.len() as u32;
        self.0.push_str(text);
        Spelling { start, bytes: text.len() as u16 }
    }

    /// The text of a place.
    pub(crate) fn get(&self, Spelling { start, bytes }: Spelling) -> &str {
        &self.0[start as usize..start as usize + usize::from(bytes)]
    }
}

/// The batches under way to each worker.
pub(crate) struct Outbox(Vec<Posts>);

impl Outbox {
    /// An empty one for `peers` workers.
    pub(crate) fn new(peers: usize) -> Self {
        Self((0..peers as u64).map(|worker| Posts { worker, ..Posts::default() }).collect())
    }

    /// The batch that an event belongs to.
    pub(crate) fn of(&mut self, id: KeyHash) -> &mut Posts {
        let worker = id.bin() as usize % self.0.len();
        &mut self.0[worker]
    }

    /// Takes the batches that hold anything; empty ones of `spare` come in their place.
    pub(crate) fn take(&mut self, spare: &Pool<Posts>) -> impl Iterator<Item = Posts> {
        self.0.iter_mut().filter(|batch| !batch.posts.is_empty()).map(|batch| {
            let worker = batch.worker;
            std::mem::replace(batch, Posts { worker, ..spare.take() })
        })
    }
}

impl Batch for Posts {
    fn clear(&mut self) {
        let Self { worker: _, posts, tags, spellings } = self;
        posts.clear();
        tags.clear();
        spellings.0.clear();
    }
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

/// What one worker's posts of a slice add to the tags of one worker: one record of the stream.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Mentions {
    /// The worker that owns the tags.
    pub(crate) worker: u64,
    /// One for each tag, scope and slot.
    pub(crate) mentions: Vec<Mention>,
    /// Their spellings, and some that are of no use.
    pub(crate) spellings: Spellings,
    /// What to do with tags besides counting, in the order in which it was asked for.
    pub(crate) orders: Vec<(KeyHash, Box<Order>)>,
}

impl Batch for Mentions {
    fn clear(&mut self) {
        let Self { worker: _, mentions, spellings, orders } = self;
        mentions.clear();
        spellings.0.clear();
        orders.clear();
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
    /// The spelling in the earliest post; of several, the least by bytes.
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
    /// The signal that ended the commit.
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
    fn spellings_come_back_and_batches_go_to_the_owners_of_ids() {
        let (mut outbox, spare) = (Outbox::new(3), Pool::default());
        for bin in [0, 1, 5, 7] {
            let id = KeyHash { hi: bin << 54, lo: bin };
            let batch = outbox.of(id);
            let spelling = ["Straße", ""].map(|text| batch.spellings.push(text));
            assert_eq!(spelling.map(|s| batch.spellings.get(s)), ["Straße", ""]);
            let (ts_ms, tags, scopes, route) = (0, (0, 0), Box::default(), Route::Once);
            batch.posts.push(Post { id, ts_ms, tags, scopes, route });
        }
        let taken =
            outbox.take(&spare).map(|b| (b.worker, b.posts.iter().map(|p| p.id.lo).collect()));
        assert_eq!(
            taken.collect::<Vec<(u64, Vec<u64>)>>(),
            [(0, vec![0]), (1, vec![1, 7]), (2, vec![5])]
        );
        assert_eq!(outbox.take(&spare).count(), 0);
        assert!(size_of::<Post>() <= 64 && size_of::<Mention>() <= 56);
    }
}
