//! This host's name and cores.

use std::fs;
use std::thread::available_parallelism;

/// The host's name, for messages to people on other hosts.
pub(crate) fn host_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let name = name.or_else(|| std::env::var("HOSTNAME").ok());
    let name = name.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty());
    name.unwrap_or_else(|| "this host".to_owned())
}

/// One worker less than there are cores, but at least one; one core is left for files and readers.
pub(crate) fn worker_default() -> usize {
    available_parallelism().map_or(1, |cores| cores.get().saturating_sub(1).max(1))
}
