//! Post events as JSON records: decoding, limits, and why a record is rejected.
//!
//! Invariant: decoding never panics and never guesses. A record gives an [`Event`], or a [`Reject`]
//! that names the field.

mod fast;
mod json;
mod reject;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use json::{Key, Skip, Text, id, scalar, text};
pub use reject::{DEPTH_MAX, ID_BYTES_MAX, RECORD_BYTES_MAX, Reject};
use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use smallvec::SmallVec;

use crate::mapping::{Field, Mapping};
use crate::time::{TimeError, TimeUnit};

/// What happened to a post.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// It was published.
    #[default]
    PostPublished,
    /// Its text changed.
    PostEdited,
    /// It was deleted.
    PostDeleted,
    /// A tag was added.
    TagAdded,
    /// A tag was removed.
    TagRemoved,
    /// Somebody liked it.
    Liked,
    /// Somebody took a like back.
    Unliked,
}

impl Kind {
    /// Every kind with its name in records.
    pub const NAMES: [(&'static str, Self); 7] = [
        ("post_published", Self::PostPublished),
        ("post_edited", Self::PostEdited),
        ("post_deleted", Self::PostDeleted),
        ("tag_added", Self::TagAdded),
        ("tag_removed", Self::TagRemoved),
        ("liked", Self::Liked),
        ("unliked", Self::Unliked),
    ];
}

/// A decoded event. Texts borrow from the record if they can.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event<'r> {
    /// Its identity within its input.
    pub event_id: Cow<'r, str>,
    /// What happened.
    pub kind: Kind,
    /// The post.
    pub post_id: Cow<'r, str>,
    /// When, in milliseconds since 1970.
    pub ts_ms: i64,
    /// The text of the post, empty if it has none.
    pub caption: Cow<'r, str>,
    /// The values of the decoder's attributes, in the same order.
    pub attributes: SmallVec<[Option<Cow<'r, str>>; 2]>,
}

/// Decodes the records of one input.
#[derive(Clone, Debug)]
pub struct Decoder {
    mapping: Mapping,
    attributes: Vec<String>,
    names: Arc<BTreeMap<String, String>>,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new(Mapping::default(), &[])
    }
}

impl Decoder {
    /// A decoder for records with this mapping that also reads `attributes`.
    pub fn new(mapping: Mapping, attributes: &[String]) -> Self {
        let record_names = attributes.iter().map(|a| mapping.attribute(a).to_owned());
        let record_names: Vec<String> = record_names.collect();
        let mut names: BTreeMap<String, String> =
            attributes.iter().cloned().zip(record_names.iter().cloned()).collect();
        names.extend(Target::FIELDS.map(|(field, _)| {
            // An unmapped field counts as one with an empty name.
            let name = mapping.name(field).unwrap_or("");
            let unit = mapping.unit();
            let is_plain = field != Field::Ts || unit == TimeUnit::default();
            let name = if is_plain { name.to_owned() } else { format!("{name}:{unit}") };
            (field.name().to_owned(), name)
        }));
        Self { mapping, attributes: record_names, names: Arc::new(names) }
    }

    /// The name in records of each field and each attribute that is read. Two decoders with equal
    /// names read the same events from the same records.
    pub fn names(&self) -> &BTreeMap<String, String> {
        &self.names
    }

    /// Decodes one record.
    ///
    /// ```
    /// let decoder = schemas::event::Decoder::default();
    /// let event = decoder.decode(br#"{"event_id":12,"ts":1700000000000,"caption":"a #b"}"#);
    /// assert_eq!(event.map(|e| e.event_id), Ok("12".into()));
    /// ```
    pub fn decode<'r>(&self, record: &'r [u8]) -> Result<Event<'r>, Reject> {
        if record.len() > RECORD_BYTES_MAX {
            return Err(Reject::TooLarge(record.len() as u64));
        }
        if record.is_empty() {
            return Err(Reject::Empty);
        }
        self.decode_fast(record).map_or_else(|| self.decode_full(record), Ok)
    }

    /// Decodes any record, and finds out what is wrong with one that is not an event.
    fn decode_full<'r>(&self, record: &'r [u8]) -> Result<Event<'r>, Reject> {
        let mut json = serde_json::Deserializer::from_slice(record);
        let mut parts = self.no_parts();
        let read = RecordSeed { decoder: self, parts: &mut parts }
            .deserialize(&mut json)
            .and_then(|()| json.end());
        if let Some(reject) = parts.reject.take() {
            return Err(reject);
        }
        if let Err(error) = read {
            return Err(match error.classify() {
                serde_json::error::Category::Data => Reject::NotAnObject,
                _ => Reject::NotJson(error.to_string()),
            });
        }
        self.event(parts)
    }

    fn no_parts<'r>(&self) -> Parts<'r> {
        Parts { attributes: smallvec::smallvec![None; self.attributes.len()], ..Parts::default() }
    }

    /// What the member `name` of a record means for an event, if anything.
    fn target(&self, name: &str) -> Option<Target> {
        let is = |(field, _): &&(Field, Target)| self.mapping.name(*field) == Some(name);
        let attribute = || self.attributes.iter().position(|a| a == name).map(Target::Attribute);
        Target::FIELDS.iter().find(is).map(|(_, target)| *target).or_else(attribute)
    }

    fn event<'r>(&self, parts: Parts<'r>) -> Result<Event<'r>, Reject> {
        let missing = |field: Field| match self.mapping.name(field) {
            Some(name) => Reject::Missing(name.to_owned()),
            None => unreachable!("{} is always mapped: checked by `Mapping`", field.name()),
        };
        let event_id = parts.event_id.ok_or_else(|| missing(Field::EventId))?;
        let ts_ms = parts.ts_ms.ok_or_else(|| missing(Field::Ts))?;
        let kind = match &parts.kind {
            None => Kind::default(),
            Some(kind) => Kind::NAMES
                .iter()
                .find(|(name, _)| name == kind)
                .map(|(_, kind)| *kind)
                .ok_or_else(|| Reject::Type(kind.chars().take(60).collect()))?,
        };
        Ok(Event {
            post_id: parts.post_id.unwrap_or_else(|| event_id.clone()),
            event_id,
            kind,
            ts_ms,
            caption: parts.caption.unwrap_or_default(),
            attributes: parts.attributes,
        })
    }
}

