//! A limit on records per second: a token bucket that holds a tenth of a second.
//!
//! Invariant: over any time, at most what the rate allows plus one bucketful is granted.

use parking_lot::Mutex;

/// Tokens are millionths of a record, so that one fills in per microsecond, record and second.
const TOKENS_PER_RECORD: u64 = 1_000_000;
/// The bucket holds the records of this much time.
const BUCKET_US: u64 = 100_000;

/// Limits the records that the workers of a process read. Without a rate, nothing is limited.
#[derive(Debug)]
pub(crate) struct RateLimiter {
    per_second: Option<u64>,
    bucket: Mutex<Bucket>,
}

#[derive(Debug)]
struct Bucket {
    tokens: u64,
    filled_us: u64,
}

impl RateLimiter {
    pub(crate) fn new(per_second: Option<u64>, now_us: u64) -> Self {
        Self { per_second, bucket: Mutex::new(Bucket { tokens: 0, filled_us: now_us }) }
    }

    /// How many of `wanted` records may be read now.
    pub(crate) fn grant(&self, wanted: usize, now_us: u64) -> usize {
        let Some(per_second) = self.per_second else { return wanted };
        let mut bucket = self.bucket.lock();
        let passed_us = now_us.saturating_sub(bucket.filled_us);
        // The slowest rates still need room for one record.
        let full = (per_second * BUCKET_US).max(TOKENS_PER_RECORD);
        let filled = bucket.tokens.saturating_add(passed_us.saturating_mul(per_second));
        bucket.tokens = filled.min(full);
        bucket.filled_us = now_us;
        let granted = wanted.min((bucket.tokens / TOKENS_PER_RECORD) as usize);
        bucket.tokens -= granted as u64 * TOKENS_PER_RECORD;
        granted
    }

    /// Takes back what was granted but not read.
    pub(crate) fn refund(&self, unread: usize) {
        if self.per_second.is_some() {
            self.bucket.lock().tokens += unread as u64 * TOKENS_PER_RECORD;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_never_exceed_the_rate() {
        let limiter = RateLimiter::new(Some(1000), 0);
        let mut granted = 0;
        for ms in 1..=2000 {
            let got = limiter.grant(7, ms * 1000);
            granted += got - got / 3;
            limiter.refund(got / 3);
        }
        assert!((1900..=2000).contains(&granted), "{granted}");
        assert_eq!(RateLimiter::new(None, 0).grant(7, 0), 7);
    }
}
