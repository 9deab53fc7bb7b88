//! `tagflow compare`: what differs between two states or stores, tag by tag.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use schemas::config::StoreUri;
use schemas::windows::Windows;
use serde::Serialize;
use sinks::commits::Snapshot;
use sinks::cql::{CqlScan, CqlSettings};
use sinks::publish::JobRow;
use sinks::store::{ServedTag, StoreError, Tag};
use sinks::tag_diff::{diff_tags, served_tags, tags_of};

use crate::error::CliError;
use crate::printer::{Print, Printer, Sides};
use crate::signals::runtime;
use crate::state::{CommitAt, open, snapshot};
use crate::store_args::Reach;

/// Print what differs between two states or stores, the largest difference first
#[derive(clap::Args)]
#[command(after_help = "The windows of both are evaluated at the later of their stream times.
Exit code: 0 if nothing differs, 1 if something differs.

Examples:
  tagflow compare ./state ./replayed --json
  tagflow compare cql://127.0.0.1:9042/tags cql://127.0.0.1:9042/tags_new --limit 20")]
pub(crate) struct Args {
    /// A job's state folder, or a store: `cql://HOST:PORT[,HOST:PORT]/KEYSPACE`
    a: StateOrStore,
    /// Another state folder or store
    b: StateOrStore,
    /// The commit of A, or its last commit at a time; by default the visible one
    #[arg(long, value_name = "COMMIT|TIME")]
    at_a: Option<CommitAt>,
    /// The commit of B, or its last commit at a time
    #[arg(long, value_name = "COMMIT|TIME")]
    at_b: Option<CommitAt>,
    #[command(flatten)]
    reach: Reach,
    /// Print at most N values
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Print one JSON object for each value that differs, then one for the result
    #[arg(long)]
    json: bool,
}

/// What to compare.
#[derive(Clone, Debug)]
enum StateOrStore {
    State(PathBuf),
    Store(StoreUri),
}

impl FromStr for StateOrStore {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with("cql:") {
            return text.parse().map(Self::Store).map_err(|error| format!("{error}"));
        }
        Ok(Self::State(PathBuf::from(text)))
    }
}

/// The counts of one side, and what is needed to evaluate their windows.
enum Side {
    State(Arc<Snapshot>),
    Store(JobRow, Vec<ServedTag>),
}

impl Side {
    fn read(target: &StateOrStore, at: Option<CommitAt>, reach: &Reach) -> Result<Self, CliError> {
        match target {
            StateOrStore::State(state) => Ok(Self::State(snapshot(&*open(state)?, at)?)),
            StateOrStore::Store(_) if at.is_some() => {
                let what = "a store has only one commit: --at-a and --at-b are for states";
                Err(CliError::Usage(what.to_owned()))
            }
            StateOrStore::Store(uri) => {
                let settings = reach.apply(CqlSettings::from(uri)).with_environment()?;
                let runtime = runtime().map_err(CliError::io("cannot start"))?;
                runtime.block_on(async {
                    let scan = CqlScan::open(&settings).await?;
                    let mut tags = Vec::new();
                    // The job's row first, so that no row is older than it.
                    let job = scan.job().await?;
                    scan.tags(|tag| tags.push(tag)).await?;
                    Ok(Self::Store(job, tags))
                })
            }
        }
    }

    fn as_of_ms(&self) -> Option<i64> {
        match self {
            Self::State(snapshot) => snapshot.manifest.body.as_of_ms,
            Self::Store(job, _) => job.as_of_ms,
        }
    }

    fn commit(&self) -> u64 {
        match self {
            Self::State(snapshot) => snapshot.manifest.header.commit,
            Self::Store(job, _) => job.published,
        }
    }

    fn tags(&self, as_of_ms: Option<i64>) -> Result<Vec<Tag>, StoreError> {
        let at = as_of_ms.max(self.as_of_ms());
        match self {
            Self::State(snapshot) => tags_of(snapshot, at),
            Self::Store(JobRow { windows, .. }, tags) => served_tags(tags, windows, at),
        }
    }

    fn windows(&self) -> &Windows {
        match self {
            Self::State(snapshot) => &snapshot.manifest.body.windows,
            Self::Store(job, _) => &job.windows,
        }
    }
}

/// The result of a comparison: both commits, the rows compared, and the values that differ.
#[derive(Serialize)]
struct Compared {
    a: u64,
    b: u64,
    compared: usize,
    differ: usize,
}

impl Print for Compared {
    fn lines(&self) -> Vec<String> {
        let Self { a, b, compared, differ } = self;
        vec![format!("commits {a} and {b}: {compared} rows, {differ} values differ")]
    }
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<(), CliError> {
    let a = Side::read(&args.a, args.at_a, &args.reach)?;
    let b = Side::read(&args.b, args.at_b, &args.reach)?;
    if a.windows() != b.windows() {
        eprintln!("note: the windows differ; only windows of the same name are compared");
    }
    let (tags_a, tags_b) = (a.tags(b.as_of_ms())?, b.tags(a.as_of_ms())?);
    let found = diff_tags(&tags_a, &tags_b);
    let compared = Compared {
        a: a.commit(),
        b: b.commit(),
        compared: tags_a.len().max(tags_b.len()),
        differ: found.len(),
    };
    let listed = found.len().min(args.limit.unwrap_or(usize::MAX));
    let mut printer = Printer::new(args.json);
    printer.differences(&found[..listed], Sides::Compared)?;
    printer.print(&compared)?;
    printer.flush()?;
    match found.len() {
        0 => Ok(()),
        differ => Err(CliError::Differ(differ)),
    }
}
