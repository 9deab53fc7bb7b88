//! Writes records to a topic, each once, and creates the topic where it is missing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext};
use rdkafka::{ClientContext, config::RDKafkaLogLevel};

use super::client::{Handle, Shared};
use super::cluster::{Cluster, PATIENCE, block_on};
use super::error::TopicError;
use super::settings::{KafkaSettings, PropertyError};

/// How long the rest may take to be acknowledged.
const FLUSH: Duration = Duration::from_mins(1);

/// What became of a topic that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    /// It was made, with so many partitions.
    New(usize),
    /// It was there, with so many.
    Old(usize),
}

/// What the writer's client tells.
struct Delivery {
    handle: Handle,
    failed: Mutex<Option<KafkaError>>,
    written: AtomicU64,
}

impl ClientContext for Delivery {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        self.handle.log(level, fac, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.handle.error(error, reason);
    }
}

impl ProducerContext for Delivery {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        match result {
            Ok(_) => {
                self.written.fetch_add(1, Ordering::Relaxed);
            }
            Err((error, _)) => {
                let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
                failed.get_or_insert_with(|| error.clone());
            }
        }
    }
}

/// Writes to a topic.
pub struct TopicWriter {
    settings: Arc<KafkaSettings>,
    cluster: Cluster,
    producer: BaseProducer<Delivery>,
}

/// Why a topic cannot be written to.
#[derive(Debug, thiserror::Error)]
pub enum WriterError {
    /// A property that cannot be set.
    #[error(transparent)]
    Property(#[from] PropertyError),
    /// The topic cannot be reached or made.
    #[error(transparent)]
    Topic(#[from] TopicError),
}

impl TopicWriter {
    /// A writer to the topic of `settings`, which exists, or is made with `partitions` of them.
    pub fn open(
        settings: KafkaSettings,
        partitions: Option<usize>,
    ) -> Result<(Self, Created), WriterError> {
        settings.check()?;
        let settings = Arc::new(settings);
        let shared = Arc::new(Shared::new(&settings.topic));
        let cluster = Cluster::new(Arc::clone(&settings), Arc::clone(&shared));
        let created = ensure(&cluster, &settings, &shared, partitions)?;
        let delivery = Delivery {
            handle: Handle(shared),
            failed: Mutex::default(),
            written: AtomicU64::default(),
        };
        let mut config = settings.client();
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("partitioner", "murmur2_random")
            .set("linger.ms", "20");
        if settings.properties.keys().all(|name| !name.starts_with("compression.")) {
            config.set("compression.codec", "zstd");
        }
        let producer = config
            .create_with_context(delivery)
            .map_err(|error| cluster.unanswered("no client", &error))?;
        Ok((Self { settings, cluster, producer }, created))
    }

    /// Writes a record. Records of one key keep their order.
    pub fn write(&self, key: &str, payload: &str) -> Result<(), TopicError> {
        let mut record = BaseRecord::to(&self.settings.topic).key(key).payload(payload);
        while let Err((error, back)) = self.producer.send(record) {
            if error.rdkafka_error_code() != Some(Code::QueueFull) {
                return Err(self.cluster.unanswered("writing to it", &error));
            }
            self.producer.poll(Duration::from_millis(100));
            self.fail()?;
            record = back;
        }
        self.serve()
    }

    /// Takes note of what was acknowledged.
    pub fn serve(&self) -> Result<(), TopicError> {
        self.producer.poll(Duration::ZERO);
        self.fail()
    }

    /// Waits until all records are acknowledged: how many.
    pub fn finish(self) -> Result<u64, TopicError> {
        let flushed = self.producer.flush(FLUSH);
        self.fail()?;
        flushed.map_err(|error| self.cluster.unanswered("writing to it", &error))?;
        Ok(self.producer.context().written.load(Ordering::Relaxed))
    }

    fn fail(&self) -> Result<(), TopicError> {
        let failed = &self.producer.context().failed;
        match failed.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(error) => Err(self.cluster.unanswered("writing to it", &error)),
            None => Ok(()),
        }
    }
}

/// Makes the topic where it is missing.
fn ensure(
    cluster: &Cluster,
    settings: &KafkaSettings,
    shared: &Arc<Shared>,
    partitions: Option<usize>,
) -> Result<Created, TopicError> {
    match cluster.partitions_patiently() {
        Ok(found) => return Ok(Created::Old(found.len())),
        Err(TopicError::Missing { .. }) => {}
        Err(error) => return Err(error),
    }
    let failed = |error: KafkaError| cluster.unanswered("creating it", &error);
    let number = partitions.unwrap_or(1);
    let admin: AdminClient<Handle> =
        settings.client().create_with_context(Handle(Arc::clone(shared))).map_err(failed)?;
    let count = i32::try_from(number).unwrap_or(i32::MAX);
    // As many replicas as the brokers make by default.
    let new = NewTopic::new(&settings.topic, count, TopicReplication::Fixed(-1));
    let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
    let made = block_on(admin.create_topics([&new], &options)).map_err(failed)?;
    for result in made {
        match result {
            Ok(_) | Err((_, Code::TopicAlreadyExists)) => {}
            Err((_, code)) => return Err(failed(KafkaError::AdminOp(code))),
        }
    }
    Ok(Created::New(number))
}
