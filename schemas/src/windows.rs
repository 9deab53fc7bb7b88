//! Sliding windows over buckets of event time. They are exact, and need no writes as time passes.
//!
//! A window of 1 h that slides by 1 m covers, at `as_of`, the 60 buckets of a minute up to the one
//! with `as_of`. A tag keeps one list of buckets: fine ones for the shortest window, coarser ones
//! before that, and none older than the longest window. The width of a bucket follows from its
//! start and from the `as_of` at which the list was last folded, so it is not stored. Invariant:
//! for every window and any `as_of` not before the last fold, [`Buckets::sum`] equals the number
//! of events in the window.

use std::ops::Range;

use prefetch_index::prefetch_index;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use thiserror::Error;

use crate::planted::{Bug, planted};
use crate::time::{format_duration_ms, parse_duration_ms};

/// How much longer than their window buckets are kept.
const SLACK_MS: i64 = 15 * 60_000;

/// One sliding window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// How far it reaches back.
    pub duration_ms: i64,
    /// The width of its buckets, and thus the step by which it moves.
    pub slide_ms: i64,
}

impl Window {
    /// Its name in answers and boards: its duration, such as `1h`.
    pub fn name(self) -> String {
        format_duration_ms(self.duration_ms)
    }
}

/// The windows of a job, one to four, from the shortest to the longest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Window>", into = "Vec<Window>")]
pub struct Windows {
    windows: Vec<Window>,
}

/// Why windows are invalid, alone or together.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum WindowsError {
    /// There are none, or more than four.
    #[error("{0} windows; one to four can be kept")]
    Number(usize),
    /// The slide does not fit the duration.
    #[error("window {0}: its duration must be a multiple of its slide, which is at least 1s")]
    Slide(String),
    /// The slides do not fit each other, or two durations are equal.
    #[error("windows {0} and {1}: the longer one's slide must be a multiple of the shorter one's")]
    Order(String, String),
}

impl Default for Windows {
    /// 1 h that slides by 1 m, and 24 h that slide by 10 m.
    fn default() -> Self {
        let minute = 60_000;
        Self {
            windows: vec![
                Window { duration_ms: 60 * minute, slide_ms: minute },
                Window { duration_ms: 1440 * minute, slide_ms: 10 * minute },
            ],
        }
    }
}

impl From<Windows> for Vec<Window> {
    fn from(windows: Windows) -> Self {
        windows.windows
    }
}

impl TryFrom<Vec<Window>> for Windows {
    type Error = WindowsError;

    fn try_from(mut windows: Vec<Window>) -> Result<Self, WindowsError> {
        if windows.is_empty() || windows.len() > 4 {
            return Err(WindowsError::Number(windows.len()));
        }
        windows.sort_by_key(|w| w.duration_ms);
        for w in &windows {
            if w.slide_ms < 1000 || w.duration_ms < w.slide_ms || w.duration_ms % w.slide_ms != 0 {
                return Err(WindowsError::Slide(w.name()));
            }
        }
        for pair in windows.windows(2) {
            let (short, long) = (pair[0], pair[1]);
            if short.duration_ms == long.duration_ms || long.slide_ms % short.slide_ms != 0 {
                return Err(WindowsError::Order(short.name(), long.name()));
            }
        }
        Ok(Self { windows })
    }
}

impl Windows {
    /// The windows, from the shortest to the longest.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Window> + '_ {
        self.windows.iter().copied()
    }

    /// The windows, prepared for arithmetic.
    pub fn tiers(&self) -> Tiers {
        let unit_ms = self.windows[0].slide_ms;
        let slots = |ms: i64| (ms / unit_ms) as u32;
        let tiers = self.windows.iter().enumerate().map(|(i, w)| Tier {
            slide: slots(w.slide_ms),
            duration: slots(w.duration_ms),
            kept: slots(w.duration_ms + SLACK_MS + unit_ms - 1),
            align: slots(self.windows.get(i + 1).unwrap_or(w).slide_ms),
        });
        Tiers { unit_ms, tiers: tiers.collect() }
    }
}

/// The index of the window with the name `name`, such as `1h`, if there is one.
pub fn window_named(windows: &Windows, name: &str) -> Option<usize> {
    let duration_ms = parse_duration_ms(name).ok()?;
    windows.iter().position(|w| w.duration_ms == duration_ms)
}

