//! Reads one partition through its own queue.
//!
//! Invariants: offsets only rise; no record is skipped, except those that retention removed, which
//! are counted; no call waits for a broker.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::Offset;
use rdkafka::consumer::Consumer as _;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use schemas::config::OnLost;
use schemas::manifest::Fingerprint;

use crate::client::{Consumer, Handle, Partition};
use crate::error::{ErrorKind, Evidence, TopicError, is_unknown, kind};
use crate::record::{Record, fingerprint, partition_at};
use crate::topic::Topic;

/// Reads one partition.
pub struct PartitionReader {
    topic: Arc<Topic>,
    consumer: Arc<Consumer>,
    queue: PartitionQueue<Handle>,
    number: i32,
    known: Arc<Partition>,
    /// The offset of the next record.
    next: u64,
    /// Where a bounded run ends.
    end: Option<u64>,
    last: Option<Fingerprint>,
    lost: u64,
    /// Whether the next offset turned out not to be in the log.
    is_out_of_range: bool,
    /// Whether the client has the partition from this reader.
    is_assigned: bool,
}

impl PartitionReader {
    /// A reader from `offset` on; a bounded one ends at the present end.
    pub(crate) fn open(
        topic: &Arc<Topic>,
        consumer: &Arc<Consumer>,
        number: i32,
        known: Arc<Partition>,
        offset: u64,
    ) -> Result<Self, TopicError> {
        let end = topic.cluster.settings.bounded.then(|| known.high());
        let mut reader = Self {
            queue: split(topic, consumer, number)?,
            topic: Arc::clone(topic),
            consumer: Arc::clone(consumer),
            number,
            known,
            next: offset,
            end,
            last: None,
            lost: 0,
            is_out_of_range: false,
            is_assigned: false,
        };
        let low = reader.known.low();
        if offset < low {
            reader.skip_lost(low)?;
        }
        reader.assign()?;
        Ok(reader)
    }

    fn assign(&mut self) -> Result<(), TopicError> {
        debug_assert!(!self.is_assigned, "a partition is assigned to one reader, once");
        let list = partition_at(self.topic.name(), self.number, self.next);
        let done = list.and_then(|list| self.consumer.incremental_assign(&list));
        done.map_err(|error| self.failed("cannot assign", &error))?;
        self.is_assigned = true;
        Ok(())
    }

    fn unassign(&mut self) -> Result<(), TopicError> {
        let list = partition_at(self.topic.name(), self.number, self.next);
        let done = list.and_then(|list| self.consumer.incremental_unassign(&list));
        self.is_assigned = false;
        done.map_err(|error| self.failed("cannot release", &error))
    }

    /// Assigns the partition again, at the present offset.
    fn reassign(&mut self) -> Result<(), TopicError> {
        self.unassign()?;
        self.queue = split(&self.topic, &self.consumer, self.number)?;
        self.assign()
    }

    fn failed(&self, doing: &str, error: &KafkaError) -> TopicError {
        self.topic.cluster.failed(&format!("{doing} partition {}", self.number), error)
    }

    /// Continues at `low`, the oldest offset that is left, if the settings allow it.
    fn skip_lost(&mut self, low: u64) -> Result<(), TopicError> {
        assert!(self.next < low, "records before the low watermark were removed, not those behind");
        let (topic, partition, from) = (self.topic.name(), self.number, self.next);
        if self.topic.cluster.settings.options.on_lost == OnLost::Error {
            return Err(TopicError::Lost { topic: topic.to_owned(), partition, from, to: low - 1 });
        }
        let records = low - from;
        tracing::warn!(
            topic,
            partition,
            from,
            to = low - 1,
            records,
            "retention removed records before they were read; they are counted as lost_records"
        );
        self.lost += records;
        self.next = low;
        Ok(())
    }

    /// Continues where the log has records, now that its watermarks are known again.
    fn recover_range(&mut self) -> Result<(), TopicError> {
        self.is_out_of_range = false;
        let (low, high) = (self.known.low(), self.known.high());
        if high < self.next {
            let evidence = Evidence::Shorter { end: high, read: self.next };
            return Err(self.topic.cluster.recreated(self.number, evidence));
        }
        if self.next < low {
            self.skip_lost(low)?;
        }
        self.reassign()
    }

    /// Moves past what is in the log but is not a record: transaction markers and records of
    /// aborted transactions.
    fn skip_to_end(&mut self) {
        let Ok(positions) = self.consumer.position() else { return };
        let position = positions.find_partition(self.topic.name(), self.number);
        if let Some(Offset::Offset(offset)) = position.map(|p| p.offset()) {
            self.next = self.next.max(offset.max(0).unsigned_abs());
        }
    }

    /// Whether a bounded reader is at its end.
    pub fn is_ended(&self) -> bool {
        self.end.is_some_and(|end| self.next >= end)
    }

