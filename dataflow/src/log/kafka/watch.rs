//! Looks for new partitions, and whether the topic is still there, on a thread of its own.

use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::Topic;
use super::client::Marks;

/// How often it looks.
const EVERY: Duration = Duration::from_secs(10);
/// How soon it looks again where the topic was not found.
const SOON: Duration = Duration::from_secs(2);
/// How long brokers may take to answer.
const WAIT: Duration = Duration::from_secs(5);
/// A topic that is not found so often in a row is gone: brokers that just started may not know it.
const MISSES: u32 = 4;

/// Looks until the other end of `stop` is dropped.
pub(super) fn watch(topic: &Topic, stop: &Receiver<()>) {
    let mut misses = 0;
    loop {
        let pause = if misses > 0 { SOON } else { EVERY };
        if stop.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
            return;
        }
        match topic.cluster.partitions(WAIT) {
            Ok(Some(numbers)) => {
                misses = 0;
                numbers.into_iter().for_each(|number| add(topic, number));
            }
            Ok(None) => {
                misses += 1;
                topic.gone.store(misses >= MISSES, Ordering::Relaxed);
            }
            Err(error) => topic.shared.trouble(&error.to_string()),
        }
    }
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
