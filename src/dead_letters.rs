//! `tagflow dead-letters`: the records of a commit that were not counted, and why; and a way to
//! count them after all.

use std::collections::BTreeMap;

use schemas::hash::KeyHash;
use schemas::printable::printable;
use schemas::rows::{DeadLetterRow, DeadLetters, partition_hash, record_hash};
use serde::Serialize;
use sinks::commits::{OpenSegment, open_table};
use sinks::publish::refused;

use crate::error::CliError;
use crate::output::Output;
use crate::printer::{Print, Printer};
use crate::say;
use crate::state::{StateArg, manifest, open};

mod replay;
mod replayed;

use replayed::{Replayed, is_named, kept, key, reasons, replayed};

/// List and show refused records, and count them after all
#[derive(clap::Args)]
#[command(after_help = "Example:\n  tagflow dead-letters ls --state ./state --reason not_json
  tagflow dead-letters replay --state ./state --reason future --why 'clock was wrong'")]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// List refused records by input, partition and position
    Ls {
        #[command(flatten)]
        state: StateArg,
        /// Only records refused for this reason, such as not_json
        #[arg(long, value_parser = reasons())]
        reason: Option<String>,
        /// Print one JSON object per line
        #[arg(long)]
        json: bool,
        /// Print only how many there are, by reason
        #[arg(long, conflicts_with = "json")]
        count: bool,
    },
    /// List the rows that the store permanently refused, one JSON object per line
    Refused {
        #[command(flatten)]
        state: StateArg,
    },
    /// Print one refused record, and why it was refused
    Show {
        #[command(flatten)]
        state: StateArg,
        /// The partition, as it is or as `ls` prints it
        partition: String,
        /// The position
        position: u64,
        /// The input
        #[arg(long, default_value = "input")]
        input: String,
        /// Print nothing but the record, byte for byte: control characters are not escaped
        #[arg(long)]
        raw: bool,
    },
    /// Deliver refused records again, repaired or unchanged; each counts once
    Replay(replay::Args),
}

#[derive(Serialize)]
struct Listed<'a> {
    input: &'a str,
    partition: &'a str,
    position: u64,
    reason: &'a str,
    detail: &'a str,
    commit: u64,
    /// The size of the record.
    bytes: u64,
    /// How many of these bytes are kept, if not all are.
    #[serde(skip_serializing_if = "Option::is_none")]
    kept: Option<usize>,
    /// The commit in which it was replayed.
    #[serde(skip_serializing_if = "Option::is_none")]
    replayed: Option<u64>,
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Result<(), CliError> {
    let mut output = Output::new();
    match args.what {
        What::Ls { state, reason, json, count } => {
            let (segments, replayed) = load(&state)?;
            let wanted =
                |row: &DeadLetterRow<'_>| reason.as_deref().is_none_or(|r| r == row.reason);
            let rows = || segments.iter().flat_map(|s| s.rows.iter()).map(|(_, row)| row);
            if count {
                print_counts(&mut output, rows().filter(wanted))?;
            } else {
                let mut rows: Vec<DeadLetterRow<'_>> = rows().filter(wanted).collect();
                rows.sort_unstable_by_key(|r| (r.input, r.partition, r.position));
                let mut printer = Printer::new(json);
                rows.iter().try_for_each(|row| printer.print(&Listed::new(row, &replayed)))?;
                return printer.flush();
            }
        }
        What::Refused { state } => {
            let rows = refused(&*open(&state.folder()?)?)?;
            rows.iter().try_for_each(|row| output.line(row))?;
        }
        What::Show { state, partition, position, input, raw } => {
            let (segments, replayed) = load(&state)?;
            let row = find(&segments, (&input, &partition, position)).ok_or_else(|| {
                let place = format!("position {position} of {partition} in the input {input:?}");
                let what =
                    format!("no record at {place} was refused; `dead-letters ls` lists those");
                CliError::Failed(format!("{what} that were"))
            })?;
            if raw {
                if row.is_cut() {
                    say::warning(format!("of this record, {} are kept", kept(&row)));
                }
                output.raw(row.raw)?;
                return output.flush();
            }
            output.line(format!("{}: {}", row.reason, row.detail))?;
            if row.is_cut() {
                output.line(format!("{} are kept:", kept(&row)))?;
            }
            if let Some(commit) = replayed.get(&key(&row)) {
                output.line(format!("replayed in commit {commit}"))?;
            }
            output.line(String::from_utf8_lossy(row.raw))?;
        }
        What::Replay(args) => return replay::run(&args),
    }
    output.flush()
}

/// The record at a place, whose names may be written as they are listed.
fn find<'s>(
    segments: &'s [OpenSegment<DeadLetters>],
    (input, partition, position): (&str, &str, u64),
) -> Option<DeadLetterRow<'s>> {
    let hash: KeyHash = record_hash(partition_hash(input, partition), position);
    let exact = segments.iter().find_map(|s| s.rows.get(hash));
    let is_listed = |row: &DeadLetterRow<'_>| {
        row.position == position && is_named(row.input, input) && is_named(row.partition, partition)
    };
    let mut rows = segments.iter().flat_map(|s| s.rows.iter()).map(|(_, row)| row);
    exact.or_else(|| rows.find(is_listed))
}

fn load(state: &StateArg) -> Result<(Vec<OpenSegment<DeadLetters>>, Replayed), CliError> {
    let storage = open(&state.folder()?)?;
    let manifest = manifest(&*storage, None)?;
    let replayed = replayed(&*storage, &manifest)?;
    Ok((open_table(&*storage, &manifest)?, replayed))
}

impl<'a> Listed<'a> {
    fn new(row: &DeadLetterRow<'a>, replayed: &Replayed) -> Self {
        Self {
            input: row.input,
            partition: row.partition,
            position: row.position,
            reason: row.reason,
            detail: row.detail,
            commit: row.commit,
            bytes: row.size(),
            kept: row.is_cut().then_some(row.raw.len()),
            replayed: replayed.get(&key(row)).copied(),
        }
    }
}

impl Print for Listed<'_> {
    fn lines(&self) -> Vec<String> {
        let Self { input, partition, position, reason, detail, .. } = self;
        let replayed = |commit| format!("\treplayed in commit {commit}");
        let replayed = self.replayed.map_or_else(String::new, replayed);
        // A tab or a line break in a name would look like the end of a field.
        let [input, partition, detail] = [input, partition, detail].map(|text| printable(text));
        vec![format!("{input}\t{partition}\t{position}\t{reason}\t{detail}{replayed}")]
    }
}

fn print_counts<'a>(
    output: &mut Output,
    rows: impl Iterator<Item = DeadLetterRow<'a>>,
) -> Result<(), CliError> {
    let mut numbers: BTreeMap<&str, u64> = BTreeMap::new();
    rows.for_each(|row| *numbers.entry(row.reason).or_default() += 1);
    numbers.iter().try_for_each(|(reason, number)| output.line(format!("{number:>10} {reason}")))
}
