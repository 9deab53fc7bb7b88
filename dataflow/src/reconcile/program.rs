//! The second computation, in differential dataflow: of the copies of an event one counts; every
//! tag of it, in every scope of it, has one more post; and what remains when this is taken from
//! what is stored is the drift.
//!
//! Written to be checked by eye. Invariant: it keeps no state of its own and knows nothing of
//! commits, workers, slices or the job's operators.

use differential_dataflow::difference::{IsZero, Semigroup};
use differential_dataflow::{AsCollection, ExchangeData, Hashable, VecCollection};
use schemas::hash::KeyHash;
use schemas::windows::Windows;
use serde::{Deserialize, Serialize};
use timely::dataflow::operators::vec::Map;

use super::Part;

/// Everything happens at one time, `END`: the log up to the commit. But for the events, which come
/// in shares of their ids, one share after the other, so that only one of them is taken apart at a
/// time: what all events come to before it is added up would be many times as large as they are.
pub(super) type Time = u64;
/// The number of shares, and the time of what they come to.
pub(super) const END: Time = 32;
/// A collection of this program.
pub(super) type Collection<'s, D> = VecCollection<'s, Time, D, isize>;

/// When an event is taken apart: by bits of its id that neither a pass nor a worker goes by, the
/// same for all of its copies.
pub(super) fn share(id: KeyHash) -> Time {
    (id.lo >> 32) % END
}

/// An event, as far as counting depends on it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(super) struct Event {
    /// When it happened.
    pub(super) ts_ms: i64,
    /// A hash of all its tags, of which a pass may not see all: two copies may differ in another.
    pub(super) digest: u64,
    /// For each of its tags, in each of its scopes: the key, and the spelling.
    pub(super) uses: Box<[(KeyHash, Box<str>)]>,
}

/// The copies of an event: the least of them, and whether there is another that differs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Copies {
    pub(super) event: Event,
    pub(super) differ: bool,
}

impl IsZero for Copies {
    fn is_zero(&self) -> bool {
        false
    }
}

impl Semigroup for Copies {
    fn plus_equals(&mut self, more: &Self) {
        self.differ |= more.differ || more.event != self.event;
        if more.event < self.event {
            self.event.clone_from(&more.event);
        }
    }
}

/// One thing that is true of a commit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(super) enum Fact {
    /// A tag's row, but for its buckets.
    Row { key: KeyHash, total: i64, first_ms: i64, last_ms: i64, display: Box<str> },
    /// The posts of a tag in one bucket of one window. `start` is in slides since 1970.
    Bucket { key: KeyHash, window: u8, start: i64, count: i64 },
    /// An id that is remembered.
    Id(KeyHash),
    /// A tag's row whose scope or key is not what its hash stands for. Never recomputed.
    Misnamed(KeyHash),
    /// An event whose copies differ.
    Ambiguous(KeyHash),
}

/// A tag's posts: how many, the first with its spelling, the last.
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
    /// The keys that are compared.
    pub(super) part: Part,
}

impl Kept {
    /// The buckets that a post at `ts_ms` counts in, now or once stream time has come to them: one
    /// of each window whose end it is not behind.
    pub(super) fn buckets(&self, ts_ms: i64) -> impl Iterator<Item = (u8, i64)> + '_ {
        let ts_ms = ts_ms.max(0);
        self.windows.iter().enumerate().filter_map(move |(i, window)| {
            let (bucket, last) = (ts_ms / window.slide_ms, self.as_of_ms / window.slide_ms);
            let live = bucket > last - window.duration_ms / window.slide_ms;
            live.then_some((i as u8, bucket))
        })
    }

    /// Whether the id of an event at `ts_ms` is remembered.
    fn is_remembered(&self, id: KeyHash, ts_ms: i64) -> bool {
        self.part.has(id) && ts_ms.max(0) / 3_600_000 >= self.first_hour
    }
}

/// Every record once, with what its differences add up to.
fn sums<'s, D, R>(of: VecCollection<'s, Time, D, R>) -> Collection<'s, (D, R)>
where
    D: ExchangeData + Hashable,
    R: ExchangeData + Semigroup,
{
    of.consolidate().inner.map(|(data, time, sum)| ((data, sum), time, 1)).as_collection()
}

/// What differs between `stored` and what `events` (the copies of each under its id, at its
/// [`share`]) and `as_is` (counted without a look at their ids) come to: facts that only the first
/// has count 1, those that only the second has −1.
pub(super) fn drift<'s>(
    events: VecCollection<'s, Time, KeyHash, Copies>,
    as_is: Collection<'s, Event>,
    stored: Collection<'s, Fact>,
    kept: &Kept,
) -> Collection<'s, Fact> {
    let first = sums(events).delay(|_| END);
    let doubtful = first.clone().filter(|(_, copies)| copies.differ);
    let remember = kept.clone();
    let ids = first.clone().filter(move |(id, of)| remember.is_remembered(*id, of.event.ts_ms));
    let counted = first.map(|(_, copies)| copies.event).concat(as_is);

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

    let rows = sums(tallies.as_collection()).map(|(key, tally)| {
        let Tally { total, first: (first_ms, display), last_ms } = tally;
        Fact::Row { key, total, first_ms, last_ms, display }
    });
    let buckets = sums(buckets).map(|((key, (window, start)), count)| {
        let count = count as i64;
        Fact::Bucket { key, window, start, count }
    });
    let ids = ids.map(|(id, _)| Fact::Id(id));
    let recomputed = rows.concat(buckets).concat(ids);
    let ambiguous = doubtful.map(|(id, _)| Fact::Ambiguous(id));
    stored.concat(recomputed.negate()).concat(ambiguous).consolidate()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_copies_the_least_counts_in_whatever_order_they_come() {
        let copy = |ts_ms| Copies {
            event: Event { ts_ms, digest: 0, uses: Box::default() },
            differ: false,
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
        assert_eq!((one.event.ts_ms, one.differ), (5, true), "a sum of sums knows of the third");
    }
}
