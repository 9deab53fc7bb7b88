//! The ids of accepted events: an exact set of hashes, dropped hour by hour.
//!
//! Every hour of event time has its own tables. A table is a sorted array with gaps: a hash is in
//! its home, the slot that its value gives, or shortly after it. So a look-up ends at the first
//! larger hash, and growing in small steps keeps an id within 24 bytes. Invariants: hashes ascend
//! in a table; there is no gap between a hash and its home.

use std::collections::BTreeMap;

use prefetch_index::prefetch_index;
use schemas::hash::KeyHash;

/// An hour with more ids than this is split into [`PARTS`] tables, so that none takes long to grow.
const SPLIT_IDS: usize = 1 << 14;
const PARTS: usize = 256;
const EMPTY: Slot = Slot { hi: 0, lo: 0 };

/// A hash, spread over all words, since a worker owns only every `peers`-th bin. The order is that
/// of the hashes, so that loading a segment goes through a table from end to end.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Slot {
    hi: u64,
    lo: u64,
}

impl Slot {
    fn new(hash: KeyHash, peers: u64) -> Self {
        let below_bin = hash.hi - KeyHash::first_of_bin(hash.bin()).hi;
        let first = KeyHash::first_of_bin(hash.bin() / peers).hi;
        // The end of the last bin may wrap around to zero, but collides with nothing there: peers
        // times a number is 2^64 only for a power of two, and then nothing wraps.
        let hi = (first + below_bin).wrapping_mul(peers);
        // All zeros mean an empty slot, so one hash in 2^128 is moved.
        Self { hi, lo: hash.lo | u64::from(hi == 0 && hash.lo == 0) }
    }
}

/// The place of a word in `0..size` if all words are spread evenly.
fn spread(word: u64, size: usize) -> usize {
    ((u128::from(word) * size as u128) >> 64) as usize
}

/// A sorted array with gaps.
#[derive(Default)]
struct Table {
    slots: Vec<Slot>,
    /// The slots that hashes are spread over. A few more follow, for overflow from the last.
    homes: usize,
    ids: usize,
    /// The leading bits that all hashes of the table share.
    shared_bits: u32,
}

impl Table {
    fn home(&self, slot: Slot, homes: usize) -> usize {
        spread(slot.hi << self.shared_bits, homes)
    }

    /// Inserts a hash. Returns false if it was there already.
    fn insert(&mut self, slot: Slot) -> bool {
        loop {
            if let Some(new) = self.try_insert(slot) {
                return new;
            }
            self.grow();
        }
    }

    /// Like [`Self::insert`], but returns `None` if there is no room.
    fn try_insert(&mut self, slot: Slot) -> Option<bool> {
        let mut at = self.home(slot, self.homes);
        while *self.slots.get(at)? < slot && self.slots[at] != EMPTY {
            at += 1;
        }
        if self.slots[at] == slot {
            return Some(false);
        }
        // Up to 85 % full, look-ups end after a few slots.
        if (self.ids + 1) * 20 > self.homes * 17 {
            return None;
        }
        let gap = at + self.slots[at..].iter().position(|s| *s == EMPTY)?;
        self.slots.copy_within(at..gap, at + 1);
        self.slots[at] = slot;
        self.ids += 1;
        Some(true)
    }

    /// Removes a hash. Returns whether it was there. The others are laid out again: this is rare.
    fn remove(&mut self, slot: Slot) -> bool {
        let found = self.iter().any(|known| known == slot);
        if found {
            self.slots = self.laid_out(self.iter().filter(|known| *known != slot), self.homes);
            self.ids -= 1;
        }
        found
    }

    fn grow(&mut self) {
        let homes = self.homes + self.homes / 4 + 4;
        self.slots = self.laid_out(self.iter(), homes);
        self.homes = homes;
    }

