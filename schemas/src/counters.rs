//! What a job has counted since its state was created. Invariant: the first six counters add up to
//! the number of records read.

use serde::{Deserialize, Serialize};

/// What happened to the records that were read. Each is counted in exactly one of the first six.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counters {
    /// Events that were accepted.
    pub events: u64,
    /// Events with an id that had been accepted before.
    pub duplicates: u64,
    /// Duplicates whose time lies in another hour than the latest that copies before them claimed.
    pub copies_differ: u64,
    /// Events older than the horizon, whether they were counted or not.
    pub beyond_horizon: u64,
    /// Records that became dead letters for other reasons.
    pub dead_letters: u64,
    /// Events of a type that this job does not handle.
    pub unsupported: u64,
    /// Events after the `--until` of a bounded run.
    pub after_until: u64,
    /// Occurrences of tags that are too long.
    pub tags_too_long: u64,
    /// Occurrences of tags beyond the limit of distinct tags a post.
    pub tags_too_many: u64,
    /// Texts that were truncated.
    pub texts_truncated: u64,
    /// Attribute values that are not in a scope's allow-list.
    pub scope_overflow: u64,
    /// Records that a topic's retention removed before they were read.
    pub lost_records: u64,
    /// Rows and ids that were corrected.
    pub corrected: u64,
    /// Corrections that were skipped because a later one or a rollback superseded them.
    pub superseded: u64,
    /// Rows that were written again unchanged.
    pub republished: u64,
    /// Refused records that were delivered again and counted.
    pub redelivered: u64,
    /// Followed files that were truncated or overwritten, and are read again from their beginning.
    pub truncations: u64,
}

impl Counters {
    /// Every counter with its name.
    pub fn named(&self) -> [(&'static str, u64); 17] {
        [
            ("events", self.events),
            ("duplicates", self.duplicates),
            ("copies_differ", self.copies_differ),
            ("beyond_horizon", self.beyond_horizon),
            ("dead_letters", self.dead_letters),
            ("unsupported", self.unsupported),
            ("after_until", self.after_until),
            ("tags_too_long", self.tags_too_long),
            ("tags_too_many", self.tags_too_many),
            ("texts_truncated", self.texts_truncated),
            ("scope_overflow", self.scope_overflow),
            ("lost_records", self.lost_records),
            ("corrected", self.corrected),
            ("superseded", self.superseded),
            ("republished", self.republished),
            ("redelivered", self.redelivered),
            ("truncations", self.truncations),
        ]
    }

    /// The number of records read.
    pub fn records(&self) -> u64 {
        self.events
            + self.duplicates
            + self.beyond_horizon
            + self.dead_letters
            + self.unsupported
            + self.after_until
    }
}

impl std::ops::AddAssign for Counters {
    fn add_assign(&mut self, more: Self) {
        self.events += more.events;
        self.duplicates += more.duplicates;
        self.copies_differ += more.copies_differ;
        self.beyond_horizon += more.beyond_horizon;
        self.dead_letters += more.dead_letters;
        self.unsupported += more.unsupported;
        self.after_until += more.after_until;
        self.tags_too_long += more.tags_too_long;
        self.tags_too_many += more.tags_too_many;
        self.texts_truncated += more.texts_truncated;
        self.scope_overflow += more.scope_overflow;
        self.lost_records += more.lost_records;
        self.corrected += more.corrected;
        self.superseded += more.superseded;
        self.republished += more.republished;
        self.redelivered += more.redelivered;
        self.truncations += more.truncations;
    }
}
