//! Recorded decisions: what a replay takes from the state of the job that it repeats. The log alone
//! does not say which events were refused by a clock or a floor; the job's dead letters do.
//!
//! Invariant: about a record that the state has read a replay decides as the job did; about any
//! other record nothing is recorded.

use std::collections::{BTreeMap, HashMap};

use schemas::hash::{HashKey, KeyHash};
use schemas::manifest::{Manifest, Position};
use schemas::rows::{
    BEYOND_HORIZON, BelowFloor, DeadLetterRow, DeadLetters, FUTURE, partition_hash, record_hash,
};
use sinks::commits::{CommitError, open_table};
use sinks::storage::Storage;

/// What a job decided about an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// It was dated neither too far ahead nor below the floor.
    InTime,
    /// It was dated too far ahead of the clock.
    Future,
    /// It lay below the floor of remembered ids.
    BelowFloor,
}

impl Decision {
    /// The decision that a dead letter records, if any.
    fn recorded(row: &DeadLetterRow<'_>) -> Option<Self> {
        match row.reason {
            FUTURE => Some(Self::Future),
            BEYOND_HORIZON if row.detail.parse::<BelowFloor>().is_ok() => Some(Self::BelowFloor),
            _ => None,
        }
    }
}

/// The decisions recorded in a commit, and the hash key that a replay shares with it.
#[derive(Clone, Debug)]
pub struct Decisions {
    hash_key: HashKey,
    /// By hash of input and partition: the first position that the job had not read.
    ends: BTreeMap<u64, u64>,
    by_record: HashMap<KeyHash, Decision>,
}

/// The decisions about the records of one partition.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PartitionDecisions<'d> {
    partition: u64,
    end: u64,
    by_record: &'d HashMap<KeyHash, Decision>,
}

impl Decisions {
    /// Reads the decisions recorded in a commit.
    pub fn read(storage: &dyn Storage, manifest: &Manifest) -> Result<Self, CommitError> {
        let mut by_record = HashMap::new();
        for segment in open_table::<DeadLetters>(storage, manifest)? {
            let rows = segment.rows.iter();
            by_record
                .extend(rows.filter_map(|(hash, row)| Some((hash, Decision::recorded(&row)?))));
        }
        let body = &manifest.body;
        let mut ends = BTreeMap::new();
        for (input, partitions) in &body.inputs {
            for (partition, state) in partitions {
                let end = match &state.position {
                    Position::Offset(end) => *end,
                    // Runs that read blocks have neither clock nor floor to decide by.
                    Position::Blocks(blocks) => blocks.bytes,
                };
                ends.insert(partition_hash(input, partition), end);
            }
        }
        Ok(Self { hash_key: body.hash_key.clone(), ends, by_record })
    }

    /// The key of the state's hashes.
    pub(crate) fn hash_key(&self) -> HashKey {
        self.hash_key.clone()
    }

    /// The decisions about a partition's records. `None` if the job has not read the partition.
    pub(crate) fn partition(&self, input: &str, partition: &str) -> Option<PartitionDecisions<'_>> {
        let partition = partition_hash(input, partition);
        let end = *self.ends.get(&partition)?;
        Some(PartitionDecisions { partition, end, by_record: &self.by_record })
    }
}

impl PartitionDecisions<'_> {
    /// The decision about the record at `position`. `None` if the job had not read it.
    pub(crate) fn at(&self, position: u64) -> Option<Decision> {
        if position >= self.end {
            return None;
        }
        let recorded = self.by_record.get(&record_hash(self.partition, position));
        Some(recorded.copied().unwrap_or(Decision::InTime))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decisions_end_where_the_job_stopped_reading() {
        let partition = partition_hash("input", "p");
        let by_record = HashMap::from([(record_hash(partition, 3), Decision::Future)]);
        let ends = BTreeMap::from([(partition, 5)]);
        let decisions = Decisions { hash_key: HashKey::new(1), ends, by_record };
        let of_partition = decisions.partition("input", "p").unwrap();
        assert_eq!(of_partition.at(2), Some(Decision::InTime));
        assert_eq!(of_partition.at(3), Some(Decision::Future));
        assert_eq!(of_partition.at(5), None);
        assert!(decisions.partition("input", "q").is_none());
    }

    #[test]
    fn only_clocks_and_floors_leave_a_decision() {
        let recorded = |reason: &str, detail: &str| {
            let (input, partition, position) = ("input", "p", 1);
            let (raw, commit) = (&[][..], 1);
            Decision::recorded(&DeadLetterRow {
                input,
                partition,
                position,
                reason,
                detail,
                raw,
                commit,
                bytes: 0,
            })
        };
        let below = [BelowFloor::Refused, BelowFloor::Counted].map(|detail| detail.to_string());
        for detail in &below {
            assert_eq!(recorded(BEYOND_HORIZON, detail), Some(Decision::BelowFloor));
            assert_eq!(recorded("bad_field", detail), None);
        }
        assert_eq!(recorded(FUTURE, "ts 9 lies after 5"), Some(Decision::Future));
        assert_eq!(recorded(BEYOND_HORIZON, "ts 5 lies before 9"), None, "its log tells");
    }
}
