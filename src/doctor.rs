//! `tagflow doctor`: checks a job's real inputs, state, store and ports for what would fail.
//!
//! It takes the arguments of `run`, and writes nothing except one test row to the store.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use dataflow::Origin;
use dataflow::clock::{Clock, SystemClock};
use dataflow::sources::{Discovered, FileLog, Log, LogError, Next};
use kafka::TopicReader;
use schemas::config::{LogTimeSource, SourceUri, Topic};
use schemas::event::{Decoder, Survey, guess};
use schemas::manifest::{Manifest, Partition, Partitions, Position};
use schemas::printable::{counted, shown};
use schemas::time::{format_duration_ms, format_ms};
use serde::Serialize;
use sinks::commits::{Lock, Snapshot, TakeoverError, newest, visible};
use sinks::cql::{CqlPublisher, Finding, Level, check};
use sinks::publish::Publisher;
use sinks::storage::{DiskStorage, OpenError};

use crate::error::CliError;
use crate::inputs::JobInput;
use crate::job::Job;
use crate::output::Output;
use crate::run::{Args as RunArgs, job};
use crate::service::Listeners;
use crate::signals::runtime;

/// How many records of a partition to decode.
const SAMPLE: usize = 100;
/// How many partitions of an input to sample.
const PARTITIONS: usize = 3;
/// How long to wait for records.
const WAIT_US: u64 = 5_000_000;
/// A topic that keeps records for less than this loses some if the job stops for long.
const RETENTION_MS: i64 = 24 * 3_600_000;

/// Check a job's inputs, state, store and ports before running it
#[derive(clap::Args)]
#[group(skip)]
#[command(after_help = "Takes the arguments of run. Exit code: 1 if something would fail.

Examples:
  tagflow doctor dataflow.yaml
  tagflow doctor --input kafka://127.0.0.1:9092/posts --state ./state")]
// The arguments of run already have a group of this name.
pub(crate) struct Args {
    #[command(flatten)]
    run: RunArgs,
}

/// Findings, each with its subject.
#[derive(Default)]
struct Findings(Vec<(String, Finding)>);

#[derive(Serialize)]
struct Printed<'f> {
    about: &'f str,
    level: &'static str,
    what: &'f str,
}

impl Findings {
    fn add(&mut self, about: &str, level: Level, what: impl Into<String>) {
        self.0.push((about.to_owned(), Finding { level, what: what.into() }));
    }

    fn good(&mut self, about: &str, what: impl Into<String>) {
        self.add(about, Level::Good, what);
    }

    fn error(&mut self, about: &str, what: impl ToString) {
        self.add(about, Level::Error, what.to_string());
    }

