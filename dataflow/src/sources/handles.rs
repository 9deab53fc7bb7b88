//! How many followed files are open at once, over all inputs.
//!
//! A followed file stays open, so that it can be read to its end after it was renamed. Invariant:
//! however many files there are, some handles are left for the state, the pages and the folders.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::process::{Resource, getrlimit};
use schemas::printable::shown;

/// The handles that the rest of the process needs in any case.
const REST: u64 = 48;
/// More than this it never needs.
const REST_MAX: u64 = 1024;

/// Those of this process.
pub(super) static HANDLES: Handles = Handles::new();

/// The handles of followed files.
#[derive(Debug)]
pub(super) struct Handles {
    open: AtomicU64,
    /// Whether it was said that there are too few.
    said: AtomicBool,
}

/// The right to hold a file open.
#[derive(Debug)]
pub(super) struct Handle<'h>(&'h Handles);

impl Handles {
    const fn new() -> Self {
        Self { open: AtomicU64::new(0), said: AtomicBool::new(false) }
    }

    /// The right to open `file`, if there is one left. That there is none is said once.
    pub(super) fn take(&self, file: &Path) -> Option<Handle<'_>> {
        // It may be raised while the process runs.
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let handle = self.take_of(share(limit));
        if handle.is_none() && !self.said.swap(true, Ordering::Relaxed) {
            let open = self.open.load(Ordering::Relaxed);
            tracing::warn!(
                "{} and other files of the input wait to be read: {open} are open and followed, \
                 the limit of open files is {limit}, and some are needed for the state and the \
                 pages. Raise the limit (ulimit -n), or move complete files out of the folder",
                shown(file)
            );
        }
        handle
    }

    fn take_of(&self, share: u64) -> Option<Handle<'_>> {
        let more = |open| (open < share).then_some(open + 1);
        let taken = self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        taken.ok().map(|_| Handle(self))
    }
}

impl Drop for Handle<'_> {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How many of `limit` handles followed files may take.
fn share(limit: u64) -> u64 {
    let rest = (limit / 4).clamp(REST, REST_MAX);
    limit.saturating_sub(rest).max(limit / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn followed_files_leave_handles_to_the_rest_of_the_process() {
        let shares = [(20, 5), (64, 16), (100, 52), (1024, 768), (1 << 20, (1 << 20) - 1024)];
        for (limit, expected) in shares {
            assert_eq!(share(limit), expected, "of {limit}");
        }
    }

    #[test]
    fn file_that_is_closed_makes_room_for_another() {
        let handles = Handles::new();
        let [one, other] = [handles.take_of(2), handles.take_of(2)];
        assert!(one.is_some() && other.is_some() && handles.take_of(2).is_none());
        drop(one);
        assert!(handles.take_of(2).is_some());
    }
}