    fn laid_out(&self, slots: impl Iterator<Item = Slot>, homes: usize) -> Vec<Slot> {
        let room = homes + homes / 16 + 2;
        let mut grown: Vec<Slot> = Vec::with_capacity(room);
        // Homes ascend as hashes do: each hash goes to its home, or after the one before.
        for slot in slots {
            let home = self.home(slot, homes).max(grown.len());
            grown.resize(home, EMPTY);
            grown.push(slot);
        }
        grown.resize(room.max(grown.len() + 2), EMPTY);
        grown
    }

    fn iter(&self) -> impl Iterator<Item = Slot> + '_ {
        self.slots.iter().copied().filter(|s| *s != EMPTY)
    }

    fn bytes(&self) -> usize {
        self.slots.capacity() * size_of::<Slot>() + size_of::<Self>()
    }
}

/// The ids of one hour: one table, or [`PARTS`] tables by leading bits.
struct Hour {
    tables: Vec<Table>,
}

impl Hour {
    fn with_room(ids: usize) -> Self {
        let parts = if ids > SPLIT_IDS { PARTS } else { 1 };
        // A table grows when it is 85 % full. These begin at 80 %.
        let homes = ids / parts * 5 / 4 + 4;
        let shared_bits = parts.trailing_zeros();
        let table = Table { homes, shared_bits, ..Table::default() };
        let slots = || table.laid_out(std::iter::empty(), homes);
        let tables = std::iter::repeat_with(|| Table { slots: slots(), ..table });
        Self { tables: tables.take(parts).collect() }
    }

    fn insert(&mut self, slot: Slot) -> bool {
        if let [only] = self.tables.as_slice()
            && only.ids >= SPLIT_IDS
        {
            self.split();
        }
        let part = spread(slot.hi, self.tables.len());
        self.tables[part].insert(slot)
    }

    fn remove(&mut self, slot: Slot) -> bool {
        let part = spread(slot.hi, self.tables.len());
        self.tables[part].remove(slot)
    }

    fn split(&mut self) {
        let shared_bits = PARTS.trailing_zeros();
        let parts = std::iter::repeat_with(|| Table { shared_bits, ..Table::default() });
        let whole = std::mem::replace(&mut self.tables, parts.take(PARTS).collect());
        for slot in whole.iter().flat_map(Table::iter) {
            self.tables[spread(slot.hi, PARTS)].insert(slot);
        }
    }
}

/// The ids of one worker's bins, for all hours that are remembered.
pub(crate) struct IdSet {
    /// The number of workers.
    peers: u64,
    hours: BTreeMap<u32, Hour>,
}

impl IdSet {
    /// An empty set of one of `peers` workers.
    pub(crate) fn new(peers: usize) -> Self {
        assert!(peers > 0, "a worker is one of at least one");
        Self { peers: peers as u64, hours: BTreeMap::new() }
    }

    /// The same, with room for `times` ids for each time an hour occurs in `hours`.
    pub(crate) fn with_room(peers: usize, hours: impl Iterator<Item = u32>, times: usize) -> Self {
        let mut ids = BTreeMap::<u32, usize>::new();
        hours.for_each(|hour| *ids.entry(hour).or_default() += times);
        let hours = ids.into_iter().map(|(hour, ids)| (hour, Hour::with_room(ids))).collect();
        Self { peers: peers as u64, hours }
    }

    /// Inserts an id of an hour. Returns false if it was there.
    pub(crate) fn insert(&mut self, hour: u32, id: KeyHash) -> bool {
        let empty = || Hour { tables: vec![Table::default()] };
        self.hours.entry(hour).or_insert_with(empty).insert(Slot::new(id, self.peers))
    }

    /// Fetches what [`Self::insert`] will read, so that look-ups need not wait for one another.
    pub(crate) fn prefetch(&self, hour: u32, id: KeyHash) {
        let Some(Hour { tables }) = self.hours.get(&hour) else { return };
        let slot = Slot::new(id, self.peers);
        let table = &tables[spread(slot.hi, tables.len())];
        prefetch_index(&table.slots, table.home(slot, table.homes));
    }

