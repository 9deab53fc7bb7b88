//! A child process, its wall time and its peak memory.

use std::error::Error;
use std::fs;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How often a child's memory is read. The kernel keeps the peak, so only a rise within the last
/// of these before its end is missed.
const LOOK: Duration = Duration::from_millis(5);

/// What a child took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    pub(crate) seconds: f64,
    /// Peak resident memory in KiB; none where the system does not tell.
    pub(crate) peak_kib: Option<u64>,
}

/// The time.
#[allow(clippy::disallowed_methods, reason = "a benchmark measures real time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Runs `command`, which must succeed and print little: its standard output and its cost.
pub(crate) fn measure(command: &mut Command) -> Result<(String, Cost), Box<dyn Error>> {
    let start = now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot run {command:?}: {error}"))?;
    let mut error = child.stderr.take().ok_or("a child has no standard error")?;
    // Read beside it: a full pipe would stop the child.
    let told = std::thread::spawn(move || {
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
    child.stdout.take().ok_or("a child has no output")?.read_to_string(&mut out)?;
    let told = told.join().map_err(|_| "the reader of standard error died")??;
    if !status.success() {
        return Err(format!("{command:?} ended with {status}:\n{told}").into());
    }
    Ok((out, Cost { seconds, peak_kib }))
}

/// The peak resident memory of a process, in KiB, by its status file.
pub(crate) fn peak(status_file: &str) -> Option<u64> {
    let status = fs::read_to_string(status_file).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}