    fn tell(&self, json: bool) -> Result<(), CliError> {
        let mut output = Output::new();
        for (about, finding) in &self.0 {
            if json {
                let (level, what) = (finding.level.name(), finding.what.as_str());
                output.json(&Printed { about, level, what })?;
            } else {
                let level = finding.level.name();
                output.line(format!("{level:<8}{about}: {}", finding.what))?;
            }
        }
        output.flush()?;
        match self.0.iter().filter(|(_, finding)| finding.level == Level::Error).count() {
            0 => Ok(()),
            errors => {
                let errors = counted(errors, "finding", "findings");
                Err(CliError::Failed(format!("{errors} would stop the job")))
            }
        }
    }
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<(), CliError> {
    let job = job(&args.run, args.run.bounded)?;
    let mut findings = Findings::default();
    let newest = state(&mut findings, &job, args.run.take_over);
    for input in &job.inputs {
        check_input(&mut findings, &job, input, newest.as_ref());
    }
    store(&mut findings, &job);
    if let Some(listen) = &job.listen {
        match Listeners::bind(listen) {
            Ok(listeners) => findings.good("serve", format!("{} is free", listeners.url)),
            Err(error) => findings.error("serve", error),
        }
    }
    findings.tell(args.run.json)
}

/// Checks the state folder; returns its newest commit, if it has one.
fn state(findings: &mut Findings, job: &Job, take_over: bool) -> Option<Manifest> {
    let about = format!("state {}", shown(&job.state));
    let storage = match DiskStorage::open_existing(&job.state) {
        Ok(storage) => storage,
        Err(OpenError::NoState(_)) => {
            match writable(&job.state) {
                Ok(()) => findings.good(&about, "does not exist yet, and can be created"),
                Err(error) => findings.error(&about, format!("cannot be created: {error}")),
            }
            return None;
        }
        Err(error) => {
            findings.error(&about, error);
            return None;
        }
    };
    if let Err(error) = writable(&job.state) {
        findings.error(&about, format!("cannot be written: {error}"));
    }
    private(findings, &about, &job.state);
    let newest = match newest(&storage) {
        Ok(newest) => newest?,
        Err(error) => {
            findings.error(&about, error);
            return None;
        }
    };
    let (commit, as_of) = (newest.header.commit, newest.body.as_of_ms);
    let as_of = as_of.map_or_else(|| "no event yet".to_owned(), format_ms);
    match Snapshot::open_checked(&storage, newest.clone()) {
        Ok(_) => {
            let what = format!("all files of commit {commit} are intact, as of {as_of}");
            findings.good(&about, what);
        }
        Err(error) => findings.error(&about, error),
    }
    pointer(findings, &about, &storage, job, &newest);
    owner(findings, &about, job, &newest, take_over);
    let scopes = job.settings.scopes_sorted();
    if newest.body.scopes.as_ref().is_some_and(|kept| *kept != scopes) {
        findings
            .error(&about, "has other scopes than the job; use a new state folder to change them");
    }
    Some(newest)
}

/// Warns of a pointer that hides commits from readers until the next start makes it anew.
fn pointer(
    findings: &mut Findings,
    about: &str,
    storage: &DiskStorage,
    job: &Job,
    newest: &Manifest,
) {
    let commit = newest.header.commit;
    let what = match visible(storage) {
        Err(error) => error.to_string(),
        // A job that runs is about to show it.
        Ok(shown)
            if shown < Some(commit) && Lock::holder(&job.state, &newest.header.owner).is_none() =>
        {
            let shown =
                shown.map_or_else(|| "no commit".to_owned(), |shown| format!("commit {shown}"));
            format!("readers see {shown}, not commit {commit}, until `tagflow run` starts")
        }
        Ok(_) => return,
    };
    findings.add(about, Level::Warning, what);
}

/// Warns of a folder that others may read.
fn private(findings: &mut Findings, about: &str, folder: &Path) {
    let mode = fs::metadata(folder).map_or(0, |metadata| metadata.mode() & 0o777);
    if mode & 0o077 != 0 {
        let what = format!(
            "others may use the folder (mode {mode:04o}), and it holds the key of its hashes and \
             refused records: chmod 700 {}",
            shown(folder)
        );
        findings.add(about, Level::Warning, what);
    }
}

/// Finds a job that is running on the state.
fn owner(findings: &mut Findings, about: &str, job: &Job, newest: &Manifest, take_over: bool) {
    let holder = Lock::holder(&job.state, &newest.header.owner).filter(|_| !newest.body.clean);
    let Some(holder) = holder else { return };
    let in_use = TakeoverError::InUse(holder).to_string();
    if take_over {
        findings.add(about, Level::Warning, format!("{in_use}, as you mean to"));
    } else {
        findings.error(about, in_use);
    }
}

/// Whether a file can be created in the folder, or else in its nearest existing parent.
fn writable(folder: &Path) -> std::io::Result<()> {
    let absolute = std::path::absolute(folder)?;
    let existing = absolute.ancestors().find(|path| path.exists()).unwrap_or(&absolute);
    let probe = existing.join(".tagflow-doctor");
    fs::write(&probe, "")?;
    fs::remove_file(probe)
}

/// Checks an input: its partitions, whether the state can continue with them, and some records.
fn check_input(findings: &mut Findings, job: &Job, input: &JobInput, newest: Option<&Manifest>) {
    let topic = &input.topic;
    // The input of a command line has no name of its own.
    let about = match topic.name.as_str() {
        "input" => "input".to_owned(),
        name => format!("input {name}"),
    };
    let log: Arc<dyn Log> = match input.origin(&job.settings, &job.state) {
        Err(error) => return findings.error(&about, error),
        Ok(Origin::Log(log)) => log,
        Ok(Origin::Files { path, mode, options }) => match FileLog::new(&path, mode, options) {
            Ok(log) => Arc::new(log),
            Err(error) => return findings.error(&about, error),
        },
        Ok(_) => return findings.good(&about, "needs no check"),
    };
    let known = newest.and_then(|newest| newest.body.inputs.get(&topic.name));
    let mut known = known.map_or_else(Partitions::new, Clone::clone);
    let moved = log.locate(&known, false);
    let found = match moved.and_then(|moved| {
        moved.iter().for_each(|moved| moved.apply(&mut known));
        log.discover()
    }) {
        Ok(found) => found,
        Err(error) => return findings.error(&about, error),
    };
    findings.good(&about, counted(found.len(), "partition", "partitions"));
    policy(findings, &about, input);
    for (name, state) in &known {
        let there = found.iter().any(|found| found.partition == *name);
        let gone = if there { None } else { log.missing(name) };
        let resumed = if there { log.resume(name, state) } else { Ok(()) };
        if let Some(error) = gone.or_else(|| resumed.err()) {
            findings.error(&about, error);
        }
    }
    let mut sample = Sample::default();
    for partition in found.iter().take(PARTITIONS) {
        let state = known.get(&partition.partition);
        let first = known.is_empty();
        if let Err(error) = sample.read(&*log, partition, state, first, job, topic) {
            return findings.error(&about, error);
        }
    }
    sample.tell(findings, &about, &job.settings.decoder(&topic.mapping));
}

/// Checks what a topic keeps, and what its log time follows.
fn policy(findings: &mut Findings, about: &str, input: &JobInput) {
    let SourceUri::Kafka { brokers, topic: name } = &input.topic.source else { return };
    let log = match TopicReader::new(input.kafka_settings(brokers, name)) {
        Ok(log) => log,
        Err(error) => return findings.error(about, error),
    };
    let policy = match log.policy() {
        Ok(Some(policy)) => policy,
        Ok(None) => {
            let what = "this user may not read the topic's configuration (DescribeConfigs)";
            return findings.add(about, Level::Warning, what);
        }
        Err(error) => return findings.error(about, error),
    };
    let stamped = policy.timestamp_type.as_deref() == Some("LogAppendTime");
    match (input.topic.log_time, stamped) {
        (Some(LogTimeSource::Event), _) => {
            findings.good(about, "log time follows event time, as configured");
        }
        (_, true) => {
            findings.good(about, "log time follows the brokers' timestamps (LogAppendTime)");
        }
        (None, false) => findings.good(about, "log time follows event time"),
        (Some(LogTimeSource::Append), false) => {
            let what = format!(
                "log_time is append, but brokers do not stamp the records ({}), so event time is used; \
                 set message.timestamp.type=LogAppendTime, or leave log_time out",
                policy.timestamp_type.as_deref().unwrap_or("type unknown")
            );
            findings.add(about, Level::Warning, what);
        }
    }
    if let Some(retention_ms) = policy.retention_ms.filter(|ms| (0..RETENTION_MS).contains(ms)) {
        let kept = format_duration_ms(retention_ms.max(1));
        let what = format!("records are kept for {kept}; a job that stops for longer loses some");
        findings.add(about, Level::Warning, what);
    }
}

/// Records that were read to test the decoder.
#[derive(Default)]
struct Sample {
    events: usize,
    refused: usize,
    /// Where the first refused record is, and why it was refused.
    first: Option<String>,
    /// The mapping by which it is an event.
    map: Option<String>,
    survey: Survey,
}

impl Sample {
    fn read(
        &mut self,
        log: &dyn Log,
        found: &Discovered,
        state: Option<&Partition>,
        first: bool,
        job: &Job,
        topic: &Topic,
    ) -> Result<(), LogError> {
        let name = &found.partition;
        let position = match state.map(|state| &state.position) {
            Some(Position::Offset(offset)) => *offset,
            Some(Position::Blocks(_)) => 0,
            None => match log.beginning(name, first) {
                Err(LogError::Arriving(_)) => 0,
                begin => begin?,
            },
        };
        let decoder = job.settings.decoder(&topic.mapping);
        let (mut reader, clock) = (log.open(name, position)?, SystemClock::default());
        let end = reader.end()?;
        let mut left = SAMPLE;
        while left > 0 && clock.mono_us() < WAIT_US && end.is_none_or(|e| reader.position() < e) {
            let mut read = 0;
            let next = reader.read(left, &mut |record| {
                read += 1;
                let decoded = decoder.decode(record.bytes);
                self.survey.add(&decoder, record.bytes, &decoded);
                match decoded {
                    Ok(_) => self.events += 1,
                    Err(reject) => {
                        if self.refused == 0 {
                            self.first = Some(format!("{name} at {}: {reject}", record.position));
                            self.map = guess(&topic.mapping, record.bytes);
                        }
                        self.refused += 1;
                    }
                }
            })?;
            left -= read;
            match next {
                Next::End => break,
                Next::Wait => std::thread::park_timeout(std::time::Duration::from_millis(20)),
                Next::More => {}
            }
        }
        Ok(())
    }

