//! Reads one partition through a queue of its own.
//!
//! Invariants: positions only rise; no record is left out, except those that retention removed,
//! which are counted; no call waits for a broker.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::Consumer as _;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message, Timestamp};
use rdkafka::{Offset, TopicPartitionList};
use schemas::event::RECORD_BYTES_MAX;
use schemas::manifest::Fingerprint;
use xxhash_rust::xxh3::Xxh3;

use super::Topic;
use super::client::{Consumer, Handle, Marks};
use super::error::{Meaning, TopicError, is_unknown, meaning};
use super::settings::OnLost;
use crate::sources::{LogError, Next, Reader, Record};

/// What tells a record from others: its position, size and a hash of all that it is.
pub(super) fn fingerprint(message: &BorrowedMessage<'_>) -> Fingerprint {
    let stamp = message.timestamp().to_millis().unwrap_or(-1);
    identify(message.offset(), stamp, message.key(), message.payload())
}

fn identify(offset: i64, stamp: i64, key: Option<&[u8]>, payload: Option<&[u8]>) -> Fingerprint {
    let mut hash = Xxh3::new();
    hash.update(&offset.to_le_bytes());
    hash.update(&stamp.to_le_bytes());
    // An empty key is not the same as none.
    hash.update(&key.map_or(u64::MAX, |key| key.len() as u64).to_le_bytes());
    hash.update(key.unwrap_or_default());
    hash.update(payload.unwrap_or_default());
    Fingerprint {
        bytes: payload.map_or(0, |payload| payload.len() as u64),
        xxh3: format!("{:016x}", hash.digest()),
        at: Some(offset.unsigned_abs()),
    }
}

/// One partition at an offset, as the client takes it.
pub(super) fn at(
    topic: &str,
    partition: i32,
    position: u64,
) -> Result<TopicPartitionList, KafkaError> {
    let mut list = TopicPartitionList::with_capacity(1);
    list.add_partition_offset(topic, partition, Offset::Offset(position.cast_signed()))?;
    Ok(list)
}

/// Reads one partition.
pub(super) struct KafkaReader {
    topic: Arc<Topic>,
    consumer: Arc<Consumer>,
    queue: PartitionQueue<Handle>,
    partition: i32,
    marks: Arc<Marks>,
    /// The position of the next record.
    next: u64,
    /// Where a bounded run ends.
    end: Option<u64>,
    last: Option<Fingerprint>,
    lost: u64,
    /// Whether the position was not in the log.
    is_astray: bool,
    /// Whether the client has the partition from this reader.
    is_assigned: bool,
}

impl KafkaReader {
    /// A reader from `position` on, up to `end` if there is one.
    pub(super) fn open(
        topic: &Arc<Topic>,
        consumer: &Arc<Consumer>,
        partition: i32,
        position: u64,
        end: Option<u64>,
    ) -> Result<Self, LogError> {
        let name = &topic.settings.topic;
        let marks = topic.shared.marks(partition);
        let marks = marks.ok_or_else(|| LogError::Gone(format!("{name}/{partition}")))?;
        let mut reader = Self {
            queue: split(topic, consumer, partition)?,
            topic: Arc::clone(topic),
            consumer: Arc::clone(consumer),
            partition,
            marks,
            next: position,
            end,
            last: None,
            lost: 0,
            is_astray: false,
            is_assigned: false,
        };
        let low = reader.marks.low();
        if position < low {
            reader.lose(low)?;
        }
        reader.assign()?;
        Ok(reader)
    }

    fn assign(&mut self) -> Result<(), LogError> {
        let list = at(&self.topic.settings.topic, self.partition, self.next);
        let done = list.and_then(|list| self.consumer.incremental_assign(&list));
        done.map_err(|error| self.topic.cluster.unanswered("assigning it", &error))?;
        self.is_assigned = true;
        Ok(())
    }

    fn leave(&mut self) -> Result<(), TopicError> {
        let list = at(&self.topic.settings.topic, self.partition, self.next);
        let done = list.and_then(|list| self.consumer.incremental_unassign(&list));
        self.is_assigned = false;
        done.map_err(|error| self.topic.cluster.unanswered("leaving it", &error))
    }

    /// Takes the partition again from the present position.
    fn assign_again(&mut self) -> Result<(), LogError> {
        self.leave()?;
        self.queue = split(&self.topic, &self.consumer, self.partition)?;
        self.assign()
    }

