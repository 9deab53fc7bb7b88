//! Tests of segments: codecs, merges and damage.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::hash::BINS;
use crate::rows::{DeadLetterRow, DeadLetters, IdRow, Ids, TagRow, Tags};

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
            for (key, hour) in unique {
                let latest = newest.entry(key).or_insert(hour);
                *latest = hour.max(*latest);
            }
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
fn merge_keeps_the_latest_hour_of_an_id_that_is_not_forgotten() {
    /// An hour, and whether the id is forgotten.
    type Row = (u32, bool);
    let hash = KeyHash { hi: 1, lo: 1 };
    let cases: [(&[Row], Row); 5] = [
        (&[(1, false), (3, false)], (3, false)),
        (&[(3, false), (1, false)], (3, false)),
        (&[(3, false), (1, false), (2, false)], (3, false)),
        (&[(3, false), (3, true)], (3, true)),
        (&[(3, false), (3, true), (1, false)], (1, false)),
    ];
    for (rows, (hour, forgotten)) in cases {
        let segment = |(hour, forgotten): &Row| {
            let mut rows = Rows::<Ids>::default();
            rows.push(hash, &IdRow { hash, hour: *hour, forgotten: *forgotten });
            let mut out = Vec::new();
            rows.encode(&mut out).unwrap();
            Segment::<Ids>::open(Bytes::from(out)).unwrap()
        };
        let segments: Vec<_> = rows.iter().map(segment).collect();
        let merged: Vec<_> = Merge::new(segments.iter().collect()).map(|(_, row)| row).collect();
        assert_eq!(merged, [IdRow { hash, hour, forgotten }], "{rows:?}");
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

/// Dead letters with records of these sizes, at these positions.
fn dead(sizes: &BTreeMap<u64, usize>, limits: Limits) -> Segment<DeadLetters> {
    let mut rows = Rows::<DeadLetters>::limited(limits);
    for (position, bytes) in sizes.iter().rev() {
        let raw = vec![*position as u8; *bytes];
        rows.push(KeyHash { hi: *position, lo: 0 }, &dead_letter(*position, &raw));
    }
    let mut out = Vec::new();
    rows.encode(&mut out).unwrap();
    Segment::open(Bytes::from(out)).unwrap()
}

fn dead_letter(position: u64, raw: &[u8]) -> DeadLetterRow<'_> {
    let (input, partition, reason, detail) = ("i", "p", "not_json", "");
    let bytes = raw.len() as u64;
    DeadLetterRow { input, partition, position, reason, detail, raw, commit: 1, bytes }
}

/// Checks that a segment has exactly these records, in batches within the limits.
fn check(segment: &Segment<DeadLetters>, sizes: &BTreeMap<u64, usize>, limits: Limits) {
    let found = segment.iter().map(|(hash, row)| {
        assert_eq!(row, dead_letter(hash.hi, &vec![hash.hi as u8; row.raw.len()]));
        (hash.hi, row.raw.len())
    });
    assert_eq!(found.collect::<BTreeMap<_, _>>(), *sizes);
    assert_eq!(segment.len(), sizes.len());
    for batch in &segment.batches {
        let texts = TextSizes::of(&batch.record);
        let bytes: usize = (0..batch.hi.len()).map(|i| texts.of_row(i)).sum();
        let rows = batch.hi.len();
        assert!(rows <= limits.batch_rows && (rows == 1 || bytes <= limits.batch_bytes));
    }
    for position in sizes.keys() {
        assert!(segment.get(KeyHash { hi: *position, lo: 0 }).is_some());
    }
}

proptest! {
    #[test]
    fn batches_are_cut_by_rows_and_by_bytes_when_written_and_when_merged(
        parts in vec(vec((0_u64..60, 0_usize..200), 0..40), 1..5),
        batch_rows in 1_usize..20,
        batch_bytes in 1_usize..500,
        part_bytes in 1_usize..500,
    ) {
        let limits = Limits { batch_rows, batch_bytes, part_bytes };
        let (mut newest, mut segments) = (BTreeMap::new(), Vec::new());
        for part in parts {
            let sizes: BTreeMap<u64, usize> = part.into_iter().collect();
            let segment = dead(&sizes, limits);
            check(&segment, &sizes, limits);
            segments.push(segment);
            newest.extend(sizes);
        }
        let mut out = Vec::new();
        let merge = Merge { limits, ..Merge::new(segments.iter().collect()) };
        merge.encode(0, &mut out).unwrap();
        check(&Segment::open(Bytes::from(out)).unwrap(), &newest, limits);
    }
}

#[test]
fn large_rows_are_written_and_merged_in_small_batches() {
    let sizes = |from: u64| (from..from + 700).map(|i| (i, 64 * 1024)).collect::<BTreeMap<_, _>>();
    let (old, new) = (dead(&sizes(0), LIMITS), dead(&sizes(350), LIMITS));
    let mut out = Vec::new();
    Merge::new(vec![&old, &new]).encode(0, &mut out).unwrap();
    let merged = Segment::<DeadLetters>::open(Bytes::from(out)).unwrap();
    let all = sizes(0).into_iter().chain(sizes(350)).collect();
    check(&merged, &all, LIMITS);
    assert!(old.batches.len() >= 3 && merged.batches.len() >= 4, "several batches a file");
}

#[test]
fn files_of_older_builds_lack_the_size_of_dead_letters() {
    let row = dead_letter(7, b"{");
    let mut rows = Rows::<DeadLetters>::default();
    rows.push(KeyHash { hi: 7, lo: 0 }, &row);
    let mut out = Vec::new();
    rows.encode(&mut out).unwrap();
    let whole = Segment::<DeadLetters>::open(Bytes::from(out)).unwrap();
    let record = &whole.batches[0].record;
    let columns: Vec<usize> = (0..record.num_columns() - 1).collect();
    let older = record.project(&columns).unwrap();
    let write = |record: &RecordBatch| {
        let mut out = Vec::new();
        let mut writer = FileWriter::try_new(&mut out, &record.schema()).unwrap();
        writer.write(record).unwrap();
        writer.finish().unwrap();
        drop(writer);
        Segment::<DeadLetters>::open(Bytes::from(out))
    };
    let opened = write(&older).unwrap();
    let read = opened.get(KeyHash { hi: 7, lo: 0 }).unwrap();
    assert_eq!(read, DeadLetterRow { bytes: 0, ..row });
    assert!(!read.is_cut() && read.size() == 1);
    let without_commit = record.project(&columns[..columns.len() - 1]).unwrap();
    assert!(matches!(write(&without_commit), Err(SegmentError::Schema)));
    // They are merged with those of this build.
    let mut out = Vec::new();
    Merge::new(vec![&opened, &whole]).encode(0, &mut out).unwrap();
    assert_eq!(Segment::<DeadLetters>::open(Bytes::from(out)).unwrap().len(), 1);
}
