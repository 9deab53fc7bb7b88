//! `tagflow dead-letters replay`: refused records go through the job again, each once.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use dataflow::Settings;
use schemas::control::Control;
use schemas::manifest::Manifest;
use schemas::mapping::Mapping;
use schemas::rows::{BelowFloor, DeadLetterRow, DeadLetters};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sinks::commits::open_table;

use super::replayed::{reasons, replayed};
use crate::error::CliError;
use crate::job::Job;
use crate::output::{Output, unless_closed};
use crate::repairs::Mender;
use crate::state::{manifest, open};

#[derive(clap::Args)]
#[command(after_help = "Exit code: 0 all of them count now, 1 some are still refused.

Examples:
  tagflow dead-letters replay --state ./state --reason missing_field --map caption=text
  tagflow dead-letters replay dataflow.yaml --repaired repaired.ndjson --why 'poison producer'")]
pub(super) struct Args {
    /// The dataflow.yaml of the job
    #[arg(value_name = "CONFIG", required_unless_present = "state")]
    config: Option<PathBuf>,
    /// The job's state folder
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// What the records call the fields of an event, where no job lives that was told
    #[arg(long, value_name = "FIELD=NAME,…", default_value = "", hide_default_value = true)]
    #[arg(conflicts_with = "config")]
    map: String,
    /// Only those refused for this reason, such as not_json
    #[arg(long, value_parser = reasons())]
    reason: Option<String>,
    /// Only those of this input
    #[arg(long, value_name = "NAME")]
    input: Option<String>,
    /// Only those of this partition
    #[arg(long)]
    partition: Option<String>,
    /// Only those from this position on
    #[arg(long, value_name = "POSITION")]
    from: Option<u64>,
    /// Only those before this position
    #[arg(long, value_name = "POSITION")]
    to: Option<u64>,
    /// What to count instead, and of nothing else: NDJSON of input, partition, position and record
    #[arg(long, value_name = "FILE")]
    repaired: Option<PathBuf>,
    /// Why, for the audit
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    why: String,
    /// The result as one JSON object
    #[arg(long)]
    json: bool,
}

/// A line of the file of repaired records.
#[derive(Deserialize)]
struct Repaired {
    #[serde(default = "only_input")]
    input: String,
    partition: String,
    position: u64,
    record: Value,
}

fn only_input() -> String {
    "input".to_owned()
}

type Records = BTreeMap<(String, String, u64), String>;

/// What became of them.
#[derive(Default, Serialize)]
struct Told {
    commit: u64,
    counted: usize,
    duplicates: usize,
    refused: usize,
}

/// Runs the command.
pub(super) fn run(args: &Args, output: &mut Output) -> Result<(), CliError> {
    let job = args.config.as_deref().map(|file| Job::read(file, false)).transpose()?;
    let state = args.state.clone().or_else(|| job.as_ref().map(|job| job.state.clone()));
    let state = state.ok_or_else(|| CliError::Usage("name the --state".into()))?;
    let storage = open(&state)?;
    let base = manifest(&*storage, None)?;
    let repaired = args.repaired.as_deref().map(read).transpose()?;
    let before = replayed(&dataflow::repairs(&*storage, &base)?);
    let segments = open_table::<DeadLetters>(&*storage, &base)?;
    let rows = || segments.iter().flat_map(|segment| segment.rows.iter()).map(|(_, row)| row);
    if let Some(repaired) = &repaired {
        all_refused(repaired, rows())?;
    }
    let open = |row: &DeadLetterRow<'_>| {
        let named = repaired.as_ref().is_none_or(|repaired| repaired.contains_key(&key(row)));
        named && !before.contains_key(&key(row)) && !is_counted(row)
    };
    let wanted: Vec<_> = rows().filter(|row| args.wants(row) && open(row)).collect();
    let records: Vec<Control> =
        wanted.iter().filter_map(|row| redeliver(row, repaired.as_ref())).collect();
    let mut told = Told { commit: base.header.commit, ..Told::default() };
    // What is no text cannot be read as it is.
    told.refused = wanted.len() - records.len();
    if !records.is_empty() {
        let mappings = args.mappings(job.as_ref(), &base)?;
        let settings = job.map_or_else(Settings::default, |job| job.settings);
        let mender = Mender { state, mappings, settings, why: args.why.clone() };
        let (taken, done) = mender.ask(&base.header, &records)?;
        told.commit = taken.header.commit;
        told.duplicates = done.iter().filter(|repair| repair.kind == "duplicate").count();
        told.counted = done.len() - told.duplicates;
        told.refused += records.len() - done.len();
    }
    let written = if args.json {
        output.json(&told)
    } else {
        let Told { commit, counted, duplicates, refused } = &told;
        output.line(format!(
            "commit {commit}: {counted} records counted, {duplicates} were duplicates, \
             {refused} are refused again"
        ))
    };
    unless_closed(written.and_then(|()| output.flush()))?;
    match told.refused {
        0 => Ok(()),
        refused => {
            Err(CliError::Failed(format!("{refused} records are refused again; see the job's log")))
        }
    }
}

