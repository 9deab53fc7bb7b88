//! `tagflow checkpoint`: what a state folder holds, commit by commit.

use schemas::manifest::Manifest;
use serde::Serialize;
use sinks::commits::Snapshot;
use sinks::store::evaluate;

use crate::error::CliError;
use crate::output::Output;
use crate::state::{StateArg, open, snapshot};

/// List, show, export and roll back the commits of a state folder
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Print all tags of a commit as NDJSON, by (scope, key), then its totals
    Export {
        #[command(flatten)]
        state: StateArg,
        /// The commit; the visible one by default
        #[arg(long, value_name = "COMMIT")]
        at: Option<u64>,
    },
}

#[derive(Serialize)]
struct ExportedTag<'a> {
    scope: &'a str,
    key: &'a str,
    display: &'a str,
    total: i64,
    first_seen: i64,
    last_seen: i64,
    c1h: i64,
    c24h: i64,
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
        What::Export { state, at } => export(&*snapshot(&*open(&state.state)?, at)?),
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
        let window = |i: usize| tag.windows.get(i).map_or(0, |(_, count)| *count);
        output.json(&ExportedTag {
            scope: row.scope,
            key: row.tag,
            display: row.display,
            total: row.total,
            first_seen: row.first_seen,
            last_seen: row.last_seen,
            c1h: window(0),
            c24h: window(1),
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
