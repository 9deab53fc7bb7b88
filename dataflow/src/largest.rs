//! The largest event time accepted so far, by which event times are compared with the wall clock.
//!
//! Invariant: the time since it was read only grows, also over a restart.

use schemas::manifest::Body;
use serde::{Deserialize, Serialize};

use crate::limits::AGREE_MS;

/// The largest event time accepted so far, and when it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Largest {
    /// The event time.
    pub(crate) ts_ms: i64,
    /// The monotonic clock in microseconds; negative if an earlier process read it.
    pub(crate) read_us: i64,
}

impl Largest {
    /// That of the commit that a job continues from when the wall clock is `wall_ms` and the
    /// monotonic one `mono_us`: while no process ran, time went on by the wall clock.
    pub(crate) fn of(commit: &Body, wall_ms: i64, mono_us: u64) -> Option<Self> {
        let ts_ms = commit.largest_ts_ms?;
        let read_ms = commit.largest_read_ms;
        let since_ms = read_ms.map_or(0, |read| wall_ms.saturating_sub(read).max(0));
        let read_us = mono_us.cast_signed().saturating_sub(since_ms.saturating_mul(1000));
        Some(Self { ts_ms, read_us })
    }

    /// The same, as if it was read now. A wall clock that was wrong while no process ran must not
    /// move the limit beyond which events are refused.
    pub(crate) fn as_if_read_at(self, mono_us: u64) -> Self {
        Self { read_us: mono_us.cast_signed(), ..self }
    }

    /// The time since it was read.
    pub(crate) fn since_ms(self, mono_us: u64) -> i64 {
        mono_us.cast_signed().saturating_sub(self.read_us).max(0) / 1000
    }

    /// What the wall clock shows if it agrees with event times.
    pub(crate) fn now_ms(self, mono_us: u64) -> i64 {
        self.ts_ms.saturating_add(self.since_ms(mono_us))
    }
}

/// The latest that the present time can be: the wall clock, unless accepted events show that it has
/// fallen behind.
///
/// While both agree only the wall clock counts. Otherwise events that are each a little ahead of
/// the one before could push the limit further and further.
pub(crate) fn latest_clock_ms(wall_ms: i64, largest: Option<Largest>, mono_us: u64) -> i64 {
    let by_events = largest
        .map(|largest| largest.now_ms(mono_us))
        .filter(|by_events| *by_events > wall_ms.saturating_add(AGREE_MS));
    by_events.unwrap_or(wall_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_clock_counts_unless_it_has_fallen_behind() {
        let minute = 60_000;
        let now = 1_700_000_000_000;
        assert_eq!(latest_clock_ms(now, None, 0), now);
        let read = |ts_ms, read_us| Some(Largest { ts_ms, read_us });
        assert_eq!(latest_clock_ms(now, read(now + 5 * minute, 7), 7), now);
        assert_eq!(latest_clock_ms(now, read(now - 60 * minute, 7), 7), now);
        let ahead = now + 6 * minute;
        assert_eq!(latest_clock_ms(now, read(ahead, 1_000_000), 3_000_000), ahead + 2000);
        assert_eq!(latest_clock_ms(now, read(ahead, -1_000_000), 3_000_000), ahead + 4000);
    }
}
