//! What a simulation came to.

use std::collections::BTreeMap;

use crate::checks::{Tally, Violation};

/// What a simulation came to.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// A hash of every effect and its order.
    pub trace: u64,
    /// Steps taken.
    pub steps: u64,
    /// Jobs that were killed, by hand or by a loss of power.
    pub kills: u64,
    /// Records produced.
    pub records: u64,
    /// Faults of each kind that struck.
    pub faults: BTreeMap<&'static str, u64>,
    /// What the state's upkeep took: cold reads and the like.
    pub work: BTreeMap<&'static str, u64>,
    /// How often each check was made.
    pub checks: Tally,
    /// The check that does not hold, if any.
    pub violation: Option<Violation>,
}

/// What may become of a write on its way to the store.
pub(crate) const STORE_FAULTS: [&str; 4] =
    ["write lost", "answer lost", "write late", "write twice"];

impl Outcome {
    /// Writes to the store that went wrong.
    pub fn store_faults(&self) -> u64 {
        STORE_FAULTS.iter().filter_map(|fault| self.faults.get(fault)).sum()
    }
}
