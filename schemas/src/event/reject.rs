//! Limits on records, and why a record is rejected. Invariant: every reason has a code of its own,
//! under which dead letters are filtered and counted.

use thiserror::Error;

/// Larger records are rejected.
pub const RECORD_BYTES_MAX: usize = 64 * 1024;
/// Records nested deeper are rejected. The record itself is level one.
pub const DEPTH_MAX: usize = 32;
/// Longer ids are rejected.
pub const ID_BYTES_MAX: usize = 1024;

/// Why a record is not an event. It becomes a dead letter with this as its detail: commits hold the
/// texts, so they do not change.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Reject {
    /// It is larger than [`RECORD_BYTES_MAX`].
    #[error("the record has {0} bytes; at most {RECORD_BYTES_MAX} are read")]
    TooLarge(u64),
    /// It has no value: its topic says with it that the record of this key is deleted.
    #[error("the record is a tombstone: it has no value")]
    Tombstone,
    /// It has a value without any bytes.
    #[error("the record is empty")]
    Empty,
    /// It is nested deeper than [`DEPTH_MAX`].
    #[error("the record is nested deeper than {DEPTH_MAX} levels")]
    TooDeep,
    /// It is not JSON.
    #[error("not JSON: {0}")]
    NotJson(String),
    /// It is JSON, but not an object.
    #[error("the record is no JSON object")]
    NotAnObject,
    /// It lacks a field that every event needs.
    #[error("{0:?} is missing")]
    Missing(String),
    /// A field occurs twice, so that its value would be a guess.
    #[error("{0:?} is there twice")]
    Twice(String),
    /// A field has an unusable value.
    #[error("{field:?}: {why}")]
    Field {
        /// The name of the field in the record.
        field: String,
        /// What is wrong with its value.
        why: String,
    },
    /// The type is unknown.
    #[error("unknown type {0:?}")]
    Type(String),
}

impl Reject {
    /// Every [`Self::code`].
    pub const CODES: [&'static str; 10] = [
        "too_large",
        "tombstone",
        "empty",
        "too_deep",
        "not_json",
        "not_an_object",
        "missing_field",
        "duplicate_field",
        "bad_field",
        "bad_type",
    ];

    /// A short code for the reason, for filters and counters.
    pub fn code(&self) -> &'static str {
        let [
            too_large,
            tombstone,
            empty,
            too_deep,
            not_json,
            no_object,
            missing,
            twice,
            field,
            kind,
        ] = Self::CODES;
        match self {
            Self::TooLarge(_) => too_large,
            Self::Tombstone => tombstone,
            Self::Empty => empty,
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
