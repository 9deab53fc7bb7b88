//! The ids of accepted events: a map from hashes to the latest hour that copies of the event claim.
//!
//! Ids lie in tables by hash, whatever their hours. A table is a sorted array with gaps: a hash is
//! in its home, the slot that its value gives, or shortly after it. So a look-up ends at the first
//! larger hash, and growing in small steps keeps an id within 24 bytes. Ids whose hour has been
//! forgotten leave when a table grows, and in a sweep. Invariants: hashes ascend in a table; there
//! is no gap between a hash and its home; when forgotten ids leave cannot be seen from outside.

use prefetch_index::prefetch_index;
use schemas::hash::KeyHash;

/// A set with more ids than this is split into [`PARTS`] tables, so that none takes long to grow.
const SPLIT_IDS: usize = 1 << 14;
const PARTS: usize = 256;
/// A sweep goes through at least this many slots at a time.
const SWEEP_SLOTS: usize = 1 << 20;
/// A sweep goes through all tables in this many steps at most.
const SWEEP_STEPS: usize = 32;
/// The bits of a slot that hold the hour: up to 2209.
const HOUR_BITS: u32 = 21;
const HOURS: u64 = (1 << HOUR_BITS) - 1;
const EMPTY: Slot = Slot { hi: 0, lo: 0 };

/// 107 bits of a hash, and an hour. The high word is spread over all words, since a worker owns
/// only every `peers`-th bin. The order is that of the hashes, so that loading a segment goes
/// through a table from end to end.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Slot {
    hi: u64,
    lo: u64,
}

impl Slot {
    fn new(hash: KeyHash, hour: u32, peers: u64) -> Self {
        debug_assert!(u64::from(hour) <= HOURS, "hour {hour} has too many bits");
        let below_bin = hash.hi - KeyHash::first_of_bin(hash.bin()).hi;
        let first = KeyHash::first_of_bin(hash.bin() / peers).hi;
        // The end of the last bin may wrap around to zero, but collides with nothing there: peers
        // times a number is 2^64 only for a power of two, and then nothing wraps.
        let hi = (first + below_bin).wrapping_mul(peers);
        let lo = hash.lo & !HOURS;
        // All zeros mean an empty slot, so one hash in 2^107 is moved.
        let moved = u64::from(hi == 0 && lo == 0) << HOUR_BITS;
        Self { hi, lo: lo | moved | u64::from(hour) }
    }

    fn hour(self) -> u32 {
        (self.lo & HOURS) as u32
    }

    /// The hash without the hour.
    fn key(self) -> (u64, u64) {
        (self.hi, self.lo & !HOURS)
    }
}

/// The place of a word in `0..size` if all words are spread evenly.
fn spread(word: u64, size: usize) -> usize {
    ((u128::from(word) * size as u128) >> 64) as usize
}

