//! `tagflow run`: runs the job until its input ends or it is stopped.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dataflow::{Publication, Publishing, Settings, Started, StateSize, Status, start};
use ipnet::IpNet;
use prometheus_client::registry::Registry;
use schemas::config::{
    Beyond, FileOptions, Follow, Name, OnLost, OnOpenTransaction, OnTruncate, Position, RotateWait,
    Scope, SourceUri, State, Topic, parse_network,
};
use schemas::manifest::{Counters, Manifest};
use schemas::mapping::Mapping;
use schemas::printable::shown;
use schemas::rows::DeadLetters;
use schemas::time::{Millis, TimeError};
use serde::de::value::StrDeserializer;
use serde::{Deserialize, Serialize};
use sinks::commits::{Retention, load, open_table};

use crate::arguments::{host_port, source, time};
use crate::error::CliError;
use crate::host::worker_default;
use crate::inputs::{JobInput, properties};
use crate::job::{JOB_NAME, Job};
use crate::output::Output;
use crate::progress::LiveLine;
use crate::say;
use crate::service::{ListenArgs, Listeners};
use crate::signals::on_stop_of_job;
use crate::state::{folder, open};
use crate::store_args::StoreArgs;
use crate::summary::{OF_THE_JOB, Summary, accepted_none, none_accepted, nothing_accepted};

/// Count the hashtags of an input, in commits that survive crashes
#[derive(clap::Args)]
#[command(after_help = "Examples:
  tagflow run dataflow.yaml
  tagflow run --input examples/posts.ndjson --state ./state --bounded
  tagflow run --input ./posts --state ./state --store cql://127.0.0.1:9042/tags
  tagflow run --input ./posts --map event_id=id,ts=created_at,caption=text --state ./state
  tagflow run --input kafka://127.0.0.1:9092/posts --state ./state --workers 2")]
pub(crate) struct Args {
    /// A dataflow.yaml, in place of --input and its options
    #[arg(value_name = "CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// Worker threads [default: the number of cores minus one]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: Option<u16>,
    /// Print the result as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    job: JobArgs,
    /// The state folder; created if it does not exist [default: that of the dataflow.yaml, or the
    /// variable `TAGFLOW_STATE`]
    #[arg(long, value_name = "DIR", help_heading = "State")]
    pub(crate) state: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    /// How long to wait at the end of the run for a store that does not answer
    #[arg(long, value_name = "DURATION", help_heading = "Store")]
    #[arg(default_value_t = Millis(Settings::default().store_wait_ms.cast_signed()))]
    store_wait: Millis,
    /// Read to the present end of the input and exit; without --horizon every id is kept
    #[arg(long, help_heading = "Input")]
    pub(crate) bounded: bool,
    /// Read events up to this time, and evaluate windows at that time: RFC 3339, or milliseconds
    #[arg(long, value_name = "TIME", requires = "bounded", value_parser = time)]
    #[arg(help_heading = "Input")]
    until: Option<i64>,
    /// Read at most N records per second
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    #[arg(help_heading = "Input")]
    limit_rate: Option<u64>,
    /// Take over the state from a job that is still running on it
    #[arg(long, help_heading = "State")]
    pub(crate) take_over: bool,
    /// How long a running job may make no commit before it counts as gone
    #[arg(long, value_name = "DURATION", value_parser = parse_silence, hide = true)]
    #[arg(default_value_t = Millis(Settings::default().silent_ms.cast_signed()))]
    silence: Millis,
}

/// A running job may pause for less, and a start that waited for longer would seem to hang.
const SILENCE_MS: RangeInclusive<i64> = 1000..=3_600_000;

fn parse_silence(text: &str) -> Result<Millis, String> {
    let silence: Millis = text.parse().map_err(|error: TimeError| error.to_string())?;
    if SILENCE_MS.contains(&silence.0) { Ok(silence) } else { Err("from 1s to 1h".to_owned()) }
}

