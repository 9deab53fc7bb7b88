//! Reconcile: what the state of a commit must be, computed afresh from the log, against what it is.
//!
//! The computation is a second, independent program (`program`): it shares with the job the
//! record types, the tag rules, and the decoders of manifests, rows and dead letters, which hold
//! the positions and the recorded decisions. Invariant: what a report calls drift differs, and
//! what it does not mention, of the keys it was asked to check, is equal.

mod accept;

mod check;
mod compatibility;
mod copies;
mod difference;
mod drift;
mod explain;
mod mend;
mod program;
mod run;
mod since;
mod splits;
mod stored;

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

pub use difference::{Drift, Place};
pub use explain::{EventCount, ExplainedEvent, explain};
pub use run::reconcile;
use schemas::control::Control;
use schemas::hash::KeyHash;
use schemas::tags::RULES_VERSION;
use serde::Serialize;
use sinks::commits::{CommitError, Snapshot};
use sinks::storage::Storage;
use thiserror::Error;

use crate::inputs::{InputError, InputSpec};
use crate::sources::LogError;
use schemas::config::Beyond;

/// The parts that a check can be cut into: the top seven bits of a key's hash.
pub const PARTS: u64 = 128;

/// Which keys are checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// Those of some of [`PARTS`] parts, in so many passes over the log.
    Bins {
        /// Which parts.
        bins: Range<u64>,
        /// The passes; each needs memory for its share of the keys.
        passes: u64,
    },
    /// One key in so many.
    Sample(u64),
    /// These tags, by their keys, in every scope.
    Tags(BTreeSet<String>),
    /// These keys.
    Keys(BTreeSet<KeyHash>),
}

impl Which {
    /// Whether all keys are.
    pub fn is_all(&self) -> bool {
        matches!(self, Self::Bins { bins, .. } if *bins == (0..PARTS))
    }

    /// Whether the key of a row of the tag `name` is one of them.
    pub fn has(&self, key: KeyHash, name: &str) -> bool {
        match self {
            Self::Bins { bins, .. } => Part::Bins(bins.clone()).has(key),
            Self::Sample(one_in) => Part::Sample(*one_in).has(key),
            Self::Tags(tags) => tags.contains(name),
            Self::Keys(keys) => keys.contains(&key),
        }
    }
}

/// What to check.
#[derive(Clone)]
pub struct Request {
    /// The inputs, under the names that the state knows them by.
    pub inputs: Vec<InputSpec>,
    /// The state.
    pub storage: Arc<dyn Storage>,
    /// The commit, open.
    pub snapshot: Arc<Snapshot>,
    /// An earlier commit, whose content is taken on trust: only what came after it is checked.
    pub since: Option<Arc<Snapshot>>,
    /// The job's horizon; none where it keeps every id.
    pub horizon_ms: Option<i64>,
    /// What the job does with events beyond it.
    pub beyond: Beyond,
    /// Which keys to check.
    pub which: Which,
    /// Worker threads.
    pub workers: usize,
    /// Records a second that are read at most.
    pub limit_rate: Option<u64>,
}

/// How far a check is, for a progress line.
#[derive(Debug, Default)]
pub struct Progress {
    /// Records read.
    pub records: AtomicU64,
    /// What the units below are at the end of the last pass.
    pub all: AtomicU64,
    /// Bytes of files and records of topics that have been read.
    pub read: AtomicU64,
}

/// What a check found.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// The values that differ.
    pub values: Vec<Drift>,
    /// The result.
    pub report: Report,
    /// What has to be done about them, as far as the log names the keys.
    pub controls: Vec<Control>,
    /// The keys that differ.
    pub keys: BTreeSet<KeyHash>,
}

