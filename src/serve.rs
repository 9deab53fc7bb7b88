//! `tagflow serve`: serves the API and the pages from a state folder or a database, in a separate
//! process.

use std::path::PathBuf;
use std::sync::mpsc::channel;

use prometheus_client::registry::Registry;

use crate::error::CliError;
use crate::service::{ListenArgs, Listeners, print_addresses};
use crate::signals::on_stop;
use crate::state::folder;
use crate::store_args::StoreArgs;

/// Serve the counts of a state folder or a store over HTTP
#[derive(clap::Args)]
#[command(after_help = "Examples:
  tagflow serve --state ./state --listen 127.0.0.1:8080
  tagflow serve --store cql://127.0.0.1:9042/tags")]
pub(crate) struct Args {
    /// The job's state folder [default: the variable `TAGFLOW_STATE`]
    #[arg(long, value_name = "DIR", conflicts_with = "store")]
    state: Option<PathBuf>,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    listen: ListenArgs,
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Result<(), CliError> {
    let registry = Registry::with_prefix("tagflow");
    let listeners = Listeners::bind(&args.listen)?;
    let (url, metrics_url) = (listeners.url.clone(), listeners.metrics_url.clone());
    let service = match args.store.settings() {
        Some(store) => listeners.serve_store(store.with_environment()?, registry)?,
        None => listeners.serve_state(&folder(args.state.as_deref(), None)?, registry)?.0,
    };
    print_addresses(&url, metrics_url.as_deref());
    let (stop, stopped) = channel();
    on_stop(move || {
        // The receiver is gone only once the command is ending anyway.
        let _ = stop.send(());
    });
    let _ = stopped.recv();
    service.stop();
    Ok(())
}
