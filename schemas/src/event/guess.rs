//! Guesses which mapping reads the records of an input that is refused.
//!
//! Invariant: with a mapping that is guessed, the record is an event.

use std::borrow::Cow;

use super::json::{Record, marked};
use super::{Decoder, Kind};
use crate::mapping::{Field, Mapping};
use crate::time::TimeUnit;

/// Names that records use, the likeliest first, in lower case and without signs.
const NAMES: [(Field, &[&str]); 3] = [
    (
        Field::EventId,
        &[
            "eventid",
            "id",
            "idstr",
            "uuid",
            "guid",
            "messageid",
            "statusid",
            "tweetid",
            "postid",
            "cid",
            "key",
        ],
    ),
    (
        Field::Ts,
        &[
            "ts",
            "timestamp",
            "timestampms",
            "time",
            "eventtime",
            "createdat",
            "created",
            "createdutc",
            "publishedat",
            "published",
            "datetime",
            "date",
            "postedat",
            "epoch",
            "at",
            "when",
            "t",
        ],
    ),
    (
        Field::Caption,
        &[
            "caption",
            "text",
            "fulltext",
            "body",
            "content",
            "message",
            "description",
            "title",
            "status",
        ],
    ),
];

/// Earlier times are more likely of another unit.
const YEAR_2000_MS: i64 = 946_684_800_000;

/// The mapping, as `--map` takes it, by which `record` is an event although it is none by
/// `mapping`. `None` if none can be guessed.
pub fn guess(mapping: &Mapping, record: &[u8]) -> Option<String> {
    let (text, mark) = match std::str::from_utf8(record) {
        Ok(text) => (Cow::Borrowed(text), None),
        Err(_) => {
            let (text, mark) = marked(record);
            (Cow::Owned(text), Some(mark))
        }
    };
    let record_of = Record::read(&text, mark).ok()?;
    let members: Vec<_> = record_of.members().collect();
    let value = |name: &str| members.iter().find(|(own, _)| own == name).map(|(_, value)| *value);
    let is_usable = |field: Field, name: &str| {
        value(name).is_some_and(|value| match field {
            Field::EventId => value.id().is_ok_and(|id| id.is_some()),
            Field::Ts => value.scalar().is_ok_and(|ts| ts.is_some_and(|ts| unit(&ts).is_some())),
            _ => value.text().is_ok_and(|text| text.is_some()),
        })
    };
    let mut guessed = mapping.clone();
    for (field, names) in NAMES {
        let own = mapping.name(field).map(str::to_owned).filter(|name| is_usable(field, name));
        let like = |wanted: &&str| {
            let found = members.iter().find(|(name, _)| plain(name) == **wanted);
            found.map(|(name, _)| name.to_string()).filter(|name| is_usable(field, name))
        };
        let Some(name) = own.or_else(|| names.iter().find_map(like)) else { continue };
        let right = match field {
            Field::Ts => format!("{name}:{}", unit(&value(&name)?.scalar().ok()??)?),
            _ => name,
        };
        guessed = guessed.with([(field.name(), right.as_str())], &[]).ok()?;
    }
    for field in [Field::Type, Field::PostId] {
        let Some(value) = guessed.name(field).and_then(value) else { continue };
        let is_good = match field {
            Field::Type => value.text().is_ok_and(|kind| {
                kind.is_none_or(|kind| Kind::NAMES.iter().any(|(name, _)| *name == kind))
            }),
            _ => value.id().is_ok(),
        };
        if !is_good {
            guessed = guessed.with([(field.name(), "")], &[]).ok()?;
        }
    }
    let reads = guessed != *mapping && Decoder::new(guessed.clone(), &[]).decode(record).is_ok();
    reads.then(|| guessed.to_string())
}

/// A name in lower case and without signs: `createdAt`, `created_at` and `@created-at` are one.
fn plain(name: &str) -> String {
    name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// The unit by which a time is one of this century.
fn unit(text: &str) -> Option<TimeUnit> {
    let units = [TimeUnit::Millis, TimeUnit::Seconds, TimeUnit::Micros, TimeUnit::Rfc3339];
    units.into_iter().find(|unit| unit.parse(text).is_ok_and(|ms| ms >= YEAR_2000_MS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapping_of_foreign_records_is_guessed() {
        let of = |map: &str, record: &str| guess(&map.parse().unwrap(), record.as_bytes());
        for (map, record, want) in [
            (
                "",
                r#"{"id":1,"created_at":"2026-01-01T08:00:00Z","text":"a #b"}"#,
                "event_id=id,ts=created_at:rfc3339,caption=text",
            ),
            ("", r#"{"ID":"a","Timestamp":1767254400,"x":1}"#, "event_id=ID,ts=Timestamp:s"),
            ("", r#"{"event_id":"a","ts":"2026-01-01T08:00:00Z"}"#, "ts=ts:rfc3339"),
            ("", r#"{"event_id":"a","ts":1767254400123456}"#, "ts=ts:us"),
            ("", r#"{"event_id":"a","createdAt":1.7672544e12,"score":1e400}"#, "ts=createdAt"),
            ("", r#"{"event_id":"a","ts":1767254400000,"type":"photo"}"#, "type="),
            ("", r#"{"event_id":"a","ts":1767254400000,"post_id":[1]}"#, "post_id="),
            (
                "event_id=uuid,user_id=by",
                r#"{"id":"a","ts":1767254400000,"by":1}"#,
                "event_id=id,user_id=by",
            ),
        ] {
            assert_eq!(of(map, record).as_deref(), Some(want), "{record}");
            assert!(Decoder::new(want.parse().unwrap(), &[]).decode(record.as_bytes()).is_ok());
        }
        for record in [
            "",
            "{",
            "[]",
            "{}",
            r#"{"event_id":"a"}"#,
            r#"{"ts":1767254400000}"#,
            r#"{"event_id":"a","ts":1767254400000}"#,
            r#"{"id":"a","ts":"soon"}"#,
            r#"{"id":"a","id":"b","ts":1767254400000}"#,
        ] {
            assert_eq!(of("", record), None, "{record}");
        }
    }

    #[test]
    fn record_that_is_not_utf_8_is_no_obstacle() {
        let record = b"{\"id\":\"a\",\"ts\":1767254400000,\"by\":\"Ren\xe9\"}";
        assert_eq!(guess(&Mapping::default(), record).as_deref(), Some("event_id=id"));
    }
}
