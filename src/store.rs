//! `tagflow store`: creates, checks, fills and promotes the tables of a database.

use std::path::PathBuf;
use std::sync::Arc;

use dataflow::clock::{Clock, SystemClock};
use dataflow::{Rebuild, RebuildError, rebuild};
use schemas::config::StoreUri;
use schemas::printable::counted;
use schemas::time::{format_ms, parse_duration_ms};
use sinks::active::Promoted;
use sinks::cql::{CqlPublisher, CqlSettings, Finding, Level, check, init, promote};
use sinks::publish::PublishError;

use crate::error::CliError;
use crate::host::host_name;
use crate::job::{JOB_NAME, Job, load};
use crate::output::Output;
use crate::progress::LiveLine;
use crate::run::unpublished;
use crate::signals::{on_stop, runtime};
use crate::state::{folder, manifest, open};
use crate::store_args::StoreArgs;

/// Create, check, fill and promote the tables of a database
#[derive(clap::Args)]
#[command(after_help = "Examples:
  tagflow store init --store cql://127.0.0.1:9042/tags --replication 3
  tagflow store check dataflow.yaml
  tagflow store promote tags_new --store cql://127.0.0.1:9042/tags
  tagflow store rebuild --store cql://127.0.0.1:9042/tags_green --state ./state")]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Create the keyspace and its tables; changes nothing if they exist
    Init {
        /// Copies of each row in the nearest data centre
        #[arg(long, value_name = "N", default_value_t = 1)]
        #[arg(value_parser = clap::value_parser!(u32).range(1..=16))]
        replication: u32,
        #[command(flatten)]
        target: StoreTarget,
    },
    /// Check the servers, tables, clocks and copies, and write a test row
    Check {
        #[command(flatten)]
        target: StoreTarget,
    },
    /// Make another keyspace active for the readers of a store, within a second and without a
    /// restart; name the old one to go back
    Promote {
        /// The keyspace, or its cql:// address
        #[arg(value_name = "NEW")]
        keyspace: String,
        #[command(flatten)]
        given: StoreArgs,
    },
    /// Send every row of a state, whatever the store has; a job may be running
    Rebuild {
        /// The state folder [default: that of the dataflow.yaml, or the variable `TAGFLOW_STATE`]
        #[arg(long, value_name = "DIR")]
        state: Option<PathBuf>,
        /// The job's name in the store
        #[arg(long, value_name = "NAME")]
        job: Option<String>,
        /// How long to wait for a store that does not answer
        #[arg(long, value_name = "DURATION", default_value = "5m")]
        #[arg(value_parser = parse_duration_ms)]
        store_wait: i64,
        #[command(flatten)]
        target: StoreTarget,
    },
}

/// A store.
#[derive(clap::Args)]
struct StoreTarget {
    /// A dataflow.yaml with a sink
    #[arg(value_name = "CONFIG")]
    config: Option<PathBuf>,
    #[command(flatten)]
    store: StoreArgs,
}

