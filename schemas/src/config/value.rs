//! The scalars of a configuration. Each parses itself, checks its range and describes itself in the
//! JSON Schema, so that parser and schema agree.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer};
use serde_saphyr::Spanned;

use super::credentials::hide_credentials;
use super::error::LineColumn;
use crate::time::{TimeError, format_duration_ms, parse_duration_ms};

/// A hundred years; a longer duration would leave the range of times.
pub(super) const DURATION_MS_MAX: u64 = 36_500 * 86_400_000;

/// A value and its location in the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Located<T> {
    pub(super) value: T,
    pub(super) at: LineColumn,
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Located<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Spanned { value, referenced, .. } = Spanned::deserialize(deserializer)?;
        Ok(Self { value, at: referenced.into() })
    }
}

impl<T: JsonSchema> JsonSchema for Located<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

/// Parses a text.
pub(super) fn parsed<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: fmt::Display>,
{
    String::deserialize(deserializer)?.parse().map_err(Error::custom)
}

/// Implements parsing and the JSON Schema of a type that is a text with a pattern.
macro_rules! text {
    ($type:ty, $pattern:expr) => {
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                $crate::config::value::parsed(from)
            }
        }

        impl schemars::JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({"type": "string", "pattern": $pattern})
            }
        }
    };
}
pub(super) use text;

/// A property of a client: a text, a number or a boolean.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Property(pub(super) String);

/// Its value may be a secret.
impl fmt::Debug for Property {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

impl<'de> Deserialize<'de> for Property {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Scalar;

        impl Visitor<'_> for Scalar {
            type Value = Property;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, a number, true or false")
            }

            fn visit_str<E>(self, text: &str) -> Result<Property, E> {
                Ok(Property(text.to_owned()))
            }

            fn visit_bool<E>(self, truth: bool) -> Result<Property, E> {
                Ok(Property(truth.to_string()))
            }

            fn visit_i64<E>(self, number: i64) -> Result<Property, E> {
                Ok(Property(number.to_string()))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Property, E> {
                Ok(Property(number.to_string()))
            }

            fn visit_f64<E>(self, number: f64) -> Result<Property, E> {
                Ok(Property(number.to_string()))
            }
        }

        deserializer.deserialize_any(Scalar)
    }
}

impl JsonSchema for Property {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Property".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": ["string", "number", "boolean"]})
    }
}

/// The name of a topic, a service or a job.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name(pub(super) String);

text!(Name, "^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$");

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let good = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let first = text.starts_with(|c: char| c.is_ascii_alphanumeric());
        if first && text.len() <= 100 && text.chars().all(good) {
            return Ok(Self(text.to_owned()));
        }
        Err(format!(
            "{text:?} is not a valid name; use a letter or digit, then up to 99 of A-Z a-z 0-9 . _ -"
        ))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Name {
    /// Reads a name as plain text.
    pub(super) fn read<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
        Self::deserialize(from).map(|name| name.0)
    }
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// Its name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
}

/// A text that is not a [`HostPort`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not HOST:PORT; write for example 127.0.0.1:9042")]
pub struct HostPortError(String);

text!(HostPort, r"^[^\s/,@]+:[0-9]{1,5}$");

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl FromStr for HostPort {
    type Err = HostPortError;

    fn from_str(text: &str) -> Result<Self, HostPortError> {
        let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
        // A colon inside an address without brackets would make the port ambiguous.
        let bracketed = host.starts_with('[') && host.ends_with(']');
        let bad = |c: char| c.is_whitespace() || "/,@".contains(c) || (c == ':' && !bracketed);
        match port.parse() {
            Ok(port @ 1..) if !host.is_empty() && !host.contains(bad) => {
                Ok(Self { host: host.to_owned(), port })
            }
            _ => Err(HostPortError(hide_credentials(text).into_owned())),
        }
    }
}

/// A duration of at least `MIN` and at most `MAX` milliseconds, written as `90s`.
pub(super) struct Duration<const MIN: u64, const MAX: u64>;

impl<const MIN: u64, const MAX: u64> Duration<MIN, MAX> {
    /// Reads a duration as milliseconds.
    pub(super) fn ms<'de, D, T>(from: D) -> Result<T, D::Error>
    where
        D: Deserializer<'de>,
        T: TryFrom<u64, Error: fmt::Display>,
    {
        let text = String::deserialize(from)?;
        // The library accepts more than the schema describes, such as "1h 30m" or "PT1H".
        let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
        if !["ms", "s", "m", "h", "d"].contains(&unit) {
            return Err(D::Error::custom(TimeError::Duration(text)));
        }
        let ms = parse_duration_ms(&text).map_err(D::Error::custom)?.unsigned_abs();
        let (what, limit) = match ms {
            _ if ms < MIN => ("too short; it is at least", MIN),
            _ if ms > MAX => ("too long; it is at most", MAX),
            _ => return T::try_from(ms).map_err(D::Error::custom),
        };
        let limit = format_duration_ms(limit.cast_signed());
        Err(D::Error::custom(format!("{text} is {what} {limit}")))
    }
}

impl<const MIN: u64, const MAX: u64> JsonSchema for Duration<MIN, MAX> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": "^[0-9]+(ms|s|m|h|d)$"})
    }
}

/// A whole number of at least `MIN` and at most `MAX`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Whole<const MIN: u64, const MAX: u64>(pub(super) usize);

impl<const MIN: u64, const MAX: u64> Whole<MIN, MAX> {
    /// Reads a plain number.
    pub(super) fn read<'de, D: Deserializer<'de>>(from: D) -> Result<usize, D::Error> {
        Self::deserialize(from).map(|number| number.0)
    }
}

impl<'de, const MIN: u64, const MAX: u64> Deserialize<'de> for Whole<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let number = u64::deserialize(from)?;
        if (MIN..=MAX).contains(&number) {
            return usize::try_from(number).map(Self).map_err(D::Error::custom);
        }
        Err(D::Error::custom(format!("{number} is outside {MIN} to {MAX}")))
    }
}

impl<const MIN: u64, const MAX: u64> JsonSchema for Whole<MIN, MAX> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Whole".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "integer", "minimum": MIN, "maximum": MAX})
    }
}
