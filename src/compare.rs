//! `tagflow compare`: what differs between two states, tag by tag.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use sinks::commits::Snapshot;
use sinks::compare::{compare, tags_of};

use crate::error::CliError;
use crate::output::Output;
use crate::state::{At, open, snapshot};

/// Print what differs between two states, the largest difference first
#[derive(clap::Args)]
#[command(after_help = "Windows of both are evaluated at the later of their stream times.
Exit code: 0 nothing differs, 1 something does.

Example:
  tagflow compare ./state ./replayed --json")]
pub(crate) struct Args {
    /// A job's state folder
    a: PathBuf,
    /// Another one
    b: PathBuf,
    /// The commit of the first, or the last one at a time; the visible one by default
    #[arg(long, value_name = "COMMIT|TIME")]
    at_a: Option<At>,
    /// The commit of the second
    #[arg(long, value_name = "COMMIT|TIME")]
    at_b: Option<At>,
    /// Print at most so many values
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// One JSON object for every value that differs, then one for the result
    #[arg(long)]
    json: bool,
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
    let read =
        |state: &Path, at| -> Result<Arc<Snapshot>, CliError> { snapshot(&*open(state)?, at) };
    let (a, b) = (read(&args.a, args.at_a)?, read(&args.b, args.at_b)?);
    let as_of = |snapshot: &Snapshot| snapshot.manifest.body.as_of_ms;
    let (tags_a, tags_b) = (tags_of(&a, as_of(&b))?, tags_of(&b, as_of(&a))?);
    let found = compare(&tags_a, &tags_b);
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
    let commit = |snapshot: &Snapshot| snapshot.manifest.header.commit;
    let compared = Compared {
        a: commit(&a),
        b: commit(&b),
        compared: tags_a.len().max(tags_b.len()),
        differ: found.len(),
    };
    if args.json {
        output.json(&compared)?;
    } else {
        let Compared { a, b, compared, differ } = compared;
        output.line(format!("commits {a} and {b}: {compared} rows, {differ} values differ"))?;
    }
    output.flush()?;
    match found.len() {
        0 => Ok(()),
        differ => Err(CliError::Differ(differ)),
    }
}
