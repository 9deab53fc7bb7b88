//! Tests of decoding: what becomes of every kind of record, however hostile.

use proptest::prelude::*;

use super::*;

fn decode(json: &str) -> Result<Event<'_>, Reject> {
    Decoder::default().decode(json.as_bytes())
}

fn code(json: &str) -> &'static str {
    decode(json).map_or_else(|r| r.code(), |_| "ok")
}

#[test]
fn post_has_defaults() {
    let event = decode(r##"{"x":[1,{"y":null}],"event_id":"e","ts":1,"caption":"a \"#b\""}"##);
    let event = event.unwrap();
    assert_eq!((event.kind, &*event.post_id), (Kind::PostPublished, "e"));
    assert_eq!(event.caption, "a \"#b\"");
}

#[test]
fn numbers_and_texts_make_equal_ids() {
    let id = |json: &str| decode(json).unwrap().event_id.into_owned();
    assert_eq!(id(r#"{"event_id":12,"ts":1}"#), id(r#"{"event_id":"12","ts":1}"#));
    let big = r#"{"event_id":123456789012345678901234567890,"ts":1}"#;
    assert_eq!(id(big), "123456789012345678901234567890");
    assert_eq!(code(r#"{"event_id":1.0,"ts":1}"#), "bad_field");
    assert_eq!(code(r#"{"event_id":"1.0","ts":1}"#), "ok");
}

#[test]
fn rejects_have_a_code() {
    assert_eq!(code(r#"{"ts":1}"#), "missing_field");
    assert_eq!(code(r#"{"event_id":"","ts":1}"#), "missing_field");
    assert_eq!(code(r#"{"event_id":null,"ts":1}"#), "missing_field");
    assert_eq!(code(r#"{"event_id":"a"}"#), "missing_field");
    assert_eq!(code(r#"{"event_id":"a","ts":null}"#), "missing_field");
    assert_eq!(code(r#"{"event_id":{},"ts":1}"#), "bad_field");
    assert_eq!(code(r#"{"event_id":"a","ts":-1}"#), "bad_field");
    assert_eq!(code(r#"{"event_id":"a","ts":1,"caption":7}"#), "bad_field");
    assert_eq!(code(r#"{"event_id":"a","ts":1,"ts":2}"#), "duplicate_field");
    assert_eq!(code(r#"{"event_id":"a","ts":1,"type":"poked"}"#), "bad_type");
    assert_eq!(code(r#"{"event_id":"a","ts":1} x"#), "not_json");
    assert_eq!(code("[]"), "not_an_object");
    assert_eq!(code(""), "empty");
    assert_eq!(code(" "), "not_json");
    assert_eq!(code("{"), "not_json");
    assert_eq!(code(&format!("\"{}\"", "x".repeat(RECORD_BYTES_MAX))), "too_large");
}

#[test]
fn depth_is_limited() {
    let nested = |levels: usize| {
        let inner = levels - 1;
        format!(r#"{{"event_id":"a","ts":1,"x":{}{}}}"#, "[".repeat(inner), "]".repeat(inner))
    };
    assert_eq!(code(&nested(DEPTH_MAX)), "ok");
    assert_eq!(code(&nested(DEPTH_MAX + 1)), "too_deep");
    assert_eq!(code(&nested(20_000)), "too_deep");
}

#[test]
fn every_kind_and_attribute_is_read() {
    for (name, kind) in Kind::NAMES {
        let json = format!(r#"{{"event_id":"a","ts":1,"type":"{name}"}}"#);
        assert_eq!(decode(&json).unwrap().kind, kind);
    }
    let decoder = Decoder::new(Mapping::default(), &["region".into(), "lang".into()]);
    let event = decoder.decode(br#"{"event_id":"a","ts":1,"lang":"de"}"#).unwrap();
    assert_eq!(event.attributes.as_slice(), [None, Some(Attribute::Text("de".into()))]);
}

#[test]
fn attribute_of_any_kind_refuses_no_record() {
    let decoder = Decoder::new(Mapping::default(), &["lang".into()]);
    let text = |text: &str| Attribute::Text(text.to_owned().into());
    let long = format!("{:?}", "x".repeat(ID_BYTES_MAX + 1));
    let digits = "7".repeat(ID_BYTES_MAX + 1);
    let cases: [(&[u8], Attribute<'_>); 20] = [
        (b"true", text("true")),
        (b"false", text("false")),
        (b"\"true\"", text("true")),
        (b"1", text("1")),
        (b"-0", text("-0")),
        (b"1.50", text("1.50")),
        (b"1E3", text("1E3")),
        (b"123456789012345678901234567890", text("123456789012345678901234567890")),
        (b"\"\\u0064e\"", text("de")),
        (b"null", Attribute::Null),
        (b"\"\"", Attribute::Null),
        (b"[]", Attribute::Other),
        (b"[\"de\"]", Attribute::Other),
        (b"{\"de\":{}}", Attribute::Other),
        (b"\"\\ud83d\"", Attribute::Other),
        (b"[\"\\ud83d\",1e400]", Attribute::Other),
        (b"\"caf\xe9\"", Attribute::Other),
        (b"[\"caf\xe9\"]", Attribute::Other),
        (long.as_bytes(), Attribute::Other),
        (digits.as_bytes(), Attribute::Other),
    ];
    for (value, want) in cases {
        let told = String::from_utf8_lossy(value);
        let record = [br#"{"event_id":"a","lang":"#, value, br#","ts":1}"#].concat();
        let event = decoder.decode(&record).unwrap_or_else(|e| panic!("{told}: {e}"));
        assert_eq!(event.attributes.as_slice(), [Some(want)], "{told}");
    }
}

/// Values that a record may hold where nobody reads them.
const HOSTILE: [&[u8]; 22] = [
    br#""\ud83d""#,
    br#""\udc4d and more""#,
    br#""\ud83d\ud83d\ude00""#,
    br#"{"name":"Ana \ud83d"}"#,
    br#"{"x\ud83d":1}"#,
    br#"[{"y":["\udfff"]}]"#,
    b"1e400",
    b"-1e999",
    b"1E+99999999999999999999",
    b"1e-99999999999999999999",
    b"{\"score\":[-1e999]}",
    b"123456789012345678901234567890123456789012345678901234567890.5",
    b"\"caf\xe9\"",
    b"{\"caf\xe9\":\"\xff\xfe\"}",
    b"[\"\xc3\",\"\xed\xa0\x80\",\"\xf5\"]",
    b"\"\\\\\xe9\\\"\"",
    b"{\"a\":1,\"a\":2,\"\":{},\"ts\":3,\"event_id\":null}",
    b"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]",
    b"\"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\"",
    "\"\u{7f}\u{85}\u{2028}\u{feff}\u{fffd}\u{f0000}\"".as_bytes(),
    br#""\u0000\u001f\/""#,
    b"true",
];

#[test]
fn fields_that_nobody_reads_spoil_nothing() {
    let decoder = Decoder::default();
    let want = decoder.decode(br##"{"event_id":"a","ts":1,"caption":"#b"}"##).unwrap();
    for value in HOSTILE {
        let told = String::from_utf8_lossy(value);
        for name in [&b"\"x\""[..], b"\"x\\ud83d\"", b"\"\xe9\"", b"\"user_id\"", b"\"\""] {
            let first = [b"{", name, b":", value, br##","event_id":"a","ts":1,"caption":"#b"}"##];
            let last = [br##"{"event_id":"a","ts":1,"caption":"#b","##, name, b":", value, b"}"];
            let twice = [b"{", name, b":", value, b",", name, b":", value, b","].concat();
            let twice = [&twice, &br##""event_id":"a","ts":1,"caption":"#b"}"##[..]].concat();
            for record in [first.concat(), last.concat(), twice] {
                let got = decoder.decode(&record).map(Event::into_owned);
                assert_eq!(got, Ok(want.clone()), "{told}");
                let full = decoder.decode_full(&record).map(Event::into_owned);
                assert_eq!(full, Ok(want.clone()), "{told}");
            }
        }
    }
}

#[test]
fn what_is_no_json_is_refused_wherever_it_stands() {
    for value in [
        &b"\xe9"[..],
        b"\"\\\xe9\"",
        b"\"\\u12\xe9\"",
        b"\"\\ud83\"",
        b"\"\\x\"",
        b"\"\x01\"",
        b"\"",
        b"01",
        b"1.",
        b"1e",
        b"+1",
        b".5",
        b"NaN",
        b"nul",
        b"[1,]",
        b"{\"a\"}",
        b"{1:2}",
        b"'a'",
        b"",
        b"1 2",
        b"[\"\xe9\"",
        b"\"\"\xe9",
        b"\xff1",
    ] {
        let record = [br#"{"event_id":"a","ts":1,"x":"#, value, b"}"].concat();
        let code = Decoder::default().decode(&record).map_err(|reject| reject.code());
        assert_eq!(code, Err("not_json"), "{}", String::from_utf8_lossy(&record));
    }
}

#[test]
fn text_that_is_read_must_be_unicode() {
    for value in [&br#""a\ud83d""#[..], br#""\udc4d""#, b"\"caf\xe9\"", b"\"\\\\\xff\""] {
        for (field, rest) in [
            ("event_id", r#""ts":1"#),
            ("ts", r#""event_id":"a""#),
            ("caption", r#""event_id":"a","ts":1"#),
            ("type", r#""event_id":"a","ts":1"#),
            ("post_id", r#""event_id":"a","ts":1"#),
        ] {
            let begin = format!("{{{rest},\"{field}\":");
            let record = [begin.as_bytes(), value, b"}"].concat();
            let reject = Decoder::default().decode(&record).unwrap_err();
            let told = String::from_utf8_lossy(&record);
            assert!(
                matches!(&reject, Reject::Field { field: f, .. } if f == field),
                "{told}: {reject}"
            );
        }
    }
}

#[test]
fn field_that_is_there_twice_is_refused_whatever_its_values() {
    let decoder = Decoder::new(Mapping::default(), &["lang".into()]);
    let values = ["null", r#""""#, r#""a""#, "1", "true", "{}", r#""\ud83d""#, "-1"];
    for field in ["event_id", "ts", "caption", "type", "post_id", "lang", "t\\u0073"] {
        for (first, second) in values.iter().flat_map(|a| values.map(|b| (*a, b))) {
            let rest = match field {
                "event_id" => r#""ts":1"#,
                "ts" | "t\\u0073" => r#""event_id":"a""#,
                _ => r#""event_id":"a","ts":1"#,
            };
            let second_name = if field == "t\\u0073" { "ts" } else { field };
            for record in [
                format!(r#"{{"{field}":{first},"{second_name}":{second},{rest}}}"#),
                format!(r#"{{"{field}":{first},{rest},"{second_name}":{second}}}"#),
            ] {
                let code = decoder.decode(record.as_bytes()).map_err(|reject| reject.code());
                assert_eq!(code, Err("duplicate_field"), "{record}");
            }
        }
    }
}

#[test]
fn time_may_be_any_number_of_json() {
    let ts = |json: &str| decode(&format!(r#"{{"event_id":"a","ts":{json}}}"#)).map(|e| e.ts_ms);
    assert_eq!(ts("1.7672544e12"), Ok(1_767_254_400_000));
    assert_eq!(ts("17672544E+5"), Ok(1_767_254_400_000));
    assert_eq!(ts("1767254400123.999999999999999999"), Ok(1_767_254_400_123));
    assert_eq!(ts(r#""1.7672544e12""#), Ok(1_767_254_400_000));
    assert!(matches!(ts("1e400"), Err(Reject::Field { .. })));
    assert!(matches!(ts("[1]"), Err(Reject::Field { .. })));
}

fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let leaf = proptest::sample::select(&HOSTILE[..]).prop_map(<[u8]>::to_vec);
    leaf.prop_recursive(3, 8, 3, |inner| {
        let name = proptest::sample::select(vec![&b"\"ts\""[..], b"\"\\udc00\"", b"\"\xff\""]);
        let member = (name, inner.clone()).prop_map(|(name, value)| [name, b":", &value].concat());
        prop_oneof![
            proptest::collection::vec(inner, 0..3)
                .prop_map(|all| [b"[", &*all.join(&b','), b"]"].concat()),
            proptest::collection::vec(member, 0..3)
                .prop_map(|all| [b"{", &*all.join(&b','), b"}"].concat()),
        ]
    })
}

proptest! {
    #[test]
    fn what_nobody_reads_changes_nothing(
        values in proptest::collection::vec(hostile(), 1..4),
        at in 0..4_usize,
    ) {
        let others = values.iter().map(|value| [br#""x":"#, &**value].concat());
        let mut members: Vec<Vec<u8>> = others.collect();
        let read = [br#""event_id":"a""#.to_vec(), br#""ts":1.7e12"#.to_vec(), br##""caption":"#b""##.to_vec()];
        for (i, member) in read.into_iter().enumerate() {
            members.insert((at + i).min(members.len()), member);
        }
        let record = [b"{", &*members.join(&b','), b"}"].concat();
        let decoder = Decoder::default();
        let want = Decoder::default().decode(br##"{"event_id":"a","ts":1700000000000,"caption":"#b"}"##);
        let too_deep = Err(Reject::TooDeep);
        let got = decoder.decode(&record);
        prop_assert!(got == want || got == too_deep, "{:?}: {}", got, String::from_utf8_lossy(&record));
        prop_assert_eq!(decoder.decode_full(&record), got);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Decoder::default().decode(&bytes);
    }

    #[test]
    fn json_like_text_never_panics(text in r#"[{}\[\]":,a-z0-9\\ue. -]{0,80}"#) {
        let _ = Decoder::default().decode(text.as_bytes());
    }
}
