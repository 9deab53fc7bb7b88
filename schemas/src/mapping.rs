//! Which fields of an input's records hold the fields of an event, as in
//! `event_id=id,ts=created_at:rfc3339`.
//!
//! A field that is not mapped keeps its own name; an empty right side means that records have no
//! such field.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::suggest::suggest;
use crate::time::{TimeError, TimeUnit};

/// The fields of an event that a record can supply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Field {
    /// The event's identity within its input.
    EventId,
    /// What happened; a record without a type is a `post_published`.
    Type,
    /// The post it happened to; the event's id if a record has none.
    PostId,
    /// The author.
    UserId,
    /// When it happened.
    Ts,
    /// The text that tags are extracted from.
    Caption,
    /// The picture of the post.
    ImageId,
}

impl Field {
    /// All fields, in the order of their discriminants.
    pub const ALL: [Self; 7] = [
        Self::EventId,
        Self::Type,
        Self::PostId,
        Self::UserId,
        Self::Ts,
        Self::Caption,
        Self::ImageId,
    ];

    /// Its name in Tagflow's own records and on the left side of a mapping.
    pub fn name(self) -> &'static str {
        match self {
            Self::EventId => "event_id",
            Self::Type => "type",
            Self::PostId => "post_id",
            Self::UserId => "user_id",
            Self::Ts => "ts",
            Self::Caption => "caption",
            Self::ImageId => "image_id",
        }
    }
}

/// Which record field holds which field of the event, and how times are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    names: [String; Field::ALL.len()],
    attributes: Vec<(String, String)>,
    unit: TimeUnit,
}

/// Why a mapping cannot be parsed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MappingError {
    /// A part without `=`.
    #[error("{0:?} is not a mapping; write FIELD=NAME, for example event_id=id")]
    NoEquals(String),
    /// An unknown field on the left.
    #[error("an event has no field {0:?}{1}")]
    UnknownField(String, String),
    /// Mapped twice.
    #[error("{0} is mapped twice")]
    Twice(String),
    /// An unknown time unit.
    #[error(transparent)]
    Unit(#[from] TimeError),
    /// `event_id` and `ts` cannot be left out.
    #[error("every event needs {0}; name the record's field")]
    Needed(&'static str),
}

impl Default for Mapping {
    fn default() -> Self {
        Self {
            names: Field::ALL.map(|f| f.name().to_owned()),
            attributes: Vec::new(),
            unit: TimeUnit::default(),
        }
    }
}

/// As `--map` takes it, without what is as by default.
impl fmt::Display for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fields = Field::ALL.iter().zip(&self.names).filter_map(|(field, name)| {
            let is_ts = *field == Field::Ts && self.unit != TimeUnit::default();
            let unit = if is_ts { format!(":{}", self.unit) } else { String::new() };
            let is_default = field.name() == name && unit.is_empty();
            (!is_default).then(|| format!("{}={name}{unit}", field.name()))
        });
        let attributes = self.attributes.iter().map(|(field, name)| format!("{field}={name}"));
        f.write_str(&fields.chain(attributes).collect::<Vec<_>>().join(","))
    }
}

impl FromStr for Mapping {
    type Err = MappingError;

    fn from_str(text: &str) -> Result<Self, MappingError> {
        Self::parse(text, &[])
    }
}

impl Mapping {
    /// Parses `FIELD=NAME,…`, where `attributes` are fields as well.
    pub fn parse(text: &str, attributes: &[&str]) -> Result<Self, MappingError> {
        let parts = text.split(',').map(str::trim).filter(|p| !p.is_empty());
        let pairs = parts.map(|part| {
            part.split_once('=').ok_or_else(|| MappingError::NoEquals(part.to_owned()))
        });
        Self::default().with(pairs.collect::<Result<Vec<_>, _>>()?, attributes)
    }

