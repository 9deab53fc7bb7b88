//! The clock of a job, and its source of random bits: the one place where both come from, so that
//! they can be simulated.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rand::TryRng;
use rand::rngs::SysRng;
use thiserror::Error;

/// The system gives no random bits.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("cannot get random bytes from the system: {0}")]
pub struct RandomError(pub String);

/// Wall-clock and monotonic time.
pub trait Clock: Send + Sync {
    /// Milliseconds since 1970, as the host believes.
    fn wall_ms(&self) -> i64;
    /// Microseconds since some instant; never decreases.
    fn mono_us(&self) -> u64;
    /// How long a source that has nothing to do may really wait for `wait` to pass; none where
    /// time moves by itself from step to step.
    fn pause(&self, wait: Duration) -> Option<Duration>;
    /// Bits that nobody else can foresee.
    fn random(&self) -> Result<u128, RandomError>;
}

/// The host's clocks.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    start: Instant,
}

impl Default for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is where the clock is")]
    fn default() -> Self {
        Self { start: Instant::now() }
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is where the clock is")]
    fn wall_ms(&self) -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }

    fn mono_us(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn pause(&self, wait: Duration) -> Option<Duration> {
        Some(wait)
    }

    fn random(&self) -> Result<u128, RandomError> {
        let mut bytes = [0; 16];
        SysRng.try_fill_bytes(&mut bytes).map_err(|e| RandomError(e.to_string()))?;
        Ok(u128::from_le_bytes(bytes))
    }
}
