//! The sources of a job: logs that are read partition by partition.
//!
//! Invariants: a record's position never changes; reading from a position yields the records from
//! there on; a reader never blocks for long.

mod archive;
mod block;
mod decoders;
mod files;
mod generator;
mod handles;
mod lines;
mod listing;
mod marks;
mod packed;
mod patient;
mod plain;
mod registry;
mod siblings;
mod span;
mod stdin;
#[cfg(test)]
mod tests;
mod topic;
mod whole;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

pub use files::{FileLog, Mode};
pub use generator::GeneratorLog;
use kafka::TopicError;
pub use schemas::manifest::BLOCK_BYTES;
use schemas::manifest::{Fingerprint, Partition, Partitions};
use schemas::printable::shown;
pub(crate) use span::SpanLog;
pub use span::{Beginning, Span};
pub use stdin::StdinLog;
use thiserror::Error;

/// Why an input could not be read.
#[derive(Debug, Error)]
pub enum LogError {
    /// The operating system reported an error.
    #[error("cannot read {file}: {source}")]
    Io {
        /// The file.
        file: String,
        /// The error.
        source: io::Error,
    },
    /// There is no file to read.
    #[error(
        "{0} holds no input; name an NDJSON file (.ndjson, .jsonl or .json, also with .gz or .zst)"
    )]
    Empty(String),
    /// None of the files that there are can be read.
    #[error("{folder} holds no input that can be read: {}", passed_over.join("; "))]
    Unreadable {
        /// The folder.
        folder: String,
        /// Some of what was passed over, with the reasons.
        passed_over: Vec<String>,
    },
    /// Not a regular file: it may never end, or block before its first byte.
    #[error("{0} is not a regular file; read it through standard input, `--input stdin:`")]
    NotRegular(String),
    /// It is not told yet what a new file is.
    #[error("{0} is not complete yet")]
    Arriving(String),
    /// Not the file that was read before.
    #[error(
        "{0} was replaced: its first bytes are not those that this state has read; count it with \
         another --input-name, or in another state folder"
    )]
    Changed(String),
    /// Shorter than what was read of it.
    #[error("{file} was truncated: it has {bytes} bytes, but {read} bytes of it have been read")]
    Shorter {
        /// The file.
        file: String,
        /// Its size now.
        bytes: u64,
        /// How far it was read.
        read: u64,
    },
    /// A followed file is not what it was, and lines may be missing.
    #[error(
        "{file} {how}: lines after byte {read} may be missing; to count it from its beginning, start \
         with --on-truncate go-on (consumer: {{on_truncate: go-on}})"
    )]
    Lost {
        /// The file.
        file: String,
        /// How far it was read.
        read: u64,
        /// What happened to it.
        how: &'static str,
    },
    /// A file that an unfinished run read by blocks cannot be continued in order.
    #[error(
        "{0} was partly read, in no particular order, by a bounded run without a horizon; finish \
         that run, or use another state folder"
    )]
    ResumedInOrder(String),
    /// At the commit that a replay is to end with, a file read by blocks was not finished.
    #[error(
        "{0} was only partly read at that commit, in no particular order, because its bounded run \
         had not ended; name a later commit"
    )]
    UnfinishedBlocks(String),
    /// A replay has read past the commit that it is to end with.
    #[error(
        "this state has read {partition} up to {read}, past the replay's end at {end}; use another \
         state folder"
    )]
    Past {
        /// The partition.
        partition: String,
        /// How far it was read.
        read: u64,
        /// Where the replay ends.
        end: u64,
    },
    /// A partition with unread records is gone.
    #[error("{0} is gone, but was not read to its end")]
    Gone(String),
    /// A topic cannot be read.
    #[error(transparent)]
    Topic(#[from] TopicError),
    /// The topic behind an input is not the one that was read.
    #[error("{0}")]
    Recreated(Box<Recreated>),
    /// A job was stopped while brokers did not answer.
    #[error(
        "no broker has confirmed that the topic of input {0} is still the one that was read. What \
         was read after the last commit is not counted; the next start reads it again"
    )]
    Unconfirmed(String),
}

/// That a topic was recreated, and how to go on.
#[derive(Debug, Error)]
#[error(
    "{error}. Commit {commit} of {state} is sound, and the last one: nothing read after it is \
     counted. To count the new topic by itself, run \
     `tagflow run --state NEW_FOLDER --input {uri}`. To add it to the counts of commit {commit}, \
     run `tagflow run --state {state} --input {uri} --input-name NEW_NAME`"
)]
pub struct Recreated {
    error: TopicError,
    state: String,
    commit: u64,
    uri: String,
}

