//! `tagflow dead-letters replay`: delivers refused records to the job again, each once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};

use dataflow::{Repair, Settings};
use schemas::control::Control;
use schemas::manifest::Manifest;
use schemas::mapping::Mapping;
use schemas::printable::{counted, printable, shown};
use schemas::rows::{BelowFloor, DeadLetterRow, DeadLetters, Redelivery};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sinks::commits::open_table;

use super::replayed::{Key, is_named, kept, key, reasons, replayed};
use crate::error::CliError;
use crate::inputs::JobInput;
use crate::job::Job;
use crate::printer::{Print, Printer};
use crate::repairs::Requester;
use crate::state::{folder, manifest, open};

#[derive(clap::Args)]
#[command(after_help = "Exit code: 0 if all of them count now, 1 if some are still refused.

Examples:
  tagflow dead-letters replay --state ./state --reason missing_field --map caption=text
  tagflow dead-letters replay dataflow.yaml --repaired repaired.ndjson --why 'poison producer'")]
pub(super) struct Args {
    /// The dataflow.yaml of the job
    #[arg(value_name = "CONFIG")]
    config: Option<PathBuf>,
    /// The job's state folder [default: that of the dataflow.yaml, or the variable `TAGFLOW_STATE`]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// The names that the records give to the fields of an event, if no job is running
    #[arg(long, value_name = "FIELD=NAME,…", default_value = "", hide_default_value = true)]
    #[arg(conflicts_with = "config")]
    map: String,
    /// Only records refused for this reason, such as not_json
    #[arg(long, value_parser = reasons())]
    reason: Option<String>,
    /// Only records of this input
    #[arg(long, value_name = "NAME")]
    input: Option<String>,
    /// Only records of this partition
    #[arg(long)]
    partition: Option<String>,
    /// Only records from this position on
    #[arg(long, value_name = "POSITION")]
    from: Option<u64>,
    /// Only records before this position
    #[arg(long, value_name = "POSITION")]
    to: Option<u64>,
    /// Deliver only these records, repaired: NDJSON of input, partition, position and record
    #[arg(long, value_name = "FILE")]
    repaired: Option<PathBuf>,
    /// The reason, for the list of repairs
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    why: String,
    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,
}

/// A line of the file of repaired records.
#[derive(Deserialize)]
struct Repaired<'l> {
    #[serde(default = "only_input")]
    input: String,
    partition: String,
    position: u64,
    /// As it is written: a generic value would round large numbers and drop repeated fields.
    #[serde(borrow)]
    record: &'l RawValue,
}

fn only_input() -> String {
    "input".to_owned()
}

/// How many bytes of records are requested, and waited for, at once.
const REQUEST_BYTES: usize = 32 << 20;

type Records = BTreeMap<Key, String>;

/// What became of the records.
#[derive(Default, Serialize)]
struct Summary {
    commit: u64,
    counted: usize,
    duplicates: usize,
    refused: usize,
}

impl Print for Summary {
    fn lines(&self) -> Vec<String> {
        let Self { commit, counted: events, duplicates, refused } = self;
        let records = counted(events, "record", "records");
        let duplicates = counted(duplicates, "was a duplicate", "were duplicates");
        let refused = counted(refused, "is refused again", "are refused again");
        vec![format!("commit {commit}: {records} counted, {duplicates}, {refused}")]
    }
}

/// Runs the command.
pub(super) fn run(args: &Args) -> Result<(), CliError> {
    let job = args.config.as_deref().map(|file| Job::read(file, false)).transpose()?;
    let configured = job.as_ref().map(|job| job.state.as_path());
    let state = folder(args.state.as_deref(), configured)?;
    let storage = open(&state)?;
    let base = manifest(&*storage, None)?;
    let before = replayed(&*storage, &base)?;
    let segments = open_table::<DeadLetters>(&*storage, &base)?;
    let rows = || segments.iter().flat_map(|segment| segment.rows.iter()).map(|(_, row)| row);
    let read = |file: &PathBuf| read(file).and_then(|repaired| all_refused(repaired, rows()));
    let repaired = args.repaired.as_ref().map(read).transpose()?;
    let open = |row: &DeadLetterRow<'_>| {
        let named = repaired.as_ref().is_none_or(|repaired| repaired.contains_key(&key(row)));
        named && !before.contains_key(&key(row)) && !is_counted(row)
    };
    let wanted: Vec<_> = rows().filter(|row| args.wants(row) && open(row)).collect();
    // What is not kept cannot be delivered.
    let (cut, wanted): (Vec<_>, Vec<_>) =
        wanted.into_iter().partition(|row| repaired.is_none() && row.is_cut());
    let mut summary = Summary { commit: base.header.commit, ..Summary::default() };
    let mappings = args.mappings(job.as_ref(), &base)?;
    let settings = job.map_or_else(Settings::default, |job| job.settings);
    let requester = Requester { state, mappings, settings, why: args.why.clone() };
    let mut rest = wanted.as_slice();
    while !rest.is_empty() {
        let (records, more) = first_records(rest, repaired.as_ref());
        rest = more;
        if records.is_empty() {
            continue;
        }
        let (taken, done) = requester.ask(&base.header, &records)?;
        summary.commit = taken.header.commit;
        let is_duplicate = |repair: &&Repair| repair.kind == Redelivery::Duplicate.kind();
        let duplicates = done.iter().filter(is_duplicate).count();
        summary.duplicates += duplicates;
        summary.counted += done.len() - duplicates;
    }
    // One that is not text cannot be delivered either.
    let refused = wanted.len() - summary.counted - summary.duplicates;
    summary.refused = refused + cut.len();
    let mut printer = Printer::new(args.json);
    printer.print(&summary)?;
    printer.flush()?;
    end(refused, &cut)
}

