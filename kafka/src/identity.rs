//! Whether a topic is still the one that was read: records that were read are looked up again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use schemas::manifest::Fingerprint;

use crate::chain::Links;
use crate::client::{Consumer, Partition};
use crate::cluster::{Cluster, PATIENCE};
use crate::error::{ErrorKind, Evidence, TopicError, kind};
use crate::record::{add_partition_at, fingerprint};

/// How long brokers may take to answer while a job runs.
pub(crate) const WAIT: Duration = Duration::from_secs(5);
/// A record that is missing for this long is gone. A new leader may not know for a moment how far
/// it may show its records.
const MISSING: Duration = Duration::from_secs(8);

/// What is at an offset.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Lookup {
    Record(Fingerprint),
    Nothing,
}

/// Looks up records, of all partitions that are asked about at once.
#[derive(Default)]
pub(crate) struct Identity {
    consumer: Mutex<Option<Consumer>>,
    /// What this process has already found to be the same.
    checked: Mutex<Vec<(i32, Fingerprint)>>,
    /// Since when the known record of a partition has not been found.
    missing: Mutex<BTreeMap<i32, Duration>>,
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
        let found = self.look_up(cluster, &[(partition, offset)], PATIENCE)?;
        let evidence = match found.get(&partition) {
            Some(Lookup::Record(found)) if found == known => {
                checked.push(pair);
                return Ok(());
            }
            Some(Lookup::Record(_)) => Evidence::OtherRecord(offset),
            Some(Lookup::Nothing) => Evidence::NoRecord(offset),
            None => {
                let doing = format!("cannot look up partition {partition} at offset {offset}");
                return Err(cluster.failed(&doing, &KafkaError::NoMessageReceived));
            }
        };
        Err(cluster.recreated(partition, evidence))
    }

    /// Looks up the known records of some partitions, so that what was read after them becomes
    /// known. Those that were found are removed from `partitions`; the others may yet be.
    pub(crate) fn confirm(
        &self,
        cluster: &Cluster,
        partitions: &mut Vec<(i32, Arc<Partition>, Links)>,
    ) -> Result<(), TopicError> {
        // Retention has removed the others, as it should.
        let offset = |(_, partition, links): &(i32, Arc<Partition>, Links)| {
            links.known.as_ref()?.at.filter(|at| *at >= partition.low())
        };
        let wanted = partitions.iter().filter_map(|one| Some((one.0, offset(one)?)));
        let found = self.look_up(cluster, &wanted.collect::<Vec<_>>(), WAIT)?;
        let mut left = Vec::new();
        for one in partitions.drain(..) {
            let (number, partition, links) = &one;
            let is_there = match (offset(&one), found.get(number)) {
                (None, _) => true,
                (Some(_), None) => false,
                (Some(at), Some(Lookup::Record(record))) => {
                    if links.known.as_ref() != Some(record) {
                        return Err(cluster.recreated(*number, Evidence::OtherRecord(at)));
                    }
                    true
                }
                (Some(at), Some(Lookup::Nothing)) => self.was_removed(cluster, *number, at)?,
            };
            if is_there {
                self.missing.lock().remove(number);
                partition.chain.confirm(links.clone());
            } else {
                left.push(one);
            }
        }
        *partitions = left;
        Ok(())
    }

    /// Whether retention removed a record that was not found. Fails if it is missing for long.
    fn was_removed(&self, cluster: &Cluster, number: i32, at: u64) -> Result<bool, TopicError> {
        let shared = &cluster.shared;
        if cluster.watermarks(number, WAIT).is_ok_and(|watermarks| at < watermarks.start) {
            return Ok(true);
        }
        let now = shared.elapsed();
        let since = *self.missing.lock().entry(number).or_insert(now);
        if now >= since + MISSING {
            return Err(cluster.recreated(number, Evidence::NoRecord(at)));
        }
        Ok(false)
    }

    /// Takes what the client has to say, unless it is looking something up.
    pub(crate) fn serve(&self, cluster: &Cluster) {
        if let Some(consumer) = self.consumer.try_lock().as_ref().and_then(|c| c.as_ref()) {
            while cluster.shared.serve(consumer).is_some() {}
        }
    }

    /// What is at an offset of each of these partitions now. Those that brokers do not answer for
    /// within `patience` are left out.
    fn look_up(
        &self,
        cluster: &Cluster,
        wanted: &[(i32, u64)],
        patience: Duration,
    ) -> Result<BTreeMap<i32, Lookup>, TopicError> {
        if wanted.is_empty() {
            return Ok(BTreeMap::new());
        }
        let failed = |error: KafkaError| cluster.failed("cannot look up its records", &error);
        let mut consumer = self.consumer.lock();
        let consumer = match &mut *consumer {
            Some(consumer) => consumer,
            none => {
                let mut config = cluster.settings.consumer(1);
                config
                    .set("queued.min.messages", "1")
                    // Brokers send one whole batch whatever the limit.
                    .set("max.partition.fetch.bytes", "16384")
                    .set("fetch.wait.max.ms", "100")
                    .set("statistics.interval.ms", "0");
                none.insert(config.create_with_context(cluster.handle()).map_err(failed)?)
            }
        };
        consumer.incremental_assign(&list_of(cluster, wanted).map_err(failed)?).map_err(failed)?;
        let mut found = BTreeMap::new();
        let done = wait(cluster, consumer, wanted, patience, &mut found);
        let left = wanted.iter().filter(|(number, _)| !found.contains_key(number));
        let left = list_of(cluster, left).map_err(failed)?;
        consumer.incremental_unassign(&left).map_err(failed)?;
        // Whatever was not found is not in the log, if an answer came for each.
        if done.map_err(failed)? {
            for (number, _) in wanted {
                found.entry(*number).or_insert(Lookup::Nothing);
            }
        }
        Ok(found)
    }
}

