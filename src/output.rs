//! Standard output: buffered, and an error instead of a panic when its reader has gone.

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

    /// Makes what was written appear.
    pub(crate) fn flush(&mut self) -> Result<(), CliError> {
        self.0.flush().map_err(error())
    }
}

/// Goes on where nobody reads the output any more: an exit code that tells what was found, and what
/// there is to do, do not depend on it.
pub(crate) fn unless_closed(written: Result<(), CliError>) -> Result<(), CliError> {
    written.or_else(|error| if error.is_broken_pipe() { Ok(()) } else { Err(error) })
}

fn error() -> impl FnOnce(io::Error) -> CliError {
    CliError::io("cannot write to standard output")
}