/// What a `dataflow.yaml` says instead.
#[derive(clap::Args)]
#[command(next_help_heading = "Input")]
struct JobArgs {
    /// A file, a folder of NDJSON files, `kafka://HOST:PORT[,HOST:PORT]/TOPIC`, - for standard
    /// input, or generator:?rate=1000
    #[arg(long, value_name = "INPUT", conflicts_with = "config", value_parser = source())]
    input: Option<SourceUri>,
    /// What the input is called in the state; a state keeps what was counted of each name apart
    #[arg(long, value_name = "NAME", default_value = "input")]
    #[arg(conflicts_with = "config", hide_default_value = true)]
    input_name: Name,
    /// A property of the Kafka client, by its librdkafka name; pass secrets in variables such as
    /// `TAGFLOW_KAFKA_SASL_PASSWORD`
    #[arg(long, value_name = "KEY=VALUE", conflicts_with = "config")]
    kafka: Vec<String>,
    /// What to do when retention removed records of a topic before they were read: error (the
    /// default), or skip, which counts them
    #[arg(long, value_name = "WHAT", conflicts_with = "config", value_parser = parse_on_lost)]
    on_lost: Option<OnLost>,
    /// What a bounded run does if a transaction was open when it started: wait (the default), or
    /// end before its first record
    #[arg(long, value_name = "WHAT", conflicts_with = "config", value_parser = parse_on_open)]
    #[arg(requires = "bounded")]
    on_open_transaction: Option<OnOpenTransaction>,
    /// What to do when a followed file was truncated or overwritten: stop (the default), or go-on,
    /// which reads it from its beginning and counts that
    #[arg(long, value_name = "WHAT", conflicts_with = "config", value_parser = parse_on_truncate)]
    on_truncate: Option<OnTruncate>,
    /// How long a followed file that was renamed is read after a new one has its name, and after it
    /// last grew [default: 60s]
    #[arg(long, value_name = "DURATION", conflicts_with = "config")]
    rotate_wait: Option<Millis>,
    #[command(flatten)]
    files: FileOptions,
    /// The names that records use for the fields of an event, and the format of ts (ms, s, us or
    /// rfc3339)
    #[arg(long, value_name = "FIELD=NAME,…", default_value = "", hide_default_value = true)]
    #[arg(conflicts_with = "config")]
    map: String,
    /// How long an event id is remembered [default: 24h, or for ever with --bounded]
    #[arg(long, value_name = "DURATION", conflicts_with = "config", help_heading = "Counting")]
    horizon: Option<Millis>,
    /// Count events that are older than the horizon instead of refusing them
    #[arg(long, conflicts_with = "config", help_heading = "Counting")]
    count_beyond: bool,
    /// Also count within each of these values of an attribute, such as region=us,eu
    #[arg(long, value_name = "ATTRIBUTE=VALUE,…", value_parser = parse_scope)]
    #[arg(conflicts_with = "config", help_heading = "Counting")]
    scope: Vec<Scope>,
    /// How long old commits are kept
    #[arg(long, value_name = "DURATION", conflicts_with = "config", help_heading = "State")]
    #[arg(default_value_t = Millis(State::default().keep_ms))]
    keep: Millis,
    /// The most bytes that old commits may add [default: as many as the newest commit has]
    #[arg(long, value_name = "BYTES", conflicts_with = "config", help_heading = "State")]
    keep_bytes: Option<u64>,
    /// How long files are kept for readers once no commit needs them
    #[arg(long, value_name = "DURATION", conflicts_with = "config", help_heading = "State")]
    #[arg(default_value_t = Millis(State::default().grace_ms.cast_signed()))]
    grace: Millis,
    /// Also serve the counts at this address; port 0 picks a free port
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "config", value_parser = host_port)]
    #[arg(help_heading = "Serving")]
    listen: Option<String>,
    /// Also serve /metrics, at a loopback address; port 0 picks a free port
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "config", requires = "listen")]
    #[arg(value_parser = host_port, help_heading = "Serving")]
    metrics: Option<String>,
    /// A network of proxies that say in the header Forwarded whose requests they pass on; may be
    /// repeated
    #[arg(long, value_name = "CIDR", conflicts_with = "config", requires = "listen")]
    #[arg(value_parser = parse_network)]
    trusted_proxy: Vec<IpNet>,
}

fn parse_on_lost(text: &str) -> Result<OnLost, String> {
    let name = StrDeserializer::<serde::de::value::Error>::new(text);
    OnLost::deserialize(name).map_err(|error| error.to_string())
}

fn parse_on_open(text: &str) -> Result<OnOpenTransaction, String> {
    let name = StrDeserializer::<serde::de::value::Error>::new(text);
    OnOpenTransaction::deserialize(name).map_err(|error| error.to_string())
}

