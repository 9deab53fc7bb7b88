//! Reading the JSON values that an event needs: texts and numbers exactly as written.
//!
//! Invariant: of all other values only the grammar and the depth matter. They may hold half of a
//! surrogate pair, a number beyond any type, or bytes that are not UTF-8.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::error::Category;
use serde_json::value::RawValue;

use super::attribute::Attribute;
use super::reject::{DEPTH_MAX, ID_BYTES_MAX, Reject};

/// The value of a field, `None` for `null`, or what is wrong with it.
pub(super) type Read<'r> = Result<Option<Cow<'r, str>>, String>;

/// A record's text, and its members.
pub(super) struct Record<'t> {
    members: Vec<(&'t RawValue, &'t RawValue)>,
    /// Stands for bytes that are not UTF-8.
    mark: Option<char>,
}

/// A value as it is written.
#[derive(Clone, Copy)]
pub(super) struct Value<'t> {
    json: &'t str,
    is_utf8: bool,
}

impl<'t> Record<'t> {
    /// Reads a record, in which `mark` stands for bytes that are not UTF-8.
    pub(super) fn read(text: &'t str, mark: Option<char>) -> Result<Self, Reject> {
        let mut json = serde_json::Deserializer::from_str(text);
        let members = Members::deserialize(&mut json);
        match members.and_then(|Members(members)| json.end().map(|()| members)) {
            Ok(members) if members.iter().any(|(_, value)| depth(value.get()) >= DEPTH_MAX) => {
                Err(Reject::TooDeep)
            }
            Ok(members) => Ok(Self { members, mark }),
            Err(error) if error.classify() != Category::Data => {
                Err(Reject::NotJson(error.to_string()))
            }
            Err(_) => match serde_json::from_str::<&RawValue>(text) {
                Ok(_) => Err(Reject::NotAnObject),
                Err(error) => Err(Reject::NotJson(error.to_string())),
            },
        }
    }

    /// The members with their names. No field has a name that is no text.
    pub(super) fn members(&self) -> impl Iterator<Item = (Cow<'t, str>, Value<'t>)> + '_ {
        let is_utf8 = |json: &str| self.mark.is_none_or(|mark| !json.contains(mark));
        self.members.iter().filter(move |(name, _)| is_utf8(name.get())).filter_map(
            move |(name, value)| {
                let value = Value { json: value.get(), is_utf8: is_utf8(value.get()) };
                Some((string(name.get()).ok()?, value))
            },
        )
    }
}

/// A record that is not UTF-8 as a text: a character that it does not hold stands for each run of
/// bytes that is none.
pub(super) fn marked(record: &[u8]) -> (String, char) {
    let private = '\u{f0000}'..='\u{ffffd}';
    let chunks = || record.utf8_chunks();
    let held: HashSet<char> =
        chunks().flat_map(|c| c.valid().chars()).filter(|c| private.contains(c)).collect();
    let mark = private.clone().find(|c| !held.contains(c));
    let mark = mark.unwrap_or_else(|| {
        unreachable!("{} bytes hold all private characters: checked by `decode`", record.len())
    });
    let mut text = String::with_capacity(record.len() + 8);
    for chunk in chunks() {
        text.push_str(chunk.valid());
        text.extend((!chunk.invalid().is_empty()).then_some(mark));
    }
    (text, mark)
}

/// How deep lists and objects lie within each other in a valid value.
fn depth(json: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let mut bytes = json.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth -= 1,
            b'"' => {
                while let Some(byte) = bytes.next().filter(|byte| *byte != b'"') {
                    if byte == b'\\' {
                        bytes.next();
                    }
                }
            }
            _ => {}
        }
    }
    deepest
}

/// The text of a string.
fn string(json: &str) -> Result<Cow<'_, str>, String> {
    match json.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(plain) if !plain.contains('\\') => Ok(Cow::Borrowed(plain)),
        _ => serde_json::from_str::<String>(json).map(Cow::Owned).map_err(|e| e.to_string()),
    }
}

impl<'t> Value<'t> {
    /// An id: a text, or an integer as its digits. `""` is as if absent.
    pub(super) fn id(self) -> Read<'t> {
        let is_number = !self.json.starts_with('"');
        match self.scalar()? {
            Some(value) if is_number && value.contains(['.', 'e', 'E']) => {
                Err("an id is a text or an integer".to_owned())
            }
            Some(value) if value.len() > ID_BYTES_MAX => {
                Err("an id has at most 1024 bytes".to_owned())
            }
            value => Ok(value.filter(|v| !v.is_empty())),
        }
    }

    /// A text, or a number exactly as written.
    pub(super) fn scalar(self) -> Read<'t> {
        match self.json.as_bytes().first() {
            Some(b'0'..=b'9' | b'-') => Ok(Some(Cow::Borrowed(self.json))),
            Some(b'"' | b'n') => self.text(),
            _ => Err("a text or a number is needed".to_owned()),
        }
    }

    /// A text.
    pub(super) fn text(self) -> Read<'t> {
        match self.json.as_bytes().first() {
            Some(b'"') if !self.is_utf8 => Err("it is not UTF-8".to_owned()),
            Some(b'"') => string(self.json).map(Some),
            Some(b'n') => Ok(None),
            _ => Err("a text is needed".to_owned()),
        }
    }

    /// What an attribute holds, which refuses no record.
    pub(super) fn attribute(self) -> Attribute<'t> {
        match self.json {
            "true" | "false" => Attribute::Text(Cow::Borrowed(self.json)),
            _ => self.scalar().map_or(Attribute::Other, Attribute::of),
        }
    }
}

/// The names and values of an object.
struct Members<'t>(Vec<(&'t RawValue, &'t RawValue)>);

impl<'t> Deserialize<'t> for Members<'t> {
    fn deserialize<D: Deserializer<'t>>(json: D) -> Result<Self, D::Error> {
        json.deserialize_map(MembersVisitor).map(Self)
    }
}

struct MembersVisitor;

impl<'t> Visitor<'t> for MembersVisitor {
    type Value = Vec<(&'t RawValue, &'t RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'t>>(self, mut map: M) -> Result<Self::Value, M::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(members)
    }
}
