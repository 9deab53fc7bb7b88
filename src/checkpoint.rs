//! `tagflow checkpoint`: the commits of a state folder. Invariant: an export depends on nothing but
//! its commit, so that equal commits give equal bytes.

use std::path::Path;
use std::sync::Arc;

use dataflow::clock::{Clock, SystemClock};
use dataflow::roll_back;
use schemas::manifest::{Manifest, Position};
use schemas::printable::{counted, noun, printable, size};
use schemas::rows::TableName;
use schemas::time::format_ms;
use serde::Serialize;
use sinks::commits::{CommitError, Snapshot, list_commits, load};
use sinks::store::evaluate;

use crate::error::CliError;
use crate::host::host_name;
use crate::output::Output;
use crate::say;
use crate::state::{CommitAt, StateArg, manifest, open, snapshot};

/// List, show, export and roll back the commits of a state
#[derive(clap::Args)]
#[command(after_help = "Example:\n  tagflow checkpoint export --state ./state > counts.ndjson")]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// List the commits that are kept
    Ls {
        #[command(flatten)]
        state: StateArg,
        /// Print one JSON object per line
        #[arg(long)]
        json: bool,
    },
    /// Show the positions, counters and files of a commit
    Show {
        #[command(flatten)]
        state: StateArg,
        /// The commit, or the last one at a time; by default the visible one
        #[arg(long, value_name = "COMMIT|TIME")]
        at: Option<CommitAt>,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Print all tags of a commit as NDJSON, sorted by scope and key, and its counters
    Export {
        #[command(flatten)]
        state: StateArg,
        /// The commit, or the last one at a time; by default the visible one
        #[arg(long, value_name = "COMMIT|TIME")]
        at: Option<CommitAt>,
    },
    /// Make a new commit with the content of an older one; no job may be running on the state
    Rollback {
        #[command(flatten)]
        state: StateArg,
        /// The commit to go back to
        #[arg(long, value_name = "COMMIT")]
        to: u64,
    },
}

#[derive(Serialize)]
struct ListedCommit {
    commit: u64,
    generation: u64,
    takeover: bool,
    version: i64,
    wall: i64,
    as_of: Option<i64>,
    events: u64,
    files: usize,
    bytes: u64,
}

#[derive(Serialize)]
struct ExportedTag<'a> {
    scope: &'a str,
    key: &'a str,
    display: &'a str,
    total: i64,
    first_seen: i64,
    last_seen: i64,
    c1h: Option<i64>,
    c24h: Option<i64>,
}

#[derive(Serialize)]
struct ExportedCommit {
    as_of: Option<i64>,
    commit: u64,
    events: u64,
    duplicates: u64,
    beyond_horizon: u64,
    unsupported: u64,
    dead_letters: u64,
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Result<(), CliError> {
    match args.what {
        What::Ls { state, json } => list(&state, json),
        What::Show { state, at, json } => show(&manifest(&*open(&state.folder()?)?, at)?, json),
        What::Export { state, at } => {
            let snapshot = snapshot(&*open(&state.folder()?)?, at)?;
            export(&snapshot)
        }
        What::Rollback { state, to } => rollback(&state.folder()?, to),
    }
}

fn list(state: &StateArg, json: bool) -> Result<(), CliError> {
    let storage = open(&state.folder()?)?;
    let mut output = Output::new();
    for commit in list_commits(&*storage)? {
        let Manifest { header, body } = match load(&*storage, commit) {
            // Only its header is left, as a fence.
            Err(CommitError::Missing(_)) => continue,
            other => other?,
        };
        let row = ListedCommit {
            commit,
            generation: header.generation,
            takeover: header.takeover,
            version: header.version,
            wall: header.wall_ms,
            as_of: body.as_of_ms,
            events: body.counters.events,
            files: body.segments.len(),
            bytes: body.segments.iter().map(|s| s.bytes).sum(),
        };
        if json {
            output.json(&row)?;
        } else {
            let as_of = row.as_of.map_or_else(|| "-".to_owned(), format_ms);
            let kind = if row.takeover { "start" } else { "" };
            output.line(format!(
                "{commit:>8} {kind:<5} {} as of {as_of} {:>12} {:<6} {:>3} {:<5} {:>12} bytes",
                format_ms(row.wall),
                row.events,
                noun(row.events, "event", "events"),
                row.files,
                noun(row.files as u64, "file", "files"),
                row.bytes,
            ))?;
        }
    }
    output.flush()
}

#[derive(Serialize)]
struct ShownCommit<'a> {
    #[serde(flatten)]
    header: &'a schemas::manifest::Header,
    as_of: Option<i64>,
    floor: Option<i64>,
    finished: bool,
    clean: bool,
    counters: schemas::manifest::Counters,
    inputs: &'a std::collections::BTreeMap<
        String,
        std::collections::BTreeMap<String, schemas::manifest::Partition>,
    >,
    segments: &'a [schemas::manifest::SegmentMeta],
}

