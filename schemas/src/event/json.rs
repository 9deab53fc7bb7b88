//! Reading the JSON values that an event needs: texts and numbers exactly as written. Invariant:
//! other values are skipped without descending deeper than allowed.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::reject::{DEPTH_MAX, ID_BYTES_MAX, Reject};

/// Reads an id: a text, or an integer as its digits. `null` and `""` give `None`.
pub(super) fn id<'r>(key: &str, raw: &'r RawValue) -> Result<Option<Cow<'r, str>>, Reject> {
    let bad = |why: &str| Err(Reject::Field { field: key.to_owned(), why: why.to_owned() });
    let is_number = !raw.get().starts_with('"');
    match scalar(key, raw)? {
        Some(value) if is_number && value.contains(['.', 'e', 'E']) => {
            bad("an id is a text or an integer")
        }
        Some(value) if value.len() > ID_BYTES_MAX => bad("an id has at most 1024 bytes"),
        value => Ok(value.filter(|v| !v.is_empty())),
    }
}

/// Reads the text of a string, or the digits of a number exactly as written. `null` gives `None`.
pub(super) fn scalar<'r>(key: &str, raw: &'r RawValue) -> Result<Option<Cow<'r, str>>, Reject> {
    let json = raw.get();
    let bad = |why: String| Reject::Field { field: key.to_owned(), why };
    match json.as_bytes().first() {
        Some(b'"') => match serde_json::from_str::<Text>(json) {
            Ok(Text(Some(Value::Text(text)))) => Ok(Some(text)),
            Ok(_) => Err(bad("a text or a number is needed".to_owned())),
            Err(error) => Err(bad(error.to_string())),
        },
        Some(b'0'..=b'9' | b'-') => Ok(Some(Cow::Borrowed(json))),
        Some(b'n') => Ok(None),
        _ => Err(bad("a text or a number is needed".to_owned())),
    }
}

pub(super) fn text<'r>(
    key: &str,
    value: Option<Value<'r>>,
) -> Result<Option<Cow<'r, str>>, Reject> {
    match value {
        None => Ok(None),
        Some(Value::Text(text)) => Ok(Some(text)),
        Some(Value::Other) => {
            Err(Reject::Field { field: key.to_owned(), why: "a text is needed".to_owned() })
        }
    }
}

/// A field's name, borrowed unless it contains escapes.
pub(super) struct Key<'r>(pub(super) Cow<'r, str>);

impl<'r> serde::Deserialize<'r> for Key<'r> {
    fn deserialize<D: Deserializer<'r>>(json: D) -> Result<Self, D::Error> {
        match Text::deserialize(json)? {
            Text(Some(Value::Text(text))) => Ok(Self(text)),
            Text(_) => Err(serde::de::Error::custom("a field's name is a text")),
        }
    }
}

pub(super) enum Value<'r> {
    Text(Cow<'r, str>),
    Other,
}

/// A JSON value of which only text is used. `null` gives `None`.
pub(super) struct Text<'r>(pub(super) Option<Value<'r>>);

impl<'r> serde::Deserialize<'r> for Text<'r> {
    fn deserialize<D: Deserializer<'r>>(json: D) -> Result<Self, D::Error> {
        json.deserialize_any(TextVisitor).map(Self)
    }
}

struct TextVisitor;

impl<'r> Visitor<'r> for TextVisitor {
    type Value = Option<Value<'r>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_borrowed_str<E>(self, text: &'r str) -> Result<Self::Value, E> {
        Ok(Some(Value::Text(Cow::Borrowed(text))))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Some(Value::Text(Cow::Owned(text.to_owned()))))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Some(Value::Other))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Some(Value::Other))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(Some(Value::Other))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Some(Value::Other))
    }

    fn visit_seq<A: SeqAccess<'r>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Some(Value::Other))
    }

    fn visit_map<A: MapAccess<'r>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Some(Value::Other))
    }
}

/// Skips a value at `depth`, down to [`DEPTH_MAX`].
pub(super) struct Skip<'d> {
    pub(super) depth: usize,
    pub(super) too_deep: &'d mut bool,
}

impl<'r> DeserializeSeed<'r> for Skip<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'r>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl Skip<'_> {
    fn below<E: serde::de::Error>(&mut self) -> Result<usize, E> {
        if self.depth > DEPTH_MAX {
            *self.too_deep = true;
            return Err(E::custom("too deep"));
        }
        Ok(self.depth + 1)
    }
}

impl<'r> Visitor<'r> for Skip<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'r>>(mut self, mut seq: A) -> Result<(), A::Error> {
        let depth = self.below()?;
        while seq.next_element_seed(Skip { depth, too_deep: self.too_deep })?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'r>>(mut self, mut map: A) -> Result<(), A::Error> {
        let depth = self.below()?;
        while map.next_key::<IgnoredAny>()?.is_some() {
            map.next_value_seed(Skip { depth, too_deep: self.too_deep })?;
        }
        Ok(())
    }
}
