//! What a job has counted since its state began. Invariant: the sum of the first six is the number
//! of records that were read.

use serde::{Deserialize, Serialize};

/// What happened to the records that were read: each is counted once, in one of the first six.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counters {
    /// Accepted first-time events.
    pub events: u64,
    /// Events whose id had been accepted before.
    pub duplicates: u64,
    /// Events older than the horizon, whether they were counted or not.
    pub beyond_horizon: u64,
    /// Records in the dead letters for another reason.
    pub dead_letters: u64,
    /// Events of a type that this job does not handle.
    pub unsupported: u64,
    /// Events after a bounded run's `--until`.
    pub after_until: u64,
    /// Tag occurrences over the longest length.
    pub tags_too_long: u64,
    /// Tag occurrences beyond the first distinct tags of a post.
    pub tags_too_many: u64,
    /// Texts that were read in part.
    pub texts_truncated: u64,
    /// Attribute values outside a scope's allow-list.
    pub scope_overflow: u64,
    /// Positions of topics whose records were removed before they could be read.
    pub lost_records: u64,
    /// Rows and ids that were corrected.
    pub corrected: u64,
    /// Corrections that were passed over, since a later one or a rollback had made them void.
    pub superseded: u64,
    /// Rows that were written again as they were.
    pub republished: u64,
    /// Refused records that were counted later.
    pub redelivered: u64,
}

impl Counters {
    /// Every counter with its name.
    pub fn named(&self) -> [(&'static str, u64); 15] {
        [
            ("events", self.events),
            ("duplicates", self.duplicates),
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
        ]
    }

    /// The records read: each ends in one of these.
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
    }
}
