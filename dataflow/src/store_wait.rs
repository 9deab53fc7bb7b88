//! Since when a store has taken no rows, and when to say so.
//!
//! Invariant: a wait is told once it is long, and then ever less often; the end of a wait that was
//! told is told.

use crate::limits::{STORE_WAIT_FIRST_US, STORE_WAIT_LAST_US};

/// Every line is this many times as late as the one before.
const LATER: u64 = 4;

/// What is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// Rows wait.
    Waits,
    /// They no longer wait, after so many milliseconds.
    Over(u64),
}

/// A wait for a store, or none.
#[derive(Debug, Default)]
pub(crate) struct StoreWait {
    /// When it began, and the time now.
    since_us: Option<(u64, u64)>,
    due_us: u64,
    told: bool,
}

impl StoreWait {
    /// Takes whether rows wait now; returns what is to be told.
    pub(crate) fn learn(&mut self, waits: bool, now_us: u64) -> Option<News> {
        let so_far_ms = self.so_far_ms();
        if !waits {
            let was_told = std::mem::take(self).told;
            return so_far_ms.filter(|_| was_told).map(News::Over);
        }
        let (since_us, _) = *self.since_us.get_or_insert_with(|| {
            self.due_us = now_us + STORE_WAIT_FIRST_US;
            (now_us, now_us)
        });
        assert!(since_us <= now_us, "the monotonic clock never goes back");
        self.since_us = Some((since_us, now_us));
        if now_us < self.due_us {
            return None;
        }
        let waited_us = now_us - since_us;
        (self.told, self.due_us) =
            (true, now_us + (waited_us * (LATER - 1)).min(STORE_WAIT_LAST_US));
        Some(News::Waits)
    }

    /// For how long rows have waited so far.
    pub(crate) fn so_far_ms(&self) -> Option<u64> {
        self.since_us.map(|(since_us, now_us)| (now_us - since_us) / 1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    #[test]
    fn long_wait_is_told_ever_less_often_and_so_is_its_end() {
        let mut wait = StoreWait::default();
        let told = (100..3000).filter(|s| wait.learn(true, s * SECOND).is_some());
        assert_eq!(told.collect::<Vec<_>>(), [103, 112, 148, 292, 868, 1768, 2668]);
        assert_eq!(wait.so_far_ms(), Some(2_899_000));
        assert_eq!(wait.learn(false, 3000 * SECOND), Some(News::Over(2_899_000)));
        assert_eq!((wait.learn(false, 3001 * SECOND), wait.so_far_ms()), (None, None));
    }

    #[test]
    fn short_waits_are_not_told() {
        let mut wait = StoreWait::default();
        for s in 0..1000 {
            assert_eq!(wait.learn(s % 3 != 0, s * SECOND), None);
        }
    }
}
