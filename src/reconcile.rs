//! `tagflow reconcile`: whether a commit holds what the log comes to, and what differs.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dataflow::reconcile::{
    Drift, Found, PARTS, Progress, ReconcileError, Report, Request, Which, reconcile,
};
use dataflow::{Beyond, InputSpec, LogTimeKind, Repair, Settings};
use schemas::config::SourceUri;
use schemas::manifest::Manifest;
use schemas::mapping::Mapping;
use schemas::tags::Name;
use schemas::time::parse_duration_ms;
use sinks::commits::Snapshot;

use crate::error::CliError;
use crate::host::worker_default;
use crate::inputs::{origin, properties};
use crate::job::{Job, Kafka, Topic};
use crate::output::{Output, unless_closed};
use crate::progress::LiveLine;
use crate::repairs::{Mender, repair, tell as tell_repair};
use crate::served::Claim;
use crate::state::{At, manifest, open};
use crate::store_args::StoreArgs;

mod rest;
use rest::check_rest;

/// Count the log afresh, and print what a commit holds otherwise
#[derive(clap::Args)]
#[command(
    after_help = "With --store, the rows of a store are held against the commit that they claim to show, and that
commit against the log where one is named.
Exit code: 0 nothing differs, 1 something does, 2 it cannot be told.

Examples:
  tagflow reconcile --input ./posts --state ./state
  tagflow reconcile dataflow.yaml --at 120 --passes 8 --json
  tagflow reconcile --input ./posts --state ./state --tags sunset,beach
  tagflow reconcile --input ./posts --state ./state --since 2026-05-01T12:00:00Z
  tagflow reconcile --input ./posts --state ./state --repair --why 'disk was changed'
  tagflow reconcile --state ./state --store cql://127.0.0.1:9042/tags --repair"
)]
pub(crate) struct Args {
    #[command(flatten)]
    log: LogArgs,
    #[command(flatten)]
    store: StoreArgs,
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
    /// Take this earlier commit on trust, and check what came after it
    #[arg(long, value_name = "COMMIT|TIME", conflicts_with_all = ["repair", "store"])]
    since: Option<At>,
    /// Correct what differs through the job, and check it again
    #[arg(long)]
    repair: bool,
    /// Why, for the audit
    #[arg(long, value_name = "TEXT", requires = "repair", default_value = "")]
    #[arg(hide_default_value = true)]
    why: String,
    /// One JSON object for every value that differs, then one for the result
    #[arg(long)]
    json: bool,
}

/// The log that a commit counts, and which commit.
#[derive(clap::Args)]
pub(crate) struct LogArgs {
    /// The dataflow.yaml of the job
    #[arg(value_name = "CONFIG")]
    config: Option<PathBuf>,
    /// The input of the job
    #[arg(long, value_name = "INPUT", conflicts_with = "config")]
    input: Option<SourceUri>,
    /// A property of the Kafka client, as for run
    #[arg(long, value_name = "KEY=VALUE", conflicts_with = "config")]
    kafka: Vec<String>,
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

/// The events of one pass, unless `--passes` says otherwise: they take about 1.2 KiB each
/// (docs/reconcile.md).
const EVENTS_PER_PASS: u64 = 1_500_000;

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
    match drift_of(args)? {
        0 => Ok(()),
        drift => Err(CliError::Drift(drift)),
    }
}

/// How many values differ.
fn drift_of(mut args: Args) -> Result<u64, CliError> {
    let which = which(&args)?;
    let mut served = Report::default();
    if let Some(store) = args.store.settings() {
        let mut claim = Claim::read(store.with_environment()?, &args.log.job()?.1)?;
        served = hold(&args, &mut claim, &which)?;
        // The log is held against the same commit, unless another is asked for.
        args.log.at = args.log.at.or(Some(At::Commit(claim.commit())));
    }
    if args.store.store.is_some() && !args.log.names_a_log() {
        return Ok(served.drift);
    }
    count_afresh(args, which, &served)
}

/// Holds a store against the commit that it claims to show.
fn hold(args: &Args, claim: &mut Claim, which: &Which) -> Result<Report, CliError> {
    let alone = !args.log.names_a_log();
    let look = |claim: &Claim| -> Result<_, CliError> {
        let (checked, values) = claim.check(which)?;
        let (commit, drift) = (claim.commit(), values.len() as u64);
        let events = claim.events();
        let report = Report { commit, events, checked, drift, ..Report::default() };
        tell(&values, alone.then_some(&report), "the commit", args.json)?;
        Ok((values, report))
    };
    let (values, mut report) = look(claim)?;
    if alone {
        is_answer(&report, which, "the store")?;
    }
    if args.repair && report.drift > 0 {
        let done = claim.mend(&args.log.mender(args.why.clone())?, &values)?;
        tell_repairs(&done, args.json)?;
        report = look(claim)?.1;
        if report.drift > 0 {
            eprintln!(
                "`tagflow store rebuild` writes the whole store again, and ends what is left"
            );
        }
    }
    Ok(report)
}