fn show(manifest: &Manifest, json: bool) -> Result<(), CliError> {
    let Manifest { header, body } = manifest;
    let mut output = Output::new();
    if json {
        output.json(&ShownCommit {
            header,
            as_of: body.as_of_ms,
            floor: body.floor_ms,
            finished: body.finished.is_some(),
            clean: body.clean,
            counters: body.counters,
            inputs: &body.inputs,
            segments: &body.segments,
        })?;
        return output.flush();
    }
    output.line(format!("commit {} of generation {}", header.commit, header.generation))?;
    output.line(format!("made {} as version {}", format_ms(header.wall_ms), header.version))?;
    let as_of = |ms| format!("as of {}", format_ms(ms));
    output.line(body.as_of_ms.map_or_else(|| "no event yet".to_owned(), as_of))?;
    for (name, count) in body.counters.named() {
        output.line(format!("  {name:<16} {count:>12}"))?;
    }
    for (input, partitions) in &body.inputs {
        for (partition, state) in partitions {
            let done = if state.done { ", read to its end" } else { "" };
            let position = position(&state.position);
            let partition = printable(partition);
            output.line(format!("  {input}/{partition}: {position}{done}"))?;
        }
    }
    for table in TableName::ALL {
        let (mut files, mut rows, mut bytes) = (0, 0, 0);
        for segment in manifest.segments(*table) {
            (files, rows, bytes) = (files + 1, rows + segment.rows, bytes + segment.bytes);
        }
        let name = table.as_str();
        let (row, file) = (noun(rows, "row", "rows"), noun(files, "file", "files"));
        let taken = size(bytes);
        output.line(format!("  {name:<16} {rows:>12} {row:<4} in {files:>3} {file}, {taken}"))?;
    }
    output.flush()
}

fn position(position: &Position) -> String {
    match position {
        Position::Offset(offset) => format!("up to {offset}"),
        Position::Blocks(blocks) => {
            let (done, all, open) = (blocks.done, blocks.count(), blocks.open.len());
            let behind = if open == 0 { String::new() } else { format!(", {open} begun behind") };
            let all = counted(all, "block", "blocks");
            format!("{done} of {all} of {}{behind}", size(blocks.bytes))
        }
    }
}

fn export(snapshot: &Snapshot) -> Result<(), CliError> {
    let mut output = Output::new();
    let Manifest { header, body } = &snapshot.manifest;
    let mut rows: Vec<_> =
        snapshot.tags_changed(0, None).map(|(_, row)| row).filter(|row| row.total != 0).collect();
    rows.sort_unstable_by_key(|row| (row.scope, row.tag));
    for row in rows {
        let tag = evaluate(&row, &body.windows, body.as_of_ms)?;
        let window = |name: &str| {
            let found = tag.windows.iter().find(|(window, _)| window == name);
            found.map(|(_, count)| *count)
        };
        output.json(&ExportedTag {
            scope: row.scope,
            key: row.tag,
            display: row.display,
            total: row.total,
            first_seen: row.first_seen,
            last_seen: row.last_seen,
            c1h: window("1h"),
            c24h: window("24h"),
        })?;
    }
    let counters = body.counters;
    output.json(&ExportedCommit {
        as_of: body.as_of_ms,
        commit: header.commit,
        events: counters.events,
        duplicates: counters.duplicates,
        beyond_horizon: counters.beyond_horizon,
        unsupported: counters.unsupported,
        dead_letters: counters.dead_letters,
    })?;
    output.flush()
}

fn rollback(state: &Path, to: u64) -> Result<(), CliError> {
    open(state)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let (made, unreadable) = roll_back(state, to, &clock, &host_name())?;
    let mut output = Output::new();
    output.line(format!("commit {} has the content of commit {to}", made.header.commit))?;
    for file in unreadable {
        say::warning(format!("{file} is damaged; a database may keep rows that only it changed"));
    }
    output.flush()
}
