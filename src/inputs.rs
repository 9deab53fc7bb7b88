//! Inputs as command lines and files name them.

use std::fs;
use std::path::Path;

use dataflow::clock::{Clock, SystemClock};
use dataflow::log::Mode;
use dataflow::log::generator::GeneratorSpec;
use dataflow::{Origin, Settings};
use schemas::config::{GeneratorSource, SourceUri};

use crate::error::CliError;

/// Where the records of `source` come from, for a job with `settings` on `state`.
pub(crate) fn origin(
    source: &SourceUri,
    settings: &Settings,
    state: &Path,
) -> Result<Origin, CliError> {
    let bounded = !settings.live;
    match source {
        SourceUri::Kafka { .. } => {
            let what = "kafka: sources are not in this build yet; use a file or stdin:";
            Err(CliError::Failed(what.to_owned()))
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
