//! `tagflow explain`: what the job of a `dataflow.yaml` does and promises, and how big its state
//! gets.

use std::path::{Path, PathBuf};

use dataflow::{Estimate, Load, Settings};
use schemas::config::{
    Beyond, Config, Follow, LogTimeSource, OnLost, OnOpenTransaction, OnTruncate, Position,
    SourceUri, Topic,
};
use schemas::mapping::{Field, Mapping};
use schemas::printable::{counted, shown, size};
use schemas::time::format_duration_ms;
use serde::Serialize;

use crate::error::CliError;
use crate::job::{Job, load};
use crate::output::Output;

/// Explain what the job of a dataflow.yaml does, and its size
#[derive(clap::Args)]
#[command(after_help = "Example:
  tagflow explain dataflow.yaml --posts 144000000 --tags-per-post 8 --distinct-tags 23000000")]
pub(crate) struct Args {
    /// The dataflow.yaml
    #[arg(value_name = "CONFIG")]
    config: PathBuf,
    /// Explain a run with --bounded
    #[arg(long)]
    bounded: bool,
    /// Estimate for N posts: those within the horizon, or all of a bounded run
    #[arg(long, value_name = "N", default_value_t = Load::default().ids)]
    posts: u64,
    /// The mean number of tags per post
    #[arg(long, value_name = "N", default_value_t = Load::default().tags_per_post)]
    tags_per_post: f64,
    /// The number of different tags
    #[arg(long, value_name = "N", default_value_t = Load::default().tags)]
    distinct_tags: u64,
    /// The Zipf exponent of the tags' popularity
    #[arg(long, value_name = "S", default_value_t = Load::default().zipf)]
    zipf: f64,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// A step of the graph and what it does in this job.
#[derive(Serialize)]
struct Step {
    operator: &'static str,
    does: String,
}

#[derive(Serialize)]
struct Explained {
    job: String,
    workers: usize,
    state: String,
    graph: Vec<Step>,
    exchanges: [&'static str; 2],
    guarantees: Vec<String>,
    missing: Vec<String>,
    estimate: Estimate,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<(), CliError> {
    let config = load(&args.config)?;
    let load = load_of(args)?;
    let explained = explain(&config, &args.config, args.bounded, load);
    let mut output = Output::new();
    if args.json {
        output.json(&explained)?;
    } else {
        print(&mut output, &explained, load)?;
    }
    output.flush()
}

fn load_of(args: &Args) -> Result<Load, CliError> {
    let (tags_per_post, zipf) = (args.tags_per_post, args.zipf);
    if !(0.0..=60.0).contains(&tags_per_post) {
        return Err(CliError::Usage("--tags-per-post must be from 0 to 60".to_owned()));
    }
    if !(0.0..=10.0).contains(&zipf) {
        return Err(CliError::Usage("--zipf must be from 0 to 10".to_owned()));
    }
    Ok(Load { ids: args.posts, tags: args.distinct_tags, tags_per_post, zipf })
}

fn explain(config: &Config, file: &Path, bounded: bool, load: Load) -> Explained {
    let job = Job::of(config, bounded);
    let version = config.meta.version.iter().map(|version| format!(" {version}"));
    let retention = &job.settings.retention;
    let bytes = retention.bytes.map(|bytes| format!("{} of them", size(bytes)));
    Explained {
        job: std::iter::once(config.meta.name.clone()).chain(version).collect(),
        workers: job.workers,
        state: format!(
            "{}: a commit every {}, or every {} while the job lags; old ones are kept for {}, at most \
             {}",
            shown(&job.state),
            format_duration_ms(job.settings.every_ms.cast_signed()),
            format_duration_ms(job.settings.stretched_ms().cast_signed()),
            format_duration_ms(retention.keep_ms),
            bytes.unwrap_or_else(|| "as many bytes as the newest has".to_owned()),
        ),
        graph: graph(&job, bounded),
        exchanges: [
            "events, by event_id, from read to dedup",
            "sums, by tag, from combine to tags",
        ],
        guarantees: guarantees(&job.settings, bounded),
        missing: config.missing_parts().iter().map(|p| format!("{}:{p}", shown(file))).collect(),
        estimate: Estimate::of(&job.settings, load),
    }
}

fn graph(job: &Job, bounded: bool) -> Vec<Step> {
    let settings = &job.settings;
    let step = |operator, does: String| Step { operator, does };
    let horizon = settings.horizon_ms.map_or("for ever".to_owned(), |ms| {
        let beyond = match settings.beyond {
            Beyond::DeadLetter => "become dead letters",
            Beyond::Count => "are counted",
        };
        format!("for {}, and older events {beyond}", format_duration_ms(ms))
    });
    let windows = settings.windows.iter();
    let windows: Vec<String> = windows
        .map(|w| format!("{} in steps of {}", w.name(), format_duration_ms(w.slide_ms)))
        .collect();
    let boards: Vec<String> =
        settings.windows.iter().map(schemas::windows::Window::name).chain(["all".into()]).collect();
    let scopes = settings.scope_names();
    let scopes: Vec<&str> =
        scopes.iter().map(|s| if s.is_empty() { "all posts" } else { s.as_str() }).collect();
    let mut graph: Vec<Step> =
        job.inputs.iter().map(|input| step("source", source(&input.topic, bounded))).collect();
    graph.extend([
        step(
            "read",
            "decodes events and finds their hashtags, at most 60 different ones in a post".into(),
        ),
        step("dedup", format!("counts an event_id once in its topic; ids are kept {horizon}")),
        step("combine", "adds up the posts of a tag before they are sent to its worker".to_owned()),
        step(
            "tags",
            format!(
                "keeps the total and the windows {}, for {}",
                windows.join(", "),
                scopes.join(", ")
            ),
        ),
        step("boards", format!("ranks the top {} of {}", settings.top_k, boards.join(", "))),
        step(
            "commit",
            "writes what has changed to disk, then the manifest, then shows it to readers".into(),
        ),
    ]);
    if let Some(listen) = &job.listen {
        let listen = &listen.listen;
        graph.push(step("serve", format!("answers at http://{listen} from the newest commit")));
    }
    graph
}

/// A file that is followed.
fn followed(path: &Path, follow: Follow) -> String {
    let truncated = match follow.on_truncate {
        OnTruncate::Stop => "an error",
        OnTruncate::GoOn => "counted, and read from its beginning",
    };
    let wait = format_duration_ms(follow.rotate_wait.0);
    format!(
        "{} and what is appended to it; a renamed file is read until {wait} after it last grew, a \
         truncated one is {truncated}",
        shown(path)
    )
}

fn source(topic: &Topic, bounded: bool) -> String {
    let Topic { name, source, mapping, log_time, start, on_lost, .. } = topic;
    let Topic { on_open_transaction, follow, .. } = topic;
    let place = match source {
        SourceUri::Kafka { brokers, topic } => {
            let brokers: Vec<String> = brokers.iter().map(ToString::to_string).collect();
            let begins = if *start == Position::End { ", starting at its end" } else { "" };
            let ends = match (bounded, on_open_transaction) {
                (false, _) => "",
                (true, OnOpenTransaction::Wait) => ", up to its ends when the job starts",
                (true, OnOpenTransaction::End) => {
                    ", up to its ends or open transactions when the job starts"
                }
            };
            let lost = match on_lost {
                OnLost::Error => "an error",
                OnLost::Skip => "skipped and counted",
            };
            let time = match log_time {
                None => "the topic's append times, or event time if it has none",
                Some(LogTimeSource::Append) => "append times",
                Some(LogTimeSource::Event) => "event time",
            };
            let brokers = brokers.join(", ");
            format!(
                "the committed records of Kafka topic {topic} at {brokers}{begins}{ends}; log time \
                 follows {time}; records lost to retention are {lost}"
            )
        }
        SourceUri::File(path) if bounded => format!("{} up to its present end", shown(path)),
        SourceUri::File(path) => followed(path, *follow),
        SourceUri::Stdin => "standard input".to_owned(),
        SourceUri::Generator(source) => match source.rate_per_s {
            Some(rate) => format!("{rate} generated posts per second"),
            None => "generated posts, as fast as they are read".to_owned(),
        },
    };
    format!("{name}: {place}; {}", fields(mapping))
}

/// The fields of records that are not named like those of events.
fn fields(mapping: &Mapping) -> String {
    let renamed = Field::ALL.into_iter().filter_map(|field| match mapping.name(field) {
        Some(name) if name == field.name() => None,
        Some(name) => Some(format!("{} is {name:?}", field.name())),
        None => Some(format!("no {}", field.name())),
    });
    let mut parts: Vec<String> = renamed.collect();
    parts.push(format!("ts is in {}", mapping.unit()));
    parts.join(", ")
}

fn guarantees(settings: &Settings, bounded: bool) -> Vec<String> {
    let ids = settings.horizon_ms.map(|ms| {
        let horizon = format_duration_ms(ms);
        format!("an event counts once if its copies arrive within {horizon} of log time")
    });
    let mut all = vec![
        ids.unwrap_or_else(|| "an event counts once, however late its copies arrive".to_owned()),
        "a crash at any point loses nothing and counts nothing twice".to_owned(),
        "a restart may use any number of workers".to_owned(),
        "readers see whole commits, and never go back to an older one".to_owned(),
        "every record is in a counter, and refused ones are in the dead letters".to_owned(),
    ];
    if !bounded && let Some(ms) = settings.max_future_ms {
        let ahead = format_duration_ms(ms);
        all.push(format!(
            "an event dated more than {ahead} ahead of the clock becomes a dead letter"
        ));
    }
    all
}

fn print(output: &mut Output, explained: &Explained, load: Load) -> Result<(), CliError> {
    let Explained { job, workers, state, graph, exchanges, guarantees, missing, estimate } =
        explained;
    output.line(format!("job       {job}"))?;
    output.line(format!("workers   {workers}"))?;
    output.line(format!("state     {state}"))?;
    output.line("")?;
    output.line("steps")?;
    for Step { operator, does } in graph {
        output.line(format!("  {operator:<8}{does}"))?;
    }
    output.line("")?;
    output.line("sent between workers")?;
    exchanges.iter().try_for_each(|exchange| output.line(format!("  {exchange}")))?;
    output.line("")?;
    output.line("promises (GUARANTEES.md says under which assumptions)")?;
    guarantees.iter().try_for_each(|promise| output.line(format!("  {promise}")))?;
    let Load { ids, tags, tags_per_post, zipf } = load;
    let posts = counted(ids, "post", "posts");
    let per_post = counted(tags_per_post, "tag", "tags");
    let tags = counted(tags, "different tag", "different tags");
    output.line("")?;
    output.line(format!(
        "size with {posts} that have {per_post} each, of {tags} (Zipf exponent {zipf})"
    ))?;
    output.line(format!("  memory of event ids   {:>10}", size(estimate.id_bytes)))?;
    output.line(format!("  memory of tags        {:>10}", size(estimate.tag_bytes)))?;
    output.line(format!("  commit on disk, merged{:>10}", size(estimate.segment_bytes)))?;
    if !missing.is_empty() {
        output.line("")?;
        output.line("not in this build yet")?;
    }
    missing.iter().try_for_each(|part| output.line(format!("  {part}")))
}