/// Partitions at offsets, in the form the client takes.
fn list_of<'w>(
    cluster: &Cluster,
    wanted: impl IntoIterator<Item = &'w (i32, u64)>,
) -> Result<TopicPartitionList, KafkaError> {
    let mut list = TopicPartitionList::new();
    for (number, offset) in wanted {
        add_partition_at(&mut list, &cluster.settings.topic, *number, *offset)?;
    }
    Ok(list)
}

/// Takes what assigned partitions have at their offsets. A partition that has answered is released,
/// or it would go on to deliver what follows. Returns whether an answer came for each.
fn wait(
    cluster: &Cluster,
    consumer: &Consumer,
    wanted: &[(i32, u64)],
    patience: Duration,
    found: &mut BTreeMap<i32, Lookup>,
) -> Result<bool, KafkaError> {
    let deadline = cluster.shared.elapsed() + patience;
    // The client does not say of which partition it reports that an offset is not in the log.
    let mut out_of_range = 0;
    while found.len() + out_of_range < wanted.len() {
        if cluster.shared.elapsed() >= deadline {
            return Ok(false);
        }
        let (number, there) = match consumer.poll(Duration::from_millis(200)) {
            Some(Ok(message)) => (message.partition(), Some(message)),
            Some(Err(KafkaError::PartitionEOF(number))) => (number, None),
            Some(Err(error)) => match kind(&error) {
                ErrorKind::Transient => continue,
                ErrorKind::OutOfRange => {
                    out_of_range += 1;
                    continue;
                }
                _ => return Err(error),
            },
            None => continue,
        };
        let Some(one) = wanted.iter().find(|(wanted, _)| *wanted == number) else { continue };
        if found.contains_key(&number) {
            continue;
        }
        let there = there.filter(|message| message.offset().unsigned_abs() == one.1);
        let there = there.map_or(Lookup::Nothing, |record| Lookup::Record(fingerprint(&record)));
        found.insert(number, there);
        consumer.incremental_unassign(&list_of(cluster, [one])?)?;
    }
    Ok(true)
}
