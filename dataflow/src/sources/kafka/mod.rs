//! A Kafka topic as a log.
//!
//! Partitions are known as `topic/number` and assigned by hand from the positions of the commits;
//! each worker has one client, with a queue for each of its partitions. Group offsets are written
//! for lag tools and never read. Invariants: a topic that is compacted, or not the one that was
//! read, is refused by name; records that were removed before they were read are an error, or are
//! counted; nothing but the beginning of a job, and a thread that asks around, waits for a broker.

mod chain;
mod client;
mod cluster;
mod error;
mod identity;
mod reader;
mod settings;
mod watch;
mod writer;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rdkafka::consumer::{CommitMode, Consumer as _};
use rdkafka::{Offset, TopicPartitionList};
use schemas::manifest::{Fingerprint, Partition, Position};
use xxhash_rust::xxh3::xxh3_64;

use self::client::{Consumer, Handle, Marks, Shared};
use self::cluster::Cluster;
pub use self::cluster::Policy;
pub use self::error::TopicError;
use self::identity::Identity;
use self::reader::KafkaReader;
pub use self::settings::{KafkaSettings, OnLost, PropertyError};
pub use self::writer::{Created, TopicWriter, WriterError};
use super::{Found, Log, LogError, Reader, Shape};

/// A topic and how it is asked.
struct Topic {
    settings: Arc<KafkaSettings>,
    shared: Arc<Shared>,
    cluster: Cluster,
    identity: Identity,
    /// Why nothing more of it can be read.
    over: OnceLock<TopicError>,
}

impl Topic {
    /// Ends all reading.
    fn end(&self, error: TopicError) {
        // The first reason is the reason.
        let _ = self.over.set(error);
    }

    fn check(&self) -> Result<(), TopicError> {
        self.over.get().map_or(Ok(()), |error| Err(error.clone()))
    }

    fn recreated(&self, partition: i32, what: String) -> TopicError {
        TopicError::Recreated { topic: self.settings.topic.clone(), partition, what }
    }

    fn shorter(&self, partition: i32, read: u64, end: u64) -> TopicError {
        self.recreated(partition, format!("ends at {end}, and had been read to {read}"))
    }

    fn other(&self, partition: i32, position: u64) -> TopicError {
        let what = format!("holds another record at {position} than the one that was read");
        self.recreated(partition, what)
    }

    fn nothing(&self, partition: i32, position: u64) -> TopicError {
        self.recreated(partition, format!("holds no record at {position}, where one was read"))
    }

    /// The number in a partition's name; none where it is of another topic.
    fn number(&self, name: &str) -> Option<i32> {
        let (topic, number) = name.rsplit_once('/')?;
        number.parse().ok().filter(|_| topic == self.settings.topic)
    }
}

/// A Kafka topic.
pub struct KafkaLog {
    topic: Arc<Topic>,
    /// The client of each worker.
    consumers: Mutex<BTreeMap<usize, Arc<Consumer>>>,
    /// Dropped to end the thread that looks for partitions.
    watch: Mutex<Option<Sender<()>>>,
    policy_known: AtomicBool,
}

impl KafkaLog {
    /// The topic of `settings`, which are checked; asks nobody yet.
    pub fn new(settings: KafkaSettings) -> Result<Self, PropertyError> {
        settings.check()?;
        let settings = Arc::new(settings);
        let shared = Arc::new(Shared::new(&settings.topic));
        let cluster = Cluster::new(Arc::clone(&settings), Arc::clone(&shared));
        let (identity, over) = (Identity::default(), OnceLock::new());
        let topic = Topic { settings, shared, cluster, identity, over };
        Ok(Self {
            topic: Arc::new(topic),
            consumers: Mutex::default(),
            watch: Mutex::default(),
            policy_known: AtomicBool::new(false),
        })
    }

    /// What the topic keeps; none where we may not know.
    pub fn policy(&self) -> Result<Option<Policy>, TopicError> {
        self.topic.cluster.policy()
    }

    /// Asks for the partitions and their ends.
    fn ask(&self) -> Result<(), TopicError> {
        let topic = &self.topic;
        let numbers = topic.cluster.partitions_patiently()?;
        if !self.policy_known.swap(true, Ordering::Relaxed) {
            self.refuse_compacted()?;
        }
        let mut partitions = BTreeMap::new();
        for number in numbers {
            let ends = topic.cluster.marks_patiently(number)?;
            // What it is known by stays.
            let marks = topic.shared.marks(number);
            let marks = marks.unwrap_or_else(|| Arc::new(Marks::new(ends)));
            marks.set(ends);
            partitions.insert(number, marks);
        }
        *topic.shared.partitions.lock().unwrap_or_else(PoisonError::into_inner) = partitions;
        Ok(())
    }

    fn refuse_compacted(&self) -> Result<(), TopicError> {
        let topic = &self.topic.settings.topic;
        match self.policy()? {
            Some(policy) if policy.cleanup.contains("compact") => {
                Err(TopicError::Compacted(topic.clone()))
            }
            Some(_) => Ok(()),
            None => {
                tracing::warn!(
                    topic,
                    "may not be asked whether it is compacted; if it is, counts are not exact"
                );
                Ok(())
            }
        }
    }

