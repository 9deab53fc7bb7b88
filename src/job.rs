//! A job as a command line or a `dataflow.yaml` describes it, before anything is opened.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dataflow::clock::SystemClock;
use dataflow::{JobSpec, Settings, StateAt};
use schemas::config::{self, Config, ConfigError, FILE_BYTES_MAX, SourceUri};
use schemas::printable::shown;
use sinks::commits::Retention;
use sinks::cql::{CqlPublisher, CqlSettings};
use sinks::publish::Publisher;

use crate::error::CliError;
use crate::host::{host_name, worker_default};
use crate::inputs::JobInput;
use crate::service::ListenArgs;

/// The name of a job that is described by a command line.
pub(crate) const JOB_NAME: &str = "hashtags";

/// A job that could be started.
pub(crate) struct Job {
    /// Its name.
    pub(crate) name: String,
    /// What to count, and how.
    pub(crate) settings: Settings,
    /// What to read.
    pub(crate) inputs: Vec<JobInput>,
    /// The state folder.
    pub(crate) state: PathBuf,
    /// Worker threads.
    pub(crate) workers: usize,
    /// Where to serve the counts, if anywhere.
    pub(crate) listen: Option<ListenArgs>,
    /// Where to publish the counts, if anywhere.
    pub(crate) store: Option<CqlSettings>,
}

/// Reads and checks a `dataflow.yaml`.
pub(crate) fn load(file: &Path) -> Result<Config, CliError> {
    let name = shown(file);
    let parsed = Config::parse(&read(file, &name)?, &name);
    let posts = [".ndjson", ".jsonl", ".gz", ".zst"];
    if parsed.is_err() && posts.iter().any(|ending| name.to_ascii_lowercase().ends_with(ending)) {
        return Err(CliError::Usage(format!("{name} is no dataflow.yaml; {}", count_it(&name))));
    }
    Ok(parsed?)
}

/// What to do with posts that were taken for a configuration.
fn count_it(name: &str) -> String {
    format!("to count posts, write `--input {name}`")
}

/// The text of a configuration. It is read only if it is a file, since a pipe or a device may have
/// no end, and only as far as a configuration may be long.
fn read(file: &Path, name: &str) -> Result<String, CliError> {
    let failed = || CliError::io(format!("cannot read {name}"));
    let found = fs::metadata(file).map_err(failed())?;
    if !found.is_file() {
        let what = if found.is_dir() {
            format!("{name} is a folder, and a dataflow.yaml is a file; {}", count_it(name))
        } else {
            format!("{name} is a pipe or a device, and a dataflow.yaml is a file")
        };
        return Err(CliError::Failed(what));
    }
    let most = FILE_BYTES_MAX as u64;
    let mut bytes = Vec::new();
    let opened = fs::File::open(file).map_err(failed())?;
    opened.take(most + 1).read_to_end(&mut bytes).map_err(failed())?;
    if bytes.len() as u64 > most {
        return Err(ConfigError::too_large(name, found.len().max(bytes.len() as u64)).into());
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..at].split(|byte| *byte == b'\n').count();
        let byte = error.as_bytes()[at];
        let what = format!(
            "cannot read {name}: byte {at} (0x{byte:02x}, in line {line}) is not UTF-8; save the \
             file as UTF-8"
        );
        CliError::Failed(what)
    })
}

impl Job {
    /// The job of a `dataflow.yaml`, which may use nothing that this build lacks.
    pub(crate) fn read(file: &Path, bounded: bool) -> Result<Self, CliError> {
        let config = load(file)?;
        if config.missing_parts().is_empty() {
            return Ok(Self::of(&config, bounded));
        }
        Err(CliError::missing(&shown(file), &config))
    }

    /// The job of a checked configuration, without the parts that this build lacks.
    pub(crate) fn of(config: &Config, bounded: bool) -> Self {
        let settings = Settings::default();
        let mut settings = if bounded { settings.bounded() } else { settings };
        let (service, state) = (&config.service, &config.state);
        settings.every_ms = state.every_ms;
        settings.retention =
            Retention { keep_ms: state.keep_ms, bytes: state.bytes, grace_ms: state.grace_ms };
        settings.horizon_ms = service.dedup.horizon_ms.or(settings.horizon_ms);
        settings.beyond = service.dedup.beyond;
        if !bounded {
            settings.max_future_ms = Some(service.window.watermark.max_future_ms);
        }
        settings.windows.clone_from(&service.window.windows);
        settings.top_k = service.top.k;
        settings.scopes.clone_from(&service.scopes);
        settings.max_skew_ms = service.window.watermark.max_skew_ms;
        let input = |topic: &config::Topic| JobInput {
            topic: topic.clone(),
            group: format!("tagflow-{}", config.meta.name),
            span: None,
        };
        Self {
            name: config.meta.name.clone(),
            settings,
            inputs: config.topics.iter().map(input).collect(),
            state: state.path.clone(),
            workers: config.workers.unwrap_or_else(worker_default),
            listen: config.serve.as_ref().map(ListenArgs::from),
            store: service.sink.as_ref().map(CqlSettings::from),
        }
    }

    /// Checks its inputs as far as possible without opening them.
    pub(crate) fn check(&self) -> Result<(), CliError> {
        let kafka = |input: &&JobInput| matches!(input.topic.source, SourceUri::Kafka { .. });
        let mut kafka = self.inputs.iter().filter(kafka);
        kafka.try_for_each(|input| input.origin(&self.settings, &self.state).map(drop))
    }

    /// The specification that starts it.
    pub(crate) fn spec(&self, take_over: bool) -> Result<JobSpec, CliError> {
        let inputs = self.inputs.iter().map(|input| input.spec(&self.settings, &self.state));
        let publisher = match &self.store {
            Some(store) => {
                let publisher = CqlPublisher::new(store.clone().with_environment()?)?;
                Some((self.name.clone(), Box::new(publisher) as Box<dyn Publisher>))
            }
            None => None,
        };
        Ok(JobSpec {
            inputs: inputs.collect::<Result<_, CliError>>()?,
            settings: self.settings.clone(),
            state: StateAt::Folder(self.state.clone()),
            workers: self.workers,
            take_over,
            clock: Arc::new(SystemClock::default()),
            host: host_name(),
            publisher,
        })
    }
}