    /// This mapping with `pairs` of (field, record name with an optional `:unit`) set;
    /// `attributes` are fields as well.
    pub fn with<'p>(
        mut self,
        pairs: impl IntoIterator<Item = (&'p str, &'p str)>,
        attributes: &[&str],
    ) -> Result<Self, MappingError> {
        let mut seen = Vec::new();
        for (left, right) in pairs {
            let (left, right) = (left.trim(), right.trim());
            if seen.contains(&left) {
                return Err(MappingError::Twice(left.to_owned()));
            }
            seen.push(left);
            match Field::ALL.iter().find(|f| f.name() == left) {
                Some(Field::Ts) => {
                    let (name, unit) = right.split_once(':').unwrap_or((right, "ms"));
                    self.unit = unit.parse()?;
                    name.clone_into(&mut self.names[Field::Ts as usize]);
                }
                Some(field) => right.clone_into(&mut self.names[*field as usize]),
                None if attributes.contains(&left) => {
                    self.attributes.push((left.to_owned(), right.to_owned()));
                }
                None => {
                    let known = Field::ALL.map(Field::name);
                    let hint = suggest(left, known.iter().chain(attributes).copied());
                    return Err(MappingError::UnknownField(left.to_owned(), hint));
                }
            }
        }
        for needed in [Field::EventId, Field::Ts] {
            if self.name(needed).is_none() {
                return Err(MappingError::Needed(needed.name()));
            }
        }
        Ok(self)
    }

    /// The name that records use for `field`; `None` if they do not have it.
    pub fn name(&self, field: Field) -> Option<&str> {
        Some(self.names[field as usize].as_str()).filter(|name| !name.is_empty())
    }

    /// The record's name of a scope's attribute.
    pub fn attribute<'a>(&'a self, attribute: &'a str) -> &'a str {
        let mapped = self.attributes.iter().find(|(name, _)| name == attribute);
        mapped.map_or(attribute, |(_, name)| name)
    }

    /// How `ts` is written.
    pub fn unit(&self) -> TimeUnit {
        self.unit
    }
}

/// How the mapping of a commit differs from `now`, for people: `ts=at, not ts=at:us`. Empty if they
/// agree on every field that both have.
pub fn differing(then: &BTreeMap<String, String>, now: &BTreeMap<String, String>) -> String {
    let both = then.iter().filter_map(|(field, name)| Some((field, name, now.get(field)?)));
    let other = both.filter(|(_, name, now)| name != now);
    let told = other.map(|(field, name, now)| format!("{field}={name}, not {field}={now}"));
    told.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_fields_that_both_have_can_differ() {
        let names = |text: &str| {
            let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
            pairs.map(|(field, name)| (field.to_owned(), name.to_owned())).collect()
        };
        let of = |then: &str, now: &str| differing(&names(then), &names(now));
        assert_eq!(of("", "ts=at"), "");
        assert_eq!(of("ts=at,type=", "ts=at,type=,region=area"), "");
        assert_eq!(of("ts=at,type=", "ts=at:s,type=x"), "ts=at, not ts=at:s; type=, not type=x");
    }

    #[test]
    fn mapping_renames_fields() {
        let map: Mapping = "event_id=id,ts=created_at:rfc3339,caption=text,type=".parse().unwrap();
        assert_eq!(map.name(Field::EventId), Some("id"));
        assert_eq!(map.name(Field::Ts), Some("created_at"));
        assert_eq!(map.unit(), TimeUnit::Rfc3339);
        assert_eq!(map.name(Field::Type), None);
        assert_eq!(map.name(Field::UserId), Some("user_id"));
        let text = "event_id=id,type=,ts=created_at:rfc3339,caption=text";
        assert_eq!((map.to_string().as_str(), text.parse()), (text, Ok(map)));
        assert_eq!(Mapping::default().to_string(), "");
    }

    #[test]
    fn errors_name_the_field() {
        let error = |text: &str| text.parse::<Mapping>().unwrap_err().to_string();
        assert_eq!(
            error("event_it=id"),
            "an event has no field \"event_it\"; did you mean \"event_id\"?"
        );
        assert!(error("event_id").contains("write FIELD=NAME"));
        assert!(error("ts=t,ts=u").contains("twice"));
        assert!(error("ts=t:min").contains("use ms, s, us or rfc3339"));
        assert!(error("ts=").contains("needs ts"));
    }
}