impl LogError {
    /// If a topic was recreated, says that `commit` is the last one without records of the new
    /// topic in the state at `state`, and how to go on.
    #[must_use]
    pub(crate) fn after(self, state: &str, commit: u64) -> Self {
        match self {
            Self::Topic(error @ TopicError::Recreated { .. }) => {
                let TopicError::Recreated { brokers, topic, .. } = &error else {
                    unreachable!("matched above")
                };
                let uri = format!("kafka://{brokers}/{topic}");
                let state = state.trim_end_matches('/').to_owned();
                Self::Recreated(Box::new(Recreated { error, state, commit, uri }))
            }
            other => other,
        }
    }
}

impl LogError {
    /// The operating system's error `source` about the file at `path`.
    pub(crate) fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { file: shown(path), source }
    }
}

/// A partition that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discovered {
    /// Its name, by which it is recognised.
    pub partition: String,
    /// Worker `share % workers` reads it.
    pub share: u64,
    /// How it is read.
    pub shape: Shape,
}

/// A file that is no longer under the name that a commit has it under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// That name.
    pub from: String,
    /// What it is called from now on.
    pub to: String,
    /// How far it was read.
    pub read: u64,
    /// Why the rest of it cannot be read, if it was not found.
    pub loss: Option<Loss>,
}

/// Why a file that was read is not there any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// It was removed.
    Removed,
    /// It was truncated or replaced.
    Truncated,
}

/// How a partition is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// In order, by one worker.
    Ordered {
        /// Its size in bytes if that is where it ends; `None` if its end is unknown.
        bytes: Option<u64>,
    },
    /// Block by block, by any worker.
    Blocks {
        /// Its size in bytes.
        bytes: u64,
        /// What it begins with.
        fingerprint: Fingerprint,
        /// What it ends with.
        tail: Fingerprint,
    },
}

/// One record as a log holds it.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Its position.
    pub position: u64,
    /// Its bytes, cut off if it is too large to be an event.
    pub bytes: &'a [u8],
    /// Its full size.
    pub size: u64,
    /// Whether it has no value at all, as a topic's tombstones do.
    pub is_null: bool,
    /// When the log appended it, if the log stamps its records.
    pub stamp_ms: Option<i64>,
}

/// What follows the records just read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// More records can be read now.
    More,
    /// Nothing can be read now.
    Wait,
    /// Nothing will ever follow.
    End,
}

