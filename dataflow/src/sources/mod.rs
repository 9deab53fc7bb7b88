//! Sources: the logs that a job reads, partition by partition.
//!
//! Invariants: a record's position never changes; reading from a position gives the records from
//! there on; a reader never blocks for long.

mod block;
mod files;
mod generator;
mod lines;
mod span;
mod stdin;
mod topic;

use std::collections::BTreeMap;
use std::io;

pub use files::{FileLog, Mode};
pub use generator::GeneratorLog;
use kafka::TopicError;
pub use schemas::manifest::BLOCK_BYTES;
use schemas::manifest::{Fingerprint, Partition};
pub(crate) use span::SpanLog;
pub use span::{Beginning, Span};
pub use stdin::StdinLog;
use thiserror::Error;

/// Why an input could not be read.
#[derive(Debug, Error)]
pub enum LogError {
    /// The system refused.
    #[error("cannot read {file}: {source}")]
    Io {
        /// The file.
        file: String,
        /// What the system said.
        source: io::Error,
    },
    /// No record can come from there.
    #[error("{0} holds no input: name an NDJSON file (.ndjson, .jsonl, .json, also .gz or .zst)")]
    Empty(String),
    /// Not a file: it might never end, or never begin.
    #[error("{0} is no regular file; read it through standard input, `--input stdin:`")]
    NoFile(String),
    /// Not the file that had been read before.
    #[error("{0} does not begin as the file that this state has read; it was replaced")]
    Changed(String),
    /// Shorter than what had been read of it.
    #[error("{file} has {bytes} bytes, of which {read} had been read; it was cut off")]
    Shorter {
        /// The file.
        file: String,
        /// Its size now.
        bytes: u64,
        /// How far it had been read.
        read: u64,
    },
    /// Read by blocks, in whatever order, with some left.
    #[error(
        "{0} was begun by a bounded run without a horizon, which has not ended; let such a run end, \
         or use another state folder"
    )]
    HalfRead(String),
    /// Read by blocks, in whatever order, as the commit was made that a replay is to follow.
    #[error(
        "{0} had been read here and there as that commit was made: its bounded run had not ended; \
         name a later commit"
    )]
    InNoOrder(String),
    /// A replay has gone on behind the commit that it is to end with.
    #[error(
        "this state has read {partition} up to {read}, and the replay is to end at {end}; use \
         another state folder"
    )]
    Past {
        /// The partition.
        partition: String,
        /// How far it has been read.
        read: u64,
        /// Where it is to end.
        end: u64,
    },
    /// A file with unread records is gone.
    #[error("{0} is gone, and had not been read to its end")]
    Gone(String),
    /// A topic cannot be read.
    #[error(transparent)]
    Topic(#[from] TopicError),
}

/// A partition that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its identity.
    pub partition: String,
    /// Decides which worker reads it: worker = share % workers.
    pub share: u64,
    /// How it is read.
    pub shape: Shape,
}

/// How a partition is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// In order, by one worker.
    Ordered {
        /// Its size in bytes where that is its end; none where it is not known.
        bytes: Option<u64>,
    },
    /// Block by block, by any worker.
    Blocks {
        /// Its size in bytes.
        bytes: u64,
        /// What it begins with.
        fingerprint: Fingerprint,
    },
}

/// One record as a log holds it.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Its position.
    pub position: u64,
    /// Its bytes; cut where it is too large to be an event.
    pub bytes: &'a [u8],
    /// Its whole size.
    pub size: u64,
    /// When the log took it in, where the log says so.
    pub stamp_ms: Option<i64>,
}

/// What there is to read behind the records just read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// More, now.
    More,
    /// Nothing now.
    Wait,
    /// Nothing, ever.
    End,
}

/// Reads one partition, or one block of it, in order.
pub trait Reader: Send {
    /// Calls `each` with at most `limit` records.
    fn read(&mut self, limit: usize, each: &mut dyn FnMut(Record<'_>)) -> Result<Next, LogError>;
    /// The position of the next record.
    fn position(&self) -> u64;
    /// The position behind the last record that is there now; none where nobody knows.
    fn end(&mut self) -> Result<Option<u64>, LogError>;
    /// What the partition begins with, or the last record read of it, to know it again.
    fn fingerprint(&self) -> Option<Fingerprint>;

    /// How many records were removed before they could be read, since this was last asked.
    fn lost(&mut self) -> u64 {
        0
    }
}

/// A named input.
pub trait Log: Send + Sync {
    /// The partitions that exist now.
    fn discover(&self) -> Result<Vec<Found>, LogError>;
    /// Checks that a partition still begins with what it began with.
    fn verify(&self, partition: &str, known: &Fingerprint) -> Result<(), LogError>;
    /// Reads a partition from `position` on.
    fn open(&self, partition: &str, position: u64) -> Result<Box<dyn Reader>, LogError>;
    /// Whether no partition will ever come or grow.
    fn is_bounded(&self) -> bool;

    /// Reads block `number` of the first `bytes` bytes of a file, from `offset` on; only where a
    /// partition's shape is that of blocks.
    fn open_block(
        &self,
        partition: &str,
        _bytes: u64,
        _number: u64,
        _offset: u64,
    ) -> Result<Box<dyn Reader>, LogError> {
        Err(LogError::Gone(partition.to_owned()))
    }

    /// Whether a later start finds the same partitions and records.
    fn is_repeatable(&self) -> bool {
        true
    }

    /// Whether partitions that run ahead wait for the slowest one.
    fn is_topic(&self) -> bool {
        false
    }

    /// Where a partition that the state does not know begins. `first`: it knows none of them.
    fn beginning(&self, _partition: &str, _first: bool) -> Result<u64, LogError> {
        Ok(0)
    }

    /// The position of the first record that the log took in at or after `ms`, or its end; none
    /// where it does not find records by time.
    fn position_at(&self, _partition: &str, _ms: i64) -> Result<Option<u64>, LogError> {
        Ok(None)
    }

    /// Checks that a partition can be read on from where it was left.
    fn resume(&self, partition: &str, state: &Partition) -> Result<(), LogError> {
        let known = state.fingerprint.as_ref();
        known.map_or(Ok(()), |known| self.verify(partition, known))
    }

    /// What is wrong when a partition that the state knows does not exist any more, where that is
    /// always wrong.
    fn missing(&self, _partition: &str) -> Option<LogError> {
        None
    }

    /// The same as [`Self::open`], for the worker of a number, whose partitions may share a client.
    fn open_on(
        &self,
        _worker: usize,
        partition: &str,
        position: u64,
    ) -> Result<Box<dyn Reader>, LogError> {
        self.open(partition, position)
    }

    /// A commit that covers these partitions is durable. For information: nothing waits for it.
    fn committed(&self, _partitions: &BTreeMap<String, Partition>) {}

    /// How often the log could not be reached, so far.
    fn troubles(&self) -> u64 {
        0
    }
}
