//! `tagflow run`: the job.

use std::path::PathBuf;
use std::sync::Arc;

use dataflow::clock::SystemClock;
use dataflow::{JobSpec, Settings, Started, StateAt, start};
use schemas::mapping::Mapping;

use crate::error::CliError;
use crate::inputs::input;

/// Count the hashtags of an input
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A file or a folder of NDJSON files, or stdin:
    #[arg(long)]
    input: String,
    /// What the records call the fields of an event
    #[arg(long, value_name = "FIELD=NAME,…", default_value = "")]
    map: Mapping,
    /// The state folder, made where it does not exist
    #[arg(long, value_name = "DIR")]
    state: PathBuf,
    /// Worker threads
    #[arg(long, value_name = "N", default_value_t = 1)]
    workers: usize,
    /// Read to the present end of the input and leave
    #[arg(long)]
    bounded: bool,
    /// Read events up to this time, and evaluate windows at it
    #[arg(long, value_name = "MS", requires = "bounded")]
    until: Option<i64>,
    /// Read at most so many records a second
    #[arg(long, value_name = "N")]
    limit_rate: Option<u64>,
    /// Supersede a job that still lives on this state
    #[arg(long)]
    take_over: bool,
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Result<(), CliError> {
    let settings = Settings::default();
    let mut settings = if args.bounded { settings.bounded() } else { settings };
    settings.until_ms = args.until;
    settings.limit_rate = args.limit_rate;
    let spec = JobSpec {
        settings,
        inputs: vec![input(&args.input, args.map, args.bounded, false)],
        state: StateAt::Folder(args.state),
        workers: args.workers,
        take_over: args.take_over,
        clock: Arc::new(SystemClock::default()),
        host: String::new(),
        publisher: None,
    };
    match start(spec)? {
        Started::Running(running) => {
            let manifest = running.wait()?;
            eprintln!("{:?}", manifest.body.counters);
        }
        Started::Finished(_) => eprintln!("finished already"),
    }
    Ok(())
}
