//! Creates topics of a real Kafka, and reads them from the first record to the last.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::metadata::MetadataPartition;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::super::harness::{now, within};
use super::wait;

const TIMEOUT: Duration = Duration::from_secs(30);

fn config(brokers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("broker.address.family", "v4");
    config
}

/// Creates a topic, with settings such as `("cleanup.policy", "compact")`, and waits until it
/// exists.
pub(crate) fn create(brokers: &str, topic: &str, partitions: i32, settings: &[(&str, &str)]) {
    create_replicated(brokers, topic, partitions, 1, settings);
}

/// The same, with this many replicas of every partition.
pub(crate) fn create_replicated(
    brokers: &str,
    topic: &str,
    partitions: i32,
    copies: i32,
    settings: &[(&str, &str)],
) {
    let admin: AdminClient<DefaultClientContext> = config(brokers).create().unwrap();
    let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(copies));
    let new = settings.iter().fold(new, |new, (name, value)| new.set(name, value));
    let created = wait(admin.create_topics([&new], &AdminOptions::new())).unwrap();
    assert!(created.iter().all(Result::is_ok), "{created:?}");
    let inner = admin.inner();
    within(30, "the topic's partitions", || {
        let metadata = inner.fetch_metadata(Some(topic), TIMEOUT).ok()?;
        let found = &metadata.topics()[0];
        let led = found.partitions().iter().filter(|p| p.leader() >= 0).count();
        (led == partitions as usize).then_some(())
    });
}

/// A record of a topic.
pub(crate) struct Record {
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    /// Its time in milliseconds: the broker's or the producer's, depending on the topic.
    pub(crate) stamp_ms: i64,
    pub(crate) value: Vec<u8>,
}

/// All committed records of a topic, in order within each partition.
pub(crate) fn records(brokers: &str, topic: &str) -> impl Iterator<Item = Record> {
    let consumer: BaseConsumer = config(brokers)
        .set("group.id", "tagflow-test")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("isolation.level", "read_committed")
        .create()
        .unwrap();
    let metadata = consumer.fetch_metadata(Some(topic), TIMEOUT).unwrap();
    let mut open: BTreeSet<i32> =
        metadata.topics()[0].partitions().iter().map(MetadataPartition::id).collect();
    let mut assigned = TopicPartitionList::new();
    for partition in &open {
        assigned.add_partition_offset(topic, *partition, Offset::Beginning).unwrap();
    }
    consumer.assign(&assigned).unwrap();
    let mut last: BTreeMap<i32, i64> = BTreeMap::new();
    std::iter::from_fn(move || {
        let deadline = now() + TIMEOUT;
        while !open.is_empty() {
            assert!(now() < deadline, "no record and no end in {TIMEOUT:?}");
            match consumer.poll(Duration::from_secs(1)) {
                None => {}
                Some(Err(KafkaError::PartitionEOF(partition))) => drop(open.remove(&partition)),
                Some(Err(error)) => panic!("{error}"),
                Some(Ok(message)) => {
                    let (partition, offset) = (message.partition(), message.offset());
                    let before = last.insert(partition, offset);
                    assert!(before < Some(offset), "{offset} after {before:?}");
                    let value = message.payload().unwrap_or_default().to_vec();
                    let stamp_ms = message.timestamp().to_millis().unwrap();
                    return Some(Record { partition, offset, stamp_ms, value });
                }
            }
        }
        None
    })
}
