//! What this host is: its name and its cores.

use std::fs;
use std::thread::available_parallelism;

/// The host's name, for messages to people on other hosts.
pub(crate) fn host_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let name = name.or_else(|| std::env::var("HOSTNAME").ok()).unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "this host".to_owned() } else { name.to_owned() }
}

/// One worker less than there are cores, at least one: the rest is for files and readers.
pub(crate) fn worker_default() -> usize {
    available_parallelism().map_or(1, |cores| cores.get().saturating_sub(1).max(1))
}
