//! Runs child processes, and measures their wall time and peak memory.

use std::error::Error;
use std::fmt::{self, Display, Formatter};
use std::fs;
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How often a child's memory is read. The kernel keeps the peak, so only a rise after the last
/// look is missed.
const LOOK: Duration = Duration::from_millis(5);

/// The cost of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    pub(crate) seconds: f64,
    /// Peak resident memory in KiB; `None` if the system does not report it.
    pub(crate) peak_kib: Option<u64>,
}

/// The posts per second of several runs, and the highest peak memory of any.
pub(crate) struct Rates {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    peak_kib: Option<u64>,
}

impl Rates {
    pub(crate) fn of(posts: u64, costs: &[Cost]) -> Result<Self, Box<dyn Error>> {
        let mut rates: Vec<f64> = costs.iter().map(|cost| posts as f64 / cost.seconds).collect();
        rates.sort_by(f64::total_cmp);
        let (Some(min), Some(max)) = (rates.first().copied(), rates.last().copied()) else {
            return Err("there were no runs".into());
        };
        let peak_kib = costs.iter().filter_map(|cost| cost.peak_kib).max();
        Ok(Self { median: median(&rates), min, max, peak_kib })
    }
}

/// Formats four columns of a table.
impl Display for Rates {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { median, min, max, peak_kib } = self;
        let peak = peak_kib.map_or_else(|| "-".to_owned(), |kib| (kib >> 10).to_string());
        write!(f, "{median:.0} | {min:.0} | {max:.0} | {peak}")
    }
}

/// The median of ascending numbers, of which there is at least one.
pub(crate) fn median(sorted: &[f64]) -> f64 {
    assert!(!sorted.is_empty(), "nothing has no median");
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 {
        sorted[middle]
    } else {
        f64::midpoint(sorted[middle - 1], sorted[middle])
    }
}

/// The time.
#[allow(clippy::disallowed_methods, reason = "a benchmark measures real time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// A child process that is killed when this is dropped.
pub(crate) struct KilledOnDrop(pub(crate) Child);

impl Drop for KilledOnDrop {
    fn drop(&mut self) {
        // It may have exited already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs `command`, which must succeed and print little; returns its standard output and its cost.
pub(crate) fn measure(command: &mut Command) -> Result<(String, Cost), Box<dyn Error>> {
    let start = now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot run {command:?}: {error}"))?;
    let mut error = child.stderr.take().ok_or("no standard error")?;
    // Read meanwhile: a full pipe would block the child.
    let errors = std::thread::spawn(move || {
        let mut text = String::new();
        error.read_to_string(&mut text).map(|_| text)
    });
    let status_file = format!("/proc/{}/status", child.id());
    let mut peak_kib = None;
    let (seconds, status) = loop {
        if let Some(status) = child.try_wait()? {
            break (start.elapsed().as_secs_f64(), status);
        }
        peak_kib = peak(&status_file).or(peak_kib);
        std::thread::park_timeout(LOOK);
    };
    let mut out = String::new();
    child.stdout.take().ok_or("no standard output")?.read_to_string(&mut out)?;
    let errors = errors.join().map_err(|_| "the reader of standard error panicked")??;
    if !status.success() {
        return Err(format!("{command:?} failed with {status}:\n{errors}").into());
    }
    Ok((out, Cost { seconds, peak_kib }))
}

/// The peak resident memory of a process in KiB, from its status file.
pub(crate) fn peak(status_file: &str) -> Option<u64> {
    let status = fs::read_to_string(status_file).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}
