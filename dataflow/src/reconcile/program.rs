//! The second computation, in differential dataflow: of the copies of an event, one counts; it adds
//! one post to each of its tags in each of its scopes; the difference between that and what is
//! stored is the drift.
//!
//! It sums differences in a semigroup instead of using `distinct` and `count`, which arrange and
//! keep every record. A consolidated sum keeps one entry per key, so the events of a share are gone
//! before the next share comes.
//!
//! Written to be checked by eye. Invariant: it keeps no state, and knows nothing of commits,
//! workers, slices or the job's operators.

use differential_dataflow::difference::{IsZero, Semigroup};
use differential_dataflow::{AsCollection, ExchangeData, Hashable, VecCollection};
use schemas::hash::KeyHash;
use schemas::windows::{Window, Windows};
use serde::{Deserialize, Serialize};
use timely::dataflow::operators::vec::Map;

use super::Part;

/// Everything happens at one time, `END`, except for the events. They come in shares of their ids,
/// one after the other, so that only one share is expanded at a time: the tags and buckets of all
/// events, before they are added up, would need many times the memory of the events.
pub(super) type Time = u64;
/// The number of shares, and the time of the result.
pub(super) const END: Time = 32;
const HOUR_MS: i64 = 3_600_000;
/// A collection of this program.
pub(super) type Collection<'s, D> = VecCollection<'s, Time, D, isize>;

/// The share of an event, by bits of its id that choose neither the pass nor the worker. Copies of
/// an event are in the same share.
pub(super) fn share(id: KeyHash) -> Time {
    let share = (id.lo >> 32) % END;
    debug_assert!(share < END, "the events come before the result");
    share
}

/// The parts of an event that counting depends on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(super) struct Event {
    /// When it happened.
    pub(super) ts_ms: i64,
    /// A digest of all its tags, since copies may differ in a tag that this pass does not count.
    pub(super) digest: u64,
    /// The key and the spelling of each of its tags in each of its scopes.
    pub(super) uses: Box<[(KeyHash, Box<str>)]>,
}

/// The copies of an event: the least one, whether any other differs from it, and the latest time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Copies {
    pub(super) event: Event,
    pub(super) differ: bool,
    pub(super) last_ms: i64,
}

impl Copies {
    /// Whether they claim different hours. The least copy is the earliest.
    fn in_hours(&self) -> bool {
        self.event.ts_ms / HOUR_MS != self.last_ms / HOUR_MS
    }
}

impl IsZero for Copies {
    fn is_zero(&self) -> bool {
        false
    }
}

impl Semigroup for Copies {
    fn plus_equals(&mut self, more: &Self) {
        self.differ |= more.differ || more.event != self.event;
        self.last_ms = self.last_ms.max(more.last_ms);
        if more.event < self.event {
            self.event.clone_from(&more.event);
        }
    }
}

/// One statement about a commit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(super) enum Fact {
    /// A tag's row, without its buckets.
    Row { key: KeyHash, total: i64, first_ms: i64, last_ms: i64, display: Box<str> },
    /// The posts of a tag in one bucket of one window. `start` is in slides since 1970.
    Bucket { key: KeyHash, window: u8, start: i64, count: i64 },
    /// A remembered id.
    Id(KeyHash),
    /// A tag's row whose scope and key do not have its hash. Never recomputed.
    Misnamed(KeyHash),
    /// An event whose copies differ.
    Ambiguous {
        /// Its id.
        id: KeyHash,
        /// Whether the copies claim different hours: until when it is remembered then depends on
        /// which of them were read before it was forgotten.
        in_hours: bool,
    },
}

/// A tag's posts: their number, the first with its spelling, and the last.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Tally {
    total: i64,
    first: (i64, Box<str>),
    last_ms: i64,
}

impl IsZero for Tally {
    fn is_zero(&self) -> bool {
        false
    }
}

impl Semigroup for Tally {
    fn plus_equals(&mut self, more: &Self) {
        self.total += more.total;
        self.last_ms = self.last_ms.max(more.last_ms);
        if more.first < self.first {
            self.first.clone_from(&more.first);
        }
    }
}

/// What a state at `as_of_ms` keeps.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) windows: Windows,
    pub(super) as_of_ms: i64,
    /// The first hour whose ids are remembered.
    pub(super) first_hour: i64,
    /// The keys to compare.
    pub(super) part: Part,
}

