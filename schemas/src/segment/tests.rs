//! Tests of segments: codecs, merges and damage.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::hash::BINS;
use crate::rows::{IdRow, Ids, TagRow, Tags};

fn ids(rows: &[(u64, u32)]) -> Bytes {
    let mut all = Rows::<Ids>::default();
    for (key, hour) in rows {
        let hash = KeyHash { hi: *key, lo: !*key };
        all.push(hash, &IdRow { hash, hour: *hour, forgotten: false });
    }
    let mut out = Vec::new();
    all.encode(&mut out).unwrap();
    Bytes::from(out)
}

#[test]
fn large_segment_finds_exactly_its_rows() {
    let rows: Vec<_> = (0..150_000_u64).map(|i| (i * 2, i as u32)).rev().collect();
    let segment = Segment::<Ids>::open(ids(&rows)).unwrap();
    assert_eq!((segment.len(), segment.batches.len()), (150_000, 3));
    for (key, hour) in &rows {
        let hash = KeyHash { hi: *key, lo: !*key };
        assert_eq!(segment.get(hash), Some(IdRow { hash, hour: *hour, forgotten: false }));
        assert_eq!(segment.get(KeyHash { hi: key + 1, lo: 0 }), None);
        assert_eq!(segment.get(KeyHash { hi: *key, lo: 0 }), None);
    }
    assert!(segment.hashes().is_sorted());
}

#[test]
fn tag_rows_read_back_the_same() {
    let (recent, hash) = ([1, 2, 3], KeyHash { hi: 1, lo: 2 });
    let row = TagRow {
        scope: "region=eu",
        tag: "çok",
        display: "Çok",
        total: -1,
        recent: &recent,
        first_seen: 1,
        last_seen: 2,
        as_of: 3,
        commit: 4,
    };
    let mut rows = Rows::<Tags>::default();
    rows.push(hash, &row);
    let mut out = Vec::new();
    rows.encode(&mut out).unwrap();
    let segment = Segment::<Tags>::open(Bytes::from(out)).unwrap();
    assert_eq!(segment.get(hash), Some(row));
    assert!(matches!(Segment::<Tags>::open(ids(&[(1, 1)])), Err(SegmentError::Schema)));
}

#[test]
fn empty_segment_opens() {
    let segment = Segment::<Ids>::open(ids(&[])).unwrap();
    assert!(segment.is_empty() && segment.get(KeyHash::default()).is_none());
}

#[test]
fn damaged_segments_never_panic() {
    let whole = ids(&[(1, 1), (2, 2), (3, 3)]);
    for end in 0..whole.len() {
        assert!(Segment::<Ids>::open(whole.slice(..end)).is_err(), "cut at {end}");
    }
    for at in 0..whole.len() {
        for bit in [0, 3, 7] {
            let mut bytes = whole.to_vec();
            bytes[at] ^= 1 << bit;
            if let Ok(segment) = Segment::<Ids>::open(Bytes::from(bytes)) {
                segment.iter().for_each(drop);
            }
        }
    }
}

proptest! {
    #[test]
    fn merge_equals_a_map(
        parts in vec(vec((0_u64..40, 0_u32..100), 0..30), 1..6),
        floor in 0_u32..100,
    ) {
        let mut newest = BTreeMap::new();
        let mut segments = Vec::new();
        for part in &parts {
            let unique: BTreeMap<_, _> = part.iter().copied().collect();
            let rows: Vec<_> = unique.iter().map(|(k, v)| (*k, *v)).collect();
            segments.push(Segment::<Ids>::open(ids(&rows)).unwrap());
            newest.extend(unique);
        }
        let merge = || Merge::new(segments.iter().collect());
        let walked: Vec<_> = merge().map(|(h, r)| (h.hi, r.hour)).collect();
        prop_assert_eq!(walked, newest.clone().into_iter().collect::<Vec<_>>());
        let after = KeyHash { hi: u64::from(floor) / 2, lo: !(u64::from(floor) / 2) };
        let later = Merge::new(segments.iter().collect()).after(after).map(|(h, _)| h.hi);
        let want = newest.keys().copied().filter(|k| *k > after.hi).collect::<Vec<_>>();
        prop_assert_eq!(later.collect::<Vec<_>>(), want);

        let mut out = Vec::new();
        let rows = merge().encode(floor, &mut out).unwrap();
        newest.retain(|_, hour| *hour >= floor);
        let merged = Segment::<Ids>::open(Bytes::from(out)).unwrap();
        prop_assert_eq!(rows, newest.len());
        let merged: Vec<_> = merged.iter().map(|(h, r)| (h.hi, r.hour)).collect();
        prop_assert_eq!(merged, newest.into_iter().collect::<Vec<_>>());
    }
}

#[test]
fn bins_partition_a_merge() {
    // Several batches, with bins that span two of them and empty bins at both ends.
    let key = |i: u64| (3 << 54) + (i + 7) * (1 << 42);
    let rows: Vec<_> = (0..2 * BATCH_ROWS as u64 + 99).map(|i| (key(i), 1)).collect();
    let newer: Vec<_> = rows.iter().step_by(5).map(|(key, _)| (key + 1, 2)).collect();
    let segments = [&rows, &newer].map(|rows| Segment::<Ids>::open(ids(rows)).unwrap());
    let merge = || Merge::new(segments.iter().collect());
    let walk: Vec<_> = merge().map(|(hash, row)| (hash, row.hour)).collect();
    assert!(walk.len() == rows.len() + newer.len() && walk[walk.len() - 1].0.bin() < BINS - 1);
    let parts = (0..BINS).flat_map(|bin| merge().bin(bin)).map(|(hash, row)| (hash, row.hour));
    assert_eq!(parts.collect::<Vec<_>>(), walk);
    for segment in &segments {
        let parts = (0..BINS).flat_map(|bin| segment.bin(bin)).map(|(hash, _)| hash);
        assert_eq!(parts.collect::<Vec<_>>(), segment.hashes().collect::<Vec<_>>());
    }
}
