//! Reconcile: recomputes what a commit must hold from the log, and compares it with what it holds.
//!
//! The computation is a second, independent program (`program`). With the job it shares only the
//! record types, the tag rules, and the decoders of manifests, rows and dead letters, which hold
//! the positions and the recorded decisions. Invariant: every value that a report lists differs,
//! and every other value of the selected keys is equal.

mod accept;
mod check;
mod compatibility;
mod copies;
mod corrections;
mod difference;
mod drift;
mod explain;

mod program;
mod run;
mod since;
mod splits;
mod stored;

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

pub use explain::{EventCount, ExplainedEvent, explain};
pub use run::reconcile;
use schemas::control::Control;
use schemas::hash::KeyHash;
use schemas::printable;
use schemas::tags::TagRules;
use serde::Serialize;
use sinks::commits::{CommitError, Snapshot};
use sinks::difference::Difference;
use sinks::storage::Storage;
use thiserror::Error;

use crate::inputs::{InputError, InputSpec};
use crate::sources::LogError;
use schemas::config::Beyond;

/// The number of parts that the key space is divided into, by the top seven bits of a key's hash.
pub const PARTS: u64 = 128;

/// The keys to check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// The keys of some of the [`PARTS`] parts.
    Bins {
        /// The parts.
        bins: Range<u64>,
        /// How many times to read the log, each time with a share of the keys in memory.
        passes: u64,
    },
    /// One key in this many.
    Sample(u64),
    /// These tags, by their keys, in every scope.
    Tags(BTreeSet<String>),
    /// These keys.
    Keys(BTreeSet<KeyHash>),
}

impl Selection {
    /// Whether every key is selected.
    pub fn is_all(&self) -> bool {
        matches!(self, Self::Bins { bins, .. } if *bins == (0..PARTS))
    }

    /// Whether the row with this key, of the tag `name`, is selected.
    pub fn selects(&self, key: KeyHash, name: &str) -> bool {
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
    /// An earlier commit whose content is trusted; only what came after it is checked.
    pub since: Option<Arc<Snapshot>>,
    /// The job's horizon; `None` if it keeps every id.
    pub horizon_ms: Option<i64>,
    /// What the job does with events beyond the horizon.
    pub beyond: Beyond,
    /// The keys to check.
    pub selection: Selection,
    /// The number of worker threads.
    pub workers: usize,
    /// The most records to read per second.
    pub limit_rate: Option<u64>,
}

/// How far a check is, for a progress line.
#[derive(Debug, Default)]
pub struct Progress {
    /// Records read.
    pub records: AtomicU64,
    /// What `read` will be at the end of the last pass.
    pub all: AtomicU64,
    /// Bytes of files and records of topics read.
    pub read: AtomicU64,
}

/// What a check found.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// The values that differ: the commit on the left, the log on the right.
    pub differences: Vec<Difference>,
    /// The result.
    pub report: Report,
    /// The repairs of those keys that were found in the log.
    pub controls: Vec<Control>,
    /// The keys that differ.
    pub keys: BTreeSet<KeyHash>,
}

/// The result of a check.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The commit.
    pub commit: u64,
    /// The earlier commit that was trusted. Left out if all of the log was counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    /// The last earlier commit whose records were read with another mapping or horizon. What
    /// differs in the events up to there is not the state's fault. Left out if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_otherwise: Option<u64>,
    /// The events that the commit counts.
    #[serde(skip)]
    pub events: u64,
    /// The rows and ids that were compared.
    pub checked: u64,
    /// The number of values that differ.
    pub drift: u64,
    /// Events of which two copies differ. Any copy may count, so differences in their tags prove
    /// nothing. Left out if there are none.
    #[serde(skip_serializing_if = "is_zero")]
    pub ambiguous: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Why a commit could not be checked.
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
    /// The commit counts an input that the check was not given.
    #[error("commit {commit} counts input {input:?}, which was not named")]
    Unnamed {
        /// The commit.
        commit: u64,
        /// The input.
        input: String,
    },
    /// A partition that the commit counts is not in the input that was named.
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
    /// A file that was rotated or truncated is nowhere to be read again.
    #[error(
        "the commit counts {former} of input {input:?} as it was before it was rotated or truncated, \
         and that file is gone; check what was read since a later commit, with --since COMMIT"
    )]
    Rotated {
        /// The input.
        input: String,
        /// The name that it had.
        former: String,
    },
    /// Records would be read with another mapping or horizon than the job's.
    #[error(
        "commit {commit} was made from input {input:?} with {differing}; \
         give the --map and --horizon, or the dataflow.yaml, that the job was given"
    )]
    Mapping {
        /// The commit.
        commit: u64,
        /// The input.
        input: String,
        /// What differs, as [`schemas::mapping::differing`] describes it.
        differing: String,
    },
    /// Tags would be extracted by other rules than the job's.
    #[error(
        "commit {commit} was made with tag rules {rules}, and this build has rules up to {newest}; \
         use the build that made it, or count the log again with `tagflow replay`",
        newest = TagRules::NEWEST.version()
    )]
    Rules {
        /// The commit.
        commit: u64,
        /// Its tag rules.
        rules: u32,
    },
    /// No record is an event, though the commit counts some.
    #[error(
        "no event that counts among {}, but the commit counts {}; is this the mapping of the job?",
        printable::counted(.records, "record", "records"),
        printable::counted(.counted, "event", "events")
    )]
    NoEvents {
        /// The records that were read.
        records: u64,
        /// The events that the commit counts.
        counted: u64,
    },
    /// Retention has removed records that the commit counts.
    #[error(
        "{partition} now begins at {begins}, but the commit counts it from {from}: retention has \
         removed the records in between"
    )]
    Overtaken {
        /// The partition.
        partition: String,
        /// Where its log begins.
        begins: u64,
        /// The first position that is needed.
        from: u64,
    },
    /// The commit cannot be checked on top of the earlier one.
    #[error("commit {commit} cannot be checked since commit {since}: {why}")]
    Since {
        /// The commit.
        commit: u64,
        /// The earlier one.
        since: u64,
        /// What prevents it.
        why: NotSince,
    },
    /// The log ends before the commit's position.
    #[error("{partition} ends at {end}, but the commit covers it up to {position}")]
    Short {
        /// The partition.
        partition: String,
        /// Its end.
        end: u64,
        /// The commit's position.
        position: u64,
    },
    /// A partition delivers nothing, though the commit covers more of it.
    #[error("{partition} delivers nothing at {position}, but the commit covers it up to {end}")]
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
    /// A worker thread panicked.
    #[error("a worker failed: {0}")]
    Worker(String),
}

/// Why a commit cannot be checked on top of an earlier one.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NotSince {
    /// It is not earlier.
    #[error("that commit is not earlier")]
    NotEarlier,
    /// The state was rolled back in between.
    #[error("the state was rolled back in between")]
    RolledBack,
    /// Records in between were read with another mapping or horizon.
    #[error("records were read with another mapping or horizon up to commit {0}")]
    ReadOtherwise(u64),
    /// Corrections, which are not in the log, were made in between.
    #[error("{0} corrections were made in between")]
    Corrected(u64),
    /// A partition has been read in order and in blocks.
    #[error("{0} was read both in order and in blocks")]
    OtherWay(String),
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
            // The high bits decide where a key lives; the low bits are random and unused.
            Self::Sample(one_in) => hash.lo.is_multiple_of(*one_in),
            Self::Keys(keys) => keys.contains(&hash),
        }
    }
}
