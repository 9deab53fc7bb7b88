//! The watch thread asks brokers so that readers need not: for new partitions, for the ends of
//! partitions, and whether the topic is still there and still the same.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use crate::chain::Links;
use crate::client::Partition;
use crate::error::{Evidence, TopicError, is_unknown};
use crate::identity::Lookup;
use crate::topic::Topic;

/// How often it looks.
const EVERY: Duration = Duration::from_secs(10);
/// How soon it looks again if there was no answer.
const SOON: Duration = Duration::from_secs(2);
/// How soon it sees a new doubt.
const TICK: Duration = Duration::from_millis(100);
/// How long brokers may take to answer.
const WAIT: Duration = Duration::from_secs(5);
/// What is missing this many times in a row is gone; brokers that just started may not know it.
const MISSES: u32 = 4;

/// Watches until the other end of `stop` is dropped.
pub(crate) fn watch(topic: &Topic, stop: &Receiver<()>) {
    let mut watch = Watch { topic, misses: 0, absent: BTreeMap::new() };
    while watch.pause(stop) {
        watch.look();
    }
}

struct Watch<'t> {
    topic: &'t Topic,
    /// How often in a row the topic was not found.
    misses: u32,
    /// The same for the known record of each partition.
    absent: BTreeMap<i32, u32>,
}

impl Watch<'_> {
    /// Waits until it is time to look; false once nothing reads the topic any more.
    fn pause(&self, stop: &Receiver<()>) -> bool {
        let shared = &self.topic.cluster.shared;
        let calm = !shared.is_doubtful();
        let pause = if calm && self.misses == 0 { EVERY } else { SOON };
        let due = shared.elapsed() + pause;
        loop {
            if stop.recv_timeout(TICK) != Err(RecvTimeoutError::Timeout) {
                return false;
            }
            if shared.elapsed() >= due || (calm && shared.is_doubtful()) {
                return true;
            }
        }
    }

    fn look(&mut self) {
        let topic = self.topic;
        let shared = &topic.cluster.shared;
        match topic.cluster.partitions(WAIT) {
            Ok(Some(numbers)) => {
                self.misses = 0;
                numbers.into_iter().for_each(|number| add(topic, number));
                let partitions = shared.partitions.lock().clone();
                for (number, partition) in partitions {
                    self.check(number, &partition);
                }
            }
            Ok(None) => {
                self.misses += 1;
                shared.doubt();
                if self.misses >= MISSES {
                    topic.end(TopicError::Gone(topic.name().to_owned()));
                }
            }
            Err(error) => shared.trouble(&error.to_string()),
        }
    }

    /// Resolves the doubts about a partition, and advances its known record.
    fn check(&mut self, number: i32, partition: &Partition) {
        let (cluster, chain) = (&self.topic.cluster, &partition.chain);
        let (doubts, is_doubtful, links) = (chain.doubts(), chain.is_doubtful(), chain.links());
        if !is_doubtful && links.known == links.last {
            return;
        }
        let watermarks = match cluster.watermarks(number, WAIT) {
            Ok(watermarks) => watermarks,
            Err(error) => {
                if is_unknown(&error) {
                    cluster.shared.doubt();
                }
                return cluster.shared.trouble(&error.to_string());
            }
        };
        let low = watermarks.start;
        if is_doubtful {
            partition.set(watermarks);
        }
        if self.is_same(number, low, &links) {
            chain.confirm(links);
            chain.resolve(doubts);
        }
    }

    /// Whether the known record of a partition is there, unless retention has removed it.
    fn is_same(&mut self, number: i32, low: u64, links: &Links) -> bool {
        let Some(known) = &links.known else { return true };
        let Some(offset) = known.at.filter(|at| *at >= low) else { return true };
        let topic = self.topic;
        let recreated = |evidence| topic.end(topic.cluster.recreated(number, evidence));
        match topic.identity.look_up(&topic.cluster, number, offset, WAIT) {
            Ok(Lookup::Record(found)) if found == *known => {
                self.absent.remove(&number);
                true
            }
            Ok(Lookup::Record(_)) => {
                recreated(Evidence::OtherRecord(offset));
                false
            }
            // A new leader may not know for a moment how far it may show its records.
            Ok(Lookup::Nothing) => {
                topic.cluster.shared.doubt();
                let misses = self.absent.entry(number).or_default();
                *misses += 1;
                if *misses >= MISSES {
                    recreated(Evidence::NoRecord(offset));
                }
                false
            }
            Err(error) => {
                topic.cluster.shared.trouble(&error.to_string());
                false
            }
        }
    }
}

/// Adds a new partition once its watermarks are known.
fn add(topic: &Topic, number: i32) {
    let cluster = &topic.cluster;
    if cluster.settings.bounded || cluster.shared.partition(number).is_some() {
        return;
    }
    match cluster.watermarks(number, WAIT) {
        Ok(watermarks) => {
            let partition = Arc::new(Partition::new(watermarks));
            cluster.shared.partitions.lock().insert(number, partition);
        }
        Err(error) => cluster.shared.trouble(&error.to_string()),
    }
}
