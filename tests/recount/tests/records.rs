//! The decoder of the job and the oracle read every record alike, though they share no code.

#![allow(clippy::unwrap_used)]

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select, subsequence};
use recount::Reader;
use schemas::event::{Decoder, Kind};
use schemas::mapping::Mapping;

const NAMES: [&[u8]; 10] = [
    b"event_id",
    b"ts",
    b"caption",
    b"type",
    b"post_id",
    b"lang",
    b"x",
    b"t\\u0073",
    b"\\ud83d",
    b"\xe9",
];
const VALUES: [&[u8]; 49] = [
    b"null",
    b"true",
    b"false",
    b"nul",
    b"1",
    b"-1",
    b"0",
    b"-0",
    b"-0.0",
    b"-0.5",
    b"-1e-9",
    b"01",
    b"1.5",
    b"1.",
    b".5",
    b"1e400",
    b"1.7e12",
    b"17E+11",
    b"1700000000000999e-3",
    b"4102444800000",
    b"4102444799999.9",
    b"1e-400",
    b"2e",
    b"{}",
    b"[]",
    b"[1,]",
    b"[[],[{}]]",
    b"{\"a\":1,\"a\":[1e999]}",
    b"{\"\\udc00\":\"\xff\"}",
    b"{1:2}",
    b"\"\"",
    b"\"a #b\"",
    b"\"1\"",
    b"\"1.7e12\"",
    b"\"liked\"",
    b"\"post_published\"",
    b"\"poked\"",
    b"\"\\ud83d\"",
    b"\"\\ud83d\\ude00\"",
    b"\"\\ud83d\\u0041\"",
    b"\"\\ude00\\ud83d\"",
    b"\"caf\xe9\"",
    b"\"\xc3\xa9\"",
    b"\"\\\\\xff\"",
    b"\"\\\xff\"",
    b"\"\\b\\f\\n\\r\\t\\/\\\\\\\"\"",
    b"\"\x01\"",
    b"\"2026-01-01T08:00:00.5Z\"",
    b"\"\\u00e9\\uD83D\"",
];
const BYTES: &[u8] = b"\"\\{}[]:,.-+eEu0d8c19tfn \t\n\x00\x1f\x7f\xc3\xa9\xff";

fn value() -> impl Strategy<Value = Vec<u8>> {
    let deep = (28_usize..36).prop_map(|n| ["[".repeat(n), "]".repeat(n)].concat().into_bytes());
    let long = (1020_usize..1030).prop_map(|n| format!("\"{}\"", "7".repeat(n)).into_bytes());
    let digits = (1_usize..1030).prop_map(|n| "7".repeat(n).into_bytes());
    let known = select(&VALUES[..]).prop_map(<[u8]>::to_vec);
    prop_oneof![20 => known, 1 => deep, 1 => long, 1 => digits]
}

fn record() -> impl Strategy<Value = Vec<u8>> {
    let good =
        vec![&br#""event_id":"e1""#[..], br#""ts":1700000000000"#, br#""caption":"a #b \n""#];
    let member = (select(&NAMES[..]), "[ \n]{0,1}", value()).prop_map(|(name, space, value)| {
        [b"\"", name, b"\"", space.as_bytes(), b":", &value].concat()
    });
    let edits = vec((any::<Index>(), 0..3_u8, select(BYTES)), 0..2);
    (subsequence(good, 0..=3), vec(member, 0..4), any::<Index>(), edits).prop_map(
        |(good, mut members, at, edits)| {
            for member in good {
                members.insert(at.index(members.len() + 1), member.to_vec());
            }
            let mut bytes = [b"{", &*members.join(&b','), b"}"].concat();
            for (at, kind, byte) in edits {
                let at = at.index(bytes.len());
                match kind {
                    0 => bytes[at] = byte,
                    1 => bytes.insert(at, byte),
                    _ if bytes.len() > 1 => drop(bytes.remove(at)),
                    _ => {}
                }
            }
            bytes
        },
    )
}

fn agree(mapping: &str, record: &[u8]) -> Result<(), TestCaseError> {
    let mapping = Mapping::parse(mapping, &["lang"]).unwrap();
    let attributes = ["lang".to_owned()];
    let decoder = Decoder::new(mapping.clone(), &attributes);
    let job = decoder.decode(record).map_err(|reject| reject.code()).map(|event| {
        let values = event.attributes.iter();
        recount::Event {
            event_id: event.event_id.to_string(),
            ts_ms: event.ts_ms,
            caption: event.caption.to_string(),
            counts: event.kind == Kind::PostPublished,
            values: values.map(|v| v.as_ref()?.text().map(str::to_owned)).collect(),
        }
    });
    let oracle = Reader::new(&mapping, &attributes).read(record);
    prop_assert_eq!(job, oracle, "{}", String::from_utf8_lossy(record));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8192))]

    #[test]
    fn records_are_read_alike(
        record in record(),
        unit in select(&["", "ts=ts:s", "ts=ts:us"][..]),
    ) {
        agree(unit, &record)?;
    }

    #[test]
    fn times_are_read_alike(
        (year, month, day) in (1969..2101_i32, 1..13_u8, 1..29_u8),
        (hour, minute, second) in (0..24_u8, 0..60_u8, 0..60_u8),
        fraction in r"(\.[0-9]{1,40})?",
        zone in "(Z|[+-](0[0-9]|1[0-4]):[0-5][0-9])",
    ) {
        let day = format!("{year}-{month:02}-{day:02}");
        let ts = format!("{day}T{hour:02}:{minute:02}:{second:02}{fraction}{zone}");
        agree("ts=ts:rfc3339", format!(r#"{{"event_id":"a","ts":"{ts}"}}"#).as_bytes())?;
    }

    #[test]
    fn numbers_are_read_alike(
        ts in r"-?(0|[1-9][0-9]{0,20})(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,2})?",
        unit in select(&["", "ts=ts:s", "ts=ts:us"][..]),
    ) {
        agree(unit, format!(r#"{{"event_id":"a","ts":{ts}}}"#).as_bytes())?;
    }
}