/// The result of a check.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The commit.
    pub commit: u64,
    /// The earlier commit from which on it was checked; left out where all of the log was counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    /// The last commit before it whose records were read otherwise, by another mapping or horizon:
    /// drift of what was counted so is no fault of the state. Left out where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_otherwise: Option<u64>,
    /// The events that it counts.
    #[serde(skip)]
    pub events: u64,
    /// The rows and ids that were compared.
    pub checked: u64,
    /// The values that differ.
    pub drift: u64,
    /// Events of which two copies differ: which one counts is up to chance, so that drift of their
    /// tags means nothing. Left out where there are none.
    #[serde(skip_serializing_if = "is_zero")]
    pub ambiguous: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Why a check could not tell.
#[derive(Debug, Error)]
pub enum ReconcileError {
    /// An input could not be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// An input could not be opened.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The commit could not be read.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The state has an input that the check was not given.
    #[error("commit {commit} counts input {input:?}, which was not named")]
    Unnamed {
        /// The commit.
        commit: u64,
        /// The input.
        input: String,
    },
    /// The input that was named has not all that the commit counts.
    #[error(
        "the commit counts {partition} of input {input:?}, which is not in what was named for it; \
         name the file, folder or topic that the job reads"
    )]
    Elsewhere {
        /// The input.
        input: String,
        /// The partition.
        partition: String,
    },
    /// The records would be read otherwise than they were.
    #[error(
        "commit {commit} was made from input {input:?} with {differing}; \
         give the --map and --horizon, or the dataflow.yaml, that the job was given"
    )]
    Mapping {
        /// The commit.
        commit: u64,
        /// The input.
        input: String,
        /// What is other, as [`schemas::mapping::differing`] has it.
        differing: String,
    },
    /// Tags would be extracted otherwise than they were.
    #[error(
        "commit {commit} was made with tag rules {rules}, and this build has {RULES_VERSION}; \
         use the build that made it, or count the log afresh with `tagflow replay`"
    )]
    Rules {
        /// The commit.
        commit: u64,
        /// Its tag rules.
        rules: u32,
    },
    /// No record is an event, though the commit counts some.
    #[error(
        "none of {records} records is an event that counts, and the commit counts {counted}; \
         is the mapping that of the job?"
    )]
    NoEvents {
        /// The records that were read.
        records: u64,
        /// The events that the commit counts.
        counted: u64,
    },
    /// Retention has removed what the commit counts.
    #[error(
        "{partition} begins at {begins} by now, and the commit counts it from {from} on: retention \
         has removed the records in between"
    )]
    Overtaken {
        /// The partition.
        partition: String,
        /// Where its log begins.
        begins: u64,
        /// Where the commit begins to count.
        from: u64,
    },
    /// It cannot be checked from an earlier commit on.
    #[error("commit {commit} cannot be checked from commit {since} on: {why}")]
    Since {
        /// The commit.
        commit: u64,
        /// The earlier one.
        since: u64,
        /// What stands against it.
        why: String,
    },
    /// The log ends before the commit's position.
    #[error("{partition} ends at {end}, and the commit covers it up to {position}")]
    Short {
        /// The partition.
        partition: String,
        /// Its end.
        end: u64,
        /// The commit's position.
        position: u64,
    },
    /// Nothing comes, though it should.
    #[error("{partition} delivers nothing at {position}; the commit covers it up to {end}")]
    Silent {
        /// The partition.
        partition: String,
        /// The position that was reached.
        position: u64,
        /// The commit's position.
        end: u64,
    },
    /// A row cannot be decoded.
    #[error("the row of tag {0:?} is damaged")]
    Row(String),
    /// A worker thread ended abnormally.
    #[error("a worker failed: {0}")]
    Worker(String),
}

/// The keys of one pass.
#[derive(Clone, Debug)]
enum Part {
    Bins(Range<u64>),
    Sample(u64),
    Keys(Arc<BTreeSet<KeyHash>>),
}

impl Part {
    fn has(&self, hash: KeyHash) -> bool {
        match self {
            Self::Bins(bins) => bins.contains(&(hash.hi >> (64 - PARTS.trailing_zeros()))),
            // The high bits place a key; the low ones are as random, and free.
            Self::Sample(one_in) => hash.lo.is_multiple_of(*one_in),
            Self::Keys(keys) => keys.contains(&hash),
        }
    }
}
