//! Limits on records, and why a record is rejected. Invariant: every reason has a code of its own,
//! under which dead letters are filtered and counted.

use thiserror::Error;

/// A record over this many bytes is refused.
pub const RECORD_BYTES_MAX: usize = 64 * 1024;
/// A record nested deeper than this is refused; the record itself is level one.
pub const DEPTH_MAX: usize = 32;
/// An id over this many bytes is refused.
pub const ID_BYTES_MAX: usize = 1024;

/// Why a record is no event. It goes to the dead letters with this as its reason.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Reject {
    /// Over [`RECORD_BYTES_MAX`].
    #[error("the record has {0} bytes; at most {RECORD_BYTES_MAX} are read")]
    TooLarge(u64),
    /// Over [`DEPTH_MAX`].
    #[error("the record is nested deeper than {DEPTH_MAX} levels")]
    TooDeep,
    /// No JSON.
    #[error("not JSON: {0}")]
    NotJson(String),
    /// JSON, but no object.
    #[error("the record is no JSON object")]
    NotAnObject,
    /// A field that every event needs is missing.
    #[error("{0:?} is missing")]
    Missing(String),
    /// A field is there twice, so that its value is a guess.
    #[error("{0:?} is there twice")]
    Twice(String),
    /// A field with an unusable value.
    #[error("{field:?}: {why}")]
    Field {
        /// The record's name of it.
        field: String,
        /// What is wrong with its value.
        why: String,
    },
    /// A type nobody knows.
    #[error("unknown type {0:?}")]
    Type(String),
}

impl Reject {
    /// Every [`Self::code`] there is.
    pub const CODES: [&'static str; 8] = [
        "too_large",
        "too_deep",
        "not_json",
        "not_an_object",
        "missing_field",
        "duplicate_field",
        "bad_field",
        "bad_type",
    ];

    /// A short word for the reason, for filters and counters.
    pub fn code(&self) -> &'static str {
        let [too_large, too_deep, not_json, no_object, missing, twice, field, kind] = Self::CODES;
        match self {
            Self::TooLarge(_) => too_large,
            Self::TooDeep => too_deep,
            Self::NotJson(_) => not_json,
            Self::NotAnObject => no_object,
            Self::Missing(_) => missing,
            Self::Twice(_) => twice,
            Self::Field { .. } => field,
            Self::Type(_) => kind,
        }
    }
}
