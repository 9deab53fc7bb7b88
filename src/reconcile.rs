//! `tagflow reconcile`: whether a commit holds what the log comes to, and what differs.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use dataflow::reconcile::{Drift, PARTS, Progress, Report, Request, Which, reconcile};
use dataflow::{Beyond, InputSpec, LogTimeKind, Settings};
use schemas::config::SourceUri;
use schemas::mapping::Mapping;
use schemas::tags::Name;
use schemas::time::parse_duration_ms;
use sinks::commits::Snapshot;

use crate::error::CliError;
use crate::host::worker_default;
use crate::inputs::origin;
use crate::job::Job;
use crate::output::Output;
use crate::progress::LiveLine;
use crate::state::{At, manifest, open};

/// Count the log afresh, and print what a commit holds otherwise
#[derive(clap::Args)]
#[command(after_help = "Exit code: 0 nothing differs, 1 something does, 2 it cannot be told.

Examples:
  tagflow reconcile --input ./posts --state ./state
  tagflow reconcile dataflow.yaml --at 120 --passes 8 --json
  tagflow reconcile --input ./posts --state ./state --tags sunset,beach")]
pub(crate) struct Args {
    #[command(flatten)]
    log: LogArgs,
    /// Read the log so many times, with a share of the keys in memory each time; by default as
    /// many as keep that below about 2 GiB
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=PARTS))]
    passes: Option<u64>,
    /// Check these of 128 parts of the keys
    #[arg(long, value_name = "A..B", value_parser = parse_bins, default_value = "0..128")]
    bins: Range<u64>,
    /// Check one key in so many
    #[arg(long, value_name = "1/N", value_parser = parse_sample)]
    #[arg(conflicts_with_all = ["bins", "passes"])]
    sample: Option<u64>,
    /// Check these tags, in every scope
    #[arg(long, value_name = "TAG,…", value_delimiter = ',')]
    #[arg(conflicts_with_all = ["bins", "passes", "sample"])]
    tags: Vec<String>,
    /// Worker threads; one less than there are cores by default
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: Option<u16>,
    /// One JSON object for every value that differs, then one for the result
    #[arg(long)]
    json: bool,
}

/// The log that a commit counts, and which commit.
#[derive(clap::Args)]
pub(crate) struct LogArgs {
    /// The dataflow.yaml of the job
    #[arg(value_name = "CONFIG", required_unless_present = "input")]
    config: Option<PathBuf>,
    /// The input of the job
    #[arg(long, value_name = "INPUT", conflicts_with = "config")]
    input: Option<SourceUri>,
    /// What the records call the fields of an event, as the job was told
    #[arg(long, value_name = "FIELD=NAME,…", default_value = "", hide_default_value = true)]
    #[arg(conflicts_with = "config")]
    map: String,
    /// How long the job remembers an event id, where it does not keep every one
    #[arg(long, value_name = "DURATION", value_parser = parse_duration_ms, default_value = "24h")]
    #[arg(conflicts_with = "config")]
    horizon: i64,
    /// The job counts events beyond the horizon as they are
    #[arg(long, conflicts_with = "config")]
    count_beyond: bool,
    /// The job's state folder
    #[arg(long, value_name = "DIR", required_unless_present = "config")]
    state: Option<PathBuf>,
    /// The commit, or the last one at a time; the visible one by default
    #[arg(long, value_name = "COMMIT|TIME")]
    at: Option<At>,
    /// Read at most so many records a second, all workers together
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit_rate: Option<u64>,
}

/// The events of one pass, unless `--passes` says otherwise: they take about 3.4 KiB each
/// (docs/reconcile.md).
const EVENTS_PER_PASS: u64 = 600_000;

fn parse_bins(text: &str) -> Result<Range<u64>, String> {
    let (begin, end) = text.split_once("..").ok_or("write two numbers, as in 0..32")?;
    let number = |text: &str| text.parse().map_err(|_| format!("{text:?} is no number"));
    let bins = number(begin)?..number(end)?;
    if bins.is_empty() || bins.end > PARTS {
        return Err(format!("the parts are those from 0 to below {PARTS}"));
    }
    Ok(bins)
}

