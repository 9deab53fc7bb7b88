//! Questions about a topic: its partitions, their watermarks, and what it keeps.
//!
//! Invariant: nothing waits for an answer longer than [`PATIENCE`].

use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use parking_lot::Mutex;
use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::consumer::Consumer as _;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::metadata::MetadataPartition;
use rdkafka::{Offset, TopicPartitionList};

use crate::client::{Consumer, Handle, Shared};
use crate::error::{ErrorKind, Evidence, TopicError, kind};
use crate::settings::KafkaSettings;

/// How long brokers may take to answer when a job starts.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);
/// How long one question may take.
const QUESTION: Duration = Duration::from_secs(3);

/// What a topic keeps; a setting is `None` if brokers do not report it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// `cleanup.policy`: `delete`, `compact` or both.
    pub cleanup: Option<String>,
    /// `message.timestamp.type`: `CreateTime` or `LogAppendTime`.
    pub timestamp_type: Option<String>,
    /// `retention.ms`; -1 keeps records for ever.
    pub retention_ms: Option<i64>,
}

/// A topic, and the client that asks about it.
pub(crate) struct Cluster {
    pub(crate) settings: KafkaSettings,
    pub(crate) shared: Arc<Shared>,
    client: Mutex<Option<Arc<Consumer>>>,
}

impl Cluster {
    /// The topic of `settings`; connects when it is first asked.
    pub(crate) fn new(settings: KafkaSettings) -> Self {
        let shared = Arc::new(Shared::new(&settings.topic));
        Self { settings, shared, client: Mutex::default() }
    }

    fn client(&self) -> Result<Arc<Consumer>, KafkaError> {
        let mut client = self.client.lock();
        if let Some(client) = &*client {
            return Ok(Arc::clone(client));
        }
        let made = Arc::new(self.settings.asking().create_with_context(self.handle())?);
        *client = Some(Arc::clone(&made));
        Ok(made)
    }

    /// What a new client of this topic calls back.
    pub(crate) fn handle(&self) -> Handle {
        Handle(Arc::clone(&self.shared))
    }

    /// The error that the client or a broker did not do what it was asked to.
    pub(crate) fn failed(&self, doing: &str, error: &KafkaError) -> TopicError {
        let (topic, doing) = (self.settings.topic.clone(), doing.to_owned());
        TopicError::Failed { topic, doing, reason: error.to_string() }
    }

    /// The error that the topic is not the one that was read.
    pub(crate) fn recreated(&self, partition: i32, evidence: Evidence) -> TopicError {
        let (brokers, topic) = (self.settings.servers(), self.settings.topic.clone());
        TopicError::Recreated { brokers, topic, partition, evidence }
    }

    /// The numbers of the topic's partitions; `None` if there is no such topic.
    pub(crate) fn partitions(&self, wait: Duration) -> Result<Option<Vec<i32>>, KafkaError> {
        let client = self.client()?;
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

    /// The same at the start of a job: waits for brokers, and says what is wrong.
    pub(crate) fn partitions_patiently(&self) -> Result<Vec<i32>, TopicError> {
        let found = self.patiently("cannot list its partitions", |wait| self.partitions(wait))?;
        let (topic, brokers) = (self.settings.topic.clone(), self.settings.servers());
        found.ok_or(TopicError::Missing { topic, brokers })
    }

    /// From the low to the high watermark of a partition.
    pub(crate) fn watermarks(
        &self,
        partition: i32,
        wait: Duration,
    ) -> Result<Range<u64>, KafkaError> {
        let client = self.client()?;
        let (low, high) = client.fetch_watermarks(&self.settings.topic, partition, wait)?;
        match (u64::try_from(low), u64::try_from(high)) {
            (Ok(low), Ok(high)) => Ok(low..high),
            _ => Err(KafkaError::OffsetFetch(Code::OffsetNotAvailable)),
        }
    }

    /// The same at the start of a job.
    pub(crate) fn watermarks_patiently(&self, partition: i32) -> Result<Range<u64>, TopicError> {
        let doing = format!("cannot find the ends of partition {partition}");
        self.patiently(&doing, |wait| self.watermarks(partition, wait))
    }

    /// The offset of the first record of a partition with this timestamp or a later one; `None` if
    /// there is none.
    pub(crate) fn offset_at(&self, partition: i32, ms: i64) -> Result<Option<u64>, TopicError> {
        let topic = &self.settings.topic;
        self.patiently(&format!("cannot find a time in partition {partition}"), |wait| {
            let client = self.client()?;
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

    /// Takes what the client has to say meanwhile.
    pub(crate) fn serve(&self) {
        if let Some(client) = &*self.client.lock() {
            while self.shared.serve(client).is_some() {}
        }
    }

    /// Asks until there is an answer, or none can be expected.
    fn patiently<T>(
        &self,
        doing: &str,
        ask: impl Fn(Duration) -> Result<T, KafkaError>,
    ) -> Result<T, TopicError> {
        let client = self.client().map_err(|error| self.failed("cannot make a client", &error))?;
        let deadline = self.shared.elapsed() + PATIENCE;
        loop {
            let error = match ask(QUESTION) {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            // Lets the client say why.
            while self.shared.serve(&client).is_some() {}
            let brokers = self.settings.servers();
            let (reported, reason) = match self.shared.reported() {
                Some((kind, reason)) => (kind, format!(" ({reason})")),
                None => (ErrorKind::Transient, String::new()),
            };
            if reported == ErrorKind::AuthenticationFailed {
                return Err(TopicError::Refused { brokers, reason });
            }
            match kind(&error) {
                ErrorKind::Transient => {}
                ErrorKind::Unauthorized => {
                    return Err(TopicError::Forbidden(self.settings.topic.clone()));
                }
                _ => return Err(self.failed(doing, &error)),
            }
            if self.shared.elapsed() >= deadline {
                let no_answer = matches!(
                    error.rdkafka_error_code(),
                    Some(
                        Code::BrokerTransportFailure
                            | Code::AllBrokersDown
                            | Code::Resolve
                            | Code::OperationTimedOut
                    )
                );
                return Err(if no_answer {
                    TopicError::NoBroker { brokers, reason }
                } else {
                    self.failed(doing, &error)
                });
            }
            std::thread::park_timeout(Duration::from_millis(200));
        }
    }

    /// What the topic keeps; `None` if this user may not ask.
    pub(crate) fn policy(&self) -> Result<Option<Policy>, TopicError> {
        let failed = |error: KafkaError| self.failed("cannot read its configuration", &error);
        let admin: AdminClient<Handle> =
            self.settings.client().create_with_context(self.handle()).map_err(failed)?;
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
        let value = |name: &str| answer.get(name).and_then(|entry| entry.value.clone());
        Ok(Some(Policy {
            cleanup: value("cleanup.policy"),
            timestamp_type: value("message.timestamp.type"),
            retention_ms: value("retention.ms").and_then(|ms| ms.parse().ok()),
        }))
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs a future on this thread.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
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