    /// Goes on at `low`, where that is allowed.
    fn lose(&mut self, low: u64) -> Result<(), TopicError> {
        let (topic, partition, from) =
            (self.topic.settings.topic.clone(), self.partition, self.next);
        if self.topic.settings.on_lost == OnLost::Error {
            return Err(TopicError::Lost { topic, partition, from, to: low - 1 });
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

    /// Goes on where the log has records, once its ends have been asked for.
    fn find_again(&mut self) -> Result<(), LogError> {
        self.is_astray = false;
        if self.marks.high() < self.next {
            return Err(self.topic.shorter(self.partition, self.next, self.marks.high()).into());
        }
        if self.next < self.marks.low() {
            self.lose(self.marks.low())?;
        }
        self.assign_again()
    }

    /// Moves behind what is there and no record: the marks that end transactions, and records of
    /// aborted ones.
    fn skip_to_end(&mut self) {
        let name = &self.topic.settings.topic;
        let Ok(positions) = self.consumer.position() else { return };
        let position = positions.find_partition(name, self.partition).map(|p| p.offset());
        if let Some(Offset::Offset(position)) = position {
            self.next = self.next.max(position.max(0).unsigned_abs());
        }
    }

    fn is_ended(&self) -> bool {
        self.end.is_some_and(|end| self.next >= end)
    }

    /// What an error on the partition's queue, or on the client's, means.
    fn judge(&mut self, error: &KafkaError) -> Result<(), LogError> {
        let topic = || self.topic.settings.topic.clone();
        match meaning(error) {
            Meaning::Passes if is_unknown(error) => {
                self.topic.shared.doubt();
                Ok(())
            }
            Meaning::Passes => Ok(()),
            Meaning::OutOfRange => {
                self.is_astray = true;
                self.marks.chain.doubt();
                Ok(())
            }
            Meaning::Refused => {
                let reason = self.topic.shared.last();
                let reason = reason.map_or(String::new(), |(_, reason)| format!(" ({reason})"));
                let brokers = self.topic.settings.servers();
                Err(TopicError::Refused { brokers, reason }.into())
            }
            Meaning::Forbidden => Err(TopicError::Forbidden(topic()).into()),
            Meaning::Ends => {
                let said = self.topic.shared.last().map(|(_, reason)| format!(" ({reason})"));
                Err(TopicError::Unreadable {
                    topic: topic(),
                    partition: self.partition,
                    position: self.next,
                    reason: format!("{error}{}", said.unwrap_or_default()),
                }
                .into())
            }
        }
    }
}

impl Drop for KafkaReader {
    /// Lets another reader have the partition.
    fn drop(&mut self) {
        if self.is_assigned
            && let Err(error) = self.leave()
        {
            tracing::debug!("{error}");
        }
    }
}

/// The queue of a partition; made before it is assigned, so that no record goes elsewhere.
fn split(
    topic: &Topic,
    consumer: &Arc<Consumer>,
    partition: i32,
) -> Result<PartitionQueue<Handle>, TopicError> {
    let queue = consumer.split_partition_queue(&topic.settings.topic, partition);
    queue.ok_or_else(|| topic.cluster.unanswered("no queue for it", &KafkaError::Canceled))
}

/// A message as a record.
fn record<'m>(message: &'m BorrowedMessage<'_>) -> Record<'m> {
    let payload = message.payload().unwrap_or_default();
    let stamp_ms = match message.timestamp() {
        Timestamp::LogAppendTime(ms) => Some(ms),
        Timestamp::CreateTime(_) | Timestamp::NotAvailable => None,
    };
    Record {
        position: message.offset().unsigned_abs(),
        bytes: &payload[..payload.len().min(RECORD_BYTES_MAX + 1)],
        size: payload.len() as u64,
        stamp_ms,
    }
}

impl Reader for KafkaReader {
    fn read(&mut self, limit: usize, each: &mut dyn FnMut(Record<'_>)) -> Result<Next, LogError> {
        // Serves statistics, commits and errors of the whole client.
        match self.consumer.poll(Duration::ZERO) {
            None => {}
            Some(Err(error)) => self.judge(&error)?,
            Some(Ok(_)) => {
                let stray = KafkaError::MessageConsumption(rdkafka::error::RDKafkaErrorCode::State);
                self.judge(&stray)?;
            }
        }
        self.topic.check()?;
        if self.marks.chain.is_doubtful() {
            return Ok(if self.is_ended() { Next::End } else { Next::Wait });
        }
        if self.is_astray {
            self.find_again()?;
        }
        let (mut last, mut trouble, mut at_end, mut next) = (None, None, false, Next::More);
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
                    each(record(&message));
                    self.next = offset + 1;
                    last = Some(message);
                }
                Some(Err(KafkaError::PartitionEOF(_))) => {
                    (next, at_end) = (Next::Wait, true);
                    break;
                }
                Some(Err(error)) => {
                    trouble = Some(error);
                    next = Next::Wait;
                    break;
                }
                None => {
                    next = Next::Wait;
                    break;
                }
            }
        }
        if let Some(last) = last.as_ref().map(fingerprint) {
            self.marks.chain.read(&last);
            self.last = Some(last);
        }
        drop(last);
        if let Some(error) = trouble {
            self.judge(&error)?;
        }
        if at_end {
            self.skip_to_end();
        }
        Ok(if self.is_ended() { Next::End } else { next })
    }

    fn position(&self) -> u64 {
        self.next
    }

    fn end(&mut self) -> Result<Option<u64>, LogError> {
        Ok(Some(self.end.unwrap_or_else(|| self.marks.high().max(self.next))))
    }

    fn fingerprint(&self) -> Option<Fingerprint> {
        // The last one may be of another topic already: nobody has looked yet.
        if self.is_ended() { self.last.clone() } else { self.marks.chain.links().known }
    }

    fn lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_known_by_all_that_it_is() {
        let known = identify(7, 1000, Some(b"k"), Some(b"payload"));
        assert_eq!((known.at, known.bytes), (Some(7), 7));
        assert_eq!(identify(7, 1000, Some(b"k"), Some(b"payload")), known);
        for other in [
            identify(8, 1000, Some(b"k"), Some(b"payload")),
            identify(7, 1001, Some(b"k"), Some(b"payload")),
            identify(7, 1000, Some(b"kp"), Some(b"ayload")),
            identify(7, 1000, None, Some(b"kpayload")),
            identify(7, 1000, Some(b"k"), Some(b"payloaD")),
            identify(7, 1000, Some(b"k"), None),
        ] {
            assert_ne!(other, known);
        }
        assert_ne!(identify(7, 1, None, Some(b"")), identify(7, 1, Some(b""), Some(b"")));
    }
}