/// What a member of a record means for an event.
#[derive(Clone, Copy)]
enum Target {
    EventId,
    Ts,
    Caption,
    Type,
    PostId,
    Attribute(usize),
}

impl Target {
    const FIELDS: [(Field, Self); 5] = [
        (Field::EventId, Self::EventId),
        (Field::Ts, Self::Ts),
        (Field::Caption, Self::Caption),
        (Field::Type, Self::Type),
        (Field::PostId, Self::PostId),
    ];
}

/// What has been read from a record so far.
#[derive(Default)]
struct Parts<'r> {
    event_id: Option<Cow<'r, str>>,
    kind: Option<Cow<'r, str>>,
    post_id: Option<Cow<'r, str>>,
    ts_ms: Option<i64>,
    caption: Option<Cow<'r, str>>,
    attributes: SmallVec<[Option<Cow<'r, str>>; 2]>,
    /// Set if reading stopped for another reason than bad JSON.
    reject: Option<Reject>,
}

struct RecordSeed<'d, 'p, 'r> {
    decoder: &'d Decoder,
    parts: &'p mut Parts<'r>,
}

impl<'r> DeserializeSeed<'r> for RecordSeed<'_, '_, 'r> {
    type Value = ();

    fn deserialize<D: Deserializer<'r>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_map(self)
    }
}

impl<'r> Visitor<'r> for RecordSeed<'_, '_, 'r> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'r>>(self, mut map: M) -> Result<(), M::Error> {
        while let Some(Key(key)) = map.next_key()? {
            if let Err(stop) = self.decoder.field(&key, &mut map, self.parts)? {
                self.parts.reject = Some(stop);
                // This error only stops the parser; the reject above is what counts.
                return Err(serde::de::Error::custom("rejected"));
            }
        }
        Ok(())
    }
}

impl Decoder {
    /// Reads the value of the member `key`. The outer error is bad JSON, the inner one a bad event.
    fn field<'r, M: MapAccess<'r>>(
        &self,
        key: &str,
        map: &mut M,
        parts: &mut Parts<'r>,
    ) -> Result<Result<(), Reject>, M::Error> {
        let raw = |map: &mut M| map.next_value::<&'r RawValue>();
        let texts = |map: &mut M| map.next_value().map(|Text(value)| text(key, value));
        Ok(match self.target(key) {
            Some(Target::EventId) => {
                id(key, raw(map)?).and_then(|v| set(key, &mut parts.event_id, v))
            }
            Some(Target::Ts) => {
                self.time(key, raw(map)?).and_then(|v| set(key, &mut parts.ts_ms, Some(v)))
            }
            Some(Target::Caption) => texts(map)?.and_then(|v| set(key, &mut parts.caption, v)),
            Some(Target::Type) => texts(map)?.and_then(|v| set(key, &mut parts.kind, v)),
            Some(Target::PostId) => {
                id(key, raw(map)?).and_then(|v| set(key, &mut parts.post_id, v))
            }
            Some(Target::Attribute(i)) => {
                id(key, raw(map)?).and_then(|v| set(key, &mut parts.attributes[i], v))
            }
            None => {
                let mut too_deep = false;
                match map.next_value_seed(Skip { depth: 2, too_deep: &mut too_deep }) {
                    Err(_) if too_deep => Err(Reject::TooDeep),
                    other => return other.map(Ok),
                }
            }
        })
    }

    fn time(&self, key: &str, raw: &RawValue) -> Result<i64, Reject> {
        let value = scalar(key, raw)?;
        let value = value.ok_or_else(|| Reject::Missing(key.to_owned()))?;
        let bad = |why: TimeError| Reject::Field { field: key.to_owned(), why: why.to_string() };
        self.mapping.unit().parse(&value).map_err(bad)
    }
}

fn set<T>(key: &str, slot: &mut Option<T>, value: Option<T>) -> Result<(), Reject> {
    if slot.is_some() {
        return Err(Reject::Twice(key.to_owned()));
    }
    *slot = value;
    Ok(())
}

#[cfg(test)]
mod tests {
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
        assert_eq!(event.attributes.as_slice(), [None, Some("de".into())]);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Decoder::default().decode(&bytes);
        }

        #[test]
        fn json_like_text_never_panics(text in r#"[{}\[\]":,a-z0-9\\ue. -]{0,80}"#) {
            let _ = Decoder::default().decode(text.as_bytes());
        }
    }
}