/// Holds a commit against the log: how many values differ, those that are `served` included.
fn count_afresh(args: Args, which: Which, served: &Report) -> Result<u64, CliError> {
    let workers = args.workers.map_or_else(worker_default, usize::from);
    let whole = |report: &Report| with(report, served);
    let mut request = args.log.request(which.clone(), workers)?;
    if args.since.is_some() {
        let since = manifest(&*request.storage, args.since)?;
        request.since = Some(Arc::new(Snapshot::open(&*request.storage, since, None)?));
    }
    if let (Which::Bins { passes, bins }, None) = (&mut request.which, args.passes) {
        let events = request.snapshot.manifest.body.counters.records();
        *passes = (events * (bins.end - bins.start) / PARTS).div_ceil(EVENTS_PER_PASS).max(1);
    }
    let (storage, base) = (Arc::clone(&request.storage), request.snapshot.manifest.header.clone());
    let mut found = match check(request.clone()) {
        Err(CliError::Untold(overtaken @ ReconcileError::Overtaken { .. })) => {
            return check_rest(request, overtaken, served, args.json);
        }
        other => other?,
    };
    tell(&found.values, Some(&whole(&found.report)), "the log", args.json)?;
    is_answer(&whole(&found.report), &which, "the log")?;
    if args.repair && found.report.drift > 0 {
        is_sure(&found.report)?;
        let mender = args.log.mender(args.why)?;
        let again = |taken: Manifest, before: &Found| {
            check(args.log.request_at(taken, Which::Keys(before.keys.clone()), workers)?)
        };
        let (done, left) = repair(&mender, &*storage, base, found, again)?;
        tell_repairs(&done, args.json)?;
        tell(&left.values, Some(&whole(&left.report)), "the log", args.json)?;
        found = left;
    }
    Ok(found.report.drift + served.drift)
}

/// Whether something was compared. A commit that counts no event holds nothing, of all keys there
/// may be none left, and that a tag is nowhere is an answer; but a part in which no key lies says
/// nothing of any.
fn is_answer(report: &Report, which: &Which, other: &str) -> Result<(), CliError> {
    let Report { commit, events, checked, drift, .. } = report;
    let is_by_name = matches!(which, Which::Tags(_));
    if *events == 0 || checked + drift > 0 || which.is_all() || is_by_name {
        return Ok(());
    }
    Err(CliError::CannotTell(format!(
        "no key of commit {commit} or of {other} lies in the part that was asked for, so nothing \
         was compared; ask for a larger one"
    )))
}

/// What was found in a log, and in a store.
fn with(report: &Report, served: &Report) -> Report {
    Report {
        checked: report.checked + served.checked,
        drift: report.drift + served.drift,
        ..report.clone()
    }
}

/// Whether the state is at fault where it differs from the log.
fn is_sure(report: &Report) -> Result<(), CliError> {
    let why = match (report.ambiguous, report.read_otherwise) {
        (0, None) => return Ok(()),
        (0, Some(commit)) => format!(
            "up to commit {commit} records were read with another mapping or horizon; --since \
             {commit} checks what came after, and `tagflow replay` counts all of it afresh"
        ),
        (copies, _) => format!(
            "{copies} events came in copies that differ, and any may count; --tags repairs tags \
             that none of them carries"
        ),
    };
    Err(CliError::CannotTell(format!("{why}; nothing was corrected")))
}

fn check(request: Request) -> Result<Found, CliError> {
    let progress = Arc::new(Progress::default());
    let live = LiveLine::reconciling(Arc::clone(&progress));
    let found = reconcile(request, &progress);
    drop(live);
    Ok(found?)
}

impl LogArgs {
    /// Whether there is a log to be read.
    fn names_a_log(&self) -> bool {
        self.config.is_some() || self.input.is_some()
    }

    /// What is to be checked.
    pub(crate) fn request(&self, which: Which, workers: usize) -> Result<Request, CliError> {
        let storage = open(&self.job()?.1)?;
        self.request_at(manifest(&*storage, self.at)?, which, workers)
    }

    /// What is to be checked of a commit.
    fn request_at(
        &self,
        manifest: Manifest,
        which: Which,
        workers: usize,
    ) -> Result<Request, CliError> {
        let (job, state) = self.job()?;
        let storage = open(&state)?;
        let snapshot = Arc::new(Snapshot::open(&*storage, manifest, None)?);
        let Settings { horizon_ms, beyond, .. } = self.settings(job.as_ref());
        let inputs = self.inputs(job.as_ref(), &state, &snapshot.manifest)?;
        let limit_rate = self.limit_rate;
        Ok(Request {
            inputs,
            storage,
            snapshot,
            since: None,
            horizon_ms,
            beyond,
            which,
            workers,
            limit_rate,
        })
    }

    /// The job of a dataflow.yaml, if one was named, and the state folder.
    fn job(&self) -> Result<(Option<Job>, PathBuf), CliError> {
        let job = self.config.as_deref().map(|file| Job::read(file, false)).transpose()?;
        let state = self.state.clone().or_else(|| job.as_ref().map(|job| job.state.clone()));
        let state = state.ok_or_else(|| CliError::Usage("name the --state".into()))?;
        Ok((job, state))
    }

