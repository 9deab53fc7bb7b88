//! `tagflow serve`: the API and the pages from a state folder, in a process of its own.

use std::path::PathBuf;
use std::sync::mpsc::channel;

use prometheus_client::registry::Registry;

use crate::error::CliError;
use crate::output::Output;
use crate::service::{ListenArgs, Listeners};
use crate::signals::on_stop;

/// Serve the counts of a state folder over HTTP, following its commits
#[derive(clap::Args)]
#[command(after_help = "Example:\n  tagflow serve --state ./state --listen 127.0.0.1:8080")]
pub(crate) struct Args {
    /// The job's state folder
    #[arg(long, value_name = "DIR")]
    state: PathBuf,
    #[command(flatten)]
    listen: ListenArgs,
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Result<(), CliError> {
    let registry = Registry::with_prefix("tagflow");
    let listeners = Listeners::bind(&args.listen)?;
    let (url, metrics_url) = (listeners.url.clone(), listeners.metrics_url.clone());
    let service = listeners.serve(&args.state, registry)?;
    let mut output = Output::new();
    output.line(url)?;
    if let Some(url) = metrics_url {
        output.line(format!("{url}/metrics"))?;
    }
    output.flush()?;
    drop(output);
    let (stop, stopped) = channel();
    on_stop(move || {
        // The receiver is gone only when the command ends anyway.
        let _ = stop.send(());
    });
    let _ = stopped.recv();
    service.stop();
    Ok(())
}
