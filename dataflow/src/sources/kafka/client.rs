//! What the clients of a topic share: where their logs, errors and statistics go.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::{ClientContext, TopicPartitionList};
use serde::Deserialize;

use super::chain::Chain;
use super::error::{Meaning, is_unknown, meaning};
use crate::clock::{Clock, SystemClock};

/// A consumer of a topic.
pub(super) type Consumer = BaseConsumer<Handle>;

const MINUTE_US: u64 = 60_000_000;

/// The oldest and the next position of a partition, as brokers last said, and what it is known by.
#[derive(Debug)]
pub(super) struct Marks {
    low: AtomicI64,
    high: AtomicI64,
    /// The next position as a consumer heard it last.
    heard: AtomicI64,
    pub(super) chain: Chain,
}

impl Marks {
    /// Marks as just asked for.
    pub(super) fn new((low, high): (i64, i64)) -> Self {
        Self {
            low: AtomicI64::new(low),
            high: AtomicI64::new(high),
            heard: AtomicI64::new(-1),
            chain: Chain::default(),
        }
    }

    /// The oldest position that is there.
    pub(super) fn low(&self) -> u64 {
        self.low.load(Ordering::Relaxed).max(0).unsigned_abs()
    }

    /// The position that the next record gets.
    pub(super) fn high(&self) -> u64 {
        self.high.load(Ordering::Relaxed).max(0).unsigned_abs()
    }

    /// Takes newer marks; negative ones say nothing.
    pub(super) fn set(&self, (low, high): (i64, i64)) {
        if low >= 0 {
            self.low.store(low, Ordering::Relaxed);
        }
        if high >= 0 {
            self.high.store(high, Ordering::Relaxed);
        }
    }

    /// Takes what a consumer has heard. An end that goes back may be that of another topic.
    fn hear(&self, (low, high): (i64, i64)) {
        if high >= 0 && high < self.heard.swap(high, Ordering::Relaxed) {
            self.chain.doubt();
        }
        self.set((low, high));
    }
}

/// The partitions of a topic by number.
pub(super) type Partitions = BTreeMap<i32, Arc<Marks>>;

/// Lets something through once a minute.
struct Seldom(AtomicU64);

impl Seldom {
    fn is_due(&self, now_us: u64) -> bool {
        let last = self.0.load(Ordering::Relaxed);
        let due = last == 0 || now_us.saturating_sub(last) >= MINUTE_US;
        due && self.0.compare_exchange(last, now_us.max(1), Ordering::Relaxed, Ordering::Relaxed)
            == Ok(last)
    }
}

/// What all clients of a topic tell.
pub(super) struct Shared {
    topic: String,
    clock: SystemClock,
    pub(super) partitions: Mutex<Partitions>,
    /// How often brokers could not be reached or asked.
    pub(super) troubles: AtomicU64,
    /// What a client said last, and whether it was let in.
    last: Mutex<Option<(Meaning, String)>>,
    told_trouble: Seldom,
    told_commit: Seldom,
}

impl Shared {
    pub(super) fn new(topic: &str) -> Self {
        Self {
            topic: topic.to_owned(),
            clock: SystemClock::default(),
            partitions: Mutex::default(),
            troubles: AtomicU64::default(),
            last: Mutex::default(),
            told_trouble: Seldom(AtomicU64::default()),
            told_commit: Seldom(AtomicU64::default()),
        }
    }

    pub(super) fn marks(&self, partition: i32) -> Option<Arc<Marks>> {
        let partitions = self.partitions.lock().unwrap_or_else(PoisonError::into_inner);
        partitions.get(&partition).cloned()
    }

    /// Lets nobody read on before somebody has looked whether the topic is the same.
    pub(super) fn doubt(&self) {
        let partitions = self.partitions.lock().unwrap_or_else(PoisonError::into_inner);
        partitions.values().for_each(|marks| marks.chain.doubt());
    }

    pub(super) fn is_doubtful(&self) -> bool {
        let partitions = self.partitions.lock().unwrap_or_else(PoisonError::into_inner);
        partitions.values().any(|marks| marks.chain.is_doubtful())
    }

    pub(super) fn now_us(&self) -> u64 {
        self.clock.mono_us()
    }

