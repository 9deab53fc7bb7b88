//! Combine: sums the posts of a slice per (scope, tag, slot) before they cross to another worker,
//! so that a viral tag costs at most one mention per worker, bucket and slice.
//!
//! Invariant: the sums of a slice are sent at its end, in one batch for each worker.

use std::collections::BTreeMap;
use std::sync::Arc;

use hashbrown::HashTable;
use schemas::hash::{Hasher, KeyHash};
use schemas::windows::Tiers;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::{Capability, Operator};

use super::stash::epoch_of;
use crate::context::Context;
use crate::epoch::Epoch;
use crate::pool::Pool;
use crate::process::ProcessShared;
use crate::records::{Mention, Mentions, Post, Posts, Route};

/// The sums of one slice for the tags of one worker.
#[derive(Default)]
struct Sums {
    /// Where mentions are in the batch, by tag and slot.
    index: HashTable<u32>,
    batch: Mentions,
}

impl Sums {
    fn add(&mut self, tag: KeyHash, scope: u16, slot: u32, ts_ms: i64, spelling: &str) {
        let Self { index, batch: Mentions { mentions, spellings, .. } } = self;
        let same = |i: &u32| mentions[*i as usize].tag == tag && mentions[*i as usize].slot == slot;
        if let Some(i) = index.find(place(tag, slot), same).copied() {
            let sum = &mut mentions[i as usize];
            let earlier = ts_ms < sum.first_ms
                || (ts_ms == sum.first_ms && spelling < spellings.get(sum.spelling));
            if earlier {
                sum.spelling = spellings.push(spelling);
            }
            sum.count += 1;
            sum.first_ms = sum.first_ms.min(ts_ms);
            sum.last_ms = sum.last_ms.max(ts_ms);
            return;
        }
        let spelling = spellings.push(spelling);
        let (first_ms, last_ms) = (ts_ms, ts_ms);
        mentions.push(Mention { tag, slot, count: 1, first_ms, last_ms, spelling, scope });
        let place_of = |i: &u32| place(mentions[*i as usize].tag, mentions[*i as usize].slot);
        index.insert_unique(place(tag, slot), mentions.len() as u32 - 1, place_of);
    }
}

