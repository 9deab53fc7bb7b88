//! What a replay takes over from the state of the job that it stands beside: the decisions about
//! events that are no function of the log, and the hash key.
//!
//! Invariant: a record that the state has read is decided about as it was there; of any other
//! record nothing is said.

use std::collections::{BTreeMap, HashMap};

use schemas::hash::{HashKey, KeyHash};
use schemas::manifest::{Manifest, Position};
use schemas::rows::{DeadLetters, FUTURE, partition_hash, record_hash};
use sinks::commits::{CommitError, open_table};
use sinks::storage::Storage;

/// What a dead letter's detail ends with whose event lay below the floor of remembered ids.
pub(crate) const BELOW_FLOOR: &str = "its time lies below the floor of remembered ids";

/// What was decided about a record that its log does not tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// It was neither.
    Neither,
    /// Its event was dated too far ahead of the clock.
    Future,
    /// Its event lay below the floor.
    BelowFloor,
}

/// What is taken over from a state.
#[derive(Clone, Debug)]
pub struct TakenOver {
    hash_key: HashKey,
    /// By hash of input and partition: the first position that was not decided about.
    up_to: BTreeMap<u64, u64>,
    of: HashMap<KeyHash, Decision>,
}

/// The decisions about the records of one partition.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Decided<'t> {
    partition: u64,
    up_to: u64,
    of: &'t HashMap<KeyHash, Decision>,
}

impl TakenOver {
    /// Reads them out of a commit.
    pub fn read(storage: &dyn Storage, manifest: &Manifest) -> Result<Self, CommitError> {
        let mut of = HashMap::new();
        for segment in open_table::<DeadLetters>(storage, manifest)? {
            for (hash, row) in segment.rows.iter() {
                if row.reason == FUTURE {
                    of.insert(hash, Decision::Future);
                } else if row.detail.ends_with(BELOW_FLOOR) {
                    of.insert(hash, Decision::BelowFloor);
                }
            }
        }
        let body = &manifest.body;
        let mut up_to = BTreeMap::new();
        for (input, partitions) in &body.inputs {
            for (partition, state) in partitions {
                let end = match &state.position {
                    Position::Offset(end) => *end,
                    // Runs that read blocks decide nothing by a clock or a floor.
                    Position::Blocks(blocks) => blocks.bytes,
                };
                up_to.insert(partition_hash(input, partition), end);
            }
        }
        Ok(Self { hash_key: body.hash_key.clone(), up_to, of })
    }

    /// The key of the state's hashes.
    pub(crate) fn hash_key(&self) -> HashKey {
        self.hash_key.clone()
    }

    /// The decisions about the records of a partition; none where the state has not read it.
    pub(crate) fn of(&self, input: &str, partition: &str) -> Option<Decided<'_>> {
        let partition = partition_hash(input, partition);
        Some(Decided { partition, up_to: *self.up_to.get(&partition)?, of: &self.of })
    }
}

impl Decided<'_> {
    /// What was decided about the record at `position`; none where it had not been read.
    pub(crate) fn about(&self, position: u64) -> Option<Decision> {
        if position >= self.up_to {
            return None;
        }
        let decision = self.of.get(&record_hash(self.partition, position));
        Some(decision.copied().unwrap_or(Decision::Neither))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_decided_about_up_to_where_the_state_has_read() {
        let partition = partition_hash("input", "p");
        let of = HashMap::from([(record_hash(partition, 3), Decision::Future)]);
        let up_to = BTreeMap::from([(partition, 5)]);
        let taken = TakenOver { hash_key: HashKey::new(1), up_to, of };
        let decided = taken.of("input", "p").unwrap();
        assert_eq!(decided.about(2), Some(Decision::Neither));
        assert_eq!(decided.about(3), Some(Decision::Future));
        assert_eq!(decided.about(5), None);
        assert!(taken.of("input", "q").is_none());
    }
}
