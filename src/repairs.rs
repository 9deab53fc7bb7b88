//! `tagflow repairs`: what was done to a state on somebody's word, and the repair of what differs.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use dataflow::clock::{Clock, SystemClock};
use dataflow::reconcile::Found;
use dataflow::{Ask, Repair, Settings, ask, repairs};
use schemas::control::{Asker, Control};
use schemas::manifest::{Header, Manifest};
use schemas::mapping::Mapping;
use schemas::time::format_ms;
use serde_json::Value;
use sinks::storage::Storage;

use crate::error::CliError;
use crate::host::host_name;
use crate::output::Output;
use crate::state::{At, StateArg, manifest, open};

/// List what was done to a state on somebody's word: who, when, why, before and after
#[derive(clap::Args)]
#[command(after_help = "Example:\n  tagflow repairs ls --state ./state --json")]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// List corrections, rows that were written again, and records that were delivered again
    Ls {
        #[command(flatten)]
        state: StateArg,
        /// The commit, or the last one at a time; the visible one by default
        #[arg(long, value_name = "COMMIT|TIME")]
        at: Option<At>,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Result<(), CliError> {
    let What::Ls { state, at, json } = args.what;
    let storage = open(&state.state)?;
    let all = repairs(&*storage, &manifest(&*storage, at)?)?;
    let mut output = Output::new();
    all.iter().try_for_each(|repair| tell(&mut output, repair, json))?;
    output.flush()
}

/// Prints one of them.
pub(crate) fn tell(output: &mut Output, repair: &Repair, json: bool) -> Result<(), CliError> {
    if json {
        return output.json(repair);
    }
    let Repair { commit, kind, scope, key, position, before, after, who, why, when, .. } = repair;
    let place = match position {
        Some(position) => format!("{scope}/{key} at {position}"),
        None if scope.is_empty() => key.clone(),
        None => format!("{key} in {scope}"),
    };
    let why = if why.is_empty() { String::new() } else { format!(": {why}") };
    output
        .line(format!("commit {commit}: {kind} {place}, by {who} at {}{why}", format_ms(*when)))?;
    let (Value::Object(before), Value::Object(after)) = (before, after) else { return Ok(()) };
    before.iter().try_for_each(|(field, was)| {
        output.line(format!("  {field} was {was}, is {}", after.get(field).unwrap_or(&Value::Null)))
    })
}

/// Who asks for repairs, and of which job.
pub(crate) struct Mender {
    /// The state folder.
    pub(crate) state: PathBuf,
    /// What the records of its inputs call the fields of an event.
    pub(crate) mappings: BTreeMap<String, Mapping>,
    /// The job's settings.
    pub(crate) settings: Settings,
    /// Why.
    pub(crate) why: String,
}

impl Mender {
    /// Asks for `records`, which were made from the commit of `base`, and waits for them: the
    /// visible commit that has taken them, and what was done.
    pub(crate) fn ask(
        &self,
        base: &Header,
        records: &[Control],
    ) -> Result<(Manifest, Vec<Repair>), CliError> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
        let user = std::env::var("USER").or_else(|_| std::env::var("LOGNAME"));
        let asker = Asker {
            who: format!("{}@{}", user.as_deref().unwrap_or("unknown"), host_name()),
            when_ms: clock.wall_ms(),
            why: self.why.clone(),
            base: base.commit,
            history: base.history,
        };
        let (mappings, settings) = (self.mappings.clone(), self.settings.clone());
        let spec = Ask { state: self.state.clone(), mappings, settings, clock, host: host_name() };
        let (taken, first) = ask(&spec, &asker, records)?;
        let storage = open(&self.state)?;
        let mut done = repairs(&*storage, &taken)?;
        done.retain(|repair| {
            repair.request >= first && repair.who == asker.who && repair.when == asker.when_ms
        });
        Ok((taken, done))
    }
}

/// Repairs what a check has found, and checks the same keys again, until nothing differs or a round
/// brings nothing: events that come meanwhile may hide what a row was.
pub(crate) fn repair(
    mender: &Mender,
    storage: &dyn Storage,
    mut base: Header,
    mut found: Found,
    mut again: impl FnMut(Manifest, &Found) -> Result<Found, CliError>,
) -> Result<(Vec<Repair>, Found), CliError> {
    let mut all = Vec::new();
    // Corrections of a commit before a rollback would be passed over.
    let newest = manifest(storage, None)?.header;
    if base.history != newest.history {
        let (at, commit) = (base.commit, newest.commit);
        let what = format!("the state was rolled back after commit {at}; check commit {commit}");
        return Err(CliError::Failed(what));
    }
    for _ in 0..ROUNDS {
        if found.controls.is_empty() {
            break;
        }
        let (taken, done) = mender.ask(&base, &found.controls)?;
        all.extend(done);
        base = taken.header.clone();
        found = again(taken, &found)?;
    }
    Ok((all, found))
}

/// How often what still differs is repaired again.
const ROUNDS: usize = 5;