    fn settings(&self, job: Option<&Job>) -> Settings {
        let beyond = if self.count_beyond { Beyond::Count } else { Beyond::DeadLetter };
        let asked = Settings { horizon_ms: Some(self.horizon), beyond, ..Settings::default() };
        job.map_or(asked, |job| job.settings.clone())
    }

    /// Who asks the job for repairs.
    pub(crate) fn mender(&self, why: String) -> Result<Mender, CliError> {
        let (job, state) = self.job()?;
        let (settings, mappings) = (self.settings(job.as_ref()), BTreeMap::new());
        Ok(Mender { state, mappings, settings, why })
    }

    /// The inputs of the job.
    fn inputs(
        &self,
        job: Option<&Job>,
        state: &Path,
        manifest: &Manifest,
    ) -> Result<Vec<InputSpec>, CliError> {
        // In order, to where the inputs end now.
        let spec = |topic: &Topic| -> Result<_, CliError> {
            if topic.source == SourceUri::Stdin {
                let what = "standard input cannot be read again: name the file it came from";
                return Err(CliError::Usage(what.to_owned()));
            }
            let settings = Settings {
                live: matches!(topic.source, SourceUri::Generator(_)),
                horizon_ms: Some(self.horizon),
                ..Settings::default()
            };
            Ok(InputSpec {
                name: topic.name.clone(),
                origin: origin(topic, &settings, state)?,
                mapping: topic.mapping.clone(),
                log_time: topic.log_time,
                span: None,
            })
        };
        match (job, &self.input) {
            (Some(job), _) => job.topics.iter().map(spec).collect(),
            (None, Some(input)) => Ok(vec![spec(&self.topic(input, manifest)?)?]),
            (None, None) => Err(CliError::Usage("name a dataflow.yaml or an --input".into())),
        }
    }

    /// The input of the command line, with the scopes of the commit.
    fn topic(&self, input: &SourceUri, manifest: &Manifest) -> Result<Topic, CliError> {
        let scopes = manifest.body.scopes.iter().flatten();
        let mut attributes: Vec<&str> =
            scopes.filter_map(|name| name.split_once('=')).map(|(a, _)| a).collect();
        attributes.dedup();
        let mapping = Mapping::parse(&self.map, &attributes);
        Ok(Topic {
            name: "input".to_owned(),
            source: input.clone(),
            mapping: mapping.map_err(|error| CliError::Usage(format!("--map: {error}")))?,
            log_time: LogTimeKind::Auto,
            kafka: Kafka {
                // No offset is committed for it, but clients that read want a name.
                group: "tagflow-reconcile".to_owned(),
                properties: properties(&self.kafka)?,
                ..Kafka::default()
            },
            span: None,
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

fn tell_repairs(done: &[Repair], json: bool) -> Result<(), CliError> {
    let mut output = Output::new();
    let told = done.iter().try_for_each(|repair| tell_repair(&mut output, repair, json));
    unless_closed(told.and_then(|()| output.flush()))
}

fn tell(
    values: &[Drift],
    report: Option<&Report>,
    whose: &str,
    json: bool,
) -> Result<(), CliError> {
    unless_closed(print(values, report, whose, json))
}

fn print(
    values: &[Drift],
    report: Option<&Report>,
    whose: &str,
    json: bool,
) -> Result<(), CliError> {
    let mut output = Output::new();
    if json {
        values.iter().try_for_each(|value| output.json(value))?;
        report.map_or(Ok(()), |report| output.json(report))?;
        return output.flush();
    }
    for Drift { scope, key, field, stored, recomputed, events } in values {
        let place = if scope.is_empty() { String::new() } else { format!(" in {scope}") };
        output.line(format!("{key}{place}: {field} is {stored}, {whose} says {recomputed}"))?;
        for event in events {
            output.line(format!("  {}/{} at {}", event.input, event.partition, event.position))?;
        }
    }
    let Some(report) = report else { return output.flush() };
    let Report { commit, since, read_otherwise, events, checked, drift, ambiguous } = report;
    if events + checked + drift == 0 {
        output.line(format!("commit {commit} counts no event: there is nothing to check"))?;
        return output.flush();
    }
    if checked + drift == 0 {
        output.line(format!("commit {commit}: what was asked for is on neither side"))?;
        return output.flush();
    }
    let after = since.map_or_else(String::new, |since| format!(" since commit {since}"));
    output.line(format!(
        "commit {commit}{after}: {checked} rows and ids checked, {drift} values differ"
    ))?;
    if let (Some(commit), 1..) = (read_otherwise, drift) {
        output.line(format!("up to commit {commit} records were read otherwise than now"))?;
    }
    if *ambiguous > 0 {
        output.line(format!("{ambiguous} events came in copies that differ: any may count"))?;
    }
    output.flush()
}
