//! Reads a topic: finds its partitions, checks that they can be resumed, and opens them.
//!
//! Group offsets are committed for lag tools and never read.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};

use parking_lot::Mutex;
use rdkafka::consumer::{CommitMode, Consumer as _};
use rdkafka::{Offset, TopicPartitionList};
use schemas::config::OnLost;
use schemas::manifest::Fingerprint;

use crate::client::{Consumer, Partition};
use crate::cluster::Policy;
use crate::error::{Evidence, TopicError};
use crate::partition::PartitionReader;
use crate::settings::{KafkaSettings, PropertyError};
use crate::topic::Topic;
use crate::watch::watch;

/// Reads a topic.
pub struct TopicReader {
    topic: Arc<Topic>,
    /// The client of each worker.
    consumers: Mutex<BTreeMap<usize, Arc<Consumer>>>,
    /// Dropped to end the watch thread.
    watch: Mutex<Option<Sender<()>>>,
    is_policy_checked: AtomicBool,
}

impl TopicReader {
    /// A reader of the topic of `settings`, which are checked; connects when it is first asked.
    pub fn new(settings: KafkaSettings) -> Result<Self, PropertyError> {
        settings.check()?;
        Ok(Self {
            topic: Arc::new(Topic::new(settings)),
            consumers: Mutex::default(),
            watch: Mutex::default(),
            is_policy_checked: AtomicBool::new(false),
        })
    }

    /// What the topic is called, and how it is read.
    pub fn settings(&self) -> &KafkaSettings {
        &self.topic.cluster.settings
    }

    /// What the topic keeps; `None` if this user may not ask.
    pub fn policy(&self) -> Result<Option<Policy>, TopicError> {
        self.topic.cluster.policy()
    }

    /// The partitions that exist now, each with its first and next offset. Waits for brokers until
    /// the first partition is opened; then the watch thread finds new ones.
    pub fn partitions(&self) -> Result<BTreeMap<i32, Range<u64>>, TopicError> {
        if self.watch.lock().is_some() {
            self.topic.check()?;
        } else {
            self.ask()?;
        }
        let partitions = self.topic.cluster.shared.partitions.lock();
        Ok(partitions.iter().map(|(number, known)| (*number, known.low()..known.high())).collect())
    }

    /// The first and the next offset of a partition; `None` if it does not exist.
    pub fn ends(&self, partition: i32) -> Option<Range<u64>> {
        let known = self.topic.cluster.shared.partition(partition)?;
        Some(known.low()..known.high())
    }

    /// Asks for the partitions and their watermarks.
    fn ask(&self) -> Result<(), TopicError> {
        let cluster = &self.topic.cluster;
        let numbers = cluster.partitions_patiently()?;
        if !self.is_policy_checked.swap(true, Ordering::Relaxed) {
            self.refuse_compacted()?;
        }
        let mut partitions = BTreeMap::new();
        for number in numbers {
            let watermarks = cluster.watermarks_patiently(number)?;
            // The records that it is recognised by stay.
            let known = cluster.shared.partition(number);
            let partition = match known {
                Some(known) => {
                    known.set(watermarks);
                    known
                }
                None => Arc::new(Partition::new(watermarks)),
            };
            partitions.insert(number, partition);
        }
        *cluster.shared.partitions.lock() = partitions;
        Ok(())
    }

    fn refuse_compacted(&self) -> Result<(), TopicError> {
        let topic = self.topic.name();
        match self.policy()?.and_then(|policy| policy.cleanup) {
            Some(cleanup) if cleanup.contains("compact") => {
                Err(TopicError::Compacted(topic.to_owned()))
            }
            Some(_) => Ok(()),
            None => {
                tracing::warn!(
                    topic,
                    "cannot find out whether the topic is compacted; if it is, counts are not exact"
                );
                Ok(())
            }
        }
    }

    /// Fails if `known` is not a record of this partition: it was the last one read.
    pub fn verify(&self, partition: i32, known: &Fingerprint) -> Result<(), TopicError> {
        self.topic.identity.check(&self.topic.cluster, partition, known)
    }

