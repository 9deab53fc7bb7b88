//! Combine: sums mentions per (scope, tag, slot) within a slice before they cross to another
//! worker, so that a viral tag costs at most one record per worker and slice.
//!
//! Invariant: the receiver of a mention without a text has had the text of an event that is at
//! least as early, in this commit's records, an earlier one's, or the tag's row.

use std::collections::BTreeMap;
use std::sync::Arc;

use hashbrown::HashTable;
use schemas::hash::{Hasher, KeyHash};
use schemas::windows::Tiers;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::{Capability, Operator};

use crate::context::Context;
use crate::epoch::Epoch;
use crate::records::{Mention, Order, Post, Route, Text};

/// The sender remembers so many tags whose text it has sent; a power of two.
const SENT_TAGS: usize = 1 << 16;

/// A sum under way.
struct Sum {
    tag: KeyHash,
    slot: u32,
    count: u32,
    scope: u16,
    /// Where the spelling of the earliest post lies.
    spelling: (u32, u16),
    first_ms: i64,
    last_ms: i64,
}

/// The sums of one slice.
#[derive(Default)]
struct Slice {
    index: HashTable<u32>,
    sums: Vec<Sum>,
    spellings: String,
    /// What is asked for about tags, in its order.
    orders: Vec<(KeyHash, Box<Order>)>,
}

impl Slice {
    fn add(&mut self, tag: KeyHash, scope: u16, slot: u32, ts_ms: i64, spelling: &str) {
        let Self { index, sums, spellings, .. } = self;
        let same = |i: &u32| sums[*i as usize].tag == tag && sums[*i as usize].slot == slot;
        if let Some(i) = index.find(place(tag, slot), same).copied() {
            let sum = &mut sums[i as usize];
            let earlier = ts_ms < sum.first_ms
                || (ts_ms == sum.first_ms && spelling < part(spellings, sum.spelling));
            if earlier {
                sum.spelling = store(spellings, spelling);
            }
            sum.count += 1;
            sum.first_ms = sum.first_ms.min(ts_ms);
            sum.last_ms = sum.last_ms.max(ts_ms);
            return;
        }
        let spelling = store(spellings, spelling);
        sums.push(Sum { tag, slot, count: 1, scope, spelling, first_ms: ts_ms, last_ms: ts_ms });
        let place_of = |i: &u32| place(sums[*i as usize].tag, sums[*i as usize].slot);
        index.insert_unique(place(tag, slot), sums.len() as u32 - 1, place_of);
    }

    fn clear(&mut self) {
        self.index.clear();
        self.sums.clear();
        self.spellings.clear();
    }
}