fn parse_on_truncate(text: &str) -> Result<OnTruncate, String> {
    let name = StrDeserializer::<serde::de::value::Error>::new(text);
    OnTruncate::deserialize(name).map_err(|error| error.to_string())
}

fn parse_scope(text: &str) -> Result<Scope, String> {
    let (attribute, values) = text.split_once('=').ok_or("write ATTRIBUTE=VALUE,…")?;
    let allow: Vec<String> = values.split(',').map(str::to_owned).collect();
    if attribute.is_empty() || allow.iter().any(String::is_empty) {
        return Err("neither the attribute nor a value can be empty".to_owned());
    }
    Ok(Scope { attribute: attribute.to_owned(), allow })
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<(), CliError> {
    go(&job(args, args.bounded)?, args, args.bounded)
}

/// Runs a job. `ends`: it is bounded, so what the store lacks at its end is an error.
pub(crate) fn go(job: &Job, args: &Args, ends: bool) -> Result<(), CliError> {
    let listeners = job.listen.as_ref().map(Listeners::bind).transpose()?;
    let stop_job = on_stop_of_job();
    let running = match start(job.spec(args.take_over)?)? {
        Started::Running(running) => running,
        Started::Finished(manifest) => {
            say::note("this run was already finished; nothing was changed");
            print_summary(job, &manifest, None, args.json)?;
            return accepted_before(&job.state, &manifest);
        }
        Started::Publishing(manifest, publication) => {
            let stop = publication.stop();
            let _ = stop_job.set(Box::new(move || stop.set()));
            return publish(job, &manifest, publication, args.json);
        }
    };
    let stop = running.stop();
    // Only this function sets it, and once.
    let _ = stop_job.set(Box::new(move || stop.set()));
    log_start(job, running.began());
    let serve = |listeners: Listeners| {
        let mut registry = Registry::with_prefix("tagflow");
        running.status().register(&mut registry);
        say::note(format!("serving {}", listeners.url));
        if let Some(url) = &listeners.metrics_url {
            say::note(format!("metrics {url}/metrics"));
        }
        listeners.serve_state(&job.state, registry)
    };
    let service = listeners.map(serve).transpose()?;
    let status = running.status();
    let live = LiveLine::start(Arc::clone(&status), String::new);
    let ended = running.wait();
    drop(live);
    service.into_iter().for_each(|(service, _)| service.stop());
    let manifest = ended?;
    let (commit, events) = (manifest.header.commit, manifest.body.counters.events);
    tracing::info!(commit, events, "the job has ended");
    // A summary that cannot be printed does not hide what the store lacks.
    let printed = print_summary(job, &manifest, Some(&status), args.json);
    let printed = match nothing_accepted(&manifest, &status) {
        Some(what) => printed.and(Err(CliError::Failed(what))),
        None => printed,
    };
    match unpublished(&status, manifest.header.commit) {
        // A bounded run promises that its counts can be read from the store.
        Some(what) if ends => Err(CliError::Failed(what)),
        Some(what) => {
            say::warning(what);
            printed
        }
        None => printed,
    }
}

/// Logs that a job has started, and whose state it took over.
fn log_start(job: &Job, began: &Manifest) {
    let (state, workers, began) = (shown(&job.state), job.workers, &began.header);
    let (commit, generation) = (began.commit, began.generation);
    let version = env!("CARGO_PKG_VERSION");
    tracing::info!(%state, commit, generation, workers, version, "the job has started");
    let Some(before) = commit.checked_sub(1).filter(|before| *before > 0) else { return };
    // Nobody depends on this line: what cannot be read is left out.
    let Ok(Ok(before)) = open(&job.state).map(|storage| load(&*storage, before)) else { return };
    let (commit, generation) = (before.header.commit, before.header.generation);
    let how = if before.body.clean {
        "it goes on after a job that ended"
    } else {
        "it took the state over from a job that did not end cleanly"
    };
    tracing::info!(commit, generation, "{how}");
}

/// Fails for a finished run that never accepted a record, as the run itself did.
fn accepted_before(state: &Path, manifest: &Manifest) -> Result<(), CliError> {
    if !accepted_none(&Counters::default(), &manifest.body.counters) {
        return Ok(());
    }
    let segments = open_table::<DeadLetters>(&*open(state)?, manifest)?;
    let rows = || segments.iter().flat_map(|segment| segment.rows.iter());
    let of_the_job = rows().filter(|(_, row)| row.reason == OF_THE_JOB).count() as u64;
    let refused = rows().count() as u64;
    if refused > of_the_job { Err(CliError::Failed(none_accepted(refused))) } else { Ok(()) }
}

/// Publishes what the store may lack of a finished run.
fn publish(
    job: &Job,
    manifest: &Manifest,
    publication: Publication,
    json: bool,
) -> Result<(), CliError> {
    say::note("this run was already finished; no event was read");
    let status = publication.status();
    let live = LiveLine::start(Arc::clone(&status), String::new);
    let done = publication.wait();
    drop(live);
    done?;
    let printed = print_summary(job, manifest, Some(&status), json)
        .and_then(|()| accepted_before(&job.state, manifest));
    unpublished(&status, manifest.header.commit).map_or(printed, |what| Err(CliError::Failed(what)))
}

/// What the store lacks of `commit` at the end, and what to do about it.
pub(crate) fn unpublished(status: &Status, commit: u64) -> Option<String> {
    let Publishing { commit: published, why, .. } = status.publishing()?;
    (published < commit).then(|| {
        let has = match published {
            0 => "no commit".to_owned(),
            published => format!("commit {published}"),
        };
        let why = why.map_or(String::new(), |why| format!(" ({why})"));
        format!(
            "the job has committed up to commit {commit}; the store has {has} in full{why}. Run it \
             again, or run `tagflow store rebuild`, to publish the rest"
        )
    })
}

/// The job of the arguments, or of the file they name with the arguments that override it.
pub(crate) fn job(args: &Args, bounded: bool) -> Result<Job, CliError> {
    let mut job = match (&args.config, &args.job.input) {
        (Some(file), _) => Job::read(file, bounded)?,
        (None, Some(input)) => args.job.job(input, bounded)?,
        (None, None) => {
            let what = "name what to read: an --input such as posts.ndjson, with its --state folder, \
                        or a dataflow.yaml";
            return Err(CliError::Usage(what.to_owned()));
        }
    };
    // A job of the command line has no folder yet.
    let configured = args.config.as_ref().map(|_| job.state.as_path());
    job.state = folder(args.state.as_deref(), configured)?;
    if let Some(store) = args.store.settings() {
        job.store = Some(store);
    }
    job.settings.store_wait_ms = args.store_wait.0.unsigned_abs();
    job.settings.silent_ms = args.silence.0.unsigned_abs();
    job.workers = args.workers.map_or(job.workers, usize::from);
    job.settings.until_ms = args.until;
    job.settings.limit_rate = args.limit_rate;
    Ok(job)
}

impl JobArgs {
    fn job(&self, input: &SourceUri, bounded: bool) -> Result<Job, CliError> {
        let settings = Settings::default();
        let mut settings = if bounded { settings.bounded() } else { settings };
        settings.horizon_ms = self.horizon.map(|horizon| horizon.0).or(settings.horizon_ms);
        settings.beyond = if self.count_beyond { Beyond::Count } else { Beyond::DeadLetter };
        settings.scopes.clone_from(&self.scope);
        settings.retention = Retention {
            keep_ms: self.keep.0,
            bytes: self.keep_bytes,
            grace_ms: self.grace.0.unsigned_abs(),
        };
        let attributes: Vec<&str> = self.scope.iter().map(|s| s.attribute.as_str()).collect();
        let mapping = Mapping::parse(&self.map, &attributes)
            .map_err(|error| CliError::Usage(format!("--map: {error}")))?;
        let group = match input {
            SourceUri::Kafka { topic, .. } => format!("tagflow-{topic}"),
            _ => String::new(),
        };
        let topic = Topic {
            name: self.input_name.to_string(),
            source: input.clone(),
            mapping,
            start: Position::Beginning,
            on_lost: self.on_lost.unwrap_or_default(),
            on_open_transaction: self.on_open_transaction.unwrap_or(OnOpenTransaction::Wait),
            follow: self.follow(input)?,
            properties: self.properties(input)?,
            log_time: None,
            files: self.files(input)?,
        };
        let (metrics, trusted_proxy) = (self.metrics.clone(), self.trusted_proxy.clone());
        let listen = self.listen.clone();
        Ok(Job {
            name: JOB_NAME.to_owned(),
            settings,
            inputs: vec![JobInput { topic, group, span: None }],
            state: PathBuf::new(),
            workers: worker_default(),
            listen: listen.map(|listen| ListenArgs { listen, metrics, trusted_proxy }),
            store: None,
        })
    }

    /// How files are followed. Options for that are an error with other inputs.
    fn follow(&self, input: &SourceUri) -> Result<Follow, CliError> {
        let given = [
            ("--on-truncate", self.on_truncate.is_some()),
            ("--rotate-wait", self.rotate_wait.is_some()),
        ];
        match given.iter().find(|(_, given)| *given) {
            Some((name, _)) if !matches!(input, SourceUri::File(_)) => {
                Err(CliError::Usage(format!("{name} applies to files only; leave it out")))
            }
            _ => Ok(Follow {
                on_truncate: self.on_truncate.unwrap_or(OnTruncate::Stop),
                rotate_wait: self.rotate_wait.map_or(RotateWait::default(), |ms| RotateWait(ms.0)),
            }),
        }
    }

    /// How files are found and unpacked. Options for files are an error with other inputs.
    fn files(&self, input: &SourceUri) -> Result<FileOptions, CliError> {
        if matches!(input, SourceUri::File(_)) || self.files == FileOptions::default() {
            return Ok(self.files);
        }
        let what = "--follow-links and --zstd-window-log apply to files only; leave them out";
        Err(CliError::Usage(what.to_owned()))
    }

    /// The properties of the Kafka client. Options for Kafka are an error with other inputs.
    fn properties(&self, input: &SourceUri) -> Result<BTreeMap<String, String>, CliError> {
        let given = [
            ("--kafka", !self.kafka.is_empty()),
            ("--on-lost", self.on_lost.is_some()),
            ("--on-open-transaction", self.on_open_transaction.is_some()),
        ];
        match given.iter().find(|(_, given)| *given) {
            Some((name, _)) if !matches!(input, SourceUri::Kafka { .. }) => {
                Err(CliError::Usage(format!("{name} applies to kafka: inputs only; leave it out")))
            }
            _ => properties(&self.kafka),
        }
    }
}

#[derive(Serialize)]
struct Ended {
    commit: u64,
    as_of: Option<i64>,
    finished: bool,
    #[serde(flatten)]
    counters: schemas::manifest::Counters,
    /// Files whose last line is left for the next run, in no counter.
    #[serde(skip_serializing_if = "Option::is_none")]
    unfinished_lines: Option<u64>,
    #[serde(flatten)]
    summary: Summary,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<StateSize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    store: Option<Publishing>,
}

fn print_summary(
    job: &Job,
    manifest: &Manifest,
    status: Option<&Status>,
    json: bool,
) -> Result<(), CliError> {
    let Manifest { header, body } = manifest;
    let unfinished_lines = status.map(Status::unfinished_lines).filter(|lines| *lines > 0);
    let summary = Summary::of(job, manifest, status);
    let mut output = Output::new();
    if json {
        output.json(&Ended {
            commit: header.commit,
            as_of: body.as_of_ms,
            finished: body.finished.is_some(),
            counters: body.counters,
            unfinished_lines,
            summary,
            state: status.map(Status::state_size),
            store: status.and_then(Status::publishing),
        })?;
    } else {
        output.line(format!("commit {}", header.commit))?;
        for (name, count) in body.counters.named().iter().filter(|(_, count)| *count > 0) {
            let counts = *name == "beyond_horizon" && job.settings.beyond == Beyond::Count;
            let what = if counts { " (counted)" } else { "" };
            output.line(format!("{name:<16} {count:>12}{what}"))?;
        }
        if let Some(lines) = unfinished_lines {
            output.line(format!("{:<16} {lines:>12}", "unfinished lines"))?;
        }
        for line in summary.lines() {
            output.line(line)?;
        }
        if let Some(store) = status.and_then(Status::publishing) {
            for (name, count) in [("published rows", store.rows), ("refused rows", store.refused)] {
                if count > 0 {
                    output.line(format!("{name:<16} {count:>12}"))?;
                }
            }
        }
    }
    output.flush()
}
