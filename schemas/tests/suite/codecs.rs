//! Codecs: what is written reads back the same, for the rows of every table and for manifests.

use std::io::Cursor;

use arrow_ipc::reader::FileReader;
use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;
use schemas::hash::{HashKey, KeyHash};
use schemas::log_time::LogTime;
use schemas::manifest::{
    Block, Blocks, Body, Counters, Fingerprint, Finished, Header, Manifest, Partition, Position,
    SegmentMeta, checksum, decode, encode,
};
use schemas::rows::{Table, TableName, TableVisitor};
use schemas::segment::{Rows, Segment};
use schemas::windows::Windows;

use crate::common;

/// Any text, with what is special to some format in it.
const TEXT: &str = r#"[\PC\n\r\t "\\{}#=日é]{0,12}"#;

/// Writes random rows of a table and reads them back.
struct RoundTrip<'t> {
    keys: &'t [KeyHash],
    seed: u64,
}

impl TableVisitor for RoundTrip<'_> {
    type Output = Result<(), TestCaseError>;

    fn visit<T: Table>(self) -> Self::Output {
        let Self { keys, seed } = self;
        let batch = common::batch::<T>(keys, seed);
        let bytes = common::segment::<T>(keys, &batch);
        let mut read = FileReader::try_new(Cursor::new(&bytes), None).unwrap();
        prop_assert_eq!(read.schema(), batch.schema());
        prop_assert_eq!(read.next().map(Result::unwrap), (!keys.is_empty()).then_some(batch));
        prop_assert!(read.next().is_none());

        let segment = Segment::<T>::open(bytes.clone().into()).unwrap();
        prop_assert_eq!(segment.hashes().collect::<Vec<_>>(), keys);
        let mut again = Rows::<T>::default();
        for (hash, row) in segment.iter() {
            prop_assert!(segment.get(hash).is_some());
            again.push(hash, &row);
        }
        let mut out = Vec::new();
        again.encode(&mut out).unwrap();
        prop_assert_eq!(out, bytes);
        Ok(())
    }
}

fn log_times() -> impl Strategy<Value = LogTime> {
    vec(0_i64..2_000_000_000_000, 0..80).prop_map(|times| {
        let mut log_time = LogTime::default();
        times.into_iter().for_each(|time| log_time.observe(time));
        log_time
    })
}

fn positions() -> impl Strategy<Value = Position> {
    let block = (any::<u64>(), any::<bool>(), log_times());
    let block = block.prop_map(|(offset, done, times)| Block { offset, done, times });
    let blocks = (any::<u64>(), any::<u64>(), btree_map(any::<u64>(), block, 0..3));
    prop_oneof![
        any::<u64>().prop_map(Position::Offset),
        blocks.prop_map(|(bytes, done, open)| Position::Blocks(Blocks { bytes, done, open })),
    ]
}

fn partitions() -> impl Strategy<Value = Partition> {
    let head = proptest::option::of(vec(any::<u8>(), 0..9));
    (positions(), any::<u64>(), log_times(), any::<(bool, bool, u64)>(), head).prop_map(
        |(position, begin, log_time, (at_end, done, packed), head)| {
            let fingerprint = head.map(|head| Fingerprint::of(&head));
            let tail = fingerprint.as_ref().map(|_| Fingerprint::before(b"tail", begin));
            let former_name = tail.as_ref().map(|_| "a.ndjson".to_owned());
            let state = Partition {
                position,
                begin,
                log_time,
                at_end,
                done,
                packed,
                ..Partition::default()
            };
            Partition { fingerprint, tail, former_name, ..state }
        },
    )
}

/// The numbers that a manifest can hold.
const NUMBERS: std::ops::Range<u64> = 0..1 << 43;
const TIMES: std::ops::Range<i64> = -1 << 53..1 << 53;

fn segments() -> impl Strategy<Value = SegmentMeta> {
    let table = proptest::sample::select(TableName::ALL.to_vec());
    (TEXT, table, [NUMBERS; 4], any::<Option<u32>>()).prop_map(
        |(name, table, [first_commit, last_commit, rows, bytes], last_hour)| {
            let xxh3 = checksum(name.as_bytes());
            SegmentMeta { name, table, first_commit, last_commit, rows, bytes, xxh3, last_hour }
        },
    )
}

fn headers() -> impl Strategy<Value = Header> {
    ([NUMBERS; 3], TEXT, any::<bool>(), [TIMES; 2]).prop_map(
        |([commit, history, generation], owner, takeover, [version, wall_ms])| Header {
            commit,
            history,
            generation,
            owner,
            takeover,
            version,
            wall_ms,
        },
    )
}

fn bodies() -> impl Strategy<Value = Body> {
    let times = [0; 4].map(|_| proptest::option::of(TIMES));
    let inputs = btree_map(TEXT, btree_map(TEXT, partitions(), 0..3), 0..3);
    let counters = [NUMBERS; 3].prop_map(|[events, duplicates, scope_overflow]| Counters {
        events,
        duplicates,
        scope_overflow,
        ..Counters::default()
    });
    let rest = (any::<(bool, bool, u32, u128)>(), inputs, counters, vec(segments(), 0..4));
    (times, rest).prop_map(|([as_of_ms, floor_ms, largest_ts_ms, until_ms], rest)| {
        let ((has_ended, clean, rules, seed), inputs, counters, segments) = rest;
        Body {
            as_of_ms,
            floor_ms,
            largest_ts_ms,
            largest_read_ms: largest_ts_ms,
            hash_key: HashKey::new(seed),
            rules,
            windows: Windows::default(),
            scopes: clean.then(|| vec!["region=eu".to_owned()]),
            mappings: inputs
                .keys()
                .map(|name| (name.clone(), [("ts".into(), name.clone())].into()))
                .collect(),
            read_otherwise: inputs.keys().map(|name| (name.clone(), seed as u64)).collect(),
            finished: has_ended.then_some(Finished { until_ms }),
            clean,
            inputs,
            control: counters.events,
            counters,
            segments,
        }
    })
}

proptest! {
    #[test]
    fn rows_of_every_table_read_back(keys in btree_set(any::<(u64, u64)>(), 0..20), seed: u64) {
        let keys: Vec<_> = keys.into_iter().map(|(hi, lo)| KeyHash { hi, lo }).collect();
        for table in TableName::ALL {
            table.visit(RoundTrip { keys: &keys, seed })?;
        }
    }

    #[test]
    fn manifests_read_back_the_same(header in headers(), body in bodies()) {
        let bytes = encode(&header, None).unwrap();
        prop_assert_eq!(decode(&bytes), Ok((header.clone(), None)));
        let manifest = Manifest { header, body };
        let bytes = manifest.encode().unwrap();
        prop_assert_eq!(Manifest::decode(&bytes), Ok(manifest));
    }
}
