//! Which partitions wait for a transaction that somebody left open, and since when.
//!
//! Invariant: a wait is told once it has become long, and then ever less often.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use schemas::config::OnOpenTransaction;

use crate::topic::Topic;

/// Ordinary transactions end sooner.
const FIRST: Duration = Duration::from_secs(10);
/// Every line is this many times as late as the one before.
const LATER: u32 = 4;
/// But at least so often.
const LAST: Duration = Duration::from_mins(15);

/// A partition that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wait {
    at: u64,
    since: Duration,
    /// When it is told next.
    due: Duration,
    told: bool,
}

/// The partitions of a topic that wait for a transaction.
#[derive(Debug, Default)]
pub(crate) struct OpenTransactions(BTreeMap<i32, Wait>);

/// What is to be told of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum News {
    /// It waits at this offset, for so long.
    Waits(i32, u64, Duration),
    /// It no longer waits, after so long.
    Ended(i32, Duration),
}

impl OpenTransactions {
    /// Tells what has become long, or has ended after that.
    pub(crate) fn look(&mut self, topic: &Topic) {
        let shared = &topic.cluster.shared;
        let partitions = shared.partitions.lock().clone();
        let waits = partitions.iter().filter_map(|(number, partition)| {
            Some((*number, partition.waits_for_transaction()?.0))
        });
        let waits: BTreeMap<i32, u64> = waits.collect();
        shared.blocked.store(waits.len() as u64, Ordering::Relaxed);
        let behind = |number| {
            partitions.get(&number).and_then(|p| p.waits_for_transaction()).map_or(0, |w| w.1)
        };
        let settings = &topic.cluster.settings;
        let hint = match (settings.bounded, settings.options.on_open_transaction) {
            (true, OnOpenTransaction::Wait) => {
                "; --on-open-transaction end (consumer: {on_open_transaction: end}) ends a bounded \
                 run before it"
            }
            _ => "",
        };
        for news in self.learn(&waits, shared.elapsed()) {
            let name = topic.name();
            match news {
                News::Waits(number, at, wait) => tracing::warn!(
                    "topic {name}: partition {number} has waited at offset {at} for {} s for an open \
                     transaction to be committed or aborted, and so do the {} offsets behind it; \
                     `kafka-transactions.sh find-hanging` shows who left it open{hint}",
                    wait.as_secs(),
                    behind(number),
                ),
                News::Ended(number, wait) => tracing::warn!(
                    "topic {name}: the open transaction of partition {number} has ended after {} s",
                    wait.as_secs(),
                ),
            }
        }
    }

    /// Takes which partitions wait now, and at which offset; returns what is to be told.
    fn learn(&mut self, waits: &BTreeMap<i32, u64>, now: Duration) -> Vec<News> {
        let mut news = Vec::new();
        self.0.retain(|number, wait| {
            let goes_on = waits.get(number) == Some(&wait.at);
            if !goes_on && wait.told {
                news.push(News::Ended(*number, now.saturating_sub(wait.since)));
            }
            goes_on
        });
        for (number, at) in waits {
            let begins = Wait { at: *at, since: now, due: now + FIRST, told: false };
            let wait = self.0.entry(*number).or_insert(begins);
            if now >= wait.due {
                let waited = now.saturating_sub(wait.since);
                news.push(News::Waits(*number, *at, waited));
                (wait.told, wait.due) = (true, now + (waited * (LATER - 1)).min(LAST));
            }
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_wait_is_told_ever_less_often_and_so_is_its_end() {
        let mut transactions = OpenTransactions::default();
        let s = Duration::from_secs;
        let mut told = Vec::new();
        let waits = [(3, 500)].into();
        for now in (100..2200).step_by(2) {
            for news in transactions.learn(&waits, s(now)) {
                let News::Waits(3, 500, wait) = news else { panic!("{news:?}") };
                assert_eq!(wait, s(now - 100));
                told.push(now - 100);
            }
        }
        assert_eq!(told, [10, 40, 160, 640, 1540]);
        assert_eq!(transactions.learn(&BTreeMap::new(), s(2300)), [News::Ended(3, s(2200))]);
        assert_eq!(transactions.learn(&BTreeMap::new(), s(2400)), []);
    }

    #[test]
    fn ordinary_transactions_are_not_told() {
        let mut transactions = OpenTransactions::default();
        for now in (0..1000).step_by(2) {
            // One ends and the next one begins.
            let waits = [(0, now / 8)].into();
            assert_eq!(transactions.learn(&waits, Duration::from_secs(now)), []);
        }
    }
}
