//! Whether a topic is still the one that was read: a record that was read is looked up again.

use std::time::Duration;

use parking_lot::Mutex;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use schemas::manifest::Fingerprint;

use crate::client::Consumer;
use crate::cluster::{Cluster, PATIENCE};
use crate::error::{ErrorKind, Evidence, TopicError, kind};
use crate::record::{fingerprint, partition_at};

/// What is at an offset.
pub(crate) enum Lookup {
    Record(Fingerprint),
    Nothing,
}

/// Looks up records, one at a time.
#[derive(Default)]
pub(crate) struct Identity {
    consumer: Mutex<Option<Consumer>>,
    /// What this process has already found to be the same.
    checked: Mutex<Vec<(i32, Fingerprint)>>,
}

impl Identity {
    /// Fails if record `known`, the last one read of the partition, is no longer there.
    pub(crate) fn check(
        &self,
        cluster: &Cluster,
        partition: i32,
        known: &Fingerprint,
    ) -> Result<(), TopicError> {
        let Some(offset) = known.at else { return Ok(()) };
        let Some(there) = cluster.shared.partition(partition) else { return Ok(()) };
        // Retention has removed it, as it should.
        if offset < there.low() {
            return Ok(());
        }
        let pair = (partition, known.clone());
        let mut checked = self.checked.lock();
        if checked.contains(&pair) {
            return Ok(());
        }
        let evidence = match self.look_up(cluster, partition, offset, PATIENCE)? {
            Lookup::Record(found) if found == *known => {
                checked.push(pair);
                return Ok(());
            }
            Lookup::Record(_) => Evidence::OtherRecord(offset),
            Lookup::Nothing => Evidence::NoRecord(offset),
        };
        Err(cluster.recreated(partition, evidence))
    }

    /// What is at an offset now; brokers may take as long as `patience` to answer.
    pub(crate) fn look_up(
        &self,
        cluster: &Cluster,
        partition: i32,
        offset: u64,
        patience: Duration,
    ) -> Result<Lookup, TopicError> {
        let doing = format!("cannot look up partition {partition} at offset {offset}");
        let failed = |error: KafkaError| cluster.failed(&doing, &error);
        let mut consumer = self.consumer.lock();
        let consumer = match &mut *consumer {
            Some(consumer) => consumer,
            none => {
                let mut config = cluster.settings.consumer(1);
                config
                    .set("queued.min.messages", "1")
                    // Brokers send one whole batch whatever the limit.
                    .set("max.partition.fetch.bytes", "1")
                    .set("statistics.interval.ms", "0");
                none.insert(config.create_with_context(cluster.handle()).map_err(failed)?)
            }
        };
        let list = partition_at(&cluster.settings.topic, partition, offset);
        list.and_then(|list| consumer.assign(&list)).map_err(failed)?;
        let found = wait(cluster, consumer, partition, offset, patience);
        consumer.unassign().map_err(failed)?;
        found.map_err(failed)
    }
}

/// What an assigned partition has at the offset.
fn wait(
    cluster: &Cluster,
    consumer: &Consumer,
    partition: i32,
    offset: u64,
    patience: Duration,
) -> Result<Lookup, KafkaError> {
    let deadline = cluster.shared.elapsed() + patience;
    loop {
        match consumer.poll(Duration::from_millis(200)) {
            Some(Ok(message)) if message.partition() != partition => {}
            Some(Ok(message)) if message.offset().unsigned_abs() == offset => {
                return Ok(Lookup::Record(fingerprint(&message)));
            }
            Some(Ok(_)) => return Ok(Lookup::Nothing),
            Some(Err(KafkaError::PartitionEOF(number))) if number == partition => {
                return Ok(Lookup::Nothing);
            }
            Some(Err(error)) if kind(&error) == ErrorKind::OutOfRange => {
                return Ok(Lookup::Nothing);
            }
            Some(Err(error)) if kind(&error) != ErrorKind::Transient => return Err(error),
            _ if cluster.shared.elapsed() > deadline => return Err(KafkaError::NoMessageReceived),
            _ => {}
        }
    }
}
