//! The simulated input log: partitions that grow as the plan says. For a while another topic may
//! stand in its place, as if it had been deleted, recreated and filled further.

use std::sync::Arc;

use dataflow::sources::{Discovered, Log, LogError, Next, Reader, Record, Shape};
use parking_lot::{Mutex, MutexGuard};
use schemas::manifest::{Fingerprint, Partition, Position};

use crate::events::ProducedRecord;
use crate::process::Process;

/// A record of the topic.
pub(crate) struct Retained {
    /// The record.
    pub(crate) record: ProducedRecord,
    /// When it was produced.
    pub(crate) at_ms: i64,
}

/// The records of all partitions.
type Partitions = Vec<Vec<Retained>>;

/// The records of all partitions, shared by all processes.
#[derive(Clone, Default)]
pub(crate) struct Topic {
    records: Arc<Mutex<Partitions>>,
    /// What processes read instead while another topic has its name.
    other: Arc<Mutex<Option<Partitions>>>,
}

impl Topic {
    /// The partitions.
    pub(crate) fn partitions(&self) -> MutexGuard<'_, Partitions> {
        self.records.lock()
    }

    /// Puts another topic in its place.
    pub(crate) fn replace(&self, other: Partitions) {
        *self.other.lock() = Some(other);
    }

    /// Puts the topic back; returns whether another one was in its place.
    pub(crate) fn restore(&self) -> bool {
        self.other.lock().take().is_some()
    }

    /// Whether another topic is in its place.
    pub(crate) fn is_replaced(&self) -> bool {
        self.other.lock().is_some()
    }

    /// Appends a record to a partition, which may be a new one.
    pub(crate) fn produce(&self, partition: usize, record: Retained) {
        let mut partitions = self.partitions();
        if partitions.len() <= partition {
            partitions.resize_with(partition + 1, Vec::new);
        }
        partitions[partition].push(record);
    }
}

/// The name of a partition.
pub(crate) fn partition_name(partition: usize) -> String {
    format!("p{partition}")
}

/// The number of the partition with this name.
pub(crate) fn partition_number(name: &str) -> Option<usize> {
    name.strip_prefix('p')?.parse().ok()
}

/// The position of a partition that is read in order.
pub(crate) fn offset(position: &Position) -> u64 {
    let Position::Offset(offset) = position else {
        unreachable!("simulated partitions are read in order")
    };
    *offset
}

/// The records of a partition before a position; `None` if it has fewer.
pub(crate) fn read_records<'t>(
    topic: &'t [Vec<Retained>],
    name: &str,
    position: &Position,
) -> Option<&'t [Retained]> {
    topic.get(partition_number(name)?)?.get(..offset(position) as usize)
}

/// The topic as a process sees it.
pub(crate) struct Subscribed {
    /// The topic.
    pub(crate) topic: Topic,
    /// The process.
    pub(crate) process: Arc<Process>,
}

impl Log for Subscribed {
    fn discover(&self) -> Result<Vec<Discovered>, LogError> {
        let discovered = |partition: usize| Discovered {
            partition: partition_name(partition),
            share: partition as u64,
            shape: Shape::Ordered { bytes: None },
        };
        Ok((0..self.topic.partitions().len()).map(discovered).collect())
    }

    fn verify(&self, _: &str, _: &Fingerprint) -> Result<(), LogError> {
        Ok(())
    }

    fn resume(&self, partition: &str, state: &Partition) -> Result<(), LogError> {
        if self.topic.is_replaced() && offset(&state.position) > 0 {
            return Err(LogError::Changed(partition.to_owned()));
        }
        Ok(())
    }

    fn confirm(&self) -> Result<bool, LogError> {
        let mut faults = self.process.faults();
        if faults.slow_reads > 0 {
            faults.slow_reads -= 1;
            self.process.strike("slow read");
            return Ok(false);
        }
        if faults.other_topic { Err(LogError::Changed("the topic".to_owned())) } else { Ok(true) }
    }

    fn open(&self, partition: &str, position: u64) -> Result<Box<dyn Reader>, LogError> {
        let partition =
            partition_number(partition).ok_or_else(|| LogError::Gone(partition.to_owned()))?;
        let (topic, process) = (self.topic.clone(), Arc::clone(&self.process));
        Ok(Box::new(Cursor { topic, process, partition, next: position as usize }))
    }

    fn is_bounded(&self) -> bool {
        false
    }
}

struct Cursor {
    topic: Topic,
    process: Arc<Process>,
    partition: usize,
    next: usize,
}

impl Reader for Cursor {
    fn read(&mut self, limit: usize, each: &mut dyn FnMut(Record<'_>)) -> Result<Next, LogError> {
        let mut faults = self.process.faults();
        if std::mem::take(&mut faults.read_fails) {
            faults.struck = true;
            self.process.strike("read fails");
            let source = std::io::Error::other("broker not available");
            return Err(LogError::Io { file: partition_name(self.partition), source });
        }
        if faults.slow_reads > 0 {
            faults.slow_reads -= 1;
            self.process.strike("slow read");
            return Ok(Next::Wait);
        }
        drop(faults);
        let (partitions, other) = (self.topic.partitions(), self.topic.other.lock());
        let records = match &*other {
            Some(other) => other.get(self.partition).map_or(&[][..], Vec::as_slice),
            None => &partitions[self.partition],
        };
        // Few at a time, so that a slice or a commit may end between any two records.
        let end = records.len().min(self.next + limit.min(7)).max(self.next);
        if other.is_some() && end > self.next {
            self.process.read_other_topic();
        }
        for retained in records.iter().take(end).skip(self.next) {
            let bytes = &retained.record.bytes;
            let (position, size) = (self.next as u64, bytes.len() as u64);
            each(Record { position, bytes, size, is_null: false, stamp_ms: None });
            self.next += 1;
        }
        Ok(if end < records.len() { Next::More } else { Next::Wait })
    }

    fn position(&self) -> u64 {
        self.next as u64
    }

    fn end(&mut self) -> Result<Option<u64>, LogError> {
        let (partitions, other) = (self.topic.partitions(), self.topic.other.lock());
        let other = other.as_ref().and_then(|other| other.get(self.partition)).map(Vec::len);
        Ok(Some(other.unwrap_or_else(|| partitions[self.partition].len()) as u64))
    }

    fn fingerprint(&self) -> Option<Fingerprint> {
        None
    }
}