/// Makes records to deliver of the first rows, until they take [`REQUEST_BYTES`]. Returns the rows
/// that are left, too.
fn first_records<'w, 'r>(
    rows: &'w [DeadLetterRow<'r>],
    repaired: Option<&Records>,
) -> (Vec<Control>, &'w [DeadLetterRow<'r>]) {
    let (mut records, mut bytes, mut taken) = (Vec::new(), 0, 0);
    while taken < rows.len() && bytes < REQUEST_BYTES {
        let record = redeliver(&rows[taken], repaired);
        bytes += record.as_ref().map_or(0, Control::bytes);
        records.extend(record);
        taken += 1;
    }
    (records, &rows[taken..])
}

/// How the command ends: `refused` records were refused again, and those of `cut` were not
/// delivered.
fn end(refused: usize, cut: &[DeadLetterRow<'_>]) -> Result<(), CliError> {
    let again = counted(refused, "record is", "records are");
    let again = format!("{again} refused again; see the job's log");
    let Some(first) = cut.first() else {
        return if refused == 0 { Ok(()) } else { Err(CliError::Failed(again)) };
    };
    let DeadLetterRow { input, partition, position, .. } = first;
    let again = if refused == 0 { String::new() } else { format!("; {again}") };
    Err(CliError::Failed(format!(
        "{} not delivered, because they are not kept whole: of the one at \
         position {position} of {partition} (input {input}), {} are kept; take them from the \
         log, and deliver them with --repaired{again}",
        counted(cut.len(), "record was", "records were"),
        kept(first)
    )))
}

impl Args {
    fn wants(&self, row: &DeadLetterRow<'_>) -> bool {
        let is =
            |wanted: &Option<String>, name| wanted.as_deref().is_none_or(|w| is_named(name, w));
        self.reason.as_deref().is_none_or(|reason| reason == row.reason)
            && is(&self.input, row.input)
            && is(&self.partition, row.partition)
            && self.from.is_none_or(|from| row.position >= from)
            && self.to.is_none_or(|to| row.position < to)
    }

    /// The names that the records of each input give to the fields of an event.
    fn mappings(
        &self,
        job: Option<&Job>,
        base: &Manifest,
    ) -> Result<BTreeMap<String, Mapping>, CliError> {
        if let Some(job) = job {
            let of = |input: &JobInput| (input.topic.name.clone(), input.topic.mapping.clone());
            return Ok(job.inputs.iter().map(of).collect());
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

/// Whether the row only records that an event below the floor was counted.
fn is_counted(row: &DeadLetterRow<'_>) -> bool {
    row.detail.parse() == Ok(BelowFloor::Counted)
}

/// The repaired records in a file.
fn read(file: &Path) -> Result<Records, CliError> {
    let name = shown(file);
    let text = fs::read_to_string(file).map_err(CliError::io(format!("cannot read {name}")))?;
    let mut records = Records::new();
    let mut lines_of = BTreeMap::new();
    for (line, content) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let wrong = |why: &dyn Display| CliError::Failed(format!("{name}, line {line}: {why}"));
        let Repaired { input, partition, position, record } =
            serde_json::from_str(content).map_err(|error| wrong(&error))?;
        let record = match record.get() {
            text if text.starts_with('"') => {
                serde_json::from_str(text).map_err(|error| wrong(&error))?
            }
            written => written.to_owned(),
        };
        let place = place(&input, &partition, position);
        let key = (input, partition, position);
        if let Some(first) = lines_of.insert(key.clone(), line) {
            return Err(wrong(&format!(
                "{place} has a record on line {first} already; leave one of them out"
            )));
        }
        records.insert(key, record);
    }
    Ok(records)
}

fn place(input: &str, partition: &str, position: u64) -> String {
    format!("position {position} of {partition} (input {input})")
}

/// Checks that every repaired record replaces a refused one, and returns them by its names.
fn all_refused<'r>(
    repaired: Records,
    rows: impl Iterator<Item = DeadLetterRow<'r>>,
) -> Result<Records, CliError> {
    let refused: BTreeSet<_> = rows.map(|row| key(&row)).collect();
    let listed = |(input, partition, position): &Key| {
        (printable(input).into_owned(), printable(partition).into_owned(), *position)
    };
    let by_listed: BTreeMap<_, _> = refused.iter().map(|key| (listed(key), key)).collect();
    let named = repaired.into_iter().map(|(key, record)| {
        let found = refused.get(&key).or_else(|| by_listed.get(&key).copied());
        found.map(|found| (found.clone(), record)).ok_or_else(|| {
            let place = place(&key.0, &key.1, key.2);
            CliError::Failed(format!("no record at {place} was refused"))
        })
    });
    named.collect()
}

/// The record to deliver for a refused one; `None` if it is not text.
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
