//! What the clients of a topic share: where their logs, errors and statistics go.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;
use rdkafka::{ClientContext, TopicPartitionList};
use serde::Deserialize;

use crate::chain::Chain;
use crate::error::{ErrorKind, is_unknown, kind};

/// A consumer of a topic.
pub(crate) type Consumer = BaseConsumer<Handle>;

const MINUTE: Duration = Duration::from_mins(1);
/// The most that is taken from a client at once.
const SERVED_MAX: usize = 10_000;

/// What is known of a partition: its watermarks as brokers last gave them, and the records it is
/// recognised by.
#[derive(Debug)]
pub(crate) struct Partition {
    low: AtomicU64,
    high: AtomicU64,
    /// The high watermark that a consumer heard last.
    heard: AtomicU64,
    /// The last stable offset: records from there on cannot be read before a transaction ends.
    stable: AtomicU64,
    /// How far it was read.
    read: AtomicU64,
    pub(crate) chain: Chain,
}

impl Partition {
    /// A partition with the watermarks that a broker just gave.
    pub(crate) fn new(watermarks: Range<u64>) -> Self {
        Self {
            low: AtomicU64::new(watermarks.start),
            high: AtomicU64::new(watermarks.end),
            heard: AtomicU64::default(),
            stable: AtomicU64::new(u64::MAX),
            read: AtomicU64::default(),
            chain: Chain::default(),
        }
    }

    /// The oldest offset that is there.
    pub(crate) fn low(&self) -> u64 {
        self.low.load(Ordering::Relaxed)
    }

    /// The offset that the next record gets.
    pub(crate) fn high(&self) -> u64 {
        self.high.load(Ordering::Relaxed)
    }

    /// Takes newer watermarks.
    pub(crate) fn set(&self, watermarks: Range<u64>) {
        self.low.store(watermarks.start, Ordering::Relaxed);
        self.high.store(watermarks.end, Ordering::Relaxed);
    }

    /// It was read up to this offset.
    pub(crate) fn read(&self, offset: u64) {
        self.read.store(offset, Ordering::Relaxed);
    }

    /// The offset at which a reader waits for a transaction to end, if it does, and how many
    /// offsets are behind it.
    pub(crate) fn waits_for_transaction(&self) -> Option<(u64, u64)> {
        let (read, high) = (self.read.load(Ordering::Relaxed), self.high());
        let waits = read >= self.stable.load(Ordering::Relaxed) && read < high;
        waits.then(|| (read, high - read))
    }

    /// Takes what a consumer has heard; a negative offset is unknown. An end that moves back may be
    /// that of another topic.
    fn hear(&self, low: i64, stable: i64, high: i64) {
        self.stable.store(u64::try_from(stable).unwrap_or(u64::MAX), Ordering::Relaxed);
        if let Ok(high) = u64::try_from(high) {
            if high < self.heard.swap(high, Ordering::Relaxed) {
                self.chain.doubt();
            }
            self.high.store(high, Ordering::Relaxed);
        }
        if let Ok(low) = u64::try_from(low) {
            self.low.store(low, Ordering::Relaxed);
        }
    }
}

/// The partitions of a topic by number.
pub(crate) type Partitions = BTreeMap<i32, Arc<Partition>>;

/// Lets something through once a minute.
#[derive(Default)]
struct Throttle(Mutex<Option<Duration>>);

impl Throttle {
    fn is_due(&self, now: Duration) -> bool {
        let mut last = self.0.lock();
        let is_due = last.is_none_or(|last| now >= last + MINUTE);
        if is_due {
            *last = Some(now);
        }
        is_due
    }
}

/// What the clients of a topic share.
pub(crate) struct Shared {
    topic: String,
    opened: Instant,
    pub(crate) partitions: Mutex<Partitions>,
    /// How often brokers could not be reached or asked.
    pub(crate) troubles: AtomicU64,
    /// Partitions that wait for a transaction to end.
    pub(crate) blocked: AtomicU64,
    /// Logs, statistics and errors that clients have handed over.
    served: AtomicU64,
    /// What a client reported last.
    reported: Mutex<Option<(ErrorKind, String)>>,
    trouble_throttle: Throttle,
    commit_throttle: Throttle,
}

impl Shared {
    #[expect(clippy::disallowed_methods, reason = "brokers take real time; none is simulated")]
    pub(crate) fn new(topic: &str) -> Self {
        Self {
            topic: topic.to_owned(),
            opened: Instant::now(),
            partitions: Mutex::default(),
            troubles: AtomicU64::default(),
            blocked: AtomicU64::default(),
            served: AtomicU64::default(),
            reported: Mutex::default(),
            trouble_throttle: Throttle::default(),
            commit_throttle: Throttle::default(),
        }
    }

    pub(crate) fn partition(&self, number: i32) -> Option<Arc<Partition>> {
        self.partitions.lock().get(&number).cloned()
    }

    /// Stops all reading until the topic has been checked.
    pub(crate) fn doubt(&self) {
        self.partitions.lock().values().for_each(|partition| partition.chain.doubt());
    }

    pub(crate) fn is_doubtful(&self) -> bool {
        self.partitions.lock().values().any(|partition| partition.chain.is_doubtful())
    }

    /// The time since the topic was opened.
    pub(crate) fn elapsed(&self) -> Duration {
        self.opened.elapsed()
    }

    /// What a client reported last, and what kind of error that is.
    pub(crate) fn reported(&self) -> Option<(ErrorKind, String)> {
        self.reported.lock().clone()
    }

