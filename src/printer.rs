//! Prints what a check finds, as text or as one JSON object per line: every difference, then the
//! result.
//!
//! Invariant: what a command does and its exit code do not depend on whether anybody reads its
//! output: once the reader is gone, nothing more is written and nothing fails.

use schemas::printable::counted;
use serde::ser::{Serialize, SerializeMap, Serializer};
use sinks::difference::{Difference, RecordPosition};

use crate::error::CliError;
use crate::output::Output;

/// What can be printed in both forms; its JSON is its serialization.
pub(crate) trait Print: Serialize {
    /// The lines of text.
    fn lines(&self) -> Vec<String>;
}

/// Standard output, for as long as anybody reads it.
pub(crate) struct Printer {
    output: Output,
    json: bool,
    is_closed: bool,
}

impl Printer {
    /// Prints JSON or text.
    pub(crate) fn new(json: bool) -> Self {
        Self { output: Output::new(), json, is_closed: false }
    }

    /// Prints one item.
    pub(crate) fn print(&mut self, item: &impl Print) -> Result<(), CliError> {
        if self.is_closed {
            return Ok(());
        }
        let written = if self.json {
            self.output.json(item)
        } else {
            item.lines().iter().try_for_each(|line| self.output.line(line))
        };
        self.note(written)
    }

    /// Prints what differs from `other`, value by value.
    pub(crate) fn differences(
        &mut self,
        differences: &[Difference],
        other: &'static str,
    ) -> Result<(), CliError> {
        differences.iter().try_for_each(|difference| self.print(&Sided { difference, other }))
    }

    /// Makes everything printed so far appear.
    pub(crate) fn flush(&mut self) -> Result<(), CliError> {
        if self.is_closed {
            return Ok(());
        }
        let flushed = self.output.flush();
        self.note(flushed)
    }

    fn note(&mut self, written: Result<(), CliError>) -> Result<(), CliError> {
        match written {
            Err(error) if error.is_broken_pipe() => {
                self.is_closed = true;
                Ok(())
            }
            other => other,
        }
    }
}

/// A difference between what is stored and what it should be by `other`: the log, or the commit.
struct Sided<'d> {
    difference: &'d Difference,
    other: &'static str,
}

impl Serialize for Sided<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Difference { row, field, left, right, events } = self.difference;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("scope", &row.scope)?;
        map.serialize_entry("key", &row.key)?;
        map.serialize_entry("field", field)?;
        map.serialize_entry("stored", left)?;
        map.serialize_entry("recomputed", right)?;
        map.serialize_entry("events", events)?;
        map.end()
    }
}

impl Print for Sided<'_> {
    fn lines(&self) -> Vec<String> {
        let (Difference { row, field, left, right, events }, other) = (self.difference, self.other);
        let scope = &row.scope;
        let scope = if scope.is_empty() { String::new() } else { format!(" in {scope}") };
        let key = &row.key;
        let first = format!("{key}{scope}: {field} is {left}, {other} says {right}");
        let event = |event: &RecordPosition| {
            format!("  {}/{} at {}", event.input, event.partition, event.position)
        };
        std::iter::once(first).chain(events.iter().map(event)).collect()
    }
}

/// The remark about events whose copies differ.
pub(crate) fn ambiguous(events: u64) -> String {
    let events = counted(events, "event", "events");
    format!("{events} came in copies that differ: any copy may count")
}
