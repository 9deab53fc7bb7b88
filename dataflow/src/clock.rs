//! Where a job gets its time and its random bits from, so that both can be simulated.
//!
//! Invariant: nothing else in the crate asks the system for either.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rand::TryRng;
use rand::rngs::SysRng;
use thiserror::Error;

/// The system provides no random bits.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("cannot get random bytes from the system: {0}")]
pub struct RandomError(pub String);

/// Wall-clock and monotonic time.
pub trait Clock: Send + Sync {
    /// Milliseconds since 1970, according to the host.
    fn wall_ms(&self) -> i64;
    /// Microseconds since some instant. Never decreases.
    fn mono_us(&self) -> u64;
    /// How long an idle source should sleep. `None` if time is simulated and advances by steps.
    fn pause(&self, wait: Duration) -> Option<Duration>;
    /// Bits that nobody else can predict.
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
        // A host that believes it is before 1970 gets 1970.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
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
        SysRng.try_fill_bytes(&mut bytes).map_err(|error| RandomError(error.to_string()))?;
        Ok(u128::from_le_bytes(bytes))
    }
}
