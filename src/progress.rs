//! The live line on standard error: how far a job is, once a second.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use dataflow::clock::{Clock, SystemClock};
use dataflow::{Publishing, Status};
use schemas::time::format_ms;

/// Posts from so long ago are read for their own sake, not followed.
const DAY_MS: i64 = 86_400_000;
const EVERY: Duration = Duration::from_secs(1);

/// A thread that prints a line a second until it is dropped.
pub(crate) struct LiveLine {
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl LiveLine {
    /// Prints what `status` says, and what `more` adds. Rewrites one line on a terminal.
    pub(crate) fn start(status: Arc<Status>, more: impl Fn() -> String + Send + 'static) -> Self {
        let (end, ended) = channel();
        let thread = std::thread::spawn(move || {
            let clock = SystemClock::default();
            let terminal = std::io::stderr().is_terminal();
            let mut before = (clock.mono_us(), status.records());
            while ended.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
                let now = (clock.mono_us(), status.records());
                let seconds = (now.0 - before.0) as f64 / 1e6;
                let rate = (now.1 - before.1) as f64 / seconds;
                let line = format!("{}{}", line(&status, rate, &clock), more());
                if terminal {
                    eprint!("\r\x1b[2K{line}");
                } else {
                    eprintln!("{line}");
                }
                before = now;
            }
            if terminal {
                eprint!("\r\x1b[2K");
            }
        });
        Self { end: Some(end), thread: Some(thread) }
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

/// How far the store is.
fn store(publishing: Publishing) -> String {
    let Publishing { commit, lag_commits, lag_ms, waiting, .. } = publishing;
    match (waiting, lag_commits) {
        (true, _) => format!(", waiting for the store, which has commit {commit}"),
        // One is on its way all the time.
        (false, 0..=1) => format!(", store {commit}"),
        (false, _) => format!(", store {commit}, {:.0} s behind", lag_ms as f64 / 1000.0),
    }
}