/// The hash of a sum. The hash of the tag is uniform; the slot distinguishes its sums.
fn place(tag: KeyHash, slot: u32) -> u64 {
    tag.lo ^ u64::from(slot).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Sums up posts to mentions.
pub(crate) struct Combine {
    tiers: Tiers,
    hasher: Hasher,
    /// The names of the scopes. The first is the whole stream.
    scopes: Arc<[String]>,
    peers: usize,
    process: Arc<ProcessShared>,
}

/// The sums of a slice, by the worker that they go to.
struct Slice(Vec<Sums>);

impl Slice {
    fn of(&mut self, tag: KeyHash) -> &mut Sums {
        let worker = tag.bin() as usize % self.0.len();
        &mut self.0[worker]
    }

    /// Takes the batches that hold anything, and replaces them by `spare` ones for the next slice.
    fn take(&mut self, spare: &Pool<Mentions>) -> impl Iterator<Item = Mentions> {
        let holds = |Mentions { mentions, orders, .. }: &Mentions| {
            !mentions.is_empty() || !orders.is_empty()
        };
        let full = self.0.iter_mut().zip(0..).filter(move |(sums, _)| holds(&sums.batch));
        full.map(|(sums, worker)| {
            sums.index.clear();
            Mentions { worker, ..std::mem::replace(&mut sums.batch, spare.take()) }
        })
    }
}

impl Combine {
    pub(crate) fn new(context: &Context, peers: usize) -> Self {
        Self {
            tiers: context.settings.windows.tiers(),
            hasher: context.start.body.hash_key.hasher(),
            scopes: context.settings.scope_names(),
            peers,
            process: Arc::clone(&context.process),
        }
    }

    fn slice(&self) -> Slice {
        Slice(std::iter::repeat_with(Sums::default).take(self.peers).collect())
    }

    fn add(&self, slice: &mut Slice, mut batch: Posts) {
        let Posts { posts, tags, spellings, .. } = &mut batch;
        for Post { id, ts_ms, tags: (start, end), scopes, route } in posts.drain(..) {
            if let Route::Order(order) = route {
                slice.of(id).batch.orders.push((id, order));
                continue;
            }
            let slot = self.tiers.slot(ts_ms);
            for tag in &tags[start as usize..end as usize] {
                let spelling = spellings.get(tag.spelling);
                slice.of(tag.hash).add(tag.hash, 0, slot, ts_ms, spelling);
                for scope in &scopes {
                    let name = &self.scopes[usize::from(*scope)];
                    let scoped = self.hasher.scoped(name, tag.hash);
                    slice.of(scoped).add(scoped, *scope, slot, ts_ms, spelling);
                }
            }
        }
        self.process.spare.posts.put(batch);
    }
}

/// The mentions of each slice.
pub(crate) fn combine<'s>(
    posts: StreamVec<'s, Epoch, Posts>,
    combine: Combine,
) -> StreamVec<'s, Epoch, Mentions> {
    posts.unary_frontier(Pipeline, "combine", move |_, _| {
        let mut slices: BTreeMap<Epoch, (Capability<Epoch>, Slice)> = BTreeMap::new();
        let mut spare = None;
        move |(input, frontier), output| {
            input.for_each_stamp(|stamp, batches| {
                let epoch = epoch_of(&stamp);
                let (_, slice) = slices.entry(epoch).or_insert_with(|| {
                    let capability = stamp.delayed(&epoch, output.output_index());
                    (capability, spare.take().unwrap_or_else(|| combine.slice()))
                });
                for batch in batches.flat_map(|batches| batches.drain(..)) {
                    combine.add(slice, batch);
                }
            });
            while let Some(first) = slices.first_entry() {
                if frontier.less_equal(first.key()) {
                    break;
                }
                let (capability, mut slice) = first.remove();
                output
                    .session(&capability)
                    .give_iterator(slice.take(&combine.process.spare.mentions));
                spare = Some(slice);
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use schemas::config::Beyond;
    use schemas::control::{Author, Control, Id};
    use schemas::hash::HashKey;
    use schemas::windows::Windows;

    use super::*;
    use crate::budget::Memory;
    use crate::operators::dedup::Dedup;
    use crate::plan::BlockQueue;
    use crate::rate_limiter::RateLimiter;
    use crate::records::{Order, TagUse};
    use crate::worker_id::WorkerId;

    fn combine(peers: usize) -> Combine {
        Combine {
            tiers: Windows::default().tiers(),
            hasher: HashKey::new(1).hasher(),
            scopes: [String::new(), "region=eu".to_owned()].into(),
            peers,
            process: Arc::new(ProcessShared::new(
                1,
                BlockQueue::default(),
                RateLimiter::new(None, 0),
                Memory::default(),
                Arc::default(),
            )),
        }
    }

    fn batch(posts: &[(i64, &[&str], &[u16])]) -> Posts {
        let hasher = HashKey::new(1).hasher();
        let mut batch = Posts::default();
        for (ts_ms, tags, scopes) in posts {
            let start = batch.tags.len() as u32;
            for tag in *tags {
                let spelling = batch.spellings.push(tag);
                batch.tags.push(TagUse { hash: hasher.tag(&schemas::tags::key(tag)), spelling });
            }
            let (id, tags) = (KeyHash::default(), (start, batch.tags.len() as u32));
            let (ts_ms, scopes) = (*ts_ms, (*scopes).into());
            batch.posts.push(Post { id, ts_ms, tags, scopes, route: Route::Once });
        }
        batch
    }

    #[test]
    fn mentions_of_a_tag_and_slot_are_summed() {
        let combine = combine(1);
        let mut slice = combine.slice();
        for _ in 0..2 {
            let posts: [(i64, &[&str], &[u16]); 3] =
                [(120_001, &["Sun"], &[1]), (120_000, &["sun"], &[]), (180_000, &["sun"], &[])];
            combine.add(&mut slice, batch(&posts));
            let all: Vec<Mentions> = slice.take(&combine.process.spare.mentions).collect();
            let [Mentions { worker: 0, mentions: got, spellings, .. }] = all.as_slice() else {
                panic!("{all:?}");
            };
            assert_eq!(got.len(), 3, "two slots, and one scope");
            assert_eq!((got[0].count, got[0].first_ms, got[0].last_ms), (2, 120_000, 120_001));
            assert_eq!(spellings.get(got[0].spelling), "sun", "that of the earliest");
            assert_eq!((got[1].count, got[1].scope), (1, 1));
            assert_ne!(got[0].tag, got[1].tag);
        }
        assert_eq!(slice.take(&combine.process.spare.mentions).count(), 0, "a slice is taken once");
    }

    #[test]
    fn batches_emptied_by_dedup_add_nothing() {
        let combine = combine(2);
        let process = Arc::clone(&combine.process);
        let mut dedup = Dedup::new(Beyond::DeadLetter, process, 1, WorkerId::new(0, 1));
        let mut slice = combine.slice();
        let post: (i64, &[&str], &[u16]) = (120_000, &["sun", "moon"], &[1]);
        let mut mentions = 0;
        for (n, mut batch) in (0..).zip([batch(&[]), batch(&[post]), batch(&[post, post])]) {
            // The first event passes; the others are copies of it.
            dedup.filter(&mut batch);
            assert_eq!(batch.posts.len(), usize::from(n == 1));
            combine.add(&mut slice, batch);
            mentions += slice
                .take(&combine.process.spare.mentions)
                .map(|batch| batch.mentions.len())
                .sum::<usize>();
        }
        assert_eq!(mentions, 4, "two tags of one post, in two scopes");
    }

    #[test]
    fn mentions_go_to_the_owner_of_their_bin() {
        let combine = combine(3);
        let mut slice = combine.slice();
        let tags: Vec<String> = (0..100).map(|i| format!("tag{i}")).collect();
        let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
        combine.add(&mut slice, batch(&[(0, &tags, &[1])]));
        let mut sums = 0;
        for Mentions { worker, mentions, .. } in slice.take(&combine.process.spare.mentions) {
            sums += mentions.len();
            assert!(mentions.iter().all(|m| m.tag.bin() % 3 == worker));
        }
        assert_eq!(sums, 200);
    }

    #[test]
    fn orders_go_to_the_owners_of_tags_in_order() {
        let combine = combine(3);
        let mut slice = combine.slice();
        let mut asked = batch(&[(0, &["sun"], &[])]);
        let sun = asked.tags[0].hash;
        let other = KeyHash { hi: sun.hi.wrapping_add(1 << 54), lo: 0 };
        for (request, id) in [(1, sun), (2, other), (3, sun)] {
            let control = Control::Forget(Id { hash: id, text: String::new(), hour: 0 });
            let route = Route::Order(Box::new(Order { request, author: author(), control }));
            asked.posts.push(Post { id, ts_ms: 0, tags: (0, 0), scopes: Box::default(), route });
        }
        combine.add(&mut slice, asked);
        let mut taken: Vec<(bool, Vec<u64>)> = Vec::new();
        for Mentions { worker, mentions, orders, .. } in slice.take(&combine.process.spare.mentions)
        {
            assert!(orders.iter().all(|(tag, _)| tag.bin() % 3 == worker));
            let requests = orders.iter().map(|(_, order)| order.request).collect();
            taken.push((mentions.is_empty(), requests));
        }
        taken.sort();
        assert_eq!(taken, [(false, vec![1, 3]), (true, vec![2])]);
        assert_eq!(slice.take(&combine.process.spare.mentions).count(), 0, "orders are taken once");
    }

    fn author() -> Author {
        let (who, why) = (String::new(), String::new());
        Author { who, when_ms: 0, why, base: 0, history: 0 }
    }
}
