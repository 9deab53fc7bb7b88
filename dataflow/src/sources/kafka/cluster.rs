//! Questions about a topic: its partitions, their ends, what it keeps.
//!
//! Invariant: nobody waits for an answer longer than [`PATIENCE`].

use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::consumer::Consumer as _;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::metadata::MetadataPartition;
use rdkafka::{Offset, TopicPartitionList};

use super::client::{Consumer, Handle, Shared};
use super::error::{Meaning, TopicError, meaning};
use super::settings::KafkaSettings;

/// How long brokers may take to answer when a job starts.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);
/// How long one question may take.
const QUESTION: Duration = Duration::from_secs(3);

/// What a topic keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// `cleanup.policy`: `delete`, `compact` or both.
    pub cleanup: String,
    /// `message.timestamp.type`: `CreateTime` or `LogAppendTime`.
    pub stamps: String,
    /// `retention.ms`; -1 is for ever.
    pub retention_ms: i64,
}

/// A client that asks.
pub(super) struct Cluster {
    settings: Arc<KafkaSettings>,
    shared: Arc<Shared>,
    client: Mutex<Option<Arc<Consumer>>>,
}

impl Cluster {
    pub(super) fn new(settings: Arc<KafkaSettings>, shared: Arc<Shared>) -> Self {
        Self { settings, shared, client: Mutex::default() }
    }

    fn client(&self) -> Result<Arc<Consumer>, TopicError> {
        let mut client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = &*client {
            return Ok(Arc::clone(client));
        }
        let handle = Handle(Arc::clone(&self.shared));
        let made = self.settings.asking().create_with_context(handle);
        let made = Arc::new(made.map_err(|error| self.unanswered("no client", &error))?);
        *client = Some(Arc::clone(&made));
        Ok(made)
    }

    pub(super) fn unanswered(&self, doing: &str, error: &KafkaError) -> TopicError {
        let (topic, doing) = (self.settings.topic.clone(), doing.to_owned());
        TopicError::Unanswered { topic, doing, reason: error.to_string() }
    }

    /// The numbers of the topic's partitions; none where there is no such topic.
    pub(super) fn partitions(&self, wait: Duration) -> Result<Option<Vec<i32>>, KafkaError> {
        let client = self.client().map_err(|_| KafkaError::Canceled)?;
        let metadata = client.fetch_metadata(Some(&self.settings.topic), wait)?;
        let topic = metadata.topics().iter().find(|topic| topic.name() == self.settings.topic);
        let Some(topic) = topic else { return Ok(None) };
        match topic.error().map(Code::from) {
            Some(Code::UnknownTopicOrPartition | Code::UnknownTopic) => return Ok(None),
            Some(code) => return Err(KafkaError::MetadataFetch(code)),
            None => {}
        }
        let mut numbers: Vec<i32> = topic.partitions().iter().map(MetadataPartition::id).collect();
        numbers.sort_unstable();
        Ok((!numbers.is_empty()).then_some(numbers))
    }

    /// The same as a job starts: waits for brokers, and says what is wrong.
    pub(super) fn partitions_patiently(&self) -> Result<Vec<i32>, TopicError> {
        let found = self.patiently("its partitions", |wait| self.partitions(wait))?;
        let (topic, brokers) = (self.settings.topic.clone(), self.settings.servers());
        found.ok_or(TopicError::Missing { topic, brokers })
    }

    /// The oldest and the next position of a partition.
    pub(super) fn marks(&self, partition: i32, wait: Duration) -> Result<(i64, i64), KafkaError> {
        let client = self.client().map_err(|_| KafkaError::Canceled)?;
        client.fetch_watermarks(&self.settings.topic, partition, wait)
    }

    /// The same as a job starts.
    pub(super) fn marks_patiently(&self, partition: i32) -> Result<(i64, i64), TopicError> {
        let doing = format!("the ends of partition {partition}");
        self.patiently(&doing, |wait| self.marks(partition, wait))
    }

    /// The position of the first record of a partition with this stamp or a later one, in
    /// milliseconds; none where there is none.
    pub(super) fn position_at(&self, partition: i32, ms: i64) -> Result<Option<u64>, TopicError> {
        let topic = &self.settings.topic;
        self.patiently(&format!("a time in partition {partition}"), |wait| {
            let client = self.client().map_err(|_| KafkaError::Canceled)?;
            let mut times = TopicPartitionList::with_capacity(1);
            times.add_partition_offset(topic, partition, Offset::Offset(ms))?;
            let found = client.offsets_for_times(times, wait)?;
            let Some(found) = found.find_partition(topic, partition) else { return Ok(None) };
            found.error()?;
            Ok(match found.offset() {
                Offset::Offset(offset) => u64::try_from(offset).ok(),
                _ => None,
            })
        })
    }

    /// Asks until there is an answer, or none can come.
    fn patiently<T>(
        &self,
        doing: &str,
        ask: impl Fn(Duration) -> Result<T, KafkaError>,
    ) -> Result<T, TopicError> {
        let client = self.client()?;
        let start = self.shared.now_us();
        loop {
            let error = match ask(QUESTION) {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            // Lets the client say why.
            while client.poll(Duration::ZERO).is_some() {}
            let brokers = self.settings.servers();
            let (said, reason) = match self.shared.last() {
                Some((meaning, reason)) => (meaning, format!(" ({reason})")),
                None => (Meaning::Passes, String::new()),
            };
            if said == Meaning::Refused {
                return Err(TopicError::Refused { brokers, reason });
            }
            match meaning(&error) {
                Meaning::Passes => {}
                Meaning::Forbidden => {
                    return Err(TopicError::Forbidden(self.settings.topic.clone()));
                }
                _ => return Err(self.unanswered(doing, &error)),
            }
            let waited = Duration::from_micros(self.shared.now_us().saturating_sub(start));
            if waited >= PATIENCE {
                let silent = matches!(
                    error.rdkafka_error_code(),
                    Some(
                        Code::BrokerTransportFailure
                            | Code::AllBrokersDown
                            | Code::Resolve
                            | Code::OperationTimedOut
                    )
                );
                return Err(if silent {
                    TopicError::NoBroker { brokers, reason }
                } else {
                    self.unanswered(doing, &error)
                });
            }
            std::thread::park_timeout(Duration::from_millis(200));
        }
    }

    /// What the topic keeps; none where we may not know.
    pub(super) fn policy(&self) -> Result<Option<Policy>, TopicError> {
        let handle = Handle(Arc::clone(&self.shared));
        let doing = "its configuration";
        let failed = |error: KafkaError| self.unanswered(doing, &error);
        let admin: AdminClient<Handle> =
            self.settings.client().create_with_context(handle).map_err(failed)?;
        let options = AdminOptions::new().request_timeout(Some(PATIENCE));
        let topic = [ResourceSpecifier::Topic(&self.settings.topic)];
        let answer = match block_on(admin.describe_configs(&topic, &options)).map_err(failed)?.pop()
        {
            Some(Ok(answer)) => answer,
            Some(Err(Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed)) | None => {
                return Ok(None);
            }
            Some(Err(code)) => return Err(failed(KafkaError::AdminOp(code))),
        };
        let text = |name: &str| {
            let value = answer.get(name).and_then(|entry| entry.value.clone());
            value.unwrap_or_default()
        };
        Ok(Some(Policy {
            cleanup: text("cleanup.policy"),
            stamps: text("message.timestamp.type"),
            retention_ms: text("retention.ms").parse().unwrap_or(-1),
        }))
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits for an answer on this thread.
pub(super) fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}
