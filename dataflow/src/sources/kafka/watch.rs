//! Asks around for the readers, on a thread of its own: for new partitions, for the ends of
//! partitions, and whether the topic is still there and still the same.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::Topic;
use super::chain::Links;
use super::client::{Marks, Partitions};
use super::error::{TopicError, is_unknown};
use super::identity::Found;

/// How often it looks.
const EVERY: Duration = Duration::from_secs(10);
/// How soon it looks again where there was no answer.
const SOON: Duration = Duration::from_secs(2);
/// How soon it sees a new doubt.
const TICK: Duration = Duration::from_millis(100);
/// How long brokers may take to answer.
const WAIT: Duration = Duration::from_secs(5);
/// What is not found so often in a row is gone: brokers that just started may not know it yet.
const MISSES: u32 = 4;

/// Looks until the other end of `stop` is dropped.
pub(super) fn watch(topic: &Topic, stop: &Receiver<()>) {
    let mut watch = Watch { topic, misses: 0, absent: BTreeMap::new() };
    while watch.pause(stop) {
        watch.look();
    }
}

struct Watch<'t> {
    topic: &'t Topic,
    /// How often in a row the topic was not found.
    misses: u32,
    /// The same for a record of a partition.
    absent: BTreeMap<i32, u32>,
}

impl Watch<'_> {
    /// Waits until it is time to look; false where nobody reads any more.
    fn pause(&self, stop: &Receiver<()>) -> bool {
        let shared = &self.topic.shared;
        let (calm, start_us) = (!shared.is_doubtful(), shared.now_us());
        let pause = if calm && self.misses == 0 { EVERY } else { SOON };
        loop {
            if stop.recv_timeout(TICK) != Err(RecvTimeoutError::Timeout) {
                return false;
            }
            let waited = Duration::from_micros(shared.now_us().saturating_sub(start_us));
            if waited >= pause || (calm && shared.is_doubtful()) {
                return true;
            }
        }
    }

    fn look(&mut self) {
        let topic = self.topic;
        match topic.cluster.partitions(WAIT) {
            Ok(Some(numbers)) => {
                self.misses = 0;
                numbers.into_iter().for_each(|number| add(topic, number));
                for (number, marks) in partitions(topic) {
                    self.check(number, &marks);
                }
            }
            Ok(None) => {
                self.misses += 1;
                topic.shared.doubt();
                if self.misses >= MISSES {
                    topic.end(TopicError::Gone(topic.settings.topic.clone()));
                }
            }
            Err(error) => topic.shared.trouble(&error.to_string()),
        }
    }

    /// Answers the doubts of a partition, and knows it by a newer record.
    fn check(&mut self, number: i32, marks: &Marks) {
        let (topic, chain) = (self.topic, &marks.chain);
        let (doubts, is_doubtful, links) = (chain.doubts(), chain.is_doubtful(), chain.links());
        if !is_doubtful && links.known == links.last {
            return;
        }
        let ends = match topic.cluster.marks(number, WAIT) {
            Ok(ends) => ends,
            Err(error) => {
                if is_unknown(&error) {
                    topic.shared.doubt();
                }
                return topic.shared.trouble(&error.to_string());
            }
        };
        if is_doubtful {
            marks.set(ends);
        }
        if self.is_same(number, ends, &links) {
            chain.hold(links);
            chain.answer(doubts);
        }
    }

    /// Whether the known record of a partition is there, unless retention has removed it.
    fn is_same(&mut self, number: i32, (low, _): (i64, i64), links: &Links) -> bool {
        let Some(known) = &links.known else { return true };
        let Some(position) = known.at.filter(|at| *at >= low.max(0).unsigned_abs()) else {
            return true;
        };
        let topic = self.topic;
        match topic.identity.look(topic, number, position, WAIT) {
            Ok(Found::Record(found)) if found == *known => {
                self.absent.remove(&number);
                true
            }
            Ok(Found::Record(_)) => {
                topic.end(topic.other(number, position));
                false
            }
            // A new leader may not know for a moment how far it may show its records.
            Ok(Found::Nothing) => {
                topic.shared.doubt();
                let misses = self.absent.entry(number).or_default();
                *misses += 1;
                if *misses >= MISSES {
                    topic.end(topic.nothing(number, position));
                }
                false
            }
            Err(error) => {
                topic.shared.trouble(&error.to_string());
                false
            }
        }
    }
}

fn partitions(topic: &Topic) -> Partitions {
    topic.shared.partitions.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Makes a new partition known, once its ends are.
fn add(topic: &Topic, number: i32) {
    if topic.settings.bounded || topic.shared.marks(number).is_some() {
        return;
    }
    match topic.cluster.marks(number, WAIT) {
        Ok(marks) => {
            let partitions = topic.shared.partitions.lock();
            let mut partitions = partitions.unwrap_or_else(PoisonError::into_inner);
            partitions.insert(number, Arc::new(Marks::new(marks)));
        }
        Err(error) => topic.shared.trouble(&error.to_string()),
    }
}
