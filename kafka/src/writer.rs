//! Writes records to a topic, each exactly once, and creates the topic if it is missing.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext};
use rdkafka::{ClientContext, config::RDKafkaLogLevel};

use crate::client::Handle;
use crate::cluster::{Cluster, PATIENCE, block_on};
use crate::error::TopicError;
use crate::settings::{KafkaSettings, PropertyError};

/// How long the last records may take to be acknowledged.
const FLUSH: Duration = Duration::from_mins(1);

/// Whether the topic was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    /// It was created, with this number of partitions.
    New(usize),
    /// It existed, with this number of partitions.
    Existing(usize),
}

/// What the writer's client calls back.
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
                self.failed.lock().get_or_insert_with(|| error.clone());
            }
        }
    }
}

/// Writes to a topic.
pub struct TopicWriter {
    cluster: Cluster,
    producer: BaseProducer<Delivery>,
}

/// Why a topic cannot be written to.
#[derive(Debug, thiserror::Error)]
pub enum WriterError {
    /// A property that cannot be set.
    #[error(transparent)]
    Property(#[from] PropertyError),
    /// The topic cannot be reached or created.
    #[error(transparent)]
    Topic(#[from] TopicError),
}

impl TopicWriter {
    /// A writer to the topic of `settings`; one that is missing is created with `partitions`, or
    /// else with one.
    pub fn open(
        settings: KafkaSettings,
        partitions: Option<u16>,
    ) -> Result<(Self, Created), WriterError> {
        settings.check()?;
        let cluster = Cluster::new(settings);
        let created = ensure(&cluster, partitions.unwrap_or(1))?;
        let delivery = Delivery {
            handle: cluster.handle(),
            failed: Mutex::default(),
            written: AtomicU64::default(),
        };
        let mut config = cluster.settings.client();
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("partitioner", "murmur2_random")
            .set("linger.ms", "20");
        if cluster.settings.options.properties.keys().all(|name| !name.starts_with("compression."))
        {
            config.set("compression.codec", "zstd");
        }
        let producer = config
            .create_with_context(delivery)
            .map_err(|error| cluster.failed("cannot make a client", &error))?;
        Ok((Self { cluster, producer }, created))
    }

    /// Writes a record. Records with the same key keep their order.
    pub fn write(&self, key: &str, payload: &str) -> Result<(), TopicError> {
        let mut record = BaseRecord::to(&self.cluster.settings.topic).key(key).payload(payload);
        while let Err((error, rejected)) = self.producer.send(record) {
            if error.rdkafka_error_code() != Some(Code::QueueFull) {
                return Err(self.cluster.failed("cannot write", &error));
            }
            self.producer.poll(Duration::from_millis(100));
            self.check()?;
            record = rejected;
        }
        self.poll()
    }

    /// Takes note of acknowledgements.
    pub fn poll(&self) -> Result<(), TopicError> {
        self.producer.poll(Duration::ZERO);
        self.check()
    }

    /// Waits until all records are acknowledged, and returns how many there were.
    pub fn finish(self) -> Result<u64, TopicError> {
        let flushed = self.producer.flush(FLUSH);
        self.check()?;
        flushed.map_err(|error| self.cluster.failed("cannot write", &error))?;
        Ok(self.producer.context().written.load(Ordering::Relaxed))
    }

    /// Fails if a record could not be delivered.
    fn check(&self) -> Result<(), TopicError> {
        match self.producer.context().failed.lock().take() {
            Some(error) => Err(self.cluster.failed("cannot write", &error)),
            None => Ok(()),
        }
    }
}

/// Creates the topic if it is missing.
fn ensure(cluster: &Cluster, partitions: u16) -> Result<Created, TopicError> {
    match cluster.partitions_patiently() {
        Ok(found) => return Ok(Created::Existing(found.len())),
        Err(TopicError::Missing { .. }) => {}
        Err(error) => return Err(error),
    }
    let failed = |error: KafkaError| cluster.failed("cannot create it", &error);
    let admin: AdminClient<Handle> =
        cluster.settings.client().create_with_context(cluster.handle()).map_err(failed)?;
    // As many replicas as the brokers make by default.
    let replication = TopicReplication::Fixed(-1);
    let new = NewTopic::new(&cluster.settings.topic, partitions.into(), replication);
    let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
    for result in block_on(admin.create_topics([&new], &options)).map_err(failed)? {
        match result {
            Ok(_) | Err((_, Code::TopicAlreadyExists)) => {}
            Err((_, code)) => return Err(failed(KafkaError::AdminOp(code))),
        }
    }
    Ok(Created::New(partitions.into()))
}