    /// What a client said last, and what it means.
    pub(super) fn last(&self) -> Option<(Meaning, String)> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counts a trouble that passes, and tells of it once a minute.
    pub(super) fn trouble(&self, what: &str) {
        self.troubles.fetch_add(1, Ordering::Relaxed);
        if self.told_trouble.is_due(self.now_us()) {
            tracing::warn!(topic = self.topic, "Kafka: {what}; trying again");
        }
    }

    fn learn(&self, error: &KafkaError, reason: &str) {
        let meaning = meaning(error);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        // That nobody lets us in says more than that nobody is left to ask.
        if last.as_ref().is_none_or(|(before, _)| *before == Meaning::Passes) {
            *last = Some((meaning, reason.to_owned()));
        }
    }
}

/// The way from a client to what its topic's clients share.
#[derive(Clone)]
pub(super) struct Handle(pub(super) Arc<Shared>);

impl ClientContext for Handle {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        match level {
            // A property of consumers in a client of another kind; commits are told of seldom.
            _ if matches!(fac, "CONFWARN" | "COMMITFAIL") => {
                tracing::debug!("librdkafka {fac}: {message}");
            }
            RDKafkaLogLevel::Emerg
            | RDKafkaLogLevel::Alert
            | RDKafkaLogLevel::Critical
            | RDKafkaLogLevel::Error => {
                let error = KafkaError::Global(RDKafkaErrorCode::BrokerTransportFailure);
                self.0.learn(&error, message);
                self.0.trouble(message);
            }
            RDKafkaLogLevel::Warning => tracing::warn!("librdkafka {fac}: {message}"),
            _ => tracing::debug!("librdkafka {fac}: {message}"),
        }
    }

    fn stats_raw(&self, statistics: &[u8]) {
        let Ok(statistics) = serde_json::from_slice::<Statistics>(statistics) else { return };
        let Some(topic) = statistics.topics.get(&self.0.topic) else { return };
        for (partition, said) in &topic.partitions {
            let marks = partition.parse().ok().and_then(|number| self.0.marks(number));
            if let Some(marks) = marks {
                marks.hear((said.lo_offset, said.hi_offset));
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
        self.0.learn(&error, reason);
        if meaning(&error) == Meaning::Passes {
            self.0.trouble(reason);
        }
    }
}

impl ConsumerContext for Handle {
    fn commit_callback(&self, result: KafkaResult<()>, _: &TopicPartitionList) {
        if let Err(error) = result
            && self.0.told_commit.is_due(self.0.now_us())
        {
            let topic = &self.0.topic;
            tracing::warn!(
                topic,
                "offsets for lag tools could not be committed: {error}; counts do not depend on it"
            );
        }
    }
}

/// What is used of a client's statistics.
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
    hi_offset: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_move_the_marks_that_they_know() {
        let shared = Arc::new(Shared::new("t"));
        shared.partitions.lock().unwrap().insert(3, Arc::new(Marks::new((1, 5))));
        let say = |text: &str| Handle(Arc::clone(&shared)).stats_raw(text.as_bytes());
        let marks = shared.marks(3).unwrap();
        say(
            r#"{"x":1,"topics":{"t":{"partitions":{"3":{"lo_offset":-1001,"hi_offset":9,"y":0}}}}}"#,
        );
        assert_eq!((marks.low(), marks.high()), (1, 9));
        say(
            r#"{"topics":{"t":{"partitions":{"3":{"lo_offset":4,"hi_offset":9},"-1":{"lo_offset":0,"hi_offset":0}}}}}"#,
        );
        assert_eq!((marks.low(), marks.high()), (4, 9));
        say("nonsense");
        assert!(!shared.is_doubtful());
        say(r#"{"topics":{"t":{"partitions":{"3":{"lo_offset":4,"hi_offset":8}}}}}"#);
        assert!(shared.is_doubtful(), "an end went back");
    }

    #[test]
    fn something_is_told_once_a_minute() {
        let seldom = Seldom(AtomicU64::default());
        let due: Vec<u64> = (0..200).filter(|s| seldom.is_due(s * 1_000_000)).collect();
        assert_eq!(due, [0, 61, 121, 181]);
    }
}