    /// Whether all that was read until now is of one topic: false if brokers have not answered.
    /// Fails if the topic was recreated.
    pub fn confirm(&self) -> Result<bool, TopicError> {
        self.topic.confirm_all()
    }

    /// Fails if the partition cannot be resumed at offset `read`, with `known` as the last record
    /// read of it.
    pub fn resume(
        &self,
        partition: i32,
        read: u64,
        known: Option<&Fingerprint>,
    ) -> Result<(), TopicError> {
        let there = self.existing(partition)?;
        if there.high() < read {
            let evidence = Evidence::Shorter { end: there.high(), read };
            return Err(self.topic.cluster.recreated(partition, evidence));
        }
        if let Some(known) = known {
            self.verify(partition, known)?;
            there.chain.begin(known);
        }
        if read < there.low() && self.settings().options.on_lost == OnLost::Error {
            let (topic, to) = (self.topic.name().to_owned(), there.low() - 1);
            return Err(TopicError::Lost { topic, partition, from: read, to });
        }
        Ok(())
    }

    /// The error that a partition which was read no longer exists.
    pub fn missing(&self, partition: i32) -> TopicError {
        self.topic.cluster.recreated(partition, Evidence::NoPartition)
    }

    /// The offset of the first record of a partition with this timestamp or a later one; `None` if
    /// there is none.
    pub fn offset_at(&self, partition: i32, ms: i64) -> Result<Option<u64>, TopicError> {
        self.topic.cluster.offset_at(partition, ms)
    }

    /// Reads a partition from `offset` on, with the client of `worker`.
    pub fn open(
        &self,
        worker: usize,
        partition: i32,
        offset: u64,
    ) -> Result<PartitionReader, TopicError> {
        let known = self.existing(partition)?;
        let consumer = self.consumer(worker)?;
        PartitionReader::open(&self.topic, &consumer, partition, known, offset)
    }

    fn existing(&self, partition: i32) -> Result<Arc<Partition>, TopicError> {
        self.topic.cluster.shared.partition(partition).ok_or_else(|| self.missing(partition))
    }

    /// The client of a worker, made when it is first needed, as is the watch thread.
    fn consumer(&self, worker: usize) -> Result<Arc<Consumer>, TopicError> {
        let cluster = &self.topic.cluster;
        self.watch.lock().get_or_insert_with(|| {
            let (stop, stopped) = channel();
            let topic = Arc::clone(&self.topic);
            std::thread::spawn(move || watch(&topic, &stopped));
            stop
        });
        let mut consumers = self.consumers.lock();
        if let Some(consumer) = consumers.get(&worker) {
            return Ok(Arc::clone(consumer));
        }
        let partitions = cluster.shared.partitions.lock().len();
        let made = cluster.settings.consumer(partitions).create_with_context(cluster.handle());
        let made = made.map_err(|error| cluster.failed("cannot make a client", &error))?;
        Ok(Arc::clone(consumers.entry(worker).or_insert(Arc::new(made))))
    }

    /// Commits the offsets of partitions to the group, for lag tools; nothing waits for it.
    pub fn commit_offsets(&self, offsets: impl IntoIterator<Item = (i32, u64)>) {
        let consumers = self.consumers.lock();
        let Some(consumer) = consumers.values().next() else { return };
        let mut list = TopicPartitionList::new();
        for (partition, offset) in offsets {
            let offset = Offset::Offset(offset.cast_signed());
            if let Err(error) = list.add_partition_offset(self.topic.name(), partition, offset) {
                tracing::debug!("offsets for lag tools: {error}");
            }
        }
        if let Err(error) = consumer.commit(&list, CommitMode::Async) {
            tracing::debug!("offsets for lag tools: {error}");
        }
    }

    /// How many partitions wait for a transaction to end.
    pub fn blocked(&self) -> u64 {
        self.topic.cluster.shared.blocked.load(Ordering::Relaxed)
    }

    /// How often brokers could not be reached or asked so far.
    pub fn troubles(&self) -> u64 {
        self.topic.cluster.shared.troubles.load(Ordering::Relaxed)
    }
}
