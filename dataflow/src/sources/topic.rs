//! A Kafka topic as a log. Its partitions are called `topic/number`, and positions are offsets.

use std::collections::BTreeMap;
use std::ops::Range;

use kafka::{PartitionReader, TopicReader};
use schemas::config;
use schemas::manifest::{Fingerprint, Partition, Position};
use xxhash_rust::xxh3::xxh3_64;

use super::{Discovered, Log, LogError, Next, Reader, Record, Shape};

/// The number in a partition's name; `None` if it is of another topic.
fn number(reader: &TopicReader, partition: &str) -> Option<i32> {
    let (topic, number) = partition.rsplit_once('/')?;
    number.parse().ok().filter(|_| topic == reader.settings().topic)
}

/// The number of a partition that exists, with its first and next offset.
fn existing(reader: &TopicReader, partition: &str) -> Result<(i32, Range<u64>), LogError> {
    let number = number(reader, partition);
    let found = number.and_then(|number| Some((number, reader.ends(number)?)));
    found.ok_or_else(|| LogError::Gone(partition.to_owned()))
}

impl Log for TopicReader {
    fn discover(&self) -> Result<Vec<Discovered>, LogError> {
        let settings = self.settings();
        let first = xxh3_64(settings.topic.as_bytes());
        let found = self.partitions()?.into_iter().map(|(number, ends)| Discovered {
            partition: format!("{}/{number}", settings.topic),
            share: first.wrapping_add(number.unsigned_abs().into()),
            shape: Shape::Ordered { bytes: settings.bounded.then_some(ends.end) },
        });
        Ok(found.collect())
    }

    fn verify(&self, partition: &str, known: &Fingerprint) -> Result<(), LogError> {
        let Some(number) = number(self, partition) else { return Ok(()) };
        Ok(TopicReader::verify(self, number, known)?)
    }

    fn resume(&self, partition: &str, state: &Partition) -> Result<(), LogError> {
        let (number, _) = existing(self, partition)?;
        let Position::Offset(read) = state.position else { return Ok(()) };
        Ok(TopicReader::resume(self, number, read, state.fingerprint.as_ref())?)
    }

    fn missing(&self, partition: &str) -> Option<LogError> {
        Some(TopicReader::missing(self, number(self, partition)?).into())
    }

    fn beginning(&self, partition: &str, first: bool) -> Result<u64, LogError> {
        let (_, ends) = existing(self, partition)?;
        let start = self.settings().options.start;
        Ok(if first && start == config::Position::End { ends.end } else { ends.start })
    }

    fn position_at(&self, partition: &str, ms: i64) -> Result<Option<u64>, LogError> {
        let (number, ends) = existing(self, partition)?;
        Ok(Some(self.offset_at(number, ms)?.unwrap_or(ends.end)))
    }

    fn open(&self, partition: &str, position: u64) -> Result<Box<dyn Reader>, LogError> {
        self.open_on(0, partition, position)
    }

    fn open_on(
        &self,
        worker: usize,
        partition: &str,
        position: u64,
    ) -> Result<Box<dyn Reader>, LogError> {
        let (number, _) = existing(self, partition)?;
        Ok(Box::new(TopicReader::open(self, worker, number, position)?))
    }

    fn is_bounded(&self) -> bool {
        self.settings().bounded
    }

    fn is_topic(&self) -> bool {
        true
    }

    fn confirm(&self) -> Result<bool, LogError> {
        Ok(TopicReader::confirm(self)?)
    }

    fn committed(&self, partitions: &BTreeMap<String, Partition>) {
        let offset = |(name, state): (&String, &Partition)| match state.position {
            Position::Offset(offset) => Some((number(self, name)?, offset)),
            Position::Blocks(_) => None,
        };
        self.commit_offsets(partitions.iter().filter_map(offset));
    }

    fn blocked(&self) -> u64 {
        TopicReader::blocked(self)
    }

    fn troubles(&self) -> u64 {
        TopicReader::troubles(self)
    }
}

impl Reader for PartitionReader {
    fn read(&mut self, limit: usize, each: &mut dyn FnMut(Record<'_>)) -> Result<Next, LogError> {
        let more = PartitionReader::read(self, limit, |record| {
            each(Record {
                position: record.offset,
                bytes: record.payload,
                size: record.size,
                is_null: record.is_null,
                stamp_ms: record.appended_ms,
            });
        })?;
        Ok(match more {
            _ if self.is_ended() => Next::End,
            true => Next::More,
            false => Next::Wait,
        })
    }

    fn position(&self) -> u64 {
        self.offset()
    }

    fn end(&mut self) -> Result<Option<u64>, LogError> {
        Ok(Some(PartitionReader::end(self)))
    }

    fn fingerprint(&self) -> Option<Fingerprint> {
        PartitionReader::fingerprint(self)
    }

    fn lost(&mut self) -> u64 {
        self.take_lost()
    }
}
