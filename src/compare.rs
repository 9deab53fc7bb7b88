//! `tagflow compare`: what differs between two states or stores, tag by tag.
//!
//! Invariant: windows of both sides are evaluated at the same instant, so only counts can differ,
//! not the time at which they were read.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use schemas::config::StoreUri;
use schemas::printable::shown;
use schemas::rows::TagRow;
use schemas::tags::{Name, TagRules};
use schemas::windows::Windows;
use sinks::commits::Snapshot;
use sinks::cql::{CqlScan, CqlSettings};
use sinks::publish::JobRow;
use sinks::store::{UnknownScope, evaluate};
use tokio::runtime::Runtime;

use crate::arguments::path_or;
use crate::error::CliError;
use crate::printer::Printer;
use crate::say;
use crate::signals::runtime;
use crate::state::{CommitAt, open, snapshot};
use crate::store_args::Reach;

mod changes;
mod sorted;

use changes::{changes, summarize};
use sorted::{Sorted, Sorter};

/// Print what differs between two states or stores, tag by tag
#[derive(clap::Args)]
#[command(
    after_help = "A summary comes first, then a line for each tag that differs, by scope and key; with --limit,
those whose totals are furthest apart, the furthest first. The windows of both sides are evaluated
at the later of their stream times.
Exit code: 0 if nothing differs, 1 if something differs.

Examples:
  tagflow compare ./state ./replayed --limit 20
  tagflow compare ./state ./replayed --scope region=eu --field total --json
  tagflow compare cql://127.0.0.1:9042/tags cql://127.0.0.1:9042/tags_new --tags sunset,beach"
)]
pub(crate) struct Args {
    /// A job's state folder, or a store: `cql://HOST:PORT[,HOST:PORT]/KEYSPACE`
    #[arg(value_parser = path_or(str::parse, StateOrStore::State))]
    a: StateOrStore,
    /// Another state folder or store
    #[arg(value_parser = path_or(str::parse, StateOrStore::State))]
    b: StateOrStore,
    /// The commit of A, or its last commit at a time; by default the visible one
    #[arg(long, value_name = "COMMIT|TIME")]
    at_a: Option<CommitAt>,
    /// The commit of B, or its last commit at a time
    #[arg(long, value_name = "COMMIT|TIME")]
    at_b: Option<CommitAt>,
    /// Compare only this scope, such as region=eu; an empty one is the whole stream
    #[arg(long)]
    scope: Option<String>,
    /// Compare only these tags, in any spelling
    #[arg(long, value_name = "TAG,…", value_delimiter = ',')]
    tags: Vec<String>,
    /// Compare only these fields: `total`, `display`, `first_seen`, `last_seen`, `c1h`, `c24h`
    #[arg(long, value_name = "FIELD,…", value_delimiter = ',')]
    field: Vec<String>,
    /// Print only the N tags whose totals are furthest apart
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Print one JSON object for the summary, then one for each tag that differs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    reach: Reach,
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

/// One side, open for reading.
enum Side {
    State(Arc<Snapshot>),
    Store(Runtime, CqlScan, JobRow),
}

/// Which tags are compared.
struct Wanted {
    scope: Option<String>,
    keys: BTreeSet<String>,
}

impl Wanted {
    /// The tags that the names have by the rules of one side or the other.
    fn of(args: &Args, sides: [TagRules; 2]) -> Result<Self, CliError> {
        let mut keys = BTreeSet::new();
        for name in &args.tags {
            let parsed = sides.map(|rules| Name::parse(name, rules));
            if let [Err(error), Err(_)] = parsed {
                return Err(CliError::Name { name: name.clone(), error });
            }
            keys.extend(parsed.into_iter().flatten().map(|name| name.key().to_owned()));
        }
        Ok(Self { scope: args.scope.clone(), keys })
    }

    fn has(&self, row: &TagRow<'_>) -> bool {
        row.total != 0
            && self.scope.as_deref().is_none_or(|scope| scope == row.scope)
            && (self.keys.is_empty() || self.keys.contains(row.tag))
    }
}

impl Side {
    /// The rules by which names of its tags are read. A database does not say by which it was made.
    fn rules(&self) -> TagRules {
        match self {
            Self::State(snapshot) => TagRules::for_names(snapshot.manifest.body.rules),
            Self::Store(..) => TagRules::NEWEST,
        }
    }

    fn open(target: &StateOrStore, at: Option<CommitAt>, reach: &Reach) -> Result<Self, CliError> {
        match target {
            StateOrStore::State(state) => Ok(Self::State(snapshot(&*open(state)?, at)?)),
            StateOrStore::Store(_) if at.is_some() => {
                let what = "a store has only one commit: --at-a and --at-b are for states";
                Err(CliError::Usage(what.to_owned()))
            }
            StateOrStore::Store(uri) => {
                let settings = reach.apply(CqlSettings::from(uri)).with_environment()?;
                let runtime = runtime().map_err(CliError::io("cannot start"))?;
                let scan = runtime.block_on(CqlScan::open(&settings))?;
                // The job's row before the others, so that none of them is older than it.
                let job = runtime.block_on(scan.job())?;
                Ok(Self::Store(runtime, scan, job))
            }
        }
    }