/// The hash-table place of a sum: the tag's hash is uniform, the slot tells its sums apart.
fn place(tag: KeyHash, slot: u32) -> u64 {
    tag.lo ^ u64::from(slot).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn part(spellings: &str, (at, length): (u32, u16)) -> &str {
    &spellings[at as usize..at as usize + usize::from(length)]
}

fn store(spellings: &mut String, spelling: &str) -> (u32, u16) {
    let at = spellings.len() as u32;
    spellings.push_str(spelling);
    (at, spelling.len() as u16)
}

/// Sums posts to mentions.
pub(crate) struct Combine {
    tiers: Tiers,
    hasher: Hasher,
    /// Scope names; 0 is the whole stream.
    scopes: Arc<[String]>,
    /// Recently sent tags, each with the time of the earliest event whose text was sent; zeroes
    /// where there is none, so that an unused table costs nothing.
    sent: (Box<[u128]>, Box<[i64]>),
}

impl Combine {
    pub(crate) fn new(context: &Context) -> Self {
        Self {
            tiers: context.settings.windows.tiers(),
            hasher: context.start.body.hash_key.hasher(),
            scopes: context.settings.scope_names(),
            sent: (vec![0; SENT_TAGS].into(), vec![0; SENT_TAGS].into()),
        }
    }

    fn add(&self, slice: &mut Slice, post: Post) {
        if let Route::Asked(order) = post.route {
            slice.orders.push((post.id, order));
            return;
        }
        let slot = self.tiers.slot(post.ts_ms);
        for (tag, spelling) in post.tags.iter() {
            slice.add(tag, 0, slot, post.ts_ms, spelling);
            for scope in &post.scopes {
                let scoped = self.hasher.scoped(&self.scopes[usize::from(*scope)], tag);
                slice.add(scoped, *scope, slot, post.ts_ms, spelling);
            }
        }
    }

    fn mention(&mut self, slice: &Slice, sum: &Sum) -> Mention {
        let at = sum.tag.lo as usize % SENT_TAGS;
        let (tag, first_ms) = (&mut self.sent.0[at], &mut self.sent.1[at]);
        let hash = u128::from(sum.tag.hi) << 64 | u128::from(sum.tag.lo);
        let known = hash != 0 && *tag == hash && *first_ms < sum.first_ms;
        if !known {
            (*tag, *first_ms) = (hash, sum.first_ms);
        }
        let text = || {
            let spelling = part(&slice.spellings, sum.spelling).to_owned();
            Box::new(Text { scope: sum.scope, spelling, order: None })
        };
        Mention {
            tag: sum.tag,
            slot: sum.slot,
            count: sum.count,
            first_ms: sum.first_ms,
            last_ms: sum.last_ms,
            text: (!known).then(text),
        }
    }
}

/// An order about a tag, as a mention of nothing.
fn ask(tag: KeyHash, order: Box<Order>) -> Mention {
    let text = Text { scope: 0, spelling: String::new(), order: Some(order) };
    let (first_ms, last_ms) = (i64::MAX, i64::MIN);
    Mention { tag, slot: 0, count: 0, first_ms, last_ms, text: Some(Box::new(text)) }
}

/// The mentions of each slice.
pub(crate) fn combine<'s>(
    posts: StreamVec<'s, Epoch, Post>,
    mut combine: Combine,
) -> StreamVec<'s, Epoch, Mention> {
    posts.unary_frontier(Pipeline, "combine", move |_, _| {
        let mut slices: BTreeMap<Epoch, (Capability<Epoch>, Slice)> = BTreeMap::new();
        let mut spare = Slice::default();
        move |(input, frontier), output| {
            input.for_each_stamp(|stamp, batches| {
                let port = output.output_index();
                let (Some(epoch), Some(capability)) =
                    (stamp.least().copied(), stamp.retain_least(port))
                else {
                    return;
                };
                let empty = || (capability, std::mem::take(&mut spare));
                let (_, slice) = slices.entry(epoch).or_insert_with(empty);
                for post in batches.flat_map(|batch| batch.drain(..)) {
                    combine.add(slice, post);
                }
            });
            while let Some(first) = slices.first_entry() {
                if frontier.less_equal(first.key()) {
                    break;
                }
                let (capability, mut slice) = first.remove();
                let mentions = slice.sums.iter().map(|sum| combine.mention(&slice, sum));
                output.session(&capability).give_iterator(mentions);
                let orders = slice.orders.drain(..).map(|(tag, order)| ask(tag, order));
                output.session(&capability).give_iterator(orders);
                slice.clear();
                spare = slice;
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use schemas::hash::HashKey;
    use schemas::windows::Windows;

    use super::*;
    use crate::records::{PackedTags, Route};

    fn combine() -> Combine {
        Combine {
            tiers: Windows::default().tiers(),
            hasher: HashKey::new(1).hasher(),
            scopes: [String::new(), "region=eu".to_owned()].into(),
            sent: (vec![0; SENT_TAGS].into(), vec![0; SENT_TAGS].into()),
        }
    }

    fn post(ts_ms: i64, tags: &[&str], scopes: &[u16]) -> Post {
        let hasher = HashKey::new(1).hasher();
        let mut packed = Vec::new();
        for tag in tags {
            PackedTags::append(&mut packed, hasher.tag(&schemas::tags::key(tag)), tag);
        }
        let id = KeyHash::default();
        let tags = PackedTags::new(&packed);
        Post { id, ts_ms, tags, scopes: scopes.into(), route: Route::Once }
    }

    fn mentions(combine: &mut Combine, posts: &[Post]) -> Vec<Mention> {
        let mut slice = Slice::default();
        posts.iter().for_each(|post| combine.add(&mut slice, post.clone()));
        slice.sums.iter().map(|sum| combine.mention(&slice, sum)).collect()
    }

    #[test]
    fn mentions_of_one_tag_and_slot_are_summed() {
        let mut combine = combine();
        let posts = [
            post(120_001, &["Sun"], &[1]),
            post(120_000, &["sun"], &[]),
            post(180_000, &["sun"], &[]),
        ];
        let got = mentions(&mut combine, &posts);
        assert_eq!(got.len(), 3, "two slots, and one scope");
        assert_eq!((got[0].count, got[0].first_ms, got[0].last_ms), (2, 120_000, 120_001));
        assert_eq!(got[0].text.as_ref().unwrap().spelling, "sun", "that of the earliest");
        assert_eq!((got[1].count, got[1].text.as_ref().unwrap().scope), (1, 1));
        assert_ne!(got[0].tag, got[1].tag);
    }

    #[test]
    fn a_text_is_sent_again_only_when_it_may_matter() {
        let mut combine = combine();
        let mut texts =
            |ts: i64| mentions(&mut combine, &[post(ts, &["sun"], &[])])[0].text.is_some();
        assert!(texts(100), "first of all");
        assert!(!texts(101), "a later event does not change the display");
        assert!(texts(100), "an equal time might");
        assert!(texts(50), "an earlier one does");
        assert!(!texts(51));
    }
}
