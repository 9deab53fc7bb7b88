//! A simulated input log: partitions of records that grow as the simulation says.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dataflow::sources::{Discovered, Log, LogError, Next, Reader, Record, Shape};
use schemas::manifest::Fingerprint;

use crate::events::Made;
use crate::process::Process;

/// A record that the topic retains.
pub struct Retained {
    /// The record.
    pub made: Made,
    /// When it was produced.
    pub at_ms: i64,
}

/// The retained records by partition, which all processes read.
#[derive(Clone, Default)]
pub struct Topic(Arc<Mutex<Vec<Vec<Retained>>>>);

impl Topic {
    /// The partitions.
    pub fn partitions(&self) -> MutexGuard<'_, Vec<Vec<Retained>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends a record to a partition, which may be a new one.
    pub fn produce(&self, partition: usize, record: Retained) {
        let mut partitions = self.partitions();
        if partitions.len() <= partition {
            partitions.resize_with(partition + 1, Vec::new);
        }
        partitions[partition].push(record);
    }
}

/// The name of a partition.
pub fn partition_name(partition: usize) -> String {
    format!("p{partition}")
}

/// The topic as a process sees it.
pub struct Subscribed {
    /// The topic.
    pub topic: Topic,
    /// The process.
    pub process: Arc<Process>,
}

impl Log for Subscribed {
    fn discover(&self) -> Result<Vec<Discovered>, LogError> {
        let found = |partition: usize| Discovered {
            partition: partition_name(partition),
            share: partition as u64,
            shape: Shape::Ordered { bytes: None },
        };
        Ok((0..self.topic.partitions().len()).map(found).collect())
    }

    fn verify(&self, _: &str, _: &Fingerprint) -> Result<(), LogError> {
        Ok(())
    }

    fn open(&self, partition: &str, position: u64) -> Result<Box<dyn Reader>, LogError> {
        let number = partition.strip_prefix('p').and_then(|number| number.parse().ok());
        let partition = number.ok_or_else(|| LogError::Gone(partition.to_owned()))?;
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
        let mut ills = self.process.ills();
        if std::mem::take(&mut ills.read_fails) {
            ills.struck = true;
            self.process.strike("read fails");
            let source = std::io::Error::other("broker not available");
            return Err(LogError::Io { file: partition_name(self.partition), source });
        }
        if ills.slow_reads > 0 {
            ills.slow_reads -= 1;
            self.process.strike("slow read");
            return Ok(Next::Wait);
        }
        drop(ills);
        let partitions = self.topic.partitions();
        let records = &partitions[self.partition];
        // Few at a time, so that slices and commits end between any two.
        let end = records.len().min(self.next + limit.min(7)).max(self.next);
        for record in records.iter().take(end).skip(self.next) {
            let bytes = &record.made.bytes;
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
