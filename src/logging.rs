//! Logs to standard error, as text or JSON.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::error::CliError;

/// What is logged, and how.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Log level: error, warn, info, debug, trace or off, or a filter such as `info,dataflow=debug`
    #[arg(
        long,
        global = true,
        env = "TAGFLOW_LOG",
        default_value = "warn,scylla=off",
        value_name = "LEVEL"
    )]
    log_level: String,
    /// Log one JSON object per line
    #[arg(long, global = true)]
    log_json: bool,
}

/// Starts logging.
pub(crate) fn start(args: &Args) -> Result<(), CliError> {
    let level = &args.log_level;
    // A filter accepts any word as a target; a single word can only be a misspelt level.
    let wrong = || {
        let levels = "error, warn, info, debug, trace or off";
        CliError::Usage(format!("--log-level {level:?}: use {levels}, or a filter"))
    };
    if !level.contains(['=', ',']) && level.parse::<LevelFilter>().is_err() {
        return Err(wrong());
    }
    let filter = EnvFilter::try_new(level).map_err(|_| wrong())?;
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr);
    if args.log_json {
        logs.json().init();
    } else {
        logs.init();
    }
    Ok(())
}
