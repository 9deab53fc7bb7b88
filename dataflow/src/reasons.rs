//! What a run refused, by reason, with a sample of each.
//!
//! Invariant: what it keeps is bounded: one record for each reason.

use std::collections::BTreeMap;

/// A refused record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedRecord {
    /// The input's name.
    pub input: String,
    /// The partition.
    pub partition: String,
    /// The position in it.
    pub position: u64,
    /// What is wrong with it.
    pub detail: String,
    /// Its bytes.
    pub raw: Vec<u8>,
}

/// What was refused.
#[derive(Clone, Debug, Default)]
pub struct Reasons(BTreeMap<&'static str, (u64, RefusedRecord)>);

impl Reasons {
    /// Adds a record; it is kept if it is the first of its reason.
    pub(crate) fn add(&mut self, reason: &'static str, record: impl FnOnce() -> RefusedRecord) {
        self.0.entry(reason).or_insert_with(|| (0, record())).0 += 1;
    }

    /// Adds those of another worker, or of a later commit.
    pub(crate) fn merge(&mut self, more: Self) {
        for (reason, (records, first)) in more.0 {
            self.0.entry(reason).or_insert((0, first)).0 += records;
        }
    }

    /// The number of records.
    pub fn records(&self) -> u64 {
        self.0.values().map(|(records, _)| records).sum()
    }

    /// The commonest reason, its number of records and the first of them.
    pub fn commonest(&self) -> Option<(&'static str, u64, &RefusedRecord)> {
        let most = self.0.iter().max_by_key(|(_, (records, _))| *records)?;
        let (reason, (records, first)) = most;
        Some((*reason, *records, first))
    }

    /// The number of records that were refused for `reason`.
    pub fn of(&self, reason: &str) -> u64 {
        self.0.get(reason).map_or(0, |(records, _)| *records)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(position: u64) -> RefusedRecord {
        let text = |text: &str| text.to_owned();
        RefusedRecord {
            input: text("i"),
            partition: text("p"),
            position,
            detail: text("d"),
            raw: Vec::new(),
        }
    }

    #[test]
    fn commonest_reason_is_told_with_its_first_record() {
        let mut all = Reasons::default();
        assert!(all.commonest().is_none());
        all.add("a", || record(1));
        let mut more = Reasons::default();
        more.add("b", || record(2));
        more.add("b", || record(3));
        more.add("a", || record(4));
        all.merge(more);
        all.add("b", || record(5));
        let told =
            all.commonest().map(|(reason, records, first)| (reason, records, first.position));
        assert_eq!((told, all.records(), all.of("a")), (Some(("b", 3, 2)), 5, 2));
    }
}
