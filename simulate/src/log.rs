//! The simulated input log: partitions that grow as the plan says.

use std::sync::Arc;

use dataflow::sources::{Discovered, Log, LogError, Next, Reader, Record, Shape};
use parking_lot::{Mutex, MutexGuard};
use schemas::manifest::{Fingerprint, Position};

use crate::events::ProducedRecord;
use crate::process::Process;

/// A record of the topic.
pub(crate) struct Retained {
    /// The record.
    pub(crate) record: ProducedRecord,
    /// When it was produced.
    pub(crate) at_ms: i64,
}

/// The records of all partitions, shared by all processes.
#[derive(Clone, Default)]
pub(crate) struct Topic(Arc<Mutex<Vec<Vec<Retained>>>>);

impl Topic {
    /// The partitions.
    pub(crate) fn partitions(&self) -> MutexGuard<'_, Vec<Vec<Retained>>> {
        self.0.lock()
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
        let partitions = self.topic.partitions();
        let records = &partitions[self.partition];
        // Few at a time, so that a slice or a commit may end between any two records.
        let end = records.len().min(self.next + limit.min(7)).max(self.next);
        for retained in records.iter().take(end).skip(self.next) {
            let bytes = &retained.record.bytes;
            let (position, size) = (self.next as u64, bytes.len() as u64);
            each(Record { position, bytes, size, stamp_ms: None });
            self.next += 1;
        }
        Ok(if end < records.len() { Next::More } else { Next::Wait })
    }

    fn position(&self) -> u64 {
        self.next as u64
    }

    fn end(&mut self) -> Result<Option<u64>, LogError> {
        Ok(Some(self.topic.partitions()[self.partition].len() as u64))
    }

    fn fingerprint(&self) -> Option<Fingerprint> {
        None
    }
}
