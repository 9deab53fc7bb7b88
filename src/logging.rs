//! Logs to standard error, as text or JSON.

use std::io::{self, IsTerminal as _};

use schemas::printable::{printable, shortened};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::debug_fn;

use crate::error::CliError;
use crate::say::{self, LINE_CHARS, Logs, Voice};

/// What is logged unless `--log-level` says otherwise: warnings, and when a job starts and stops.
const LEVEL: &str = "warn,tagflow=info,scylla=off";
const QUIET_LEVEL: &str = "warn,scylla=off";

/// What is logged, and how.
#[derive(clap::Args)]
#[command(next_help_heading = "Messages")]
pub(crate) struct Args {
    /// Print only warnings and errors on standard error: no live line, no notes
    #[arg(long, short, global = true)]
    quiet: bool,
    /// What to log: error, warn, info, debug, trace or off, or a filter such as
    /// `info,dataflow=debug` [default: warnings, and when a job starts and stops]
    #[arg(long, global = true, env = "TAGFLOW_LOG", hide_env_values = true, value_name = "LEVEL")]
    log_level: Option<String>,
    /// Print one JSON object per line on standard error: logs, notes, errors and the live line
    #[arg(long, global = true)]
    log_json: bool,
}

/// Starts logging.
pub(crate) fn start(args: &Args) -> Result<(), CliError> {
    say::start(Voice { json: args.log_json, quiet: args.quiet });
    let default = if args.quiet { QUIET_LEVEL } else { LEVEL };
    // An empty variable is as good as none.
    let level = args.log_level.as_deref().filter(|level| !level.is_empty()).unwrap_or(default);
    // A filter accepts any word as a target; a single word can only be a misspelt level.
    let wrong = || {
        let levels = "error, warn, info, debug, trace or off";
        CliError::Usage(format!("--log-level {level:?}: use {levels}, or a filter"))
    };
    if !level.contains(['=', ',']) && level.parse::<LevelFilter>().is_err() {
        return Err(wrong());
    }
    let filter = EnvFilter::try_new(level).map_err(|_| wrong())?;
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| Logs);
    if args.log_json {
        logs.json().log_internal_errors(false).init();
        return Ok(());
    }
    let fields = debug_fn(|writer, field, value| {
        // Names and errors may come from outside.
        let value = format!("{value:?}");
        let value = shortened(&value, LINE_CHARS);
        match field.name() {
            "message" => write!(writer, "{}", printable(&value)),
            name => write!(writer, "{name}={}", printable(&value)),
        }
    });
    let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let logs = logs.fmt_fields(fields.delimited(" "));
    logs.with_ansi(colours).log_internal_errors(false).init();
    Ok(())
}