impl Args {
    fn wants(&self, row: &DeadLetterRow<'_>) -> bool {
        let is = |wanted: &Option<String>, value| wanted.as_deref().is_none_or(|w| w == value);
        is(&self.reason, row.reason)
            && is(&self.input, row.input)
            && is(&self.partition, row.partition)
            && self.from.is_none_or(|from| row.position >= from)
            && self.to.is_none_or(|to| row.position < to)
    }

    /// What the records of each input call the fields of an event.
    fn mappings(
        &self,
        job: Option<&Job>,
        base: &Manifest,
    ) -> Result<BTreeMap<String, Mapping>, CliError> {
        if let Some(job) = job {
            let of = |topic: &crate::inputs::Topic| (topic.name.clone(), topic.mapping.clone());
            return Ok(job.topics.iter().map(of).collect());
        }
        let scopes = base.body.scopes.iter().flatten();
        let mut attributes: Vec<&str> =
            scopes.filter_map(|name| name.split_once('=')).map(|(a, _)| a).collect();
        attributes.dedup();
        let mapping = Mapping::parse(&self.map, &attributes);
        let mapping = mapping.map_err(|error| CliError::Usage(format!("--map: {error}")))?;
        Ok(base.body.inputs.keys().map(|name| (name.clone(), mapping.clone())).collect())
    }
}

fn key(row: &DeadLetterRow<'_>) -> (String, String, u64) {
    (row.input.to_owned(), row.partition.to_owned(), row.position)
}

/// Whether the row only records that an event below the floor was counted.
fn is_counted(row: &DeadLetterRow<'_>) -> bool {
    row.detail.parse() == Ok(BelowFloor::Counted)
}

/// The repaired records of a file.
fn read(file: &Path) -> Result<Records, CliError> {
    let name = file.display().to_string();
    let text = fs::read_to_string(file).map_err(CliError::io(format!("cannot read {name}")))?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let record = |(i, line): (usize, &str)| {
        let Repaired { input, partition, position, record } = serde_json::from_str(line)
            .map_err(|error| CliError::Failed(format!("{name}, line {}: {error}", i + 1)))?;
        let record = match record {
            Value::String(text) => text,
            other => other.to_string(),
        };
        Ok(((input, partition, position), record))
    };
    lines.map(record).collect()
}

/// Checks that every repaired record stands for one that was refused.
fn all_refused<'r>(
    repaired: &Records,
    rows: impl Iterator<Item = DeadLetterRow<'r>>,
) -> Result<(), CliError> {
    let refused: BTreeSet<_> = rows.map(|row| key(&row)).collect();
    match repaired.keys().find(|key| !refused.contains(*key)) {
        None => Ok(()),
        Some((input, partition, position)) => {
            let place = format!("position {position} of {partition} (input {input})");
            Err(CliError::Failed(format!("no record at {place} was refused")))
        }
    }
}

/// What to deliver in place of a refused record; none where it is no text.
fn redeliver(row: &DeadLetterRow<'_>, repaired: Option<&Records>) -> Option<Control> {
    let record = match repaired {
        Some(repaired) => repaired.get(&key(row))?.clone(),
        None => std::str::from_utf8(row.raw).ok()?.to_owned(),
    };
    Some(Control::Redeliver {
        input: row.input.to_owned(),
        partition: row.partition.to_owned(),
        position: row.position,
        refused: String::from_utf8_lossy(row.raw).into_owned(),
        record,
    })
}