impl StoreTarget {
    /// The job of the configuration, if there is one, and the store.
    fn read(&self) -> Result<(Option<Job>, CqlSettings), CliError> {
        let job = self.config.as_deref().map(load).transpose()?;
        let job = job.map(|config| Job::of(&config, false));
        let named = self.store.settings();
        let settings = named.or_else(|| job.as_ref().and_then(|job| job.store.clone()));
        let settings = settings.ok_or_else(|| {
            let what = match self.config {
                Some(_) => "the dataflow.yaml has no sink of type cql; name a --store",
                None => "name the --store, such as cql://127.0.0.1:9042/tags, or a dataflow.yaml",
            };
            CliError::Usage(what.to_owned())
        })?;
        Ok((job, settings.with_environment()?))
    }
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<(), CliError> {
    match &args.what {
        What::Init { target, replication } => {
            let (_, settings) = target.read()?;
            let runtime = runtime().map_err(CliError::io("cannot start"))?;
            print(&runtime.block_on(init(&settings, *replication))?)
        }
        What::Check { target } => {
            let (_, settings) = target.read()?;
            let runtime = runtime().map_err(CliError::io("cannot start"))?;
            let clock = SystemClock::default();
            print(&runtime.block_on(check(&settings, || clock.wall_ms()))?)
        }
        What::Promote { keyspace, given } => promote_keyspace(keyspace, given),
        What::Rebuild { target, state, job, store_wait } => {
            let (config, settings) = target.read()?;
            let configured = config.as_ref().map(|job| job.state.as_path());
            let state = folder(state.as_deref(), configured)?;
            let name = job.clone().or(config.map(|job| job.name));
            let name = name.unwrap_or_else(|| JOB_NAME.to_owned());
            fill(settings, &state, name, store_wait.unsigned_abs())
        }
    }
}

fn print(findings: &[Finding]) -> Result<(), CliError> {
    let mut output = Output::new();
    findings.iter().try_for_each(|finding| output.line(finding.to_string()))?;
    output.flush()?;
    if findings.iter().any(|finding| finding.level == Level::Error) {
        return Err(CliError::Failed(
            "the store cannot be used before its errors are fixed".to_owned(),
        ));
    }
    Ok(())
}

/// Makes another keyspace active for the readers of a store.
fn promote_keyspace(new: &str, given: &StoreArgs) -> Result<(), CliError> {
    let settings = given
        .settings()
        .ok_or_else(|| CliError::Usage("name the --store that readers were given".to_owned()))?;
    let settings = settings.with_environment()?;
    let named = if new.starts_with("cql:") {
        new.parse::<StoreUri>()
    } else {
        StoreUri::new(settings.nodes.clone(), new).map_err(Into::into)
    };
    let named = named.map_err(|error| CliError::Usage(error.to_string()))?;
    if named.nodes != settings.nodes {
        let what = "the keyspace must be on the servers that --store names: a promotion only \
                    names a keyspace";
        return Err(CliError::Usage(what.to_owned()));
    }
    let runtime = runtime().map_err(CliError::io("cannot start"))?;
    let wall_ms = SystemClock::default().wall_ms();
    let Promoted { before, active } =
        runtime.block_on(promote(&settings, &named.keyspace, wall_ms))?;
    let mut output = Output::new();
    let as_of = active.as_of_ms.map_or_else(|| "-".to_owned(), format_ms);
    let (given, keyspace, commit) = (&settings.keyspace, &named.keyspace, active.published);
    output.line(format!("readers of {given} see {keyspace}: commit {commit}, as of {as_of}"))?;
    output
        .line(format!("to go back: tagflow store promote {before} --store {}", settings.uri()))?;
    output.flush()
}

fn fill(
    settings: CqlSettings,
    state: &std::path::Path,
    job: String,
    store_wait_ms: u64,
) -> Result<(), CliError> {
    // Fails if the state has no commit to send.
    manifest(&*open(state)?, None)?;
    let uri = settings.uri();
    let mut publisher = CqlPublisher::new(settings)?;
    let is_empty = publisher.is_empty().map_err(RebuildError::from)?;
    let is_empty =
        is_empty.ok_or_else(|| RebuildError::from(PublishError::unavailable(&publisher)))?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let (commit, publication) = rebuild(Rebuild {
        state: state.to_owned(),
        job,
        publisher: Box::new(publisher),
        is_empty,
        store_wait_ms,
        clock,
        host: host_name(),
    })?;
    let (stop, status) = (publication.stop(), publication.status());
    on_stop(move || stop.set());
    let live = LiveLine::start(Arc::clone(&status), String::new);
    let done = publication.wait();
    drop(live);
    done?;
    let commit = commit.header.commit;
    if let Some(what) = unpublished(&status, commit) {
        return Err(CliError::Failed(what));
    }
    let done = status
        .publishing()
        .unwrap_or_else(|| unreachable!("a publication that has ended has a status"));
    let mut output = Output::new();
    let rows = counted(done.rows, "row", "rows");
    output.line(format!("{uri} has commit {commit}: {rows} written"))?;
    if done.refused > 0 {
        let rows = counted(done.refused, "row was", "rows were");
        output.line(format!("{rows} refused; see the folder refused of the state"))?;
    }
    output.flush()
}
