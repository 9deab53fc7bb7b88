//! `tagflow run`: the job, until its input ends or it is asked to stop.

use std::path::PathBuf;
use std::sync::Arc;

use dataflow::clock::SystemClock;
use dataflow::{Beyond, JobSpec, Scope, Settings, Started, StateAt, start};
use prometheus_client::registry::Registry;
use schemas::manifest::Manifest;
use schemas::mapping::Mapping;
use schemas::time::parse_duration_ms;
use serde::Serialize;
use sinks::commits::Retention;

use crate::error::CliError;
use crate::host::{host_name, worker_default};
use crate::inputs::input;
use crate::output::Output;
use crate::progress::LiveLine;
use crate::service::{ListenArgs, Listeners, Service};
use crate::signals::on_stop;

/// Count the hashtags of an input, with commits that survive a crash
#[derive(clap::Args)]
#[command(after_help = "Examples:
  tagflow run --input examples/posts.ndjson --state ./state --bounded
  tagflow run --input ./posts --map event_id=id,ts=created_at,caption=text --state ./state")]
pub(crate) struct Args {
    /// A file, a folder of NDJSON files, or stdin:
    #[arg(long, value_name = "INPUT")]
    input: String,
    /// What the records call the fields of an event, and how they write ts (ms, s, us, rfc3339)
    #[arg(long, value_name = "FIELD=NAME,…", default_value = "", hide_default_value = true)]
    map: String,
    /// The state folder, made where it does not exist
    #[arg(long, value_name = "DIR")]
    state: PathBuf,
    /// Worker threads; one less than there are cores by default
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: Option<u16>,
    /// Read to the present end of the input and leave; every event id is kept
    #[arg(long)]
    bounded: bool,
    /// Read events up to this time, and evaluate windows at it
    #[arg(long, value_name = "MS", requires = "bounded")]
    until: Option<i64>,
    /// How long an event id is remembered; 24h, or for ever in a bounded run
    #[arg(long, value_name = "DURATION", value_parser = parse_duration_ms)]
    horizon: Option<i64>,
    /// Count events beyond the horizon as they are instead of refusing them
    #[arg(long)]
    count_beyond: bool,
    /// Count within values of an attribute as well, such as region=us,eu
    #[arg(long, value_name = "ATTRIBUTE=VALUE,…", value_parser = parse_scope)]
    scope: Vec<Scope>,
    /// Read at most so many records a second
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit_rate: Option<u64>,
    /// How long old commits stay
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = parse_duration_ms)]
    keep: i64,
    /// How long files stay for readers after no commit needs them
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = parse_duration_ms)]
    grace: i64,
    /// Supersede a job that still lives on this state
    #[arg(long)]
    take_over: bool,
    /// Serve the counts as well, at --listen and --metrics
    #[arg(long)]
    serve: bool,
    #[command(flatten)]
    listen: ListenArgs,
    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,
}

fn parse_scope(text: &str) -> Result<Scope, String> {
    let (attribute, values) = text.split_once('=').ok_or("write ATTRIBUTE=VALUE,…")?;
    let allow: Vec<String> = values.split(',').map(str::to_owned).collect();
    if attribute.is_empty() || allow.iter().any(String::is_empty) {
        return Err("an attribute and its values cannot be empty".to_owned());
    }
    Ok(Scope { attribute: attribute.to_owned(), allow })
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Result<(), CliError> {
    let spec = spec(&args)?;
    let listeners = args.serve.then(|| Listeners::bind(&args.listen)).transpose()?;
    let job = match start(spec)? {
        Started::Running(job) => job,
        Started::Finished(manifest) => {
            eprintln!("this run had been finished before; nothing was changed");
            return tell(&manifest, args.json);
        }
    };
    let stop = job.stop();
    on_stop(move || stop.set());
    let serve = |listeners: Listeners| {
        let mut registry = Registry::with_prefix("tagflow");
        job.status().register(&mut registry);
        eprintln!("serving {}", listeners.url);
        listeners.serve(&args.state, registry)
    };
    let service = listeners.map(serve).transpose()?;
    let live = LiveLine::start(job.status(), String::new);
    let ended = job.wait();
    drop(live);
    service.into_iter().for_each(Service::stop);
    tell(&ended?, args.json)
}

fn spec(args: &Args) -> Result<JobSpec, CliError> {
    let settings = Settings::default();
    let mut settings = if args.bounded { settings.bounded() } else { settings };
    settings.horizon_ms = args.horizon.or(settings.horizon_ms);
    settings.beyond = if args.count_beyond { Beyond::Count } else { Beyond::DeadLetter };
    settings.until_ms = args.until;
    settings.limit_rate = args.limit_rate;
    settings.scopes.clone_from(&args.scope);
    settings.retention =
        Retention { keep_ms: args.keep, bytes: None, grace_ms: args.grace.unsigned_abs() };
    let attributes: Vec<&str> = args.scope.iter().map(|s| s.attribute.as_str()).collect();
    let mapping = Mapping::parse(&args.map, &attributes)
        .map_err(|error| CliError::Usage(format!("--map: {error}")))?;
    // Blocks are read in any order, which a horizon does not allow.
    let ordered = settings.horizon_ms.is_some();
    Ok(JobSpec {
        settings,
        inputs: vec![input(&args.input, mapping, args.bounded, ordered)],
        state: StateAt::Folder(args.state.clone()),
        workers: args.workers.map_or_else(worker_default, usize::from),
        take_over: args.take_over,
        clock: Arc::new(SystemClock::default()),
        host: host_name(),
        publisher: None,
    })
}

#[derive(Serialize)]
struct Ended {
    commit: u64,
    as_of: Option<i64>,
    finished: bool,
    #[serde(flatten)]
    counters: schemas::manifest::Counters,
}

fn tell(manifest: &Manifest, json: bool) -> Result<(), CliError> {
    let Manifest { header, body } = manifest;
    let mut output = Output::new();
    if json {
        output.json(&Ended {
            commit: header.commit,
            as_of: body.as_of_ms,
            finished: body.finished.is_some(),
            counters: body.counters,
        })?;
    } else {
        output.line(format!("commit {}", header.commit))?;
        for (name, count) in body.counters.named().iter().filter(|(_, count)| *count > 0) {
            output.line(format!("{name:<16} {count:>12}"))?;
        }
    }
    output.flush()
}
