//! The live line on standard error: the progress of a job, once a second.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use dataflow::clock::{Clock, SystemClock};
use dataflow::reconcile::Progress;
use dataflow::{Publishing, Status};
use schemas::time::format_ms;

/// With older posts, a job reads history rather than following a stream, so no lag is shown.
const DAY_MS: i64 = 86_400_000;
const EVERY: Duration = Duration::from_secs(1);

/// A thread that prints a line a second until it is dropped.
pub(crate) struct LiveLine {
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl LiveLine {
    /// Shows `status`, followed by what `more` returns.
    pub(crate) fn start(status: Arc<Status>, more: impl Fn() -> String + Send + 'static) -> Self {
        let clock = SystemClock::default();
        let mut rate = Rate::new(clock, status.records());
        Self::of(move || {
            let per_s = rate.next(status.records());
            format!("{}{}", line(&status, per_s, &clock), more())
        })
    }

    /// Shows the progress of a check.
    pub(crate) fn reconciling(progress: Arc<Progress>) -> Self {
        let clock = SystemClock::default();
        let started_us = clock.mono_us();
        let mut records = Rate::new(clock, 0);
        Self::of(move || {
            let load = |number: &AtomicU64| number.load(Ordering::Relaxed);
            let per_s = records.next(load(&progress.records));
            let seconds = (clock.mono_us() - started_us) as f64 / 1e6;
            check(per_s, seconds, load(&progress.read), load(&progress.all))
        })
    }

    /// Shows what `line` returns; a terminal shows it in place.
    fn of(mut line: impl FnMut() -> String + Send + 'static) -> Self {
        let (end, ended) = channel();
        let thread = std::thread::spawn(move || {
            let terminal = std::io::stderr().is_terminal();
            while ended.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
                let line = line();
                if terminal {
                    eprint!("\r\x1b[2K{line}");
                } else {
                    eprintln!("{line}");
                }
            }
            if terminal {
                eprint!("\r\x1b[2K");
            }
        });
        Self { end: Some(end), thread: Some(thread) }
    }
}

/// How fast a number grows between calls.
struct Rate {
    clock: SystemClock,
    before: (u64, u64),
}

impl Rate {
    fn new(clock: SystemClock, number: u64) -> Self {
        Self { before: (clock.mono_us(), number), clock }
    }

    /// The growth per second since the last call.
    fn next(&mut self, number: u64) -> f64 {
        let now = (self.clock.mono_us(), number);
        let seconds = (now.0 - self.before.0) as f64 / 1e6;
        let rate = number.saturating_sub(self.before.1) as f64 / seconds.max(1e-6);
        self.before = now;
        rate
    }
}

impl Drop for LiveLine {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn line(status: &Status, rate: f64, clock: &SystemClock) -> String {
    let progress = status.progress();
    let mut line = format!("{rate:.0} records/s, {} events", progress.counters.events);
    let (read, all) = progress.bytes;
    if all > 0 {
        line += &format!(", {:.0} % of {} MB", read as f64 / all as f64 * 100.0, all >> 20);
    }
    if let Some(as_of) = progress.as_of_ms.filter(|_| all == 0) {
        let lag_ms = (clock.wall_ms() - as_of).max(0);
        line += &match lag_ms {
            0..DAY_MS => format!(", lag {:.1} s", lag_ms as f64 / 1000.0),
            _ => format!(", as of {}", format_ms(as_of)),
        };
    }
    line += &format!(", commit {}", progress.commit);
    line + &status.publishing().map(store).unwrap_or_default()
}

/// The progress of a check that has read `read` of `all` in `seconds`. Passes begin slowly, so the
/// time left is estimated from the rate since the start.
fn check(per_s: f64, seconds: f64, read: u64, all: u64) -> String {
    let share = (read as f64 / all.max(1) as f64).min(1.0);
    let line = format!("{per_s:.0} records/s, {:.0} %", share * 100.0);
    if read == 0 {
        return line;
    }
    format!("{line}, about {:.0} s left", seconds * (1.0 - share) / share)
}

/// The progress of the store.
fn store(publishing: Publishing) -> String {
    let Publishing { commit, lag_commits, lag_ms, waiting, .. } = publishing;
    match (waiting, lag_commits) {
        (true, _) => format!(", waiting for the store, which has commit {commit}"),
        // One commit is always being published.
        (false, 0..=1) => format!(", store {commit}"),
        (false, _) => format!(", store {commit}, {:.0} s behind", lag_ms as f64 / 1000.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_left_is_estimated_from_the_rate_since_the_start() {
        assert_eq!(check(5.0, 10.0, 40, 100), "5 records/s, 40 %, about 15 s left");
        assert_eq!(check(0.0, 10.0, 40, 100), "0 records/s, 40 %, about 15 s left");
        assert_eq!(check(0.0, 10.0, 0, 0), "0 records/s, 0 %");
    }
}