/// A window in slots of the finest slide.
#[derive(Clone, Copy, Debug)]
struct Tier {
    /// The width of its buckets.
    slide: u32,
    duration: u32,
    /// How far back its buckets are kept.
    kept: u32,
    /// The width that older buckets are folded into. The border between both is a multiple of it.
    align: u32,
}

/// [`Windows`] in slots of the finest slide, shared by all tags. There is at least one.
#[derive(Clone, Debug)]
pub struct Tiers {
    unit_ms: i64,
    tiers: SmallVec<[Tier; 2]>,
}

impl Tiers {
    /// The slot of a time.
    pub fn slot(&self, ms: i64) -> u32 {
        (ms.max(0) / self.unit_ms) as u32
    }

    /// The number of windows.
    pub fn len(&self) -> usize {
        self.tiers.len()
    }

    /// Whether there are no windows, which is never the case.
    pub fn is_empty(&self) -> bool {
        self.tiers.is_empty()
    }

    /// The start of the bucket of `slot` in a list folded at `as_of`, or `None` if it is not kept.
    fn start(&self, slot: u32, as_of: u32) -> Option<u32> {
        let tier = self.tiers.iter().find(|t| slot >= t.border(as_of))?;
        Some(slot - slot % tier.slide)
    }

    /// The first slot that is kept at `as_of`.
    fn oldest(&self, as_of: u32) -> u32 {
        self.tiers[self.tiers.len() - 1].border(as_of)
    }
}

impl Tier {
    fn border(&self, as_of: u32) -> u32 {
        let slot = as_of.saturating_sub(self.kept);
        slot - slot % self.align
    }
}

/// The number of events in the slots from `start` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bucket {
    start: u32,
    count: u32,
}

/// The buckets of one tag, in ascending order of their starts. Two buckets with one start add up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Buckets {
    /// The slot of `as_of` when the list was last folded.
    folded: u32,
    list: SmallVec<[Bucket; 2]>,
}

/// Why the bytes of a bucket list could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the bucket list is damaged")]
pub struct BucketsError;

impl Buckets {
    /// Adds `count` events at `slot`, unless that is older than the longest window.
    #[inline]
    pub fn add(&mut self, tiers: &Tiers, slot: u32, count: u32) {
        let Some(start) = tiers.start(slot, self.folded) else { return };
        self.insert(Bucket { start, count });
    }

    fn insert(&mut self, new: Bucket) {
        // Events arrive roughly in order, so search from the end.
        let at = self.list.iter().rposition(|b| b.start <= new.start);
        if let Some(i) = at
            && self.list[i].start == new.start
            && let Some(sum) = self.list[i].count.checked_add(new.count)
        {
            self.list[i].count = sum;
            return;
        }
        self.list.insert(at.map_or(0, |i| i + 1), new);
    }

    /// Adds `by` events to the bucket in which `slots` begin, or, if negative, takes them from the
    /// buckets in `slots`, the oldest first. Does nothing for slots older than the longest window.
    pub fn adjust(&mut self, tiers: &Tiers, slots: Range<u32>, by: i64) {
        let Some(start) = tiers.start(slots.start, self.folded) else { return };
        // A bucket holds no more anyway.
        let mut left = u32::try_from(by.unsigned_abs()).unwrap_or(u32::MAX);
        if by > 0 {
            return self.insert(Bucket { start, count: left });
        }
        for bucket in self.list.iter_mut().filter(|b| b.start >= start && b.start < slots.end) {
            let taken = left.min(bucket.count);
            (bucket.count, left) = (bucket.count - taken, left - taken);
        }
        self.list.retain(|bucket| bucket.count > 0);
    }

