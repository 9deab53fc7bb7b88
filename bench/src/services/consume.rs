//! The bare consumer: reads a topic to its current end on one thread and decodes every record.

use std::error::Error;
use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use schemas::config::SourceUri;
use schemas::event::Decoder;

const WAIT: Duration = Duration::from_secs(20);

/// Consumes a topic and prints the number of events as `tagflow run --json` does.
pub(crate) fn consume(topic: &str) -> Result<(), Box<dyn Error>> {
    let SourceUri::Kafka { brokers, topic } = topic.parse()? else {
        return Err("not the URI of a topic".into());
    };
    let brokers: Vec<String> = brokers.iter().map(ToString::to_string).collect();
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers.join(","))
        .set("group.id", "tagflow-bench")
        .set("enable.auto.commit", "false")
        // By default librdkafka waits a second when its queue is full. The job sets this as well.
        .set("fetch.queue.backoff.ms", "50")
        .create()?;
    let metadata = consumer.fetch_metadata(Some(&topic), WAIT)?;
    let partitions = metadata.topics().first().ok_or("no such topic")?.partitions();
    let (mut list, mut left) = (TopicPartitionList::new(), 0);
    for partition in partitions {
        let (low, high) = consumer.fetch_watermarks(&topic, partition.id(), WAIT)?;
        list.add_partition_offset(&topic, partition.id(), Offset::Beginning)?;
        left += high - low;
    }
    consumer.assign(&list)?;
    let (decoder, mut events, mut others) = (Decoder::default(), 0_u64, 0_u64);
    while left > 0 {
        let message = consumer.poll(WAIT).ok_or("no record in 20 s")??;
        // A record without a value is not an event.
        let decoded = decoder.decode(message.payload().unwrap_or_default());
        *(if decoded.is_ok() { &mut events } else { &mut others }) += 1;
        left -= 1;
    }
    println!("{}", serde_json::json!({"events": events, "others": others}));
    Ok(())
}
