//! Standard output: buffered; a write to a closed pipe is an error instead of a panic.
//!
//! Invariant: but for raw bytes, what is written holds no control character: names and records
//! from outside cannot move the cursor of a terminal or forge lines.

use std::io::{self, BufWriter, StdoutLock, Write};

use schemas::printable::{printable_json, printable_line};
use serde::Serialize;

use crate::error::CliError;

/// Where a command's result goes.
pub(crate) struct Output(BufWriter<StdoutLock<'static>>);

impl Output {
    /// Standard output.
    pub(crate) fn new() -> Self {
        Self(BufWriter::new(io::stdout().lock()))
    }

    /// Writes a line; tabs between its fields stay.
    pub(crate) fn line(&mut self, text: impl AsRef<str>) -> Result<(), CliError> {
        self.write_line(&printable_line(text.as_ref()))
    }

    /// Writes a value as a line of JSON.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> Result<(), CliError> {
        let json = serde_json::to_string(value).map_err(io::Error::from).map_err(error())?;
        self.write_line(&printable_json(&json))
    }

    /// Writes bytes as they are.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> Result<(), CliError> {
        self.0.write_all(bytes).map_err(error())
    }

    /// Flushes what was written.
    pub(crate) fn flush(&mut self) -> Result<(), CliError> {
        self.0.flush().map_err(error())
    }

    fn write_line(&mut self, line: &str) -> Result<(), CliError> {
        writeln!(self.0, "{line}").map_err(error())
    }
}

/// What a failed write is.
pub(crate) fn error() -> impl FnOnce(io::Error) -> CliError {
    CliError::io("cannot write to standard output")
}
