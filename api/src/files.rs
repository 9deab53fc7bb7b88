//! Open files: what the process may have, and what of that connections may take.
//!
//! Invariant: connections never take the files that the job needs.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::limits::{CONNECTIONS_MAX, OPEN_FILES_MAX};

/// Files that stay free for what the job opens between two looks: this part of the limit.
const SPARE: u64 = 8;

/// Raises the limit of open files as far as the system allows and is of use. Returns the limit.
pub fn raise_open_files() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = OPEN_FILES_MAX.min(maximum.unwrap_or(OPEN_FILES_MAX));
    match current {
        Some(current) if current < wanted => {
            let raised = Rlimit { current: Some(wanted), maximum };
            // Without the right to, the process works with what it has.
            if setrlimit(Resource::Nofile, raised).is_ok() { wanted } else { current }
        }
        Some(current) => current,
        None => u64::MAX,
    }
}

/// The limit of open files.
pub(crate) fn limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// How many connections may be open: half of the limit at most, and what the rest of the process
/// leaves.
pub(crate) fn connections(limit: u64, others: u64) -> usize {
    let left = limit.saturating_sub(others).saturating_sub(limit / SPARE);
    left.min(limit / 2).min(CONNECTIONS_MAX as u64) as usize
}

/// The number of files that this process has open; 0 where that cannot be told.
pub(crate) fn open() -> u64 {
    // One of them is this folder itself.
    std::fs::read_dir("/proc/self/fd").map_or(0, |files| files.count().saturating_sub(1) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_the_job_its_files() {
        assert_eq!(connections(u64::MAX, 100), CONNECTIONS_MAX);
        assert_eq!(connections(65_536, 50_000), CONNECTIONS_MAX);
        assert_eq!(connections(1024, 50), 512, "half is the job's");
        assert_eq!(connections(1024, 600), 1024 - 600 - 128, "and more if it needs more");
        assert_eq!(connections(1024, 1000), 0);
        assert_eq!(connections(0, 0), 0);
    }

    #[test]
    fn open_files_are_counted() {
        let before = open();
        let files: Vec<_> = (0..50).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
        // Other tests open and close files meanwhile.
        assert!(open() + 25 > before + 50, "{before}");
        drop(files);
    }
}
