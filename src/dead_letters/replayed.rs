//! What refused records are called, why they are, how much of them is kept, and which have been
//! delivered again.

use std::collections::BTreeMap;

use clap::builder::PossibleValuesParser;
use schemas::event::Reject;
use schemas::manifest::Manifest;
use schemas::printable::printable;
use schemas::rows::{BEYOND_HORIZON, DeadLetterRow, FUTURE, Redelivery, Repairs};
use sinks::commits::{CommitError, open_table};
use sinks::storage::Storage;

/// Every reason to refuse a record.
pub(super) fn reasons() -> PossibleValuesParser {
    Reject::CODES.into_iter().chain([FUTURE, BEYOND_HORIZON]).collect::<Vec<_>>().into()
}

/// Whether this is a name as it is, or as it is listed, with control characters escaped.
pub(super) fn is_named(name: &str, given: &str) -> bool {
    name == given || printable(name) == given
}

/// What identifies a record: its input, partition and position.
pub(super) type Key = (String, String, u64);

pub(super) fn key(row: &DeadLetterRow<'_>) -> Key {
    (row.input.to_owned(), row.partition.to_owned(), row.position)
}

/// Input, partition and position of a record → the commit in which it was replayed.
pub(super) type Replayed = BTreeMap<Key, u64>;

pub(super) fn replayed(
    storage: &dyn Storage,
    manifest: &Manifest,
) -> Result<Replayed, CommitError> {
    let segments = open_table::<Repairs>(storage, manifest)?;
    let rows = segments.iter().flat_map(|segment| segment.rows.iter()).map(|(_, row)| row);
    let records = rows.filter(|row| Redelivery::parse(row.kind).is_some());
    let replayed =
        records.map(|row| ((row.scope.to_owned(), row.key.to_owned(), row.lo), row.commit));
    Ok(replayed.collect())
}

/// How much of a record is kept that is not kept whole.
pub(super) fn kept(row: &DeadLetterRow<'_>) -> String {
    let kept = row.raw.len() as u64;
    match row.size() {
        size if size > kept => format!("the first {kept} of its {size} bytes"),
        // An older build made the row.
        _ => format!("only its first {kept} bytes"),
    }
}
