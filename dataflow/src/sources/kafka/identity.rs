//! Whether a topic is still the one that was read: a record that was read is read again.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use schemas::manifest::Fingerprint;

use super::Topic;
use super::client::{Consumer, Handle};
use super::cluster::PATIENCE;
use super::error::{Meaning, TopicError, meaning};
use super::reader::{at, fingerprint};

/// What is there at a position.
pub(super) enum Found {
    Record(Fingerprint),
    Nothing,
}

/// Reads records again, one at a time.
#[derive(Default)]
pub(super) struct Identity {
    consumer: Mutex<Option<Consumer>>,
    /// What has been found to be the same in this process.
    checked: Mutex<Vec<(i32, Fingerprint)>>,
}

impl Identity {
    /// Fails where the topic's partition is not the one of which record `known` was read last.
    pub(super) fn check(
        &self,
        topic: &Topic,
        partition: i32,
        known: &Fingerprint,
    ) -> Result<(), TopicError> {
        let Some(position) = known.at else { return Ok(()) };
        let Some(marks) = topic.shared.marks(partition) else { return Ok(()) };
        // Retention has removed it, as it should.
        if position < marks.low() {
            return Ok(());
        }
        let before = (partition, known.clone());
        let mut checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        if checked.contains(&before) {
            return Ok(());
        }
        match self.look(topic, partition, position, PATIENCE)? {
            Found::Record(found) if found == *known => {
                checked.push(before);
                Ok(())
            }
            Found::Record(_) => Err(topic.other(partition, position)),
            Found::Nothing => Err(topic.nothing(partition, position)),
        }
    }

    /// What is at a position now; brokers may take so long to say.
    pub(super) fn look(
        &self,
        topic: &Topic,
        partition: i32,
        position: u64,
        patience: Duration,
    ) -> Result<Found, TopicError> {
        let doing = format!("reading partition {partition} again at {position}");
        let failed = |error: &KafkaError| topic.cluster.unanswered(&doing, error);
        let mut consumer = self.consumer.lock().unwrap_or_else(PoisonError::into_inner);
        let consumer = match &mut *consumer {
            Some(consumer) => consumer,
            none => {
                let mut config = topic.settings.consumer(1);
                config
                    .set("queued.min.messages", "1")
                    // Brokers send a whole batch, and no more.
                    .set("max.partition.fetch.bytes", "1")
                    .set("statistics.interval.ms", "0");
                let made = config.create_with_context(Handle(topic.shared.clone()));
                none.insert(made.map_err(|error| failed(&error))?)
            }
        };
        let list = at(&topic.settings.topic, partition, position);
        let assigned = list.and_then(|list| consumer.assign(&list));
        assigned.map_err(|error| failed(&error))?;
        let found = wait(topic, consumer, partition, position, patience);
        consumer.unassign().map_err(|error| failed(&error))?;
        found.map_err(|error| failed(&error))
    }
}

/// What an assigned partition has at the position.
fn wait(
    topic: &Topic,
    consumer: &Consumer,
    partition: i32,
    position: u64,
    patience: Duration,
) -> Result<Found, KafkaError> {
    let start = topic.shared.now_us();
    loop {
        let waited = Duration::from_micros(topic.shared.now_us().saturating_sub(start));
        match consumer.poll(Duration::from_millis(200)) {
            Some(Ok(message)) if message.partition() != partition => {}
            Some(Ok(message)) if message.offset().unsigned_abs() == position => {
                return Ok(Found::Record(fingerprint(&message)));
            }
            Some(Ok(_)) => return Ok(Found::Nothing),
            Some(Err(KafkaError::PartitionEOF(number))) if number == partition => {
                return Ok(Found::Nothing);
            }
            Some(Err(error)) if meaning(&error) == Meaning::OutOfRange => {
                return Ok(Found::Nothing);
            }
            Some(Err(error)) if meaning(&error) != Meaning::Passes => return Err(error),
            _ if waited > patience => return Err(KafkaError::NoMessageReceived),
            _ => {}
        }
    }
}
