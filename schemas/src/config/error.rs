//! What is wrong with a `dataflow.yaml`, where, and what to do about it.
//!
//! Invariant: every error names a line and a column of the file.

use std::fmt;

use serde::de::DeserializeOwned;
use serde_saphyr::granit_parser::ErrorKind;
use serde_saphyr::{
    DuplicateKeyPolicy, Error, ExternalMessageSource, Location, MergeKeyPolicy, MessageFormatter,
};
use thiserror::Error as ThisError;

use crate::suggest::suggest;

/// A larger file is no configuration.
const FILE_BYTES_MAX: usize = 1 << 20;

/// A line and a column, both from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The line.
    pub line: u64,
    /// The column, in characters.
    pub column: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

impl From<Location> for Place {
    fn from(location: Location) -> Self {
        // A location that is not known counts from 0; what is wrong then is the file as a whole.
        Self { line: location.line().max(1), column: location.column().max(1) }
    }
}

/// Something to say about a place in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Where.
    pub at: Place,
    /// What, and what to do about it.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.at, self.what)
    }
}

/// Why a file is no configuration, as one line of `file:line:column: what` for each mistake.
#[derive(Clone, Debug, PartialEq, Eq, ThisError)]
#[error("{}", lines(file, mistakes))]
pub struct ConfigError {
    /// The file's name.
    pub file: String,
    /// Its mistakes, at least one. The file is read up to the first that is one of form; the
    /// others come together.
    pub mistakes: Vec<Finding>,
}

fn lines(file: &str, mistakes: &[Finding]) -> String {
    mistakes.iter().map(|m| format!("{file}:{m}")).collect::<Vec<_>>().join("\n")
}

/// What the checks behind the parser have found.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// What is wrong.
    pub(super) mistakes: Vec<Finding>,
    /// What is right, but not in this build.
    pub(super) missing: Vec<Finding>,
}

impl Findings {
    pub(super) fn mistake(&mut self, at: Place, what: impl fmt::Display) {
        self.mistakes.push(Finding { at, what: what.to_string() });
    }

    /// Notes that `what`, such as "posts are", is missing.
    pub(super) fn missing(&mut self, at: Place, what: &str) {
        self.missing.push(Finding { at, what: format!("{what} not in this build yet") });
    }
}

/// Reads a file's text within limits that no honest configuration meets.
pub(super) fn read<T: DeserializeOwned>(text: &str) -> Result<T, Finding> {
    if text.len() > FILE_BYTES_MAX {
        let what = format!("the file has {} bytes; at most {FILE_BYTES_MAX} are read", text.len());
        return Err(Finding { at: Place { line: 1, column: 1 }, what });
    }
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: 16,
            flow_nesting_limit: 16,
            max_events: 200_000,
            max_nodes: 100_000,
            max_documents: 2,
            max_aliases: 100,
            max_anchors: 100,
            max_recorded_anchor_events: 10_000,
            max_recorded_anchor_bytes: FILE_BYTES_MAX,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: 10_000,
            max_replay_stack_depth: 8,
        },
        duplicate_keys: DuplicateKeyPolicy::Error,
        merge_keys: MergeKeyPolicy::Error,
        strict_booleans: true,
        reject_unsupported_tags: true,
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let at = error.location().unwrap_or(Location::UNKNOWN);
        Finding { at: at.into(), what: one_line(&explain(&error, text)) }
    })
}

/// `; did you mean …` where a known word is near, else all that are known.
pub(super) fn instead(word: &str, known: &[&str]) -> String {
    let near = suggest(word, known.iter().copied());
    if !near.is_empty() || known.is_empty() {
        return near;
    }
    let quoted: Vec<_> = known.iter().map(|k| format!("{k:?}")).collect();
    format!("; use {}{}", if known.len() > 1 { "one of " } else { "" }, quoted.join(", "))
}

/// Says in the words of a configuration what the parser says in those of its library.
fn explain(error: &Error, text: &str) -> String {
    match error.without_snippet() {
        Error::AliasError { error, .. } => explain(error, text),
        Error::SerdeUnknownField { field, expected, .. } => {
            format!("unknown key {field:?}{}", instead(field, expected))
        }
        Error::SerdeUnknownVariant { variant, expected, .. } => {
            format!("{variant:?} is not known here{}", instead(variant, expected))
        }
        // The place is the last key of the block.
        Error::SerdeMissingField { field, .. } => format!("{field:?} is missing in this block"),
        Error::DuplicateMappingKey { key: Some(key), .. } => {
            format!("{key:?} is there twice; remove one")
        }
        Error::SerdeInvalidType { unexpected, expected, .. } => {
            format!("{expected} is expected here, not {unexpected}")
        }
        Error::Unexpected { expected: "mapping start", .. } => {
            "keys with values (key: value) are expected here".to_owned()
        }
        Error::Unexpected { expected: "sequence start", .. } => {
            "a list ([a, b], or lines that begin with -) is expected here".to_owned()
        }
        Error::Unexpected { expected: "string scalar", .. } | Error::NullIntoString { .. } => {
            "a single value is expected here".to_owned()
        }
        Error::InvalidScalar { location, .. } => {
            format!("{:?} is no whole number", word_at(*location, text))
        }
        Error::MergeKeyNotAllowed { .. } => {
            "merge keys (<<) are not read; write the keys out".into()
        }
        Error::ExpectedMappingEndAfterEnumVariantValue { .. } => {
            "a second key; begin a new entry of the list for it".to_owned()
        }
        Error::MultipleDocuments { .. } => "a second document; a file holds one job".to_owned(),
        Error::Eof { .. } => "the file ends too early".to_owned(),
        other if is_limit(other) => {
            "the file is nested too deep, or too large, for a configuration".to_owned()
        }
        // What is left is about YAML itself.
        other => serde_saphyr::UserMessageFormatter.format_message(other).into_owned(),
    }
}

/// Whether the limits of [`read`] stopped the parser or the layer above it.
fn is_limit(error: &Error) -> bool {
    match error {
        Error::Budget { .. }
        | Error::AliasReplayLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. } => true,
        Error::ExternalMessage { source, .. } => matches!(
            source.as_ref(),
            ExternalMessageSource::Parser(error)
                if matches!(error.kind(), ErrorKind::RecursionLimitExceeded)
        ),
        _ => false,
    }
}

/// The text of a scalar, which the library's error leaves out.
fn word_at(location: Location, text: &str) -> &str {
    let span = location.span();
    let word = span.byte_offset().zip(span.byte_len()).and_then(|(start, len)| {
        text.get(usize::try_from(start).ok()?..usize::try_from(start + len).ok()?)
    });
    word.unwrap_or_default()
}

/// A foreign text may quote the file: no line break or other control character gets through.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
