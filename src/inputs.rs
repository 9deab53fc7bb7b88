//! Inputs as command lines and files name them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use dataflow::clock::{Clock, SystemClock};
use dataflow::generator::GeneratorSpec;
use dataflow::sources::Mode;
use dataflow::sources::kafka::{KafkaLog, KafkaSettings, OnLost, PropertyError};
use dataflow::{Origin, Settings};
use schemas::config::{GeneratorSource, HostPort, SourceUri};

use crate::error::CliError;
use crate::job::{Kafka, Topic};

/// Environment variables with properties of the Kafka client begin so.
const KAFKA_VARIABLE: &str = "TAGFLOW_KAFKA_";

/// Where the records of `topic` come from, for a job with `settings` on `state`.
pub(crate) fn origin(topic: &Topic, settings: &Settings, state: &Path) -> Result<Origin, CliError> {
    let bounded = !settings.live;
    match &topic.source {
        SourceUri::Kafka { brokers, topic: name } => {
            let kafka = KafkaSettings { bounded, ..kafka(brokers, name, &topic.kafka) };
            let log = KafkaLog::new(kafka).map_err(|error| refused(&error, &topic.kafka))?;
            Ok(Origin::Log(Arc::new(log)))
        }
        SourceUri::Stdin => Ok(Origin::Stdin),
        SourceUri::File(path) => {
            // Blocks are read in any order, which a horizon does not allow.
            let mode = match (bounded, settings.horizon_ms) {
                (true, None) => Mode::Blocks,
                (true, Some(_)) => Mode::Ordered,
                (false, _) => Mode::Tail,
            };
            Ok(Origin::Files { path: path.clone(), mode })
        }
        SourceUri::Generator(source) => {
            if bounded && source.posts.is_none() {
                let what = "a bounded run of a generator ends only with generator:?posts=N";
                return Err(CliError::Usage(what.to_owned()));
            }
            Ok(Origin::Generator {
                spec: generator(source, state)?,
                real_time: source.rate_per_s.is_some(),
            })
        }
    }
}

/// How the topic `name` is reached; what the environment says gives way to what `kafka` does.
pub(crate) fn kafka(brokers: &[HostPort], name: &str, kafka: &Kafka) -> KafkaSettings {
    let mut properties = environment();
    properties.extend(kafka.properties.clone());
    KafkaSettings {
        brokers: brokers.iter().map(ToString::to_string).collect(),
        topic: name.to_owned(),
        properties,
        group: kafka.group.clone(),
        bounded: false,
        from_end: kafka.from_end,
        on_lost: kafka.on_lost,
    }
}

/// What is wrong with a property, with the environment variable that sets it.
pub(crate) fn refused(error: &PropertyError, kafka: &Kafka) -> CliError {
    let property = error.property();
    if kafka.properties.contains_key(property) || !environment().contains_key(property) {
        return CliError::Usage(error.to_string());
    }
    let variable = property.to_ascii_uppercase().replace('.', "_");
    CliError::Usage(format!("{error} ({KAFKA_VARIABLE}{variable} sets it)"))
}

/// The properties that the environment sets; an empty variable sets none.
fn environment() -> BTreeMap<String, String> {
    let variables = std::env::vars_os().filter_map(|(name, value)| {
        let name = name.into_string().ok()?;
        let name = name.strip_prefix(KAFKA_VARIABLE)?.to_ascii_lowercase().replace('_', ".");
        Some((name, value.into_string().ok().filter(|value| !value.is_empty())?))
    });
    variables.collect()
}

/// Reads `KEY=VALUE` arguments, the last of one key counts.
pub(crate) fn properties(pairs: &[String]) -> Result<BTreeMap<String, String>, CliError> {
    let pair = |pair: &String| {
        let (name, value) = pair.split_once('=').filter(|(name, _)| !name.is_empty())?;
        Some((name.to_owned(), value.to_owned()))
    };
    // What it is instead may hold a secret.
    let wrong = || CliError::Usage("--kafka: write KEY=VALUE".to_owned());
    pairs.iter().map(|text| pair(text).ok_or_else(wrong)).collect()
}

/// What becomes of records that were removed before they were read.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum OnLostArg {
    /// End with an error that says which
    Error,
    /// Go on with what is left, and count them
    Skip,
}

impl From<OnLostArg> for OnLost {
    fn from(arg: OnLostArg) -> Self {
        match arg {
            OnLostArg::Error => Self::Error,
            OnLostArg::Skip => Self::Skip,
        }
    }
}

fn generator(source: &GeneratorSource, state: &Path) -> Result<GeneratorSpec, CliError> {
    let mut spec = GeneratorSpec {
        posts: source.posts,
        seed: source.seed,
        tags_mean: source.tags_mean,
        vocabulary: source.vocabulary,
        zipf: source.zipf,
        duplicates: source.duplicates,
        late: source.late,
        future: source.future,
        bursts: source.bursts,
        hot_tag: source.hot_tag,
        partitions: source.partitions,
        ..GeneratorSpec::default()
    };
    if let Some(rate) = source.rate_per_s {
        spec.start_ms = started_ms(state)?;
        spec.step_us = 1_000_000 / rate;
    }
    Ok(spec)
}

/// When the generated stream of this state began: a later start goes on with the same posts.
pub(crate) fn started_ms(state: &Path) -> Result<i64, CliError> {
    let file = state.join("generator-started-ms");
    if let Ok(text) = fs::read_to_string(&file) {
        let wrong = || CliError::Failed(format!("{} holds no number", file.display()));
        return text.trim().parse().map_err(|_| wrong());
    }
    let now = SystemClock::default().wall_ms();
    let write = fs::create_dir_all(state).and_then(|()| fs::write(&file, now.to_string()));
    write.map_err(CliError::io(format!("cannot write {}", file.display())))?;
    Ok(now)
}