    /// Takes what `client` has to say: errors, statistics, results of commits, and its logs. A poll
    /// that hands a log over looks like one that found nothing, so an error behind a thousand lines
    /// of a debug log would come out a thousand polls later. Returns the first error or message.
    pub(crate) fn serve<'c>(
        &self,
        client: &'c Consumer,
    ) -> Option<Result<BorrowedMessage<'c>, KafkaError>> {
        let served = || self.served.load(Ordering::Relaxed);
        for _ in 0..SERVED_MAX {
            let before = served();
            let event = client.poll(Duration::ZERO);
            if event.is_some() || served() == before {
                return event;
            }
        }
        None
    }

    /// Counts a transient error, and logs it at most once a minute.
    pub(crate) fn trouble(&self, what: &str) {
        self.troubles.fetch_add(1, Ordering::Relaxed);
        if self.trouble_throttle.is_due(self.elapsed()) {
            tracing::warn!(topic = self.topic, "Kafka: {what}; trying again");
        }
    }

    fn report(&self, error: &KafkaError, reason: &str) {
        let mut reported = self.reported.lock();
        // A refused login explains more than the lost connection that follows it.
        if reported.as_ref().is_none_or(|(before, _)| *before == ErrorKind::Transient) {
            *reported = Some((kind(error), reason.to_owned()));
        }
    }
}

/// What a client calls back.
#[derive(Clone)]
pub(crate) struct Handle(pub(crate) Arc<Shared>);

impl ClientContext for Handle {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        self.0.served.fetch_add(1, Ordering::Relaxed);
        match level {
            // Consumer properties in a client that is not one; failed commits have a warning below.
            _ if matches!(fac, "CONFWARN" | "COMMITFAIL") => {
                tracing::debug!("librdkafka {fac}: {message}");
            }
            RDKafkaLogLevel::Emerg
            | RDKafkaLogLevel::Alert
            | RDKafkaLogLevel::Critical
            | RDKafkaLogLevel::Error => {
                let error = KafkaError::Global(RDKafkaErrorCode::BrokerTransportFailure);
                self.0.report(&error, message);
                self.0.trouble(message);
            }
            RDKafkaLogLevel::Warning => tracing::warn!("librdkafka {fac}: {message}"),
            _ => tracing::debug!("librdkafka {fac}: {message}"),
        }
    }

    fn stats_raw(&self, statistics: &[u8]) {
        self.0.served.fetch_add(1, Ordering::Relaxed);
        let Ok(statistics) = serde_json::from_slice::<Statistics>(statistics) else { return };
        let Some(topic) = statistics.topics.get(&self.0.topic) else { return };
        for (partition, heard) in &topic.partitions {
            let known = partition.parse().ok().and_then(|number| self.0.partition(number));
            if let Some(known) = known {
                known.hear(heard.lo_offset, heard.ls_offset, heard.hi_offset);
            }
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::PartitionEOF) {
            return;
        }
        if is_unknown(&error) {
            self.0.doubt();
        }
        self.0.report(&error, reason);
        if kind(&error) == ErrorKind::Transient {
            self.0.trouble(reason);
        }
    }
}

impl ConsumerContext for Handle {
    fn commit_callback(&self, result: KafkaResult<()>, _: &TopicPartitionList) {
        if let Err(error) = result
            && self.0.commit_throttle.is_due(self.0.elapsed())
        {
            let topic = &self.0.topic;
            tracing::warn!(
                topic,
                "cannot commit offsets for lag tools: {error}; counts do not depend on them"
            );
        }
    }
}

/// The part of a client's statistics that is used.
#[derive(Deserialize)]
struct Statistics {
    topics: BTreeMap<String, TopicStatistics>,
}

#[derive(Deserialize)]
struct TopicStatistics {
    partitions: BTreeMap<String, PartitionStatistics>,
}

#[derive(Deserialize)]
struct PartitionStatistics {
    lo_offset: i64,
    ls_offset: i64,
    hi_offset: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_update_watermarks() {
        let shared = Arc::new(Shared::new("t"));
        shared.partitions.lock().insert(3, Arc::new(Partition::new(1..5)));
        let say = |text: &str| Handle(Arc::clone(&shared)).stats_raw(text.as_bytes());
        let known = shared.partition(3).unwrap();
        say(
            r#"{"x":1,"topics":{"t":{"partitions":{"3":{"lo_offset":-1001,"ls_offset":7,"hi_offset":9,"y":0}}}}}"#,
        );
        assert_eq!((known.low(), known.high()), (1, 9));
        assert_eq!(known.waits_for_transaction(), None, "it is not there yet");
        known.read(7);
        assert_eq!(known.waits_for_transaction(), Some((7, 2)));
        say(
            r#"{"topics":{"t":{"partitions":{"3":{"lo_offset":4,"ls_offset":9,"hi_offset":9},"-1":{"lo_offset":0,"ls_offset":0,"hi_offset":0}}}}}"#,
        );
        assert_eq!((known.low(), known.high()), (4, 9));
        assert_eq!(known.waits_for_transaction(), None, "there are records to read");
        known.read(9);
        assert_eq!(known.waits_for_transaction(), None, "it is at the end");
        say("nonsense");
        assert!(!shared.is_doubtful());
        say(r#"{"topics":{"t":{"partitions":{"3":{"lo_offset":4,"ls_offset":8,"hi_offset":8}}}}}"#);
        assert!(shared.is_doubtful(), "an end moved back");
    }

    #[test]
    fn throttle_lets_through_once_a_minute() {
        let throttle = Throttle::default();
        let due: Vec<u64> = (0..200).filter(|s| throttle.is_due(Duration::from_secs(*s))).collect();
        assert_eq!(due, [0, 60, 120, 180]);
    }
}
