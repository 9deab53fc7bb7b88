//! Standard output: buffered; a write to a closed pipe is an error instead of a panic.

use std::io::{self, BufWriter, StdoutLock, Write};

use serde::Serialize;

use crate::error::CliError;

/// Where a command's result goes.
pub(crate) struct Output(BufWriter<StdoutLock<'static>>);

impl Output {
    /// Standard output.
    pub(crate) fn new() -> Self {
        Self(BufWriter::new(io::stdout().lock()))
    }

    /// Writes a line.
    pub(crate) fn line(&mut self, text: impl AsRef<str>) -> Result<(), CliError> {
        writeln!(self.0, "{}", text.as_ref()).map_err(error())
    }

    /// Writes a value as a line of JSON.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> Result<(), CliError> {
        let written = serde_json::to_writer(&mut self.0, value).map_err(io::Error::from);
        written.and_then(|()| writeln!(self.0)).map_err(error())
    }

    /// Flushes what was written.
    pub(crate) fn flush(&mut self) -> Result<(), CliError> {
        self.0.flush().map_err(error())
    }
}

fn error() -> impl FnOnce(io::Error) -> CliError {
    CliError::io("cannot write to standard output")
}
