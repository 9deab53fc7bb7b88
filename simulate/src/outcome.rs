//! The outcome of a simulation.

use std::collections::BTreeMap;

use crate::checks::{Tally, Violation};

/// The outcome of a simulation.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// A hash of every effect and its order.
    pub trace: u64,
    /// Steps taken.
    pub steps: u64,
    /// Jobs that were killed or lost power.
    pub kills: u64,
    /// Records produced.
    pub records: u64,
    /// How often each fault struck.
    pub faults: BTreeMap<&'static str, u64>,
    /// Cold reads and other upkeep of the state.
    pub work: BTreeMap<&'static str, u64>,
    /// How often each check was made.
    pub checks: Tally,
    /// The check that failed, if any.
    pub violation: Option<Violation>,
}

/// What can happen to a write on its way to the store.
pub(crate) const STORE_FAULTS: [&str; 4] =
    ["write lost", "answer lost", "write late", "write twice"];

impl Outcome {
    /// Writes to the store that went wrong.
    pub fn store_faults(&self) -> u64 {
        STORE_FAULTS.iter().filter_map(|fault| self.faults.get(fault)).sum()
    }
}