    fn is_open(&self) -> bool {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// The client of a worker, made when it is needed first; and the thread that looks around.
    fn consumer(&self, worker: usize) -> Result<Arc<Consumer>, TopicError> {
        let topic = &self.topic;
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        if watch.is_none() {
            let (stop, stopped) = channel();
            let topic = Arc::clone(topic);
            std::thread::spawn(move || watch::watch(&topic, &stopped));
            *watch = Some(stop);
        }
        let mut consumers = self.consumers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(consumer) = consumers.get(&worker) {
            return Ok(Arc::clone(consumer));
        }
        let known = topic.shared.partitions.lock().unwrap_or_else(PoisonError::into_inner).len();
        let handle = Handle(Arc::clone(&topic.shared));
        let made = topic.settings.consumer(known).create_with_context(handle);
        let made = made.map_err(|error| topic.cluster.unanswered("no client", &error))?;
        Ok(Arc::clone(consumers.entry(worker).or_insert(Arc::new(made))))
    }

    fn marks(&self, partition: &str) -> Result<(i32, Arc<Marks>), LogError> {
        let number = self.topic.number(partition);
        let known = number.and_then(|number| Some((number, self.topic.shared.marks(number)?)));
        known.ok_or_else(|| LogError::Gone(partition.to_owned()))
    }
}

impl Log for KafkaLog {
    fn discover(&self) -> Result<Vec<Found>, LogError> {
        if self.is_open() {
            self.topic.check()?;
        } else {
            self.ask()?;
        }
        let settings = &self.topic.settings;
        let first = xxh3_64(settings.topic.as_bytes());
        let partitions = self.topic.shared.partitions.lock();
        let partitions = partitions.unwrap_or_else(PoisonError::into_inner);
        let found = partitions.iter().map(|(number, marks)| Found {
            partition: format!("{}/{number}", settings.topic),
            share: first.wrapping_add(number.unsigned_abs().into()),
            shape: Shape::Ordered { bytes: settings.bounded.then(|| marks.high()) },
        });
        Ok(found.collect())
    }

    fn verify(&self, partition: &str, known: &Fingerprint) -> Result<(), LogError> {
        let Some(number) = self.topic.number(partition) else { return Ok(()) };
        Ok(self.topic.identity.check(&self.topic, number, known)?)
    }

    fn resume(&self, partition: &str, state: &Partition) -> Result<(), LogError> {
        let (number, marks) = self.marks(partition)?;
        let Position::Offset(read) = state.position else { return Ok(()) };
        if marks.high() < read {
            return Err(self.topic.shorter(number, read, marks.high()).into());
        }
        if let Some(known) = &state.fingerprint {
            self.verify(partition, known)?;
            marks.chain.begin(known);
        }
        if read < marks.low() && self.topic.settings.on_lost == OnLost::Error {
            let (topic, partition) = (self.topic.settings.topic.clone(), number);
            let to = marks.low() - 1;
            return Err(TopicError::Lost { topic, partition, from: read, to }.into());
        }
        Ok(())
    }

    fn missing(&self, partition: &str) -> Option<LogError> {
        let number = self.topic.number(partition)?;
        Some(self.topic.recreated(number, "does not exist any more".to_owned()).into())
    }

    fn beginning(&self, partition: &str, first: bool) -> Result<u64, LogError> {
        let (_, marks) = self.marks(partition)?;
        Ok(if first && self.topic.settings.from_end { marks.high() } else { marks.low() })
    }

    fn position_at(&self, partition: &str, ms: i64) -> Result<Option<u64>, LogError> {
        let (number, marks) = self.marks(partition)?;
        let found = self.topic.cluster.position_at(number, ms)?;
        Ok(Some(found.unwrap_or_else(|| marks.high())))
    }

    fn open(&self, partition: &str, position: u64) -> Result<Box<dyn Reader>, LogError> {
        self.open_on(0, partition, position)
    }

    fn open_on(
        &self,
        worker: usize,
        partition: &str,
        position: u64,
    ) -> Result<Box<dyn Reader>, LogError> {
        let (number, marks) = self.marks(partition)?;
        let end = self.topic.settings.bounded.then(|| marks.high());
        let consumer = self.consumer(worker)?;
        Ok(Box::new(KafkaReader::open(&self.topic, &consumer, number, position, end)?))
    }

    fn is_bounded(&self) -> bool {
        self.topic.settings.bounded
    }

    fn is_topic(&self) -> bool {
        true
    }

    fn committed(&self, partitions: &BTreeMap<String, Partition>) {
        let consumers = self.consumers.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(consumer) = consumers.values().next() else { return };
        let mut list = TopicPartitionList::new();
        for (name, state) in partitions {
            if let (Some(number), Position::Offset(read)) =
                (self.topic.number(name), &state.position)
            {
                let read = Offset::Offset(read.cast_signed());
                // A position that the client does not take is left out of what it shows.
                let _ = list.add_partition_offset(&self.topic.settings.topic, number, read);
            }
        }
        if let Err(error) = consumer.commit(&list, CommitMode::Async) {
            tracing::debug!("offsets for lag tools: {error}");
        }
    }

    fn troubles(&self) -> u64 {
        self.topic.shared.troubles.load(Ordering::Relaxed)
    }
}
