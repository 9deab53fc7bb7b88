//! Post events as JSON records: decoding, limits, and why a record is rejected.
//!
//! Invariants: decoding never panics and never guesses. A record gives an [`Event`], or a
//! [`Reject`] that names the field. What becomes of it depends neither on the order of its fields
//! nor on what its other fields hold.

mod attribute;
mod fast;
mod guess;
mod json;
mod reject;
mod survey;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

pub use attribute::Attribute;
use attribute::owned;
pub use guess::guess;
use json::{Record, Value, marked};
pub use reject::{DEPTH_MAX, ID_BYTES_MAX, RECORD_BYTES_MAX, Reject};
use smallvec::SmallVec;
pub use survey::{Remark, Survey};

use crate::mapping::{Field, Mapping};
use crate::planted::{Bug, planted};
use crate::time::TimeUnit;

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
    /// What the record has of the decoder's attributes, in the same order.
    pub attributes: Attributes<'r>,
}

type Attributes<'r> = SmallVec<[Option<Attribute<'r>>; 2]>;

impl Event<'_> {
    /// The event with texts of its own.
    fn into_owned<'s>(self) -> Event<'s> {
        let Self { event_id, kind, post_id, ts_ms, caption, attributes } = self;
        Event {
            event_id: owned(event_id),
            kind,
            post_id: owned(post_id),
            ts_ms,
            caption: owned(caption),
            attributes: attributes.into_iter().map(|a| a.map(Attribute::into_owned)).collect(),
        }
    }
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
        let spoils = || serde_json::from_slice::<serde_json::Value>(record).is_err();
        if planted(Bug::UnreadFieldSpoils) && spoils() {
            return Err(Reject::NotJson("planted".to_owned()));
        }
        self.decode_fast(record).map_or_else(|| self.decode_full(record), Ok)
    }

    /// Decodes any record, and finds out what is wrong with one that is not an event.
    fn decode_full<'r>(&self, record: &'r [u8]) -> Result<Event<'r>, Reject> {
        if let Ok(text) = std::str::from_utf8(record) {
            return self.decode_text(text, None);
        }
        let (text, mark) = marked(record);
        self.decode_text(&text, Some(mark)).map(Event::into_owned)
    }

    /// Decodes a text, in which `mark` stands for bytes that are not UTF-8.
    fn decode_text<'r>(&self, text: &'r str, mark: Option<char>) -> Result<Event<'r>, Reject> {
        let record = Record::read(text, mark)?;
        let (mut parts, mut wrong) = (self.no_parts(), None);
        for (name, value) in record.members() {
            let Some(target) = self.target(&name) else { continue };
            match self.read(target, value, &mut parts) {
                Some(Ok(())) => {}
                // Before anything else that is wrong with a field.
                None => return Err(Reject::Twice(name.into_owned())),
                Some(Err(why)) => {
                    wrong.get_or_insert(Reject::Field { field: name.into_owned(), why });
                }
            }
        }
        wrong.map_or_else(|| self.event(parts), Err)
    }

    /// Reads a value into its part, or says why that is not possible. `None` if the part has been
    /// read before.
    fn read<'r>(
        &self,
        target: Target,
        value: Value<'r>,
        parts: &mut Parts<'r>,
    ) -> Option<Result<(), String>> {
        /// A value that cannot be used is there all the same.
        fn put<T>(
            part: &mut Part<T>,
            value: Result<Option<T>, String>,
        ) -> Option<Result<(), String>> {
            let (value, read) = value.map_or_else(|why| (None, Err(why)), |v| (v, Ok(())));
            set(part, value).map(|()| read)
        }
        let time = |text: Cow<'_, str>| self.mapping.unit().parse(&text).map_err(|e| e.to_string());
        match target {
            Target::EventId => put(&mut parts.event_id, value.id()),
            Target::PostId => put(&mut parts.post_id, value.id()),
            Target::Caption => put(&mut parts.caption, value.text()),
            Target::Type => put(&mut parts.kind, value.text()),
            Target::Ts => {
                let read = value.scalar().and_then(|text| text.map(time).transpose());
                put(&mut parts.ts_ms, read)
            }
            Target::Attribute(i) => set(&mut parts.attributes[i], value.attribute()).map(Ok),
        }
    }

    fn no_parts<'r>(&self) -> Parts<'r> {
        Parts { attributes: smallvec::smallvec![None; self.attributes.len()], ..Parts::default() }
    }

    /// Whether a field of an event or an attribute has this name in records, read or not.
    fn names_field(&self, name: &str) -> bool {
        let is_field = Field::ALL.iter().any(|field| self.mapping.name(*field) == Some(name));
        is_field || self.attributes.iter().any(|attribute| attribute == name)
    }

    /// The fields and attributes that records should have by this mapping, each with its name in
    /// them: the text, the attributes, and what may be missing if it was mapped.
    fn looked_for(&self) -> Vec<(String, String)> {
        let named = |field: Field| self.mapping.name(field).map(|name| (field.name(), name));
        let optional = [Field::Type, Field::PostId, Field::UserId, Field::ImageId];
        let mapped = optional.into_iter().filter_map(named);
        let mapped = mapped.filter(|(field, name)| field != name);
        let fields = named(Field::Caption).into_iter().chain(mapped);
        let attributes = self.attributes.iter().map(|name| (name.as_str(), name.as_str()));
        let all = fields.chain(attributes);
        all.map(|(of, name)| (of.to_owned(), name.to_owned())).collect()
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
        let event_id = parts.event_id.flatten().ok_or_else(|| missing(Field::EventId))?;
        let ts_ms = parts.ts_ms.flatten().ok_or_else(|| missing(Field::Ts))?;
        let kind = match &parts.kind.flatten() {
            None => Kind::default(),
            Some(kind) => Kind::NAMES
                .iter()
                .find(|(name, _)| name == kind)
                .map(|(_, kind)| *kind)
                .ok_or_else(|| Reject::Type(kind.chars().take(60).collect()))?,
        };
        Ok(Event {
            post_id: parts.post_id.flatten().unwrap_or_else(|| event_id.clone()),
            event_id,
            kind,
            ts_ms,
            caption: parts.caption.flatten().unwrap_or_default(),
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

/// A part of an event: `None` before it was read, `Some(None)` if it holds nothing.
type Part<T> = Option<Option<T>>;

/// What has been read from a record so far.
#[derive(Default)]
struct Parts<'r> {
    event_id: Part<Cow<'r, str>>,
    kind: Part<Cow<'r, str>>,
    post_id: Part<Cow<'r, str>>,
    ts_ms: Part<i64>,
    caption: Part<Cow<'r, str>>,
    attributes: Attributes<'r>,
}

/// Fills a part. `None` if it has been read before.
fn set<T>(part: &mut Option<T>, value: T) -> Option<()> {
    part.is_none().then(|| *part = Some(value))
}