impl Kept {
    /// The buckets that a post at `ts_ms` counts in, now or later: one for each window that it has
    /// not left.
    pub(super) fn buckets(&self, ts_ms: i64) -> impl Iterator<Item = (u8, i64)> + '_ {
        let ts_ms = ts_ms.max(0);
        self.windows.iter().enumerate().filter_map(move |(i, window)| {
            let (bucket, last) = (ts_ms / window.slide_ms, self.as_of_ms / window.slide_ms);
            let live = bucket > last - window.duration_ms / window.slide_ms;
            live.then_some((i as u8, bucket))
        })
    }

    /// A window by its number in [`Fact::Bucket`].
    pub(super) fn window(&self, number: u8) -> Window {
        self.windows
            .iter()
            .nth(number.into())
            .unwrap_or_else(|| unreachable!("window {number} does not exist: see Kept::buckets"))
    }

    /// Whether the id of an event is remembered, if the latest copy claims `ts_ms`.
    fn is_remembered(&self, id: KeyHash, ts_ms: i64) -> bool {
        self.part.has(id) && ts_ms.max(0) / HOUR_MS >= self.first_hour
    }
}

/// Every record once, with the sum of its differences.
fn sums<'s, D, R>(of: VecCollection<'s, Time, D, R>) -> Collection<'s, (D, R)>
where
    D: ExchangeData + Hashable,
    R: ExchangeData + Semigroup,
{
    of.consolidate().inner.map(|(data, time, sum)| ((data, sum), time, 1)).as_collection()
}

