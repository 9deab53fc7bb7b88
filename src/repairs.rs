//! `tagflow repairs`: the repairs that were requested of a state, and the loop that repairs what
//! differs.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use dataflow::clock::{Clock, SystemClock};
use dataflow::reconcile::Findings;
use dataflow::{Repair, RepairTarget, Settings, repairs, request_repairs};
use schemas::control::{Author, Control};
use schemas::manifest::{Header, Manifest};
use schemas::mapping::Mapping;
use schemas::time::format_ms;
use serde_json::Value;
use sinks::storage::Storage;

use crate::error::CliError;
use crate::host::host_name;
use crate::printer::{Print, Printer};
use crate::state::{CommitAt, StateArg, manifest, open};

/// List the repairs of a state: who, when, why, before and after
#[derive(clap::Args)]
#[command(after_help = "Example:\n  tagflow repairs ls --state ./state --json")]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// List corrections, rows written again, and records delivered again
    Ls {
        #[command(flatten)]
        state: StateArg,
        /// The commit, or the last commit at a time; by default the visible one
        #[arg(long, value_name = "COMMIT|TIME")]
        at: Option<CommitAt>,
        /// Print one JSON object per line
        #[arg(long)]
        json: bool,
    },
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Result<(), CliError> {
    let What::Ls { state, at, json } = args.what;
    let storage = open(&state.folder()?)?;
    let all = repairs(&*storage, &manifest(&*storage, at)?, |_| true)?;
    let mut printer = Printer::new(json);
    all.iter().try_for_each(|repair| printer.print(repair))?;
    printer.flush()
}

impl Print for Repair {
    fn lines(&self) -> Vec<String> {
        let Repair { commit, kind, scope, key, position, before, after, who, why, when, .. } = self;
        let row = match position {
            Some(position) => format!("{scope}/{key} at {position}"),
            None if scope.is_empty() => key.clone(),
            None => format!("{key} in {scope}"),
        };
        let why = if why.is_empty() { String::new() } else { format!(": {why}") };
        let when = format_ms(*when);
        let mut lines = vec![format!("commit {commit}: {kind} {row}, by {who} at {when}{why}")];
        if let (Value::Object(before), Value::Object(after)) = (before, after) {
            lines.extend(before.iter().map(|(field, was)| {
                format!("  {field} was {was}, is {}", after.get(field).unwrap_or(&Value::Null))
            }));
        }
        lines
    }
}

/// Who requests repairs, and of which job.
pub(crate) struct Requester {
    /// The state folder.
    pub(crate) state: PathBuf,
    /// The names that the records of each input give to the fields of an event.
    pub(crate) mappings: BTreeMap<String, Mapping>,
    /// The job's settings.
    pub(crate) settings: Settings,
    /// The reason.
    pub(crate) why: String,
}

impl Requester {
    /// Requests `records`, which were made from the commit of `base`, and waits for them. Returns
    /// the visible commit that has taken them, and what was done.
    pub(crate) fn ask(
        &self,
        base: &Header,
        records: &[Control],
    ) -> Result<(Manifest, Vec<Repair>), CliError> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
        let user = std::env::var("USER").or_else(|_| std::env::var("LOGNAME"));
        let author = Author {
            who: format!("{}@{}", user.as_deref().unwrap_or("unknown"), host_name()),
            when_ms: clock.wall_ms(),
            why: self.why.clone(),
            base: base.commit,
            history: base.history,
        };
        let (mappings, settings) = (self.mappings.clone(), self.settings.clone());
        let target = RepairTarget {
            state: self.state.clone(),
            mappings,
            settings,
            clock,
            host: host_name(),
        };
        let (taken, first) = request_repairs(&target, &author, records)?;
        let storage = open(&self.state)?;
        let done = repairs(&*storage, &taken, |row| {
            row.request >= first && row.who == author.who && row.when_ms == author.when_ms
        })?;
        Ok((taken, done))
    }
}

/// Repairs what a check has found and checks the same keys again, until nothing differs or there is
/// nothing left to try: events that arrive meanwhile may hide what a row was.
pub(crate) fn repair(
    requester: &Requester,
    storage: &dyn Storage,
    mut base: Header,
    mut found: Findings,
    mut check_again: impl FnMut(Manifest, &Findings) -> Result<Findings, CliError>,
) -> Result<(Vec<Repair>, Findings), CliError> {
    let mut all = Vec::new();
    // The job ignores corrections that were made from a commit before a rollback.
    let newest = manifest(storage, None)?.header;
    if base.history != newest.history {
        let (at, commit) = (base.commit, newest.commit);
        let what =
            format!("the state was rolled back after commit {at}; check commit {commit} instead");
        return Err(CliError::Failed(what));
    }
    for _ in 0..ROUNDS {
        if found.controls.is_empty() {
            break;
        }
        let (taken, done) = requester.ask(&base, &found.controls)?;
        all.extend(done);
        base = taken.header.clone();
        found = check_again(taken, &found)?;
    }
    Ok((all, found))
}

/// How many times to repair what still differs.
const ROUNDS: usize = 5;
