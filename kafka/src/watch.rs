//! The watch thread asks brokers so that readers need not: for new partitions, for the ends of
//! partitions, and whether the topic is still there and still the same. It also says which
//! partitions wait for a transaction, and lets clients say what they have to.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use crate::client::Partition;
use crate::error::{TopicError, is_unknown};
use crate::identity::WAIT;
use crate::topic::Topic;
use crate::transactions::OpenTransactions;

/// How often it looks.
const EVERY: Duration = Duration::from_secs(2);
/// How soon it sees a new doubt.
const TICK: Duration = Duration::from_millis(100);
/// What is missing this many times in a row is gone; brokers that just started may not know it.
const MISSES: u32 = 4;

/// Watches until the other end of `stop` is dropped.
pub(crate) fn watch(topic: &Topic, stop: &Receiver<()>) {
    let mut watch = Watch { topic, misses: 0, transactions: OpenTransactions::default() };
    while watch.pause(stop) {
        watch.look();
    }
}

struct Watch<'t> {
    topic: &'t Topic,
    /// How often in a row the topic was not found.
    misses: u32,
    transactions: OpenTransactions,
}

impl Watch<'_> {
    /// Waits until it is time to look; false once nothing reads the topic any more.
    fn pause(&self, stop: &Receiver<()>) -> bool {
        let shared = &self.topic.cluster.shared;
        let calm = !shared.is_doubtful();
        let due = shared.elapsed() + EVERY;
        loop {
            if stop.recv_timeout(TICK) != Err(RecvTimeoutError::Timeout) {
                return false;
            }
            self.topic.cluster.serve();
            self.topic.identity.serve(&self.topic.cluster);
            if shared.elapsed() >= due || (calm && shared.is_doubtful()) {
                return true;
            }
        }
    }

    fn look(&mut self) {
        let topic = self.topic;
        let shared = &topic.cluster.shared;
        self.transactions.look(topic);
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

    /// Resolves the doubts about a partition.
    fn check(&self, number: i32, partition: &Arc<Partition>) {
        let (cluster, chain) = (&self.topic.cluster, &partition.chain);
        if !chain.is_doubtful() {
            return;
        }
        let (doubts, links) = (chain.doubts(), chain.links());
        match cluster.watermarks(number, WAIT) {
            Ok(watermarks) => partition.set(watermarks),
            Err(error) => {
                if is_unknown(&error) {
                    cluster.shared.doubt();
                }
                return cluster.shared.trouble(&error.to_string());
            }
        }
        match self.topic.confirm(&mut vec![(number, Arc::clone(partition), links)]) {
            Ok(true) => chain.resolve(doubts),
            Ok(false) => {}
            Err(error) => self.topic.end(error),
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