    fn tell(&self, findings: &mut Findings, about: &str, decoder: &Decoder) {
        let Self { events, refused, first, map, survey } = self;
        let map = map.as_ref().map(|map| format!("--map {map} reads it"));
        for remark in survey.remarks(decoder) {
            findings.add(about, Level::Warning, remark.to_string());
        }
        match first {
            None if *events == 0 => findings.good(about, "there is no record to read now"),
            None => {
                let sampled = counted(events, "record was", "records were");
                findings.good(about, format!("{sampled} read as a sample, all of them events"));
            }
            Some(first) if *events == 0 => findings.error(
                about,
                format!(
                    "no event among the {} read as a sample; the first, {first}; {}",
                    counted(refused, "record", "records"),
                    map.as_deref().unwrap_or("check the field names, and --map")
                ),
            ),
            Some(first) => {
                let refused = counted(refused, "is no event", "are no events");
                let all = counted(events + self.refused, "record", "records");
                let map = map.map_or_else(String::new, |map| format!("; {map}"));
                let what = format!("of {all} read as a sample, {refused}; the first, {first}{map}");
                findings.add(about, Level::Warning, what);
            }
        }
    }
}

/// Checks the store, and whether its rows are of this state.
fn store(findings: &mut Findings, job: &Job) {
    let Some(settings) = &job.store else { return };
    let state = DiskStorage::open_existing(&job.state).ok();
    let about = format!("store {}", settings.uri());
    let settings = match settings.clone().with_environment() {
        Ok(settings) => settings,
        Err(error) => return findings.error(&about, error),
    };
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => return findings.error(&about, error),
    };
    let clock = SystemClock::default();
    match runtime.block_on(check(&settings, || clock.wall_ms())) {
        Ok(all) => findings.0.extend(all.into_iter().map(|finding| (about.clone(), finding))),
        Err(error) => return findings.error(&about, error),
    }
    let row = CqlPublisher::new(settings).map_err(|error| error.to_string());
    let row = row.and_then(|mut store| store.job(&job.name).map_err(|error| error.to_string()));
    match row {
        Err(error) => findings.error(&about, error),
        Ok(Some(Some(row))) => match row.check(state.as_ref().map(|state| state as _)) {
            Ok(()) => findings.good(&about, format!("has commit {} of this state", row.published)),
            Err(error) => findings.error(&about, error),
        },
        Ok(_) => findings.good(&about, "has no commit yet"),
    }
}
