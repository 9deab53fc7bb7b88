//! The clock of a partition, written a second time. Invariant: it never goes back.

/// The log time of a partition: the k-th largest time so far, k = 1 + min(63, n / 2).
#[derive(Default)]
pub(crate) struct LogTime {
    largest: Vec<i64>,
    seen: usize,
    pub(crate) value_ms: Option<i64>,
}

impl LogTime {
    pub(crate) fn observe(&mut self, ts_ms: i64) {
        self.largest.insert(self.largest.partition_point(|time| *time <= ts_ms), ts_ms);
        self.seen += 1;
        self.largest.drain(..self.largest.len().saturating_sub(64));
        let kth = self.largest.len().checked_sub(1 + (self.seen / 2).min(63));
        self.value_ms = self.value_ms.max(kth.map(|at| self.largest[at]));
    }
}
