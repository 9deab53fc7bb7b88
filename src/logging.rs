//! Logs to standard error, as text or JSON.

use std::io;

use tracing_subscriber::EnvFilter;

/// How much is logged, and how.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Log level: error, warn, info, debug, trace, or a filter such as `info,dataflow=debug`
    #[arg(long, global = true, env = "TAGFLOW_LOG", default_value = "warn", value_name = "LEVEL")]
    log_level: String,
    /// Log as one JSON object a line
    #[arg(long, global = true)]
    log_json: bool,
}

/// Starts logging.
pub(crate) fn start(args: &Args) {
    let filter = EnvFilter::try_new(&args.log_level).unwrap_or_else(|_| EnvFilter::new("warn"));
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    if args.log_json {
        logs.json().init();
    } else {
        logs.init();
    }
}
