//! The live line on standard error: the progress of a job, once a second, as text or as JSON.
//!
//! Invariant: both forms are made of the same numbers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use dataflow::clock::{Clock, SystemClock};
use dataflow::reconcile::Progress;
use dataflow::{Publishing, Reasons, Status};
use schemas::printable::{counted, shortened, size};
use schemas::time::format_ms;
use serde::Serialize;
use sinks::storage::Lack;

use crate::say;

/// With older posts, a job reads history rather than following a stream, so no lag is shown.
const DAY_MS: i64 = 86_400_000;
/// How much of what is wrong with a record is shown.
const DETAIL_CHARS: usize = 60;
const EVERY: Duration = Duration::from_secs(1);

/// A thread that prints a line a second until it is dropped.
pub(crate) struct LiveLine {
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Progress of any kind: its text, and its fields as JSON.
trait Shown: Serialize {
    fn text(&self) -> String;
}

impl LiveLine {
    /// Shows `status`, followed by what `more` returns.
    pub(crate) fn start(status: Arc<Status>, more: impl Fn() -> String + Send + 'static) -> Self {
        let clock = SystemClock::default();
        let mut rate = Rate::new(clock, status.records());
        Self::of(move || {
            let per_s = rate.next(status.records());
            JobProgress::new(&status, per_s, clock.wall_ms(), more())
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
            CheckProgress::new(per_s, seconds, load(&progress.read), load(&progress.all))
        })
    }

    /// Shows what `next` returns.
    fn of<P: Shown>(mut next: impl FnMut() -> P + Send + 'static) -> Self {
        let (end, ended) = channel();
        let thread = std::thread::spawn(move || {
            while ended.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
                let progress = next();
                say::progress(&progress.text(), &progress);
            }
            say::end_progress();
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

/// The progress of a job.
#[derive(Serialize)]
struct JobProgress {
    message: &'static str,
    records_per_s: u64,
    events: u64,
    commit: u64,
    as_of: Option<i64>,
    /// How far the counts are behind the clock; none while the job reads files to their end.
    #[serde(skip_serializing_if = "Option::is_none")]
    lag_ms: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    read_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    all_bytes: Option<u64>,
    /// What the state lacks, if the job waits for that.
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting_for: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    store: Option<Publishing>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<RefusedSoFar>,
    #[serde(skip)]
    more: String,
}

/// What a job has refused in this run.
#[derive(Serialize)]
struct RefusedSoFar {
    records: u64,
    /// The commonest reason, and what is wrong with its first record.
    reason: &'static str,
    detail: String,
}

impl RefusedSoFar {
    fn of(reasons: &Reasons) -> Option<Self> {
        let (reason, _, first) = reasons.commonest()?;
        let detail = shortened(&first.detail, DETAIL_CHARS).into_owned();
        Some(Self { records: reasons.records(), reason, detail })
    }
}

impl JobProgress {
    fn new(status: &Status, per_s: f64, wall_ms: i64, more: String) -> Self {
        let progress = status.progress();
        let (read, all) = progress.bytes;
        let bounded = all > 0;
        Self {
            message: "progress",
            records_per_s: per_s.round() as u64,
            events: progress.counters.events,
            commit: progress.commit,
            as_of: progress.as_of_ms,
            lag_ms: progress.as_of_ms.filter(|_| !bounded).map(|ms| (wall_ms - ms).max(0)),
            read_bytes: bounded.then_some(read),
            all_bytes: bounded.then_some(all),
            waiting_for: status.lacking().map(Lack::name),
            store: status.publishing(),
            refused: RefusedSoFar::of(&status.reasons()),
            more,
        }
    }
}

impl Shown for JobProgress {
    fn text(&self) -> String {
        let events = counted(self.events, "event", "events");
        let mut line = format!("{} records/s, {events}", self.records_per_s);
        if let (Some(read), Some(all)) = (self.read_bytes, self.all_bytes) {
            line += &format!(", {:.0} % of {}", read as f64 / all as f64 * 100.0, size(all));
        }
        if let (Some(lag_ms), Some(as_of)) = (self.lag_ms, self.as_of) {
            line += &match lag_ms {
                0..DAY_MS => format!(", lag {:.1} s", lag_ms as f64 / 1000.0),
                _ => format!(", as of {}", format_ms(as_of)),
            };
        }
        line += &format!(", commit {}", self.commit);
        line += &self.waiting_for.map_or_else(String::new, |what| format!(", waiting for {what}"));
        line += &self.store.as_ref().map(store).unwrap_or_default();
        line += &self.more;
        if let Some(RefusedSoFar { records, reason, detail }) = &self.refused {
            line += &format!(", {records} refused, most often for {reason}: {detail}");
        }
        line
    }
}

/// The progress of a check.
#[derive(Serialize)]
struct CheckProgress {
    message: &'static str,
    records_per_s: u64,
    percent: u64,
    /// Passes begin slowly, so this is estimated from the rate since the start.
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds_left: Option<u64>,
}

impl CheckProgress {
    /// Of a check that has read `read` of `all` in `seconds`.
    fn new(per_s: f64, seconds: f64, read: u64, all: u64) -> Self {
        let share = (read as f64 / all.max(1) as f64).min(1.0);
        let left = (read > 0).then(|| (seconds * (1.0 - share) / share).round() as u64);
        Self {
            message: "progress",
            records_per_s: per_s.round() as u64,
            percent: (share * 100.0).round() as u64,
            seconds_left: left,
        }
    }
}

impl Shown for CheckProgress {
    fn text(&self) -> String {
        let Self { records_per_s, percent, seconds_left, .. } = self;
        let left = seconds_left.map_or_else(String::new, |s| format!(", about {s} s left"));
        format!("{records_per_s} records/s, {percent} %{left}")
    }
}

/// The progress of the store.
fn store(publishing: &Publishing) -> String {
    let Publishing { commit, lag_commits, lag_ms, waiting, waiting_ms, waiting_rows, .. } =
        publishing;
    match (waiting, lag_commits) {
        (true, _) => {
            let seconds = *waiting_ms / 1000;
            let rows = counted(*waiting_rows, "row", "rows");
            format!(", {rows} waiting for the store for {seconds} s, it has commit {commit}")
        }
        // One commit is always being published.
        (false, 0..=1) => format!(", store {commit}"),
        (false, _) => format!(", store {commit}, {:.0} s behind", *lag_ms as f64 / 1000.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_left_is_estimated_from_the_rate_since_the_start() {
        let check =
            |per_s, seconds, read, all| CheckProgress::new(per_s, seconds, read, all).text();
        assert_eq!(check(5.0, 10.0, 40, 100), "5 records/s, 40 %, about 15 s left");
        assert_eq!(check(0.0, 10.0, 40, 100), "0 records/s, 40 %, about 15 s left");
        assert_eq!(check(0.0, 10.0, 0, 0), "0 records/s, 0 %");
    }
}
