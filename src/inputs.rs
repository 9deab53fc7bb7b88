//! The inputs of a job, as its command line or its `dataflow.yaml` names them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use dataflow::clock::{Clock, SystemClock};
use dataflow::generator::GeneratorSpec;
use dataflow::sources::{Mode, Span};
use dataflow::{InputSpec, Origin, Settings};
use kafka::{KafkaOptions, KafkaSettings, PropertyError, TopicReader};
use schemas::config::{GeneratorSource, HostPort, SourceUri, Topic};
use schemas::printable::shown;

use crate::error::CliError;

/// The prefix of environment variables that set properties of the Kafka client.
const KAFKA_VARIABLE: &str = "TAGFLOW_KAFKA_";

/// An input of a job.
pub(crate) struct JobInput {
    /// Its name, where its records are and how they are read.
    pub(crate) topic: Topic,
    /// The group that offsets of a Kafka topic are committed for.
    pub(crate) group: String,
    /// The part of it that is read; `None` means all.
    pub(crate) span: Option<Span>,
}

impl JobInput {
    /// The specification of this input, for a job with `settings` on `state`.
    pub(crate) fn spec(&self, settings: &Settings, state: &Path) -> Result<InputSpec, CliError> {
        Ok(InputSpec {
            name: self.topic.name.clone(),
            origin: self.origin(settings, state)?,
            mapping: self.topic.mapping.clone(),
            log_time: self.topic.log_time,
            span: self.span.clone(),
        })
    }

    /// Where its records come from, for a job with `settings` on `state`.
    pub(crate) fn origin(&self, settings: &Settings, state: &Path) -> Result<Origin, CliError> {
        let bounded = !settings.live;
        match &self.topic.source {
            SourceUri::Kafka { brokers, topic } => {
                let settings = KafkaSettings { bounded, ..self.kafka_settings(brokers, topic) };
                let reader = TopicReader::new(settings);
                let reader = reader.map_err(|error| refused(&error, &self.topic.properties))?;
                Ok(Origin::Log(Arc::new(reader)))
            }
            SourceUri::Stdin => Ok(Origin::Stdin),
            SourceUri::File(path) => {
                // A horizon needs records in order, but blocks are read in any order.
                let mode = match (bounded, settings.horizon_ms) {
                    (true, None) => Mode::Blocks,
                    (true, Some(_)) => Mode::Ordered,
                    (false, _) => Mode::Follow(self.topic.follow),
                };
                Ok(Origin::Files { path: path.clone(), mode, options: self.topic.files })
            }
            SourceUri::Generator(source) => {
                if bounded && source.posts.is_none() {
                    let what =
                        "a bounded run of a generator needs an end; write generator:?posts=N";
                    return Err(CliError::Usage(what.to_owned()));
                }
                let real_time = source.rate_per_s.is_some();
                Ok(Origin::Generator { spec: generator(source, state)?, real_time })
            }
        }
    }

    /// How to reach it as the Kafka topic `name`.
    pub(crate) fn kafka_settings(&self, brokers: &[HostPort], name: &str) -> KafkaSettings {
        let Topic { start, on_lost, on_open_transaction, .. } = self.topic;
        let (properties, group) = (self.topic.properties.clone(), self.group.clone());
        let options = KafkaOptions { properties, group, start, on_lost, on_open_transaction };
        kafka_settings(brokers, name, options)
    }
}

/// The topic `name` with `options`, whose properties override those of the environment.
pub(crate) fn kafka_settings(
    brokers: &[HostPort],
    name: &str,
    options: KafkaOptions,
) -> KafkaSettings {
    let mut properties = environment();
    properties.extend(options.properties);
    KafkaSettings {
        brokers: brokers.iter().map(ToString::to_string).collect(),
        topic: name.to_owned(),
        bounded: false,
        options: KafkaOptions { properties, ..options },
    }
}

/// The error of a property, which is one of `given`, or else set by an environment variable.
pub(crate) fn refused(error: &PropertyError, given: &BTreeMap<String, String>) -> CliError {
    let property = error.property();
    if given.contains_key(property) || !environment().contains_key(property) {
        return CliError::Usage(error.to_string());
    }
    let variable = property.to_ascii_uppercase().replace('.', "_");
    CliError::Usage(format!("{error} ({KAFKA_VARIABLE}{variable} sets it)"))
}

/// The properties set by the environment; an empty variable sets none.
fn environment() -> BTreeMap<String, String> {
    let variables = std::env::vars_os().filter_map(|(name, value)| {
        let name = name.into_string().ok()?;
        let name = name.strip_prefix(KAFKA_VARIABLE)?.to_ascii_lowercase().replace('_', ".");
        Some((name, value.into_string().ok().filter(|value| !value.is_empty())?))
    });
    variables.collect()
}

/// Reads `KEY=VALUE` arguments; the last one of a key counts.
pub(crate) fn properties(pairs: &[String]) -> Result<BTreeMap<String, String>, CliError> {
    let pair = |pair: &String| {
        let (name, value) = pair.split_once('=').filter(|(name, _)| !name.is_empty())?;
        Some((name.to_owned(), value.to_owned()))
    };
    // The message does not repeat the argument, which may hold a secret.
    let wrong = || CliError::Usage("--kafka: write KEY=VALUE".to_owned());
    pairs.iter().map(|text| pair(text).ok_or_else(wrong)).collect()
}

fn generator(source: &GeneratorSource, state: &Path) -> Result<GeneratorSpec, CliError> {
    let mut spec = GeneratorSpec {
        posts: source.posts,
        shape: source.shape.clone(),
        partitions: source.partitions,
        ..GeneratorSpec::default()
    };
    if let Some(rate) = source.rate_per_s {
        spec.start_ms = started_ms(state)?;
        spec.step_us = 1_000_000 / rate;
    }
    Ok(spec)
}

/// When the generated stream of this state began, so that a restart continues the same stream.
pub(crate) fn started_ms(state: &Path) -> Result<i64, CliError> {
    let file = state.join("generator-started-ms");
    if let Ok(text) = fs::read_to_string(&file) {
        let wrong = || CliError::Failed(format!("{} does not hold a number", shown(&file)));
        return text.trim().parse().map_err(|_| wrong());
    }
    let now = SystemClock::default().wall_ms();
    let write = fs::create_dir_all(state).and_then(|()| fs::write(&file, now.to_string()));
    write.map_err(CliError::io(format!("cannot write {}", shown(&file))))?;
    Ok(now)
}
