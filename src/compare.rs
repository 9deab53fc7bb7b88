//! `tagflow compare`: what differs between two states or stores, tag by tag.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use schemas::config::StoreUri;
use schemas::windows::Windows;
use serde::Serialize;
use sinks::commits::Snapshot;
use sinks::compare::{Difference, compare, served_tags, tags_of};
use sinks::cql::{CqlScan, CqlSettings};
use sinks::publish::JobRow;
use sinks::store::{ServedTag, StoreError, Tag};

use crate::error::CliError;
use crate::output::{Output, unless_closed};
use crate::signals::runtime;
use crate::state::{At, open, snapshot};
use crate::store_args::Reach;

/// Print what differs between two states or stores, the largest difference first
#[derive(clap::Args)]
#[command(after_help = "Windows of both are evaluated at the later of their stream times.
Exit code: 0 nothing differs, 1 something does.

Examples:
  tagflow compare ./state ./replayed --json
  tagflow compare cql://127.0.0.1:9042/tags cql://127.0.0.1:9042/tags_new --limit 20")]
pub(crate) struct Args {
    /// A job's state folder, or a store: `cql://HOST:PORT[,HOST:PORT]/KEYSPACE`
    a: Place,
    /// Another one
    b: Place,
    /// The commit of the first, or the last one at a time; the visible one by default
    #[arg(long, value_name = "COMMIT|TIME")]
    at_a: Option<At>,
    /// The commit of the second
    #[arg(long, value_name = "COMMIT|TIME")]
    at_b: Option<At>,
    #[command(flatten)]
    reach: Reach,
    /// Print at most so many values
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// One JSON object for every value that differs, then one for the result
    #[arg(long)]
    json: bool,
}

/// Where counts are.
#[derive(Clone, Debug)]
enum Place {
    State(PathBuf),
    Store(StoreUri),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with("cql:") {
            return text.parse().map(Self::Store).map_err(|error| format!("{error}"));
        }
        Ok(Self::State(PathBuf::from(text)))
    }
}

/// The counts of one side, with what their windows are evaluated by.
enum Side {
    State(Arc<Snapshot>),
    Store(JobRow, Vec<ServedTag>),
}

impl Side {
    fn read(place: &Place, at: Option<At>, reach: &Reach) -> Result<Self, CliError> {
        match place {
            Place::State(state) => Ok(Self::State(snapshot(&*open(state)?, at)?)),
            Place::Store(_) if at.is_some() => {
                let what = "a store has one commit only; --at-a and --at-b are for states";
                Err(CliError::Usage(what.to_owned()))
            }
            Place::Store(uri) => {
                let settings = reach.apply(CqlSettings::from(uri)).with_environment()?;
                let runtime = runtime().map_err(CliError::io("cannot start"))?;
                runtime.block_on(async {
                    let scan = CqlScan::open(&settings).await?;
                    let mut tags = Vec::new();
                    // In this order: no row is older than the job's.
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

#[derive(Serialize)]
struct Compared {
    a: u64,
    b: u64,
    compared: usize,
    differ: usize,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<(), CliError> {
    let a = Side::read(&args.a, args.at_a, &args.reach)?;
    let b = Side::read(&args.b, args.at_b, &args.reach)?;
    if a.windows() != b.windows() {
        eprintln!("note: the two have other windows; those of one name are compared");
    }
    let (tags_a, tags_b) = (a.tags(b.as_of_ms())?, b.tags(a.as_of_ms())?);
    let found = compare(&tags_a, &tags_b);
    let compared = Compared {
        a: a.commit(),
        b: b.commit(),
        compared: tags_a.len().max(tags_b.len()),
        differ: found.len(),
    };
    unless_closed(print(args, &found, &compared))?;
    match found.len() {
        0 => Ok(()),
        differ => Err(CliError::Differ(differ)),
    }
}

fn print(args: &Args, found: &[Difference], compared: &Compared) -> Result<(), CliError> {
    let mut output = Output::new();
    for difference in &found[..found.len().min(args.limit.unwrap_or(usize::MAX))] {
        if args.json {
            output.json(difference)?;
        } else {
            let scope = &difference.scope;
            let place = if scope.is_empty() { String::new() } else { format!(" in {scope}") };
            let (key, field) = (&difference.key, &difference.field);
            output.line(format!("{key}{place}: {field} {} | {}", difference.a, difference.b))?;
        }
    }
    if args.json {
        output.json(compared)?;
    } else {
        let Compared { a, b, compared, differ } = compared;
        output.line(format!("commits {a} and {b}: {compared} rows, {differ} values differ"))?;
    }
    output.flush()
}
