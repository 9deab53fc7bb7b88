//! One record of a partition, and what identifies it.

use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message, Timestamp};
use rdkafka::{Offset, TopicPartitionList};
use schemas::event::RECORD_BYTES_MAX;
use schemas::manifest::Fingerprint;
use xxhash_rust::xxh3::Xxh3;

/// A record as its topic holds it.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Its offset.
    pub offset: u64,
    /// Its payload, cut off if it is too large to be an event.
    pub payload: &'a [u8],
    /// The size of the whole payload.
    pub size: u64,
    /// Whether it has no payload at all: it is a tombstone.
    pub is_null: bool,
    /// When the broker appended it, if brokers stamp the topic's records.
    pub appended_ms: Option<i64>,
}

impl<'a> Record<'a> {
    pub(crate) fn of(message: &'a BorrowedMessage<'_>) -> Self {
        let payload = message.payload();
        let is_null = payload.is_none();
        let payload = payload.unwrap_or_default();
        let appended_ms = match message.timestamp() {
            Timestamp::LogAppendTime(ms) => Some(ms),
            Timestamp::CreateTime(_) | Timestamp::NotAvailable => None,
        };
        Self {
            offset: message.offset().unsigned_abs(),
            payload: &payload[..payload.len().min(RECORD_BYTES_MAX + 1)],
            size: payload.len() as u64,
            is_null,
            appended_ms,
        }
    }
}

/// What distinguishes a record from all others: its offset, its size, and a hash of its content.
pub(crate) fn fingerprint(message: &BorrowedMessage<'_>) -> Fingerprint {
    let stamp = message.timestamp().to_millis().unwrap_or(-1);
    identify(message.offset(), stamp, message.key(), message.payload())
}

fn identify(offset: i64, stamp: i64, key: Option<&[u8]>, payload: Option<&[u8]>) -> Fingerprint {
    let mut hash = Xxh3::new();
    hash.update(&offset.to_le_bytes());
    hash.update(&stamp.to_le_bytes());
    // An empty key is not the same as no key.
    hash.update(&key.map_or(u64::MAX, |key| key.len() as u64).to_le_bytes());
    hash.update(key.unwrap_or_default());
    hash.update(payload.unwrap_or_default());
    Fingerprint {
        bytes: payload.map_or(0, |payload| payload.len() as u64),
        xxh3: format!("{:016x}", hash.digest()),
        at: Some(offset.unsigned_abs()),
    }
}

/// One partition at an offset, in the form the client takes.
pub(crate) fn partition_at(
    topic: &str,
    partition: i32,
    offset: u64,
) -> Result<TopicPartitionList, KafkaError> {
    let mut list = TopicPartitionList::with_capacity(1);
    add_partition_at(&mut list, topic, partition, offset)?;
    Ok(list)
}

/// Adds a partition at an offset to such a list.
pub(crate) fn add_partition_at(
    list: &mut TopicPartitionList,
    topic: &str,
    partition: i32,
    offset: u64,
) -> Result<(), KafkaError> {
    list.add_partition_offset(topic, partition, Offset::Offset(offset.cast_signed()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprint_covers_everything_in_a_record() {
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