    /// Removes an id of an hour. Returns whether it was there.
    pub(crate) fn remove(&mut self, hour: u32, id: KeyHash) -> bool {
        let slot = Slot::new(id, self.peers);
        self.hours.get_mut(&hour).is_some_and(|hour| hour.remove(slot))
    }

    /// Forgets all hours before `hour`.
    pub(crate) fn forget_before(&mut self, hour: u32) {
        self.hours = self.hours.split_off(&hour);
    }

    /// The number of ids.
    pub(crate) fn len(&self) -> usize {
        self.tables().map(|t| t.ids).sum()
    }

    /// The memory they take.
    pub(crate) fn bytes(&self) -> usize {
        self.tables().map(Table::bytes).sum()
    }

    fn tables(&self) -> impl Iterator<Item = &Table> {
        self.hours.values().flat_map(|hour| &hour.tables)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;
    use schemas::hash::HashKey;

    use super::*;

    proptest! {
        #[test]
        fn ids_equal_a_set(
            ids in proptest::collection::vec((0_u32..3, 0_u64..40, 0_u64..3), 0..400),
        ) {
            let (mut set, mut want) = (IdSet::new(1), HashSet::new());
            for (hour, hi, lo) in ids {
                // Few distinct words, all at the low end, so that runs are long.
                let id = KeyHash { hi: hi / 2, lo };
                let key = (hour, id.hi, id.lo.max(u64::from(id.hi == 0)));
                if lo == 2 {
                    prop_assert_eq!(set.remove(hour, id), want.remove(&key));
                    continue;
                }
                prop_assert_eq!(set.insert(hour, id), want.insert(key));
            }
            prop_assert_eq!(set.len(), want.len());
            set.forget_before(1);
            prop_assert_eq!(set.len(), want.iter().filter(|(hour, ..)| *hour >= 1).count());
        }
    }

    #[test]
    fn ids_stay_distinct_with_any_number_of_workers() {
        let hasher = HashKey::new(3).hasher();
        for peers in [1, 2, 3, 6, 1000] {
            // Too little room for one hour, and too much for the other.
            let mut set = IdSet::with_room(peers, [1, 1, 2].into_iter(), 9000);
            let any = (0..60_000_u32).map(|i| hasher.event(0, &i.to_string()));
            let last = (0..2000).map(|i| KeyHash { hi: u64::MAX - i / 2, lo: i });
            // Without the one that is moved because it looks like a gap.
            let first = (1..2000).map(|i| KeyHash { hi: i / 2, lo: i + 1 });
            let mine = |id: &KeyHash| id.bin() as usize % peers == 1023 % peers;
            let ids: Vec<_> = any.chain(last).chain(first).filter(mine).collect();
            assert!(ids.iter().all(|id| set.insert(1, *id)), "{peers} workers");
            assert!(ids.iter().all(|id| !set.insert(1, *id) && set.insert(2, *id)));
            assert_eq!(set.len(), 2 * ids.len());
        }
    }

    #[test]
    fn many_ids_take_at_most_24_bytes_each() {
        let hasher = HashKey::new(9).hasher();
        let id = |i: u32| hasher.event(0, &i.to_string());
        let mut set = IdSet::new(2);
        let mut most = 0.0_f64;
        for i in 0..400_000 {
            // Every other bin, as one of two workers owns them.
            let id = id(i);
            if id.bin() % 2 == 0 {
                assert!(set.insert(7, id));
                if i > 50_000 && i % 1000 == 0 {
                    most = most.max(set.bytes() as f64 / set.len() as f64);
                }
            }
        }
        assert!((0..400_000).map(id).filter(|id| id.bin() % 2 == 0).all(|id| !set.insert(7, id)));
        let mean = set.bytes() as f64 / set.len() as f64;
        assert!(mean <= 24.0 && most <= 25.0, "{mean} bytes an id, {most} at most");
    }
}