    fn as_of_ms(&self) -> Option<i64> {
        match self {
            Self::State(snapshot) => snapshot.manifest.body.as_of_ms,
            Self::Store(_, _, job) => job.as_of_ms,
        }
    }

    fn commit(&self) -> u64 {
        match self {
            Self::State(snapshot) => snapshot.manifest.header.commit,
            Self::Store(_, _, job) => job.published,
        }
    }

    /// Checks that it counts `scope`: nothing can be said of one that it does not.
    fn check_scope(&self, name: &str, scope: &str) -> Result<(), CliError> {
        let known = match self {
            Self::State(snapshot) => snapshot.manifest.body.scopes.as_deref(),
            Self::Store(_, _, job) => job.scopes.as_deref(),
        };
        UnknownScope::check(scope, known)
            .map_err(|unknown| CliError::Usage(format!("in {name}, {unknown}")))
    }

    fn windows(&self) -> &Windows {
        match self {
            Self::State(snapshot) => &snapshot.manifest.body.windows,
            Self::Store(_, _, job) => &job.windows,
        }
    }

    /// Its tags, with windows at `as_of_ms`.
    fn sorted(&self, wanted: &Wanted, as_of_ms: Option<i64>) -> Result<Sorted, CliError> {
        let mut sorter = Sorter::default();
        let mut take = |row: &TagRow<'_>| -> Result<(), CliError> {
            if wanted.has(row) {
                sorter.push(evaluate(row, self.windows(), as_of_ms)?).map_err(temporary())?;
            }
            Ok(())
        };
        match self {
            Self::State(snapshot) => {
                snapshot.tags_changed(0, None).try_for_each(|(_, row)| take(&row))?;
            }
            Self::Store(runtime, scan, _) => {
                let mut taken = Ok(());
                let each = scan.tags(|tag| {
                    if taken.is_ok() {
                        taken = take(&tag.row());
                    }
                });
                runtime.block_on(each)?;
                taken?;
            }
        }
        sorter.finish().map_err(temporary())
    }
}

fn temporary() -> impl FnOnce(io::Error) -> CliError {
    let folder = std::env::temp_dir();
    CliError::io(format!("cannot use a temporary file in {} (TMPDIR)", shown(&folder)))
}

/// The fields to compare, which one side must have.
fn fields(args: &Args, a: &Side, b: &Side) -> Result<BTreeSet<String>, CliError> {
    let windows = a.windows().iter().chain(b.windows().iter());
    let own = ["total", "display", "first_seen", "last_seen"].map(str::to_owned);
    let known: Vec<String> =
        own.into_iter().chain(windows.map(|window| format!("c{}", window.name()))).collect();
    match args.field.iter().find(|field| !known.contains(field)) {
        None => Ok(args.field.iter().cloned().collect()),
        Some(field) => {
            let known: BTreeSet<String> = known.into_iter().collect();
            let known = known.into_iter().collect::<Vec<_>>().join(", ");
            Err(CliError::Usage(format!("--field {field:?}: use one or more of {known}")))
        }
    }
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<(), CliError> {
    let a = Side::open(&args.a, args.at_a, &args.reach)?;
    let b = Side::open(&args.b, args.at_b, &args.reach)?;
    let wanted = Wanted::of(args, [a.rules(), b.rules()])?;
    if let Some(scope) = &wanted.scope {
        a.check_scope("A", scope)?;
        b.check_scope("B", scope)?;
    }
    let fields = fields(args, &a, &b)?;
    if a.windows() != b.windows() {
        say::note("the windows differ; only windows of the same name are compared");
    }
    let at = a.as_of_ms().max(b.as_of_ms());
    let (left, right) = (a.sorted(&wanted, at)?, b.sorted(&wanted, at)?);
    let limit = args.limit.unwrap_or(0);
    let (mut summary, largest) = summarize(&left, &right, &fields, limit).map_err(temporary())?;
    (summary.a, summary.b) = (a.commit(), b.commit());
    let mut printer = Printer::new(args.json);
    printer.print(&summary)?;
    if args.limit.is_some() {
        largest.iter().try_for_each(|change| printer.print(change))?;
    } else {
        for change in changes(&left, &right, &fields) {
            printer.print(&change.map_err(temporary())?)?;
        }
    }
    printer.flush()?;
    match summary.differ {
        0 => Ok(()),
        differ => Err(CliError::Differ(differ)),
    }
}
