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

/// A larger file is not a configuration.
pub const FILE_BYTES_MAX: usize = 1 << 20;

/// A line and a column, both from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LineColumn {
    /// The line.
    pub line: u64,
    /// The column, in characters.
    pub column: u64,
}

impl fmt::Display for LineColumn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

impl From<Location> for LineColumn {
    fn from(location: Location) -> Self {
        // An unknown location is 0:0; the error then concerns the file as a whole.
        Self { line: location.line().max(1), column: location.column().max(1) }
    }
}

/// A remark about a place in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Where.
    pub at: LineColumn,
    /// What, and what to do about it.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.at, self.what)
    }
}

/// Why a file is not a valid configuration: one line of `file:line:column: what` per mistake.
#[derive(Clone, Debug, PartialEq, Eq, ThisError)]
#[error("{}", lines(file, mistakes))]
pub struct ConfigError {
    /// The file's name.
    pub file: String,
    /// Its mistakes, at least one. Parsing stops at the first syntax error; all other mistakes are
    /// reported together.
    pub mistakes: Vec<Finding>,
}

fn lines(file: &str, mistakes: &[Finding]) -> String {
    mistakes.iter().map(|m| format!("{file}:{m}")).collect::<Vec<_>>().join("\n")
}

/// What the checks after parsing found.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// What is wrong.
    pub(super) mistakes: Vec<Finding>,
    /// What is valid, but not in this build.
    pub(super) missing: Vec<Finding>,
}

impl Findings {
    pub(super) fn mistake(&mut self, at: LineColumn, what: impl fmt::Display) {
        self.mistakes.push(Finding { at, what: what.to_string() });
    }

    /// Notes that `what`, such as "posts are", is missing.
    pub(super) fn missing(&mut self, at: LineColumn, what: &str) {
        self.missing.push(Finding { at, what: format!("{what} not in this build yet") });
    }
}

/// The mistake of a file of `bytes` bytes.
fn too_large(bytes: u64) -> Finding {
    let what = format!("the file has {bytes} bytes; at most {FILE_BYTES_MAX} are read");
    Finding { at: LineColumn { line: 1, column: 1 }, what }
}

impl ConfigError {
    /// A file of `bytes` bytes is too large to be read.
    pub fn too_large(file: &str, bytes: u64) -> Self {
        Self { file: file.to_owned(), mistakes: vec![too_large(bytes)] }
    }
}

/// Parses a file's text, within limits that no honest configuration reaches.
pub(super) fn read<T: DeserializeOwned>(text: &str) -> Result<T, Finding> {
    if text.len() > FILE_BYTES_MAX {
        return Err(too_large(text.len() as u64));
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

/// `; did you mean …` if a known word is close, else a list of all known words.
pub(super) fn instead(word: &str, known: &[&str]) -> String {
    let near = suggest(word, known.iter().copied());
    if !near.is_empty() || known.is_empty() {
        return near;
    }
    let quoted: Vec<_> = known.iter().map(|k| format!("{k:?}")).collect();
    format!("; use {}{}", if known.len() > 1 { "one of " } else { "" }, quoted.join(", "))
}

/// Rephrases an error of the parser in terms of the configuration.
fn explain(error: &Error, text: &str) -> String {
    match error.without_snippet() {
        Error::AliasError { error, .. } => explain(error, text),
        Error::SerdeUnknownField { field, expected, .. } => {
            format!("unknown key {field:?}{}", instead(field, expected))
        }
        Error::SerdeUnknownVariant { variant, expected, .. } => {
            format!("{variant:?} is not known here{}", instead(variant, expected))
        }
        // The location is the last key of the block.
        Error::SerdeMissingField { field, .. } => format!("{field:?} is missing in this block"),
        Error::DuplicateMappingKey { key: Some(key), .. } => {
            format!("{key:?} is given twice; remove one")
        }
        Error::SerdeInvalidType { unexpected, expected, .. } => {
            format!("expected {expected}, not {unexpected}")
        }
        Error::Unexpected { expected: "mapping start", .. } => {
            "expected keys with values (key: value)".to_owned()
        }
        Error::Unexpected { expected: "sequence start", .. } => {
            "expected a list ([a, b], or lines that begin with -)".to_owned()
        }
        Error::Unexpected { expected: "string scalar", .. } | Error::NullIntoString { .. } => {
            "expected a single value".to_owned()
        }
        Error::InvalidScalar { location, .. } => {
            format!("{:?} is not a whole number", word_at(*location, text))
        }
        Error::MergeKeyNotAllowed { .. } => {
            "merge keys (<<) are not supported; write the keys out".into()
        }
        Error::ExpectedMappingEndAfterEnumVariantValue { .. } => {
            "a second key; start a new list entry for it".to_owned()
        }
        Error::MultipleDocuments { .. } => "a second document; a file holds one job".to_owned(),
        Error::Eof { .. } => "the file ends unexpectedly".to_owned(),
        other if is_limit(other) => {
            "the file is too large or too deeply nested for a configuration".to_owned()
        }
        // The rest is about YAML itself.
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

/// The text of a scalar, which the parser's error leaves out.
fn word_at(location: Location, text: &str) -> &str {
    let span = location.span();
    let word = span.byte_offset().zip(span.byte_len()).and_then(|(start, len)| {
        text.get(usize::try_from(start).ok()?..usize::try_from(start + len).ok()?)
    });
    // A location without a span quotes nothing.
    word.unwrap_or("")
}

/// The parser's text may quote the file, so line breaks and other control characters are replaced.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
