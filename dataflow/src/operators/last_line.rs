//! The last line of a file that is followed: its writer may have died before the newline.
//!
//! Invariant: a file that was read as far as its lines are whole holds nobody back for longer than
//! half a minute.

use crate::limits::SILENT_US;
use crate::plan::Unfinished;
use crate::sources::Next;
use crate::status::Status;

/// What is known of the end of a partition.
#[derive(Debug, Default)]
pub(super) struct LastLine {
    /// Since when there has been nothing to read.
    waits_since_us: Option<u64>,
    is_unfinished: bool,
}

impl LastLine {
    /// Takes note of a read at `now_us`.
    pub(super) fn was_read(&mut self, records: usize, next: Next, now_us: u64) {
        self.waits_since_us = match next {
            Next::Wait if records == 0 => self.waits_since_us.or(Some(now_us)),
            Next::Wait => Some(now_us),
            Next::More | Next::End => None,
        };
    }

    /// Whether the last read found nothing behind what it returned.
    pub(super) fn waits(&self) -> bool {
        self.waits_since_us.is_some()
    }

    /// Whether nobody waits for the rest any more of a file that is not read to its end.
    pub(super) fn is_given_up(&self, now_us: u64) -> bool {
        self.waits_since_us.is_some_and(|since| now_us.saturating_sub(since) >= SILENT_US)
    }

    /// Says once that `line` is unfinished, or notes that it is no longer.
    pub(super) fn tell(
        &mut self,
        is_unfinished: bool,
        line: impl FnOnce() -> Unfinished,
        status: &Status,
    ) {
        if is_unfinished == self.is_unfinished {
            return;
        }
        self.is_unfinished = is_unfinished;
        let line = line();
        if is_unfinished {
            let Unfinished { input, partition, position, bytes } = &line;
            tracing::warn!(
                input,
                partition,
                position,
                bytes,
                "the last line has no newline; it is read once it has one, and holds nothing back"
            );
        }
        status.unfinished(line, is_unfinished);
    }
}