/// A table must grow.
struct NoRoom;

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
    fn with_room(ids: usize, shared_bits: u32) -> Self {
        // A table grows when it is 85 % full. These begin at 80 %.
        let homes = ids * 5 / 4 + 4;
        let mut table = Self { homes, shared_bits, ..Self::default() };
        table.slots = table.laid_out(std::iter::empty(), homes);
        table
    }

    fn home(&self, slot: Slot, homes: usize) -> usize {
        spread(slot.hi << self.shared_bits, homes)
    }

    /// Inserts an id. Returns the hour of the copies before, unless it is before `first_hour`.
    fn insert(&mut self, slot: Slot, first_hour: u32) -> Option<u32> {
        loop {
            if let Ok(known) = self.try_insert(slot, first_hour) {
                return known;
            }
            self.grow(first_hour);
        }
    }

    /// Where the hash of a slot is, or would be. `None` if there is no room.
    fn place(&self, slot: Slot) -> Option<usize> {
        let mut at = self.home(slot, self.homes);
        loop {
            let there = *self.slots.get(at)?;
            if there == EMPTY || there.key() >= slot.key() {
                return Some(at);
            }
            at += 1;
        }
    }

    /// Like [`Self::insert`], unless there is no room.
    fn try_insert(&mut self, slot: Slot, first_hour: u32) -> Result<Option<u32>, NoRoom> {
        let at = self.place(slot).ok_or(NoRoom)?;
        let there = self.slots[at];
        if there.key() == slot.key() {
            let known = Some(there.hour()).filter(|hour| *hour >= first_hour);
            if known.is_none_or(|hour| hour < slot.hour()) {
                self.slots[at] = slot;
            }
            return Ok(known);
        }
        // Up to 85 % full, look-ups end after a few slots.
        if (self.ids + 1) * 20 > self.homes * 17 {
            return Err(NoRoom);
        }
        let gap = self.slots[at..].iter().position(|s| *s == EMPTY);
        let gap = at + gap.ok_or(NoRoom)?;
        self.slots.copy_within(at..gap, at + 1);
        self.slots[at] = slot;
        self.ids += 1;
        Ok(None)
    }

    /// Removes an id. Returns its hour. The others are laid out again: this is rare.
    fn remove(&mut self, slot: Slot) -> Option<u32> {
        let found = self.iter().find(|known| known.key() == slot.key())?;
        self.slots = self.laid_out(self.iter().filter(|known| *known != found), self.homes);
        self.ids -= 1;
        Some(found.hour())
    }

    /// How many of its ids are of hours from `first_hour` on.
    fn remembered(&self, first_hour: u32) -> usize {
        self.iter().filter(|slot| slot.hour() >= first_hour).count()
    }

    /// Makes room: forgotten ids leave, and the table grows unless that is enough.
    fn grow(&mut self, first_hour: u32) {
        let kept = self.remembered(first_hour);
        let is_enough = kept * 20 < self.homes * 14;
        let homes = if is_enough { self.homes } else { self.homes + self.homes / 4 + 4 };
        self.keep(first_hour, kept, homes);
    }

    /// Lets forgotten ids leave if they are many.
    fn sweep(&mut self, first_hour: u32) {
        let kept = self.remembered(first_hour);
        if (self.ids - kept) * 16 > self.ids {
            self.keep(first_hour, kept, (kept * 4 / 3 + 4).min(self.homes));
        }
    }

    fn keep(&mut self, first_hour: u32, kept: usize, homes: usize) {
        let remembered = self.iter().filter(|slot| slot.hour() >= first_hour);
        self.slots = self.laid_out(remembered, homes);
        (self.homes, self.ids) = (homes, kept);
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

/// The ids of one worker's bins that are remembered.
pub(crate) struct IdSet {
    /// The number of workers.
    peers: u64,
    /// One, or [`PARTS`] by the leading bits of hashes.
    tables: Vec<Table>,
    /// Ids of earlier hours are forgotten.
    first_hour: u32,
    /// The table that the sweep goes on with.
    next_sweep: usize,
    /// How many tables may have many forgotten ids.
    to_sweep: usize,
}

impl IdSet {
    /// An empty set of one of `peers` workers.
    pub(crate) fn new(peers: usize) -> Self {
        Self::with_room(peers, 0)
    }

    /// The same, with room for about `ids` ids.
    pub(crate) fn with_room(peers: usize, ids: usize) -> Self {
        assert!(peers > 0, "a worker is one of at least one");
        let parts = if ids > SPLIT_IDS { PARTS } else { 1 };
        let table = || Table::with_room(ids / parts, parts.trailing_zeros());
        Self {
            peers: peers as u64,
            tables: std::iter::repeat_with(table).take(parts).collect(),
            first_hour: 0,
            next_sweep: 0,
            to_sweep: 0,
        }
    }

    /// Inserts an id with the hour that a copy claims. Returns the latest hour that copies claimed
    /// before, or `None` if it was not remembered. It is remembered with the later of both.
    pub(crate) fn insert(&mut self, hour: u32, id: KeyHash) -> Option<u32> {
        if let [only] = self.tables.as_slice()
            && only.ids >= SPLIT_IDS
        {
            self.split();
        }
        let slot = Slot::new(id, hour, self.peers);
        let part = spread(slot.hi, self.tables.len());
        self.tables[part].insert(slot, self.first_hour)
    }

    /// Fetches what [`Self::insert`] will read, so that look-ups need not wait for one another.
    pub(crate) fn prefetch(&self, id: KeyHash) {
        let slot = Slot::new(id, 0, self.peers);
        let table = &self.tables[spread(slot.hi, self.tables.len())];
        prefetch_index(&table.slots, table.home(slot, table.homes));
    }

    /// Removes an id. Returns its hour, or `None` if it was not remembered.
    pub(crate) fn remove(&mut self, id: KeyHash) -> Option<u32> {
        let slot = Slot::new(id, 0, self.peers);
        let part = spread(slot.hi, self.tables.len());
        self.tables[part].remove(slot).filter(|hour| *hour >= self.first_hour)
    }

    fn split(&mut self) {
        let shared_bits = PARTS.trailing_zeros();
        let part = || Table { shared_bits, ..Table::default() };
        let parts = std::iter::repeat_with(part).take(PARTS).collect();
        let whole = std::mem::replace(&mut self.tables, parts);
        for slot in whole.iter().flat_map(Table::iter) {
            self.tables[spread(slot.hi, PARTS)].insert(slot, self.first_hour);
        }
        (self.next_sweep, self.to_sweep) = (0, PARTS);
    }

    /// Forgets all hours before `hour`, and frees some of the memory of forgotten ids.
    pub(crate) fn forget_before(&mut self, hour: u32) {
        if hour > self.first_hour {
            (self.first_hour, self.to_sweep) = (hour, self.tables.len());
        }
        let (mut tables, mut slots) = (self.tables.len().div_ceil(SWEEP_STEPS), 0);
        while self.to_sweep > 0 && (tables > 0 || slots < SWEEP_SLOTS) {
            let table = &mut self.tables[self.next_sweep];
            slots += table.slots.len();
            table.sweep(self.first_hour);
            self.next_sweep = (self.next_sweep + 1) % self.tables.len();
            (self.to_sweep, tables) = (self.to_sweep - 1, tables.saturating_sub(1));
        }
    }

    /// The number of ids, with those that are forgotten but still take memory.
    pub(crate) fn len(&self) -> usize {
        self.tables.iter().map(|table| table.ids).sum()
    }

    /// The memory they take.
    pub(crate) fn bytes(&self) -> usize {
        self.tables.iter().map(Table::bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;
    use schemas::hash::HashKey;

    use super::*;

    proptest! {
        #[test]
        fn ids_equal_a_map(
            ids in proptest::collection::vec((0_u32..6, 0_u64..40, 0_u64..4), 0..600),
        ) {
            let (mut set, mut want, mut first) = (IdSet::new(1), HashMap::new(), 0);
            for (i, (hour, hi, lo)) in ids.into_iter().enumerate() {
                // Few distinct words, all at the low end, so that runs are long.
                let id = KeyHash { hi: hi / 2, lo: lo << HOUR_BITS };
                let key = (id.hi, lo.max(u64::from(id.hi == 0)));
                let known = want.get(&key).copied().filter(|hour| *hour >= first);
                if lo == 3 {
                    prop_assert_eq!(set.remove(id), known);
                    want.remove(&key);
                } else {
                    prop_assert_eq!(set.insert(hour, id), known);
                    want.insert(key, known.unwrap_or(0).max(hour));
                }
                if i % 100 == 99 {
                    first = first.max(hour);
                    set.forget_before(first);
                }
            }
            let remembered = want.values().filter(|hour| **hour >= first).count();
            prop_assert!(set.len() >= remembered);
        }
    }

    #[test]
    fn ids_stay_distinct_with_any_number_of_workers() {
        let hasher = HashKey::new(3).hasher();
        for peers in [1, 2, 3, 6, 1000] {
            // Too little room.
            let mut set = IdSet::with_room(peers, 18_000);
            let any = (0..60_000_u32).map(|i| hasher.event(0, &i.to_string()));
            let last = (0..2000).map(|i| KeyHash { hi: u64::MAX - i / 2, lo: i << HOUR_BITS });
            // Without the one that is moved because it looks like a gap.
            let first = (1..2000).map(|i| KeyHash { hi: i / 2, lo: (i + 1) << HOUR_BITS });
            let mine = |id: &KeyHash| id.bin() as usize % peers == 1023 % peers;
            let ids: Vec<_> = any.chain(last).chain(first).filter(mine).collect();
            assert!(ids.iter().all(|id| set.insert(1, *id).is_none()), "{peers} workers");
            assert!(ids.iter().all(|id| set.insert(2, *id) == Some(1)));
            assert!(ids.iter().all(|id| set.insert(1, *id) == Some(2)));
            assert_eq!(set.len(), ids.len());
        }
    }

    #[test]
    fn any_hour_of_an_event_fits_beside_107_bits_of_a_hash() {
        let last = schemas::rows::hour_of(schemas::time::TS_MS_END - 1);
        assert!(u64::from(last) <= HOURS);
        let (mut set, id) = (IdSet::new(1), KeyHash { hi: u64::MAX, lo: u64::MAX });
        let other = KeyHash { lo: id.lo - (1 << HOUR_BITS), ..id };
        assert_eq!((set.insert(last, id), set.insert(0, other)), (None, None));
        assert_eq!((set.insert(0, id), set.insert(last, other)), (Some(last), Some(0)));
    }

    #[test]
    fn forgotten_ids_leave_and_their_memory_is_used_again() {
        let hasher = HashKey::new(5).hasher();
        let mut set = IdSet::new(1);
        let (mut most, per_hour) = (0.0_f64, 40_000);
        for i in 0..60 * per_hour {
            let hour = i / per_hour;
            assert_eq!(set.insert(hour, hasher.event(0, &i.to_string())), None);
            if i % 5000 == 0 {
                // As at the ends of commits; five hours are remembered.
                set.forget_before(hour.saturating_sub(4));
                if hour >= 5 {
                    most = most.max(set.bytes() as f64 / f64::from(5 * per_hour));
                }
            }
        }
        assert!(most <= 26.0, "{most} bytes for each id that is remembered");
        (0..40).for_each(|_| set.forget_before(1000));
        assert_eq!(set.len(), 0);
        assert!(set.bytes() < 1 << 20, "{} bytes for nothing", set.bytes());
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
                assert_eq!(set.insert(7, id), None);
                if i > 50_000 && i % 1000 == 0 {
                    most = most.max(set.bytes() as f64 / set.len() as f64);
                }
            }
        }
        let mut mine = (0..400_000).map(id).filter(|id| id.bin() % 2 == 0);
        assert!(mine.all(|id| set.insert(7, id) == Some(7)));
        let mean = set.bytes() as f64 / set.len() as f64;
        assert!(mean <= 24.0 && most <= 25.0, "{mean} bytes an id, {most} at most");
    }
}
