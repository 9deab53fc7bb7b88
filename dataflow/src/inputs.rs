//! The inputs of a job as they are specified, and how they become logs.

use std::path::PathBuf;
use std::sync::Arc;

use schemas::config::{FileOptions, LogTimeSource, OutOfRange};
use schemas::mapping::Mapping;
use thiserror::Error;

use crate::clock::Clock;
use crate::generator::GeneratorSpec;
use crate::settings::{Input, Settings};
use crate::sources::{FileLog, GeneratorLog, Log, LogError, Mode, Span, SpanLog, StdinLog};

/// Where an input's records come from.
#[derive(Clone)]
pub enum Origin {
    /// A file or a folder of files.
    Files {
        /// The file or folder.
        path: PathBuf,
        /// How they are read.
        mode: Mode,
        /// How they are found and unpacked.
        options: FileOptions,
    },
    /// Standard input.
    Stdin,
    /// Generated posts.
    Generator {
        /// What to generate.
        spec: GeneratorSpec,
        /// Whether they appear in real time.
        real_time: bool,
    },
    /// A log that the caller provides.
    Log(Arc<dyn Log>),
}

/// A named input.
#[derive(Clone)]
pub struct InputSpec {
    /// Its name.
    pub name: String,
    /// Where its records come from.
    pub origin: Origin,
    /// The names that its records use for the fields of an event.
    pub mapping: Mapping,
    /// What its log time follows; `None` means append times if brokers stamp records, else events.
    pub log_time: Option<LogTimeSource>,
    /// The part of it that is read; `None` means all.
    pub span: Option<Span>,
}

/// Why an input cannot be opened.
#[derive(Debug, Error)]
pub enum InputError {
    /// Its log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Its generator has an option outside its range.
    #[error(transparent)]
    Generator(#[from] OutOfRange),
}

impl InputSpec {
    /// Whether a restarted job can read the same records from it again.
    pub(crate) fn is_repeatable(&self) -> bool {
        !matches!(self.origin, Origin::Stdin)
    }

    /// Opens it for the run that made takeover `generation`.
    pub(crate) fn open(
        &self,
        generation: u64,
        settings: &Settings,
        clock: &Arc<dyn Clock>,
    ) -> Result<Input, InputError> {
        let log: Arc<dyn Log> = match &self.origin {
            Origin::Files { path, mode, options } => Arc::new(FileLog::new(path, *mode, *options)?),
            Origin::Stdin => Arc::new(StdinLog::new(generation)),
            Origin::Generator { spec, real_time: true } => {
                Arc::new(GeneratorLog::real_time(spec.clone(), Arc::clone(clock))?)
            }
            Origin::Generator { spec, real_time: false } => {
                Arc::new(GeneratorLog::fast(spec.clone())?)
            }
            Origin::Log(log) => Arc::clone(log),
        };
        let decoder = settings.decoder(&self.mapping);
        let log: Arc<dyn Log> = match &self.span {
            Some(span) => Arc::new(SpanLog::new(log, decoder.clone(), span)?),
            None => log,
        };
        Ok(Input { name: self.name.clone(), log, decoder, log_time: self.log_time })
    }
}
