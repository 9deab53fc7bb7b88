//! `tagflow demo`: generator, job and API in one process; nothing else needs to be installed.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use dataflow::clock::SystemClock;
use dataflow::generator::GeneratorSpec;
use dataflow::{InputSpec, JobSpec, Origin, Settings, Started, StateAt, start};
use prometheus_client::registry::Registry;
use schemas::config::{LogTimeSource, PostShape, Scope};
use schemas::mapping::Mapping;
use schemas::printable::{counted, shown};
use sinks::commits::Follower;
use sinks::store::CommitView;

use crate::error::CliError;
use crate::host::{host_name, worker_default};
use crate::inputs::started_ms;
use crate::progress::LiveLine;
use crate::say;
use crate::service::{ListenArgs, Listeners, print_addresses};
use crate::signals::on_stop;

/// How many top tags the live line names.
const NAMED: usize = 3;

/// Watch counts rise: generator, job and pages in one process
#[derive(clap::Args)]
#[command(after_help = "Example:\n  tagflow demo --seconds 30 --listen 127.0.0.1:0")]
pub(crate) struct Args {
    /// Exit after N seconds
    #[arg(long, value_name = "N")]
    seconds: Option<u64>,
    /// Keep the state in this folder [default: a temporary one]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Posts per second
    #[arg(long, value_name = "N", default_value_t = 1700)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    rate: u64,
    /// Worker threads [default: the number of cores minus one]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: Option<u16>,
    #[command(flatten)]
    listen: ListenArgs,
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Result<(), CliError> {
    if let Some(state) = &args.state {
        return demo(&args, state.clone());
    }
    let temporary = temporary_folder()?;
    let done = demo(&args, temporary.clone());
    // The system clears up what cannot be removed here.
    let _ = fs::remove_dir_all(temporary);
    done
}

fn temporary_folder() -> Result<PathBuf, CliError> {
    let folder = std::env::temp_dir().join(format!("tagflow-demo-{}", std::process::id()));
    fs::create_dir_all(&folder)
        .map_err(CliError::io(format!("cannot create {}", shown(&folder))))?;
    Ok(folder)
}

fn demo(args: &Args, state: PathBuf) -> Result<(), CliError> {
    let workers = args.workers.map_or_else(worker_default, usize::from);
    let spec = JobSpec {
        settings: settings(),
        inputs: vec![input(args.rate, started_ms(&state)?)],
        state: StateAt::Folder(state.clone()),
        workers,
        take_over: false,
        clock: Arc::new(SystemClock::default()),
        host: host_name(),
        publisher: None,
    };
    let listeners = Listeners::bind(&args.listen)?;
    let Started::Running(job) = start(spec)? else { return Ok(()) };
    let mut registry = Registry::with_prefix("tagflow");
    job.status().register(&mut registry);
    print_addresses(&listeners.url, listeners.metrics_url.as_deref());
    say::note(format!("open {} and watch counts rise; Ctrl-C stops", listeners.url));
    let (service, follower) = listeners.serve_state(&state, registry)?;
    let live = LiveLine::start(job.status(), move || top(&follower));
    let (ask, asked) = channel();
    on_stop(move || {
        // The receiver is gone only once the demo is ending anyway.
        let _ = ask.send(());
    });
    let status = job.status();
    let _ = match args.seconds {
        Some(seconds) => asked.recv_timeout(Duration::from_secs(seconds)).ok(),
        None => asked.recv().ok(),
    };
    job.stop().set();
    let ended = job.wait();
    drop(live);
    service.stop();
    let counters = ended?.body.counters;
    say::note(format!(
        "{}, {} in {}",
        counted(counters.events, "event", "events"),
        counted(counters.duplicates, "duplicate", "duplicates"),
        counted(status.progress().commit, "commit", "commits"),
    ));
    Ok(())
}

fn settings() -> Settings {
    let allow = ["us", "eu", "asia"].map(str::to_owned).to_vec();
    let scopes = vec![Scope { attribute: "region".to_owned(), allow }];
    Settings { scopes, ..Settings::default() }
}

fn input(rate: u64, start_ms: i64) -> InputSpec {
    let shape = PostShape {
        tags_mean: 3.0,
        vocabulary: 200_000,
        bursts: true,
        late: 0.001,
        ..PostShape::default()
    };
    let spec =
        GeneratorSpec { shape, start_ms, step_us: 1_000_000 / rate, ..GeneratorSpec::default() };
    let origin = Origin::Generator { spec, real_time: true };
    InputSpec {
        name: "posts".to_owned(),
        origin,
        mapping: Mapping::default(),
        log_time: Some(LogTimeSource::Event),
        span: None,
    }
}

/// The top tags of the shortest window, for the live line.
fn top(follower: &Follower) -> String {
    let Some(snapshot) = follower.current() else { return String::new() };
    // Without a board, such as before the first post, the line names no tags.
    let Ok(boards) = CommitView::new(snapshot).boards("") else { return String::new() };
    let Some(board) = boards.first().filter(|board| !board.entries.is_empty()) else {
        return String::new();
    };
    let names = board.entries.iter().take(NAMED).map(|e| format!("#{} {}", e.display, e.count));
    format!(" | {}", names.collect::<Vec<_>>().join(", "))
}