    /// The start in milliseconds and the count of each bucket, in ascending order.
    pub fn iter(&self, tiers: &Tiers) -> impl Iterator<Item = (i64, i64)> + '_ {
        let unit_ms = tiers.unit_ms;
        self.list.iter().map(move |b| (i64::from(b.start) * unit_ms, i64::from(b.count)))
    }

    /// Moves the list to a later `as_of`: older buckets become coarser, and the oldest are dropped.
    pub fn fold(&mut self, tiers: &Tiers, as_of: u32) {
        if as_of <= self.folded {
            return;
        }
        self.folded = as_of;
        // From here on buckets keep the finest width.
        let finest = tiers.tiers[0].border(as_of);
        if self.list.first().is_some_and(|first| first.start >= finest) {
            return;
        }
        let mut kept = 0;
        for i in 0..self.list.len() {
            let Bucket { start, count } = self.list[i];
            let Some(start) = tiers.start(start, as_of) else { continue };
            if let Some(last) = self.list[..kept].last_mut()
                && last.start == start
                && let Some(sum) = last.count.checked_add(count)
            {
                last.count = sum;
            } else {
                self.list[kept] = Bucket { start, count };
                kept += 1;
            }
        }
        self.list.truncate(kept);
        if self.list.spilled() && self.list.capacity() >= 2 * kept {
            self.list.shrink_to_fit();
        }
    }

    /// Prefetches the end of the list, where the next event is likely to be counted, so that the
    /// memory of several lists is fetched at once.
    #[inline]
    pub fn prefetch(&self) {
        prefetch_index(&self.list, self.list.len().saturating_sub(1));
    }

    /// The count of window `index` at `as_of`, which must not be before the last fold.
    pub fn sum(&self, tiers: &Tiers, index: usize, as_of: u32) -> i64 {
        let Tier { slide, duration, .. } = tiers.tiers[index];
        let late = if planted(Bug::BucketBoundary) { 0 } else { slide };
        let end = as_of - as_of % slide + late;
        let first = end.saturating_sub(duration);
        let in_window = |b: &&Bucket| b.start >= first && b.start < end;
        self.list
            .iter()
            .rev()
            .take_while(|b| b.start >= first)
            .filter(in_window)
            .map(|b| i64::from(b.count))
            .sum()
    }

    /// The most that [`Self::sum`] can be at `as_of` or later if nothing is added. Buckets ahead of
    /// `as_of` will count once it reaches them.
    pub fn most(&self, tiers: &Tiers, index: usize, as_of: u32) -> i64 {
        let Tier { slide, duration, .. } = tiers.tiers[index];
        let first = (as_of - as_of % slide + slide).saturating_sub(duration);
        let live = self.list.iter().rev().take_while(|b| b.start >= first);
        live.map(|b| i64::from(b.count)).sum()
    }

    /// Whether any bucket is still kept at `as_of`.
    pub fn is_live(&self, tiers: &Tiers, as_of: u32) -> bool {
        self.list.last().is_some_and(|b| b.start >= tiers.oldest(as_of))
    }

    /// The size of the list outside its own struct, in bytes.
    #[inline]
    pub fn heap_bytes(&self) -> usize {
        if self.list.spilled() { self.list.capacity() * size_of::<Bucket>() } else { 0 }
    }

    /// Appends the encoded list to `out`, relative to the slot it was folded at.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut before = i64::from(self.folded);
        for (i, bucket) in self.list.iter().enumerate() {
            let delta = i64::from(bucket.start) - before;
            // The first may be on either side of as_of; each later one is after the one before.
            let code = if i == 0 { (delta << 1) ^ (delta >> 63) } else { delta };
            varint(code as u64, out);
            varint(u64::from(bucket.count), out);
            before = i64::from(bucket.start);
        }
    }

    /// Decodes what [`Self::encode`] wrote for a list folded at slot `folded`.
    pub fn decode(folded: u32, mut bytes: &[u8]) -> Result<Self, BucketsError> {
        // A bucket has two numbers, and only the last byte of a number is below 0x80.
        let ends = bytes.iter().filter(|byte| **byte < 0x80).count();
        let mut list: SmallVec<[Bucket; 2]> = SmallVec::with_capacity(ends / 2);
        let mut before = i64::from(folded);
        while !bytes.is_empty() {
            let code = read_varint(&mut bytes)? as i64;
            let delta = if list.is_empty() { (code >> 1) ^ -(code & 1) } else { code };
            let start = before.checked_add(delta).ok_or(BucketsError)?;
            let count = u32::try_from(read_varint(&mut bytes)?).map_err(|_| BucketsError)?;
            let bucket = Bucket { start: u32::try_from(start).map_err(|_| BucketsError)?, count };
            if list.last().is_some_and(|last| last.start > bucket.start) {
                return Err(BucketsError);
            }
            list.push(bucket);
            before = start;
        }
        Ok(Self { folded, list })
    }
}

