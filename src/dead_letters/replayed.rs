//! Why records are refused, and which refused records have been delivered again.

use std::collections::BTreeMap;

use clap::builder::PossibleValuesParser;
use dataflow::Repair;
use schemas::event::Reject;
use schemas::rows::{BEYOND_HORIZON, FUTURE};

/// Every reason to refuse a record.
pub(super) fn reasons() -> PossibleValuesParser {
    Reject::CODES.into_iter().chain([FUTURE, BEYOND_HORIZON]).collect::<Vec<_>>().into()
}

/// Input, partition and position of a record → the commit in which it was replayed.
pub(super) type Replayed = BTreeMap<(String, String, u64), u64>;

pub(super) fn replayed(done: &[Repair]) -> Replayed {
    let records = done.iter().filter_map(|repair| {
        let position = repair.position?;
        Some(((repair.scope.clone(), repair.key.clone(), position), repair.commit))
    });
    records.collect()
}