/// Reads one partition, or one block of it, in order.
pub trait Reader: Send {
    /// Calls `each` with at most `limit` records.
    fn read(&mut self, limit: usize, each: &mut dyn FnMut(Record<'_>)) -> Result<Next, LogError>;
    /// The position of the next record.
    fn position(&self) -> u64;
    /// The position after the last record that exists now; `None` if unknown.
    fn end(&mut self) -> Result<Option<u64>, LogError>;
    /// What the partition is recognised by: its first bytes, or the last record read.
    fn fingerprint(&self) -> Option<Fingerprint>;

    /// The bytes before the position, as they were when [`Self::end`] was last called.
    fn tail(&self) -> Option<Fingerprint> {
        None
    }

    /// The size of a compressed file that was read to its end; 0 for any other.
    fn packed(&mut self) -> u64 {
        0
    }

    /// How much memory a decoder takes; 0 without one.
    fn decoder_bytes(&self) -> u64 {
        0
    }

    /// How many bytes were left unread at the end, since they are no whole record.
    fn left(&self) -> u64 {
        0
    }

    /// Whether a partition that was read to its end has grown, and can be read on.
    fn goes_on(&mut self) -> bool {
        false
    }

    /// How many records were removed before they could be read, since the last call.
    fn lost(&mut self) -> u64 {
        0
    }

    /// What the partition is called from now on, if it has lost its name since the last call.
    /// Another partition may have that name.
    fn rotated(&mut self) -> Option<String> {
        None
    }

    /// How often what was not read was truncated or overwritten, since the last call.
    fn truncations(&mut self) -> u64 {
        0
    }

    /// Nothing will be appended any more: what is left can be read to its end.
    fn let_go(&mut self) {}
}

/// A named input.
pub trait Log: Send + Sync {
    /// Finds the partitions that a commit has read, before any are discovered. Those that are no
    /// longer under their names are returned. `again`: all that the commit has read is read again.
    fn locate(&self, _known: &Partitions, _again: bool) -> Result<Vec<Moved>, LogError> {
        Ok(Vec::new())
    }

    /// The partitions that exist now.
    fn discover(&self) -> Result<Vec<Discovered>, LogError>;
    /// Fails if a partition is not the one with fingerprint `known`.
    fn verify(&self, partition: &str, known: &Fingerprint) -> Result<(), LogError>;
    /// Reads a partition from `position` on.
    fn open(&self, partition: &str, position: u64) -> Result<Box<dyn Reader>, LogError>;
    /// Whether no partition will ever be added or grow.
    fn is_bounded(&self) -> bool;

    /// Reads block `number` of the first `bytes` bytes of a file, from `offset` on. Only for
    /// partitions of shape [`Shape::Blocks`].
    fn open_block(
        &self,
        partition: &str,
        _bytes: u64,
        _number: u64,
        _offset: u64,
    ) -> Result<Box<dyn Reader>, LogError> {
        unreachable!("{partition} has no blocks: this log never gives it that shape")
    }

    /// Whether a restarted job finds the same partitions and records.
    fn is_repeatable(&self) -> bool {
        true
    }

    /// Whether partitions that run ahead wait for the slowest one.
    fn is_topic(&self) -> bool {
        false
    }

    /// The name that a partition which is new once had, if it has lost it.
    fn former_name(&self, _partition: &str) -> Option<String> {
        None
    }

    /// How long a partition that has lost its name is read after it last grew.
    fn rotate_wait_us(&self) -> u64 {
        0
    }

    /// Where a partition that is new to the state begins. `first`: the state knows none yet.
    fn beginning(&self, _partition: &str, _first: bool) -> Result<u64, LogError> {
        Ok(0)
    }

    /// The position of the first record that the log appended at or after `ms`, or its end; `None`
    /// if the log cannot find records by time.
    fn position_at(&self, _partition: &str, _ms: i64) -> Result<Option<u64>, LogError> {
        Ok(None)
    }

    /// Fails if a partition cannot be continued from where it was left.
    fn resume(&self, partition: &str, state: &Partition) -> Result<(), LogError> {
        let known = state.fingerprint.as_ref();
        known.map_or(Ok(()), |known| self.verify(partition, known))
    }

    /// The error that a partition known to the state no longer exists, if that always is one.
    fn missing(&self, _partition: &str) -> Option<LogError> {
        None
    }

    /// Like [`Self::open`], for a worker whose partitions may share a client.
    fn open_on(
        &self,
        _worker: usize,
        partition: &str,
        position: u64,
    ) -> Result<Box<dyn Reader>, LogError> {
        self.open(partition, position)
    }

    /// Like [`Self::open_on`], for a partition of which only what lies before `end` will be read,
    /// as a commit has read it: a line that continues behind `end` ends there.
    fn open_part(
        &self,
        worker: usize,
        partition: &str,
        position: u64,
        _end: u64,
    ) -> Result<Box<dyn Reader>, LogError> {
        self.open_on(worker, partition, position)
    }

    /// The size of a partition, which includes a last line that is not whole and is left for the
    /// next run; `None` if it is unknown.
    fn size(&self, _partition: &str) -> Result<Option<u64>, LogError> {
        Ok(None)
    }

    /// Whether everything that was handed out until now is of the log that this state has read:
    /// false if that is not known yet. It may wait a while for an answer.
    fn confirm(&self) -> Result<bool, LogError> {
        Ok(true)
    }

    /// The size of a compressed file; 0 for any other partition.
    fn packed(&self, _partition: &str) -> Result<u64, LogError> {
        Ok(0)
    }

    /// What was passed over since the last call, with the reason.
    fn passed_over(&self) -> Vec<String> {
        Vec::new()
    }

    /// A commit that covers these partitions is durable. Nothing waits for this call's effect.
    fn committed(&self, _partitions: &BTreeMap<String, Partition>) {}

    /// How many of its partitions wait for an open transaction.
    fn blocked(&self) -> u64 {
        0
    }

    /// How often the log could not be reached so far.
    fn troubles(&self) -> u64 {
        0
    }
}