/// Writes a number as LEB128, the low seven bits first.
fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn read_varint(bytes: &mut &[u8]) -> Result<u64, BucketsError> {
    let mut value = 0;
    for shift in (0..63).step_by(7) {
        let (first, rest) = bytes.split_first().ok_or(BucketsError)?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(BucketsError)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// The count by definition: every event on its own, without folding or slots.
    fn naive(events: &[i64], window: Window, as_of: i64) -> i64 {
        let last = as_of / window.slide_ms;
        let buckets = window.duration_ms / window.slide_ms;
        let inside = |ts: &&i64| {
            let bucket = **ts / window.slide_ms;
            bucket <= last && bucket > last - buckets
        };
        events.iter().filter(inside).count() as i64
    }

    fn any_windows() -> impl Strategy<Value = Windows> {
        let of = |list: &[(i64, i64)]| {
            let window =
                |&(d, s): &(i64, i64)| Window { duration_ms: d * 1000, slide_ms: s * 1000 };
            Windows::try_from(list.iter().map(window).collect::<Vec<_>>()).unwrap()
        };
        prop_oneof![
            Just(Windows::default()),
            Just(of(&[(60, 1), (600, 60), (86_400, 3600)])),
            Just(of(&[(600, 60)])),
            Just(of(&[(3600, 3600), (7200, 3600)])),
        ]
    }

    proptest! {
        #[test]
        fn sums_equal_the_naive_count(
            windows in any_windows(),
            mut steps in vec((0_i64..200_000, -90_000_i64..9_000, any::<bool>()), 1..120),
        ) {
            let tiers = windows.tiers();
            let (mut buckets, mut events) = (Buckets::default(), Vec::new());
            let mut as_of = 1_700_000_000_000;
            steps[0].2 = true;
            for (forward_s, offset_s, fold) in steps {
                as_of += forward_s * if fold { 1000 } else { 10 };
                if fold {
                    buckets.fold(&tiers, tiers.slot(as_of));
                    let mut bytes = Vec::new();
                    buckets.encode(&mut bytes);
                    prop_assert_eq!(&Buckets::decode(tiers.slot(as_of), &bytes).unwrap(), &buckets);
                }
                let ts = as_of + offset_s * 1000;
                events.push(ts);
                buckets.add(&tiers, tiers.slot(ts), 1);
                for (i, window) in windows.iter().enumerate() {
                    for later in [0, 61_000, 4_000_000, 90_000_000] {
                        let at = as_of + later;
                        let want = naive(&events, window, at);
                        let sum = buckets.sum(&tiers, i, tiers.slot(at));
                        prop_assert_eq!(sum, want, "window {} at +{}", i, later);
                        prop_assert!(want == 0 || buckets.is_live(&tiers, tiers.slot(at)));
                        prop_assert!(want <= buckets.most(&tiers, i, tiers.slot(as_of)));
                    }
                    let ahead = |ts: &&i64| **ts / window.slide_ms > as_of / window.slide_ms;
                    let ahead = events.iter().filter(ahead).count() as i64;
                    let most = naive(&events, window, as_of) + ahead;
                    prop_assert_eq!(buckets.most(&tiers, i, tiers.slot(as_of)), most);
                }
            }
        }

        #[test]
        fn decoding_never_panics(bytes in vec(any::<u8>(), 0..64)) {
            let _ = Buckets::decode(1_000_000, &bytes);
        }
    }

    #[test]
    fn full_bucket_continues_in_another() {
        let tiers = Windows::default().tiers();
        let mut buckets = Buckets::default();
        let slot = tiers.slot(1_700_000_000_000);
        buckets.fold(&tiers, slot);
        buckets.add(&tiers, slot, u32::MAX);
        buckets.add(&tiers, slot, 2);
        assert_eq!(buckets.sum(&tiers, 0, slot), i64::from(u32::MAX) + 2);
    }

    #[test]
    fn windows_must_fit_each_other() {
        let of = |list: &[(i64, i64)]| {
            let window = |&(d, s): &(i64, i64)| Window { duration_ms: d, slide_ms: s };
            Windows::try_from(list.iter().map(window).collect::<Vec<_>>())
        };
        assert_eq!(of(&[]), Err(WindowsError::Number(0)));
        assert!(matches!(of(&[(3_600_000, 7000)]), Err(WindowsError::Slide(_))));
        assert!(matches!(of(&[(60_000, 2000), (120_000, 3000)]), Err(WindowsError::Order(..))));
        let names: Vec<_> = Windows::default().iter().map(Window::name).collect();
        assert_eq!(names, ["1h", "24h"]);
        assert_eq!(window_named(&Windows::default(), "24h"), Some(1));
    }

    #[test]
    fn rare_tag_needs_no_heap() {
        assert!(size_of::<Buckets>() <= 32);
        let tiers = Windows::default().tiers();
        let mut buckets = Buckets::default();
        buckets.add(&tiers, 5, 1);
        buckets.add(&tiers, 6, 1);
        assert_eq!(buckets.heap_bytes(), 0);
    }
}