fn parse_sample(text: &str) -> Result<u64, String> {
    let number = text.strip_prefix("1/").and_then(|n| n.parse().ok()).filter(|n| *n > 0);
    number.ok_or_else(|| "write 1/N, as in 1/64".to_owned())
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Result<(), CliError> {
    let workers = args.workers.map_or_else(worker_default, usize::from);
    let mut request = args.log.request(which(&args)?, workers)?;
    if let (Which::Bins { passes, bins }, None) = (&mut request.which, args.passes) {
        let events = request.snapshot.manifest.body.counters.records();
        *passes = (events * (bins.end - bins.start) / PARTS).div_ceil(EVENTS_PER_PASS).max(1);
    }
    let progress = Arc::new(Progress::default());
    let live = LiveLine::reconciling(Arc::clone(&progress));
    let told = reconcile(request, &progress);
    drop(live);
    let (values, report) = told?;
    tell(&values, &report, args.json)?;
    if report.drift > 0 { Err(CliError::Drift(report.drift)) } else { Ok(()) }
}

impl LogArgs {
    /// What is to be checked.
    pub(crate) fn request(&self, which: Which, workers: usize) -> Result<Request, CliError> {
        let job = self.config.as_deref().map(|file| Job::read(file, false)).transpose()?;
        let state = self.state.clone().or_else(|| job.as_ref().map(|job| job.state.clone()));
        let state = state.ok_or_else(|| CliError::Usage("name the --state".into()))?;
        let storage = open(&state)?;
        let snapshot = Arc::new(Snapshot::open(&*storage, manifest(&*storage, self.at)?, None)?);
        let (horizon_ms, beyond) = match &job {
            Some(job) => (job.settings.horizon_ms, job.settings.beyond),
            None if self.count_beyond => (Some(self.horizon), Beyond::Count),
            None => (Some(self.horizon), Beyond::DeadLetter),
        };
        // In order, to where the files end now.
        let settings = |source: &SourceUri| Settings {
            live: matches!(source, SourceUri::Generator(_)),
            horizon_ms: Some(self.horizon),
            ..Settings::default()
        };
        let spec = |name: &str, source: &SourceUri, mapping: &Mapping| -> Result<_, CliError> {
            if *source == SourceUri::Stdin {
                let what = "standard input cannot be read again: name the file it came from";
                return Err(CliError::Usage(what.to_owned()));
            }
            Ok(InputSpec {
                name: name.to_owned(),
                origin: origin(source, &settings(source), &state)?,
                mapping: mapping.clone(),
                log_time: LogTimeKind::Event,
            })
        };
        let inputs = match (&job, &self.input) {
            (Some(job), _) => {
                job.topics.iter().map(|t| spec(&t.name, &t.source, &t.mapping)).collect()
            }
            (None, Some(input)) => {
                let scopes = snapshot.manifest.body.scopes.iter().flatten();
                let attributes: Vec<&str> =
                    scopes.filter_map(|name| name.split_once('=')).map(|(a, _)| a).collect();
                let mapping = Mapping::parse(&self.map, &attributes);
                let mapping = mapping.map_err(|e| CliError::Usage(format!("--map: {e}")))?;
                spec("input", input, &mapping).map(|spec| vec![spec])
            }
            (None, None) => Err(CliError::Usage("name a dataflow.yaml or an --input".into())),
        };
        Ok(Request {
            inputs: inputs?,
            storage,
            snapshot,
            horizon_ms,
            beyond,
            which,
            workers,
            limit_rate: self.limit_rate,
        })
    }
}

fn which(args: &Args) -> Result<Which, CliError> {
    if let Some(one_in) = args.sample {
        return Ok(Which::Sample(one_in));
    }
    let key = |name: &String| match Name::parse(name) {
        Ok(parsed) => Ok(parsed.key().to_owned()),
        Err(error) => Err(CliError::Name { name: name.clone(), error }),
    };
    let tags = args.tags.iter().map(key).collect::<Result<BTreeSet<_>, _>>()?;
    if tags.is_empty() {
        return Ok(Which::Bins { bins: args.bins.clone(), passes: args.passes.unwrap_or(1) });
    }
    Ok(Which::Tags(tags))
}

fn tell(values: &[Drift], report: &Report, json: bool) -> Result<(), CliError> {
    let mut output = Output::new();
    if json {
        values.iter().try_for_each(|value| output.json(value))?;
        output.json(report)?;
        return output.flush();
    }
    for Drift { scope, key, field, stored, recomputed, events } in values {
        let place = if scope.is_empty() { String::new() } else { format!(" in {scope}") };
        output.line(format!("{key}{place}: {field} is {stored}, the log says {recomputed}"))?;
        for event in events {
            output.line(format!("  {}/{} at {}", event.input, event.partition, event.position))?;
        }
    }
    let Report { commit, checked, drift, ambiguous } = report;
    output
        .line(format!("commit {commit}: {checked} rows and ids checked, {drift} values differ"))?;
    if *ambiguous > 0 {
        output.line(format!("{ambiguous} events came in copies that differ: any may count"))?;
    }
    output.flush()
}
