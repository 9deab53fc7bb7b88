//! What a record has as an attribute, by which posts are counted in scopes.
//!
//! Invariant: nothing that it can hold refuses a record.

use std::borrow::Cow;

use super::reject::ID_BYTES_MAX;

/// What a record has as an attribute. Nothing in it refuses a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attribute<'r> {
    /// `null` or `""`, which are as if absent.
    Null,
    /// A text, a number as it is written, or `true` or `false`.
    Text(Cow<'r, str>),
    /// What no scope can have: a list, an object, or a text that is too long or no Unicode.
    Other,
}

impl<'r> Attribute<'r> {
    pub(super) fn of(value: Option<Cow<'r, str>>) -> Self {
        match value {
            Some(value) if value.len() > ID_BYTES_MAX => Self::Other,
            Some(value) if !value.is_empty() => Self::Text(value),
            _ => Self::Null,
        }
    }

    /// Its text, by which it belongs to a scope.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Null | Self::Other => None,
        }
    }

    pub(super) fn into_owned(self) -> Attribute<'static> {
        match self {
            Self::Null => Attribute::Null,
            Self::Text(text) => Attribute::Text(owned(text)),
            Self::Other => Attribute::Other,
        }
    }
}

/// The text by itself, without the record that it is part of.
pub(super) fn owned(text: Cow<'_, str>) -> Cow<'static, str> {
    Cow::Owned(text.into_owned())
}