    /// Handles an error on the partition's queue, or on the client's.
    fn handle(&mut self, error: &KafkaError) -> Result<(), TopicError> {
        match kind(error) {
            ErrorKind::Transient if is_unknown(error) => {
                self.topic.cluster.shared.doubt();
                Ok(())
            }
            ErrorKind::Transient => Ok(()),
            ErrorKind::OutOfRange => {
                self.is_out_of_range = true;
                self.known.chain.doubt();
                Ok(())
            }
            ErrorKind::AuthenticationFailed => {
                let brokers = self.topic.cluster.settings.servers();
                Err(TopicError::Refused { brokers, reason: self.reported() })
            }
            ErrorKind::Unauthorized => Err(TopicError::Forbidden(self.topic.name().to_owned())),
            ErrorKind::Fatal => Err(self.unreadable(&format!("{error}{}", self.reported()))),
        }
    }

    fn unreadable(&self, reason: &str) -> TopicError {
        TopicError::Unreadable {
            topic: self.topic.name().to_owned(),
            partition: self.number,
            offset: self.next,
            reason: reason.to_owned(),
        }
    }

    /// What the client reported, in parentheses, if anything.
    fn reported(&self) -> String {
        let reported = self.topic.cluster.shared.reported();
        reported.map_or(String::new(), |(_, reason)| format!(" ({reason})"))
    }

    /// Calls `each` with at most `limit` records; whether more may be there now.
    pub fn read(
        &mut self,
        limit: usize,
        mut each: impl FnMut(Record<'_>),
    ) -> Result<bool, TopicError> {
        match self.topic.cluster.shared.serve(&self.consumer) {
            None => {}
            Some(Err(error)) => self.handle(&error)?,
            Some(Ok(_)) => return Err(self.unreadable("a record bypassed the partition's queue")),
        }
        self.topic.check()?;
        if self.known.chain.is_doubtful() {
            return Ok(false);
        }
        if self.is_out_of_range {
            self.recover_range()?;
        }
        let (mut first, mut last) = (None, None);
        let (mut trouble, mut at_end, mut more) = (None, false, true);
        for _ in 0..limit {
            if self.is_ended() {
                break;
            }
            match self.queue.poll(Duration::ZERO) {
                Some(Ok(message)) => {
                    let offset = message.offset().unsigned_abs();
                    if offset < self.next {
                        continue;
                    }
                    if let Some(end) = self.end.filter(|end| offset >= *end) {
                        self.next = end;
                        break;
                    }
                    each(Record::of(&message));
                    self.next = offset + 1;
                    match first {
                        None => first = Some(message),
                        Some(_) => last = Some(message),
                    }
                }
                Some(Err(KafkaError::PartitionEOF(_))) => {
                    (more, at_end) = (false, true);
                    break;
                }
                Some(Err(error)) => {
                    (more, trouble) = (false, Some(error));
                    break;
                }
                None => {
                    more = false;
                    break;
                }
            }
        }
        if let Some(first) = &first {
            let last = fingerprint(last.as_ref().unwrap_or(first));
            self.known.chain.read(|| fingerprint(first), &last);
            self.last = Some(last);
        }
        drop((first, last));
        if let Some(error) = trouble {
            self.handle(&error)?;
        }
        if at_end {
            self.skip_to_end();
        }
        self.known.read(if self.is_ended() { u64::MAX } else { self.next });
        Ok(more)
    }

    /// The offset of the next record.
    pub fn offset(&self) -> u64 {
        self.next
    }

    /// Where a bounded reader ends; else the offset after the last record that exists now.
    pub fn end(&self) -> u64 {
        self.end.unwrap_or_else(|| self.known.high().max(self.next))
    }

    /// The last record read. It may be of a recreated topic until [`TopicReader::confirm`] says
    /// that it is not.
    ///
    /// [`TopicReader::confirm`]: crate::TopicReader::confirm
    pub fn fingerprint(&self) -> Option<Fingerprint> {
        self.last.clone()
    }

    /// How many records retention removed before they could be read, since the last call.
    pub fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }
}

impl Drop for PartitionReader {
    /// Lets another reader have the partition.
    fn drop(&mut self) {
        if self.is_assigned
            && let Err(error) = self.unassign()
        {
            tracing::debug!("{error}");
        }
    }
}

/// The queue of a partition; made before the partition is assigned, so that no record bypasses it.
fn split(
    topic: &Topic,
    consumer: &Arc<Consumer>,
    partition: i32,
) -> Result<PartitionQueue<Handle>, TopicError> {
    let queue = consumer.split_partition_queue(topic.name(), partition);
    let doing = || format!("cannot make a queue for partition {partition}");
    queue.ok_or_else(|| topic.cluster.failed(&doing(), &KafkaError::Canceled))
}