/// What differs between `stored` and the recomputed facts. These are the facts of an earlier
/// commit, `before`, plus `events` (the copies of each under its id, at its [`share`]) and
/// `no_dedup` (events that count whatever their id). A fact that is only stored counts 1, one that
/// is only recomputed counts -1.
pub(super) fn drift<'s>(
    events: VecCollection<'s, Time, KeyHash, Copies>,
    no_dedup: Collection<'s, Event>,
    before: Collection<'s, Fact>,
    stored: Collection<'s, Fact>,
    kept: &Kept,
) -> Collection<'s, Fact> {
    let first = sums(events).delay(|_| END);
    let ambiguous = first.clone().filter(|(_, copies)| copies.differ);
    let remember = kept.clone();
    let ids = first.clone().filter(move |(id, of)| remember.is_remembered(*id, of.last_ms));
    let counted = first.map(|(_, copies)| copies.event).concat(no_dedup);

    let uses = counted.flat_map(|Event { ts_ms, uses, .. }| {
        uses.into_iter().map(move |(key, spelling)| (key, ts_ms, spelling))
    });
    let live = kept.clone();
    let buckets = uses.clone().flat_map(move |(key, ts_ms, _)| {
        live.buckets(ts_ms).map(|bucket| (key, bucket)).collect::<Vec<_>>()
    });
    let tally = |(key, ts_ms, spelling): (KeyHash, i64, Box<str>)| {
        (key, Tally { total: 1, first: (ts_ms, spelling), last_ms: ts_ms })
    };
    let tallies = uses.inner.map(move |(of, time, _)| {
        let (key, tally) = tally(of);
        (key, time, tally)
    });

    let tallies_before = before.clone().inner.flat_map(|(fact, time, _)| match fact {
        Fact::Row { key, total, first_ms, last_ms, display } => {
            Some((key, time, Tally { total, first: (first_ms, display), last_ms }))
        }
        _ => None,
    });
    let buckets_before = before.clone().explode(|fact| match fact {
        Fact::Bucket { key, window, start, count } => {
            Some(((key, (window, start)), count as isize))
        }
        _ => None,
    });
    let ids_before = sums(before.filter(|fact| matches!(fact, Fact::Id(_)))).map(|(fact, _)| fact);

    let tallies = tallies.as_collection().concat(tallies_before.as_collection());
    let rows = sums(tallies).map(|(key, tally)| {
        let Tally { total, first: (first_ms, display), last_ms } = tally;
        Fact::Row { key, total, first_ms, last_ms, display }
    });
    let buckets = sums(buckets.concat(buckets_before)).map(|((key, (window, start)), count)| {
        let count = count as i64;
        Fact::Bucket { key, window, start, count }
    });
    let ids = ids.map(|(id, _)| Fact::Id(id)).concat(ids_before);
    let recomputed = rows.concat(buckets).concat(ids);
    let ambiguous =
        ambiguous.map(|(id, copies)| Fact::Ambiguous { id, in_hours: copies.in_hours() });
    stored.concat(recomputed.negate()).concat(ambiguous).consolidate()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::Arc;

    use differential_dataflow::input::Input as _;
    use parking_lot::Mutex;
    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;

    use super::super::PARTS;
    use super::*;

    const HOUR: i64 = 3_600_000;
    const NOW: i64 = 1_700_000_000_000;
    /// A delivery: the number of its id, or `None` if it counts without deduplication.
    type Delivery = (Option<u8>, Event);

    fn id(number: u8) -> KeyHash {
        // Spread over shares and parts.
        KeyHash { hi: u64::from(number) << 61, lo: u64::from(number) << 32 }
    }

    fn kept() -> Kept {
        let first_hour = (NOW - 2 * HOUR) / HOUR;
        // Six of eight ids are checked.
        let part = Part::Bins(0..PARTS * 3 / 4);
        Kept { windows: Windows::default(), as_of_ms: NOW, first_hour, part }
    }

    fn deliveries() -> impl Strategy<Value = Vec<Delivery>> {
        // Few of everything, so that copies are often equal, and often differ: in their time, in
        // what other passes see, and in a tag. A key stands for a tag in a scope.
        let ts = prop_oneof![Just(0), Just(1), Just(HOUR), Just(3 * HOUR), Just(30 * HOUR)];
        let uses = btree_map((0..3_u64, 0..2_u64), "[ab]", 0..3);
        let event = (ts, 0..2_u64, uses).prop_map(|(ago_ms, digest, uses)| {
            let key = |(tag, scope): (u64, u64)| KeyHash { hi: tag, lo: scope };
            let uses = uses.into_iter().map(|(of, text)| (key(of), text.into()));
            Event { ts_ms: NOW - ago_ms, digest, uses: uses.collect() }
        });
        vec((proptest::option::weighted(0.9, 0..8_u8), event), 0..40)
    }

    /// The facts that the deliveries give, counted without dataflow, and the ambiguous ids.
    fn oracle(deliveries: &[Delivery], kept: &Kept) -> (BTreeSet<Fact>, BTreeSet<Fact>) {
        let mut copies = BTreeMap::<u8, BTreeSet<&Event>>::new();
        let mut counted = Vec::new();
        for (id, event) in deliveries {
            match id {
                Some(id) => drop(copies.entry(*id).or_default().insert(event)),
                None => counted.push(event),
            }
        }
        let (mut facts, mut ambiguous) = (BTreeSet::new(), BTreeSet::new());
        for (number, copies) in copies {
            let (first, last) = (copies.first().unwrap(), copies.last().unwrap());
            if copies.len() > 1 {
                let in_hours = first.ts_ms / HOUR != last.ts_ms / HOUR;
                ambiguous.insert(Fact::Ambiguous { id: id(number), in_hours });
            }
            if number < 6 && last.ts_ms / HOUR >= kept.first_hour {
                facts.insert(Fact::Id(id(number)));
            }
            counted.push(first);
        }
        let mut rows = BTreeMap::<KeyHash, BTreeSet<(i64, &str)>>::new();
        let mut totals = BTreeMap::<KeyHash, i64>::new();
        let mut buckets = BTreeMap::<(KeyHash, u8, i64), i64>::new();
        for Event { ts_ms, uses, .. } in counted {
            for (key, spelling) in uses {
                rows.entry(*key).or_default().insert((*ts_ms, spelling));
                *totals.entry(*key).or_default() += 1;
                for (window, start) in kept.buckets(*ts_ms) {
                    *buckets.entry((*key, window, start)).or_default() += 1;
                }
            }
        }
        for (key, seen) in rows {
            let ((first_ms, display), (last_ms, _)) = (seen.first().unwrap(), seen.last().unwrap());
            let (first_ms, last_ms, display) = (*first_ms, *last_ms, (*display).into());
            facts.insert(Fact::Row { key, total: totals[&key], first_ms, last_ms, display });
        }
        let bucket = |((key, window, start), count)| Fact::Bucket { key, window, start, count };
        facts.extend(buckets.into_iter().map(bucket));
        (facts, ambiguous)
    }

    /// What the program finds on `workers` workers, each of which reads some of the deliveries.
    fn found(
        before: &BTreeSet<Fact>,
        deliveries: &[Delivery],
        stored: &BTreeSet<Fact>,
        workers: usize,
    ) -> BTreeMap<Fact, isize> {
        let all = Arc::new(Mutex::new(BTreeMap::new()));
        let (sink, deliveries) = (Arc::clone(&all), deliveries.to_vec());
        let [before, stored] = [before, stored].map(|facts| facts.iter().cloned());
        let [before, stored]: [Vec<Fact>; 2] = [before.collect(), stored.collect()];
        let config = timely::Config::process(workers);
        let guards = timely::execute(config, move |worker| {
            let (index, peers, sink) = (worker.index(), worker.peers(), Arc::clone(&sink));
            worker.dataflow::<Time, _, _>(|scope| {
                let (mut events_in, events) = scope.new_collection::<KeyHash, Copies>();
                let (mut no_dedup_in, no_dedup) = scope.new_collection::<Event, isize>();
                let (mut before_in, earlier) = scope.new_collection::<Fact, isize>();
                let (mut stored_in, held) = scope.new_collection::<Fact, isize>();
                drift(events, no_dedup, earlier, held, &kept()).inspect(
                    move |(fact, _, number)| {
                        *sink.lock().entry(fact.clone()).or_default() += number;
                    },
                );
                no_dedup_in.advance_to(END);
                before_in.advance_to(END);
                stored_in.advance_to(END);
                for (number, event) in deliveries.iter().skip(index).step_by(peers) {
                    let event = event.clone();
                    match number.map(id) {
                        Some(id) => {
                            let last_ms = event.ts_ms;
                            let copy = Copies { event, differ: false, last_ms };
                            events_in.update_at(id, share(id), copy);
                        }
                        None => no_dedup_in.insert(event),
                    }
                }
                before.iter().skip(index).step_by(peers).cloned().for_each(|f| before_in.insert(f));
                stored.iter().skip(index).step_by(peers).cloned().for_each(|f| stored_in.insert(f));
            });
        });
        guards.unwrap().join().into_iter().for_each(|result| result.unwrap());
        let mut found = Arc::into_inner(all).unwrap().into_inner();
        found.retain(|_, number| *number != 0);
        found
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// If a state holds some of the right facts and some wrong ones, the drift is exactly the
        /// missing and the wrong ones, on any number of workers and from any earlier commit.
        #[test]
        fn program_agrees_with_plain_count(
            deliveries in deliveries(),
            others in deliveries(),
            dropped in vec(any::<bool>(), 200),
            workers in 1..3_usize,
            begin in 0..8_u8,
        ) {
            let kept = kept();
            let (right, ambiguous) = oracle(&deliveries, &kept);
            let keep = right.iter().zip(&dropped).filter(|(_, dropped)| !**dropped);
            let wrong = oracle(&others, &kept).0.into_iter().take(others.len() % 4);
            let stored: BTreeSet<Fact> = keep.map(|(fact, _)| fact.clone()).chain(wrong).collect();
            let of = |a: &BTreeSet<Fact>, b: &BTreeSet<Fact>, number: isize| {
                a.difference(b).map(|fact| (fact.clone(), number)).collect::<Vec<_>>()
            };
            let mut want: BTreeMap<Fact, isize> = of(&right, &stored, -1).into_iter().collect();
            want.extend(of(&stored, &right, 1));
            want.extend(ambiguous.into_iter().map(|fact| (fact, 1)));
            prop_assert_eq!(&found(&BTreeSet::new(), &deliveries, &stored, workers), &want);
            // The same if some events are in an earlier commit, which no longer tells whether their
            // copies differed.
            let is_early = |(number, _): &Delivery| number.is_some_and(|number| number < begin);
            let (early, late): (Vec<_>, Vec<_>) = deliveries.into_iter().partition(is_early);
            let (before, ambiguous) = oracle(&early, &kept);
            want.retain(|fact, _| !ambiguous.contains(fact));
            prop_assert_eq!(found(&before, &late, &stored, workers), want);
        }
    }

    #[test]
    fn least_copy_counts_in_any_order() {
        let copy = |ts_ms| Copies {
            event: Event { ts_ms, digest: 0, uses: Box::default() },
            differ: false,
            last_ms: ts_ms,
        };
        let sum = |times: &[i64]| {
            let (mut sum, rest) = (copy(times[0]), &times[1..]);
            rest.iter().for_each(|ts_ms| sum.plus_equals(&copy(*ts_ms)));
            (sum.event.ts_ms, sum.differ)
        };
        assert_eq!((sum(&[5]), sum(&[5, 5])), ((5, false), (5, false)));
        for times in [[4, 5, 5], [5, 4, 5], [5, 5, 4]] {
            assert_eq!(sum(&times), (4, true), "{times:?}");
        }
        let (mut one, mut other) = (copy(5), copy(5));
        other.plus_equals(&copy(7));
        one.plus_equals(&other);
        assert_eq!(
            (one.event.ts_ms, one.differ),
            (5, true),
            "a sum of sums remembers the third copy"
        );
    }
}
