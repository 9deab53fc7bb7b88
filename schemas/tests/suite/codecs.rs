//! Codecs: whatever is written comes back, for every kind of row and for manifests.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use schemas::hash::{HashKey, KeyHash};
use schemas::log_time::LogTime;
use schemas::manifest::{
    Block, Blocks, Body, Counters, Fingerprint, Finished, Header, Manifest, Partition, Position,
    SegmentMeta, TableName, checksum, decode, encode,
};
use schemas::rows::{
    BoardRow, Boards, DeadLetterRow, DeadLetters, IdRow, Ids, RepairRow, Repairs, TagRow, Tags,
};
use schemas::segment::{Rows, Segment, Table};
use schemas::windows::Windows;

/// Any text, with what is special to some format in it.
const TEXT: &str = r#"[\PC\n\r\t "\\{}#=日é]{0,12}"#;

fn hashes<V: std::fmt::Debug>(
    value: impl Strategy<Value = V>,
) -> impl Strategy<Value = BTreeMap<(u64, u64), V>> {
    btree_map(any::<(u64, u64)>(), value, 0..20)
}

/// Writes rows and opens them again: every one is found, in order, and nothing else.
fn come_back<T: Table>(rows: &[(KeyHash, T::Row<'_>)]) -> Result<(), TestCaseError>
where
    for<'a> T::Row<'a>: std::fmt::Debug + PartialEq<T::Row<'a>>,
{
    let mut collected = Rows::<T>::default();
    rows.iter().rev().for_each(|(hash, row)| collected.push(*hash, row));
    let mut out = Vec::new();
    collected.encode(&mut out).unwrap();
    let segment = Segment::<T>::open(Bytes::from(out)).unwrap();
    prop_assert_eq!(segment.len(), rows.len());
    for ((hash, row), (found_hash, found)) in rows.iter().zip(segment.iter()) {
        prop_assert_eq!(*hash, found_hash);
        prop_assert_eq!(format!("{row:?}"), format!("{found:?}"));
        prop_assert_eq!(segment.get(*hash).map(|row| format!("{row:?}")), Some(format!("{row:?}")));
    }
    Ok(())
}

fn key((hi, lo): (u64, u64)) -> KeyHash {
    KeyHash { hi, lo }
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
    (positions(), any::<u64>(), log_times(), any::<(bool, bool)>(), head).prop_map(
        |(position, begin, log_time, (at_end, done), head)| {
            let fingerprint = head.map(|head| Fingerprint::of(&head));
            Partition { position, begin, log_time, at_end, done, fingerprint }
        },
    )
}

fn segments() -> impl Strategy<Value = SegmentMeta> {
    let table = proptest::sample::select(TableName::ALL.to_vec());
    (TEXT, table, any::<[u64; 4]>(), any::<Option<u32>>()).prop_map(
        |(name, table, [first_commit, last_commit, rows, bytes], last_hour)| {
            let xxh3 = checksum(name.as_bytes());
            SegmentMeta { name, table, first_commit, last_commit, rows, bytes, xxh3, last_hour }
        },
    )
}

fn headers() -> impl Strategy<Value = Header> {
    (any::<[u64; 3]>(), TEXT, any::<bool>(), any::<[i64; 2]>()).prop_map(
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
    let times = any::<[Option<i64>; 4]>();
    let inputs = btree_map(TEXT, btree_map(TEXT, partitions(), 0..3), 0..3);
    let counters = any::<[u64; 3]>().prop_map(|[events, duplicates, scope_overflow]| Counters {
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
    fn tags(rows in hashes((any::<[String; 3]>(), any::<[i64; 4]>(), vec(any::<u8>(), 0..30)))) {
        let rows: Vec<_> = rows.iter().zip(0..).map(|((hash, (texts, numbers, recent)), commit)| {
            let [scope, tag, display] = texts.each_ref().map(String::as_str);
            let [total, first_seen, last_seen, as_of] = *numbers;
            let row =
                TagRow { scope, tag, display, total, recent, first_seen, last_seen, as_of, commit };
            (key(*hash), row)
        }).collect();
        come_back::<Tags>(&rows)?;
    }

    #[test]
    fn boards(rows in hashes((any::<[String; 3]>(), any::<i64>(), any::<u64>()))) {
        let rows: Vec<_> = rows.iter().map(|(hash, (texts, as_of, commit))| {
            let [scope, window, doc] = texts.each_ref().map(String::as_str);
            (key(*hash), BoardRow { scope, window, doc, as_of: *as_of, commit: *commit })
        }).collect();
        come_back::<Boards>(&rows)?;
    }

    #[test]
    fn ids(rows in hashes(any::<u32>())) {
        let row = |(at, hour): (_, u32)| {
            let (hour, forgotten) = (hour & (u32::MAX >> 1), hour >> 31 == 1);
            (key(at), IdRow { hash: key(at), hour, forgotten })
        };
        let rows: Vec<_> = rows.into_iter().map(row).collect();
        come_back::<Ids>(&rows)?;
    }

    #[test]
    fn dead_letters(
        rows in hashes((any::<[String; 4]>(), any::<[u64; 2]>(), vec(any::<u8>(), 0..60))),
    ) {
        let rows: Vec<_> = rows.iter().map(|(hash, (texts, numbers, raw))| {
            let [input, partition, reason, detail] = texts.each_ref().map(String::as_str);
            let [position, commit] = *numbers;
            (key(*hash), DeadLetterRow { input, partition, position, reason, detail, raw, commit })
        }).collect();
        come_back::<DeadLetters>(&rows)?;
    }

    #[test]
    fn repairs(
        rows in hashes((any::<[String; 7]>(), any::<[u64; 4]>(), any::<i64>())),
    ) {
        let rows: Vec<_> = rows.iter().map(|(hash, (texts, numbers, when_ms))| {
            let [kind, scope, name, before, after, who, why] =
                texts.each_ref().map(String::as_str);
            let [request, lo, base, commit] = *numbers;
            let when_ms = *when_ms;
            let row = RepairRow {
                request, kind, scope, key: name, lo, before, after, who, why, when_ms, base, commit,
            };
            (key(*hash), row)
        }).collect();
        come_back::<Repairs>(&rows)?;
    }

    #[test]
    fn manifests(header in headers(), body in bodies()) {
        let bytes = encode(&header, None).unwrap();
        prop_assert_eq!(decode(&bytes), Ok((header.clone(), None)));
        let manifest = Manifest { header, body };
        let bytes = manifest.encode().unwrap();
        prop_assert_eq!(Manifest::decode(&bytes), Ok(manifest));
    }
}
