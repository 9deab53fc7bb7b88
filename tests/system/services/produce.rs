//! Changes to topics of a real Kafka: records, transactions, partitions, retention.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::topics::records;
use super::wait;

const TIMEOUT: Duration = Duration::from_secs(30);

/// A post with the tag `tag`.
pub(crate) fn post(id: usize, ts: i64, tag: &str) -> String {
    format!("{{\"event_id\":{id},\"ts\":{ts},\"caption\":\"#{tag}\"}}")
}

fn config(brokers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    // Small batches, so that a reader cannot take everything at once.
    config.set("bootstrap.servers", brokers).set("batch.num.messages", "10");
    config
}

fn send(producer: &BaseProducer, topic: &str, partition: i32, texts: &[String]) {
    for text in texts {
        let record = BaseRecord::<str, str>::to(topic).partition(partition).payload(text);
        producer.send(record).map_err(|(error, _)| error).unwrap();
    }
    producer.flush(TIMEOUT).unwrap();
}

/// Writes records to a partition.
pub(crate) fn produce(brokers: &str, topic: &str, partition: i32, texts: &[String]) {
    send(&config(brokers).create().unwrap(), topic, partition, texts);
}

/// Writes records to a partition in transactions, each of which is committed or aborted.
pub(crate) fn transactions(brokers: &str, topic: &str, each: &[(&[String], bool)]) {
    let producer: BaseProducer = config(brokers).set("transactional.id", topic).create().unwrap();
    producer.init_transactions(TIMEOUT).unwrap();
    for (texts, is_committed) in each {
        producer.begin_transaction().unwrap();
        send(&producer, topic, 0, texts);
        if *is_committed {
            producer.commit_transaction(TIMEOUT).unwrap();
        } else {
            producer.abort_transaction(TIMEOUT).unwrap();
        }
    }
}

/// A transaction that is open, with records that were written.
pub(crate) struct OpenTransaction(BaseProducer);

impl OpenTransaction {
    /// Begins it and writes its records to partition 0.
    pub(crate) fn begin(brokers: &str, topic: &str, texts: &[String]) -> Self {
        let id = format!("{topic}-open");
        let producer: BaseProducer = config(brokers).set("transactional.id", id).create().unwrap();
        producer.init_transactions(TIMEOUT).unwrap();
        producer.begin_transaction().unwrap();
        send(&producer, topic, 0, texts);
        Self(producer)
    }

    /// Commits it.
    pub(crate) fn commit(self) {
        self.0.commit_transaction(TIMEOUT).unwrap();
    }
}

/// Writes records without a value, or with these values, to partition 0.
pub(crate) fn produce_values(brokers: &str, topic: &str, values: &[Option<&str>]) {
    let producer: BaseProducer = config(brokers).create().unwrap();
    for value in values {
        let record = BaseRecord::<str, str>::to(topic).partition(0).key("k");
        let record = value.iter().fold(record, |record, value| record.payload(*value));
        producer.send(record).map_err(|(error, _)| error).unwrap();
    }
    producer.flush(TIMEOUT).unwrap();
}

fn admin(brokers: &str) -> AdminClient<DefaultClientContext> {
    config(brokers).create().unwrap()
}

/// Deletes a topic.
pub(crate) fn delete(brokers: &str, topic: &str) {
    let deleted = wait(admin(brokers).delete_topics(&[topic], &AdminOptions::new())).unwrap();
    assert!(deleted.iter().all(Result::is_ok), "{deleted:?}");
}

/// Increases the number of partitions of a topic.
pub(crate) fn grow(brokers: &str, topic: &str, partitions: usize) {
    let more = NewPartitions::new(topic, partitions);
    let grown = wait(admin(brokers).create_partitions([&more], &AdminOptions::new())).unwrap();
    assert!(grown.iter().all(Result::is_ok), "{grown:?}");
}

/// Removes the records of a partition before `offset`, as retention does.
pub(crate) fn expire(brokers: &str, topic: &str, partition: i32, offset: i64) {
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, partition, Offset::Offset(offset)).unwrap();
    let removed = wait(admin(brokers).delete_records(&list, &AdminOptions::new())).unwrap();
    assert!(removed.elements().iter().all(|element| element.error().is_ok()));
}

/// Writes the records of a topic to a file, one a line, in no particular order of partitions.
pub(crate) fn download(brokers: &str, topic: &str, file: &Path) {
    let mut text = String::new();
    for record in records(brokers, topic) {
        writeln!(text, "{}", String::from_utf8(record.value).unwrap()).unwrap();
    }
    fs::write(file, text).unwrap();
}
