//! The HTTP service of a state folder or a database: the API and the metrics, on a separate thread.

use std::fmt::{Display, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use dataflow::clock::{Clock as _, SystemClock};
use ipnet::IpNet;
use prometheus_client::registry::Registry;
use schemas::config::{Serve, parse_network};
use sinks::commits::Follower;
use sinks::cql::{CqlReader, CqlSettings};
use sinks::store::Store;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::arguments::host_port;
use crate::error::CliError;
use crate::output::Output;
use crate::port::holder;
use crate::say;
use crate::signals::runtime;
use crate::state::open;

/// How often to look for a new commit.
const FOLLOW: Duration = Duration::from_millis(25);
/// How often to tell a trouble that lasts.
const TELL_US: u64 = 60_000_000;

/// Where to listen.
#[derive(clap::Args, Clone)]
#[command(next_help_heading = "Serving")]
pub(crate) struct ListenArgs {
    /// Where to serve the API and the pages; port 0 picks a free port
    #[arg(long, value_name = "HOST:PORT", default_value_t = Serve::default().listen.to_string())]
    #[arg(value_parser = host_port)]
    pub(crate) listen: String,
    /// Where to serve /metrics, on a loopback address; port 0 picks a free port
    #[arg(long, value_name = "HOST:PORT", value_parser = host_port)]
    pub(crate) metrics: Option<String>,
    /// A network of proxies that say in the header Forwarded whose requests they pass on; may be
    /// repeated
    #[arg(long, value_name = "CIDR", value_parser = parse_network)]
    pub(crate) trusted_proxy: Vec<IpNet>,
}

impl From<&Serve> for ListenArgs {
    fn from(serve: &Serve) -> Self {
        let metrics = serve.metrics.map(|address| address.to_string());
        let trusted_proxy = serve.trusted_proxies.clone();
        Self { listen: serve.listen.to_string(), metrics, trusted_proxy }
    }
}

/// A running service.
pub(crate) struct Service {
    stop: watch::Sender<bool>,
    stopped: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// Bound listeners. They are bound before a job starts, so that a port in use is reported first.
pub(crate) struct Listeners {
    runtime: Runtime,
    public: TcpListener,
    admin: Option<TcpListener>,
    limits: api::Limits,
    /// The address of the API.
    pub(crate) url: String,
    /// The address of the metrics.
    pub(crate) metrics_url: Option<String>,
}

impl Listeners {
    /// Binds the addresses of `args`.
    pub(crate) fn bind(args: &ListenArgs) -> Result<Self, CliError> {
        let runtime = runtime().map_err(CliError::io("cannot start the service"))?;
        let public = runtime.block_on(bind(&args.listen))?;
        let admin = match &args.metrics {
            Some(address) => Some(runtime.block_on(bind_loopback(address))?),
            None => None,
        };
        let url = address(&public)?;
        let metrics_url = admin.as_ref().map(address).transpose()?;
        let limits = api::Limits { trusted: args.trusted_proxy.clone() };
        Ok(Self { runtime, public, admin, limits, url, metrics_url })
    }

    /// Serves the state in `state` and the metrics of `registry`; returns what follows the state.
    pub(crate) fn serve_state(
        self,
        state: &Path,
        registry: Registry,
    ) -> Result<(Service, Arc<Follower>), CliError> {
        let follower = Arc::new(Follower::new(open(state)?));
        // Report a damaged state now rather than to the first client.
        follower.step()?;
        let mut service = self.start(Arc::<Follower>::clone(&follower), registry);
        service.threads.push(follow(Arc::clone(&follower), Arc::clone(&service.stopped)));
        Ok((service, follower))
    }

    /// Serves a database and the metrics of `registry`.
    pub(crate) fn serve_store(
        self,
        store: CqlSettings,
        registry: Registry,
    ) -> Result<Service, CliError> {
        let reader = Arc::new(self.runtime.block_on(CqlReader::open(store))?);
        if let Some(trouble) = reader.trouble() {
            say::warning(format!("{trouble}; retrying"));
        }
        Ok(self.start(reader, registry))
    }

    fn start(self, reader: Arc<dyn Store>, mut registry: Registry) -> Service {
        let Self { runtime, public, admin, limits, .. } = self;
        let metrics = api::Metrics::default();
        metrics.register(&mut registry);
        let (stop, stopping) = watch::channel(false);
        let served = async move {
            let wait = |mut stopping: watch::Receiver<bool>| async move {
                // A dropped sender means stop as well.
                let _ = stopping.wait_for(|stop| *stop).await;
            };
            let api = api::serve(public, reader, limits, metrics, wait(stopping.clone()));
            match admin {
                Some(listener) => {
                    let admin = api::serve_admin(listener, Arc::new(registry), wait(stopping));
                    tokio::join!(api, admin);
                }
                None => api.await,
            }
        };
        let threads = vec![std::thread::spawn(move || runtime.block_on(served))];
        Service { stop, stopped: Arc::default(), threads }
    }
}

impl Service {
    /// Stops it once the answers in progress are sent.
    pub(crate) fn stop(self) {
        self.stopped.store(true, Ordering::Release);
        // Without a receiver it has already stopped.
        let _ = self.stop.send(true);
        for thread in self.threads {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

/// Keeps the newest visible commit open.
fn follow(follower: Arc<Follower>, stopped: Arc<AtomicBool>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let clock = SystemClock::default();
        let mut told_us: Option<u64> = None;
        while !stopped.load(Ordering::Acquire) {
            // The last good commit stays visible. Under a shortage troubles come and go.
            if let Err(trouble) = follower.step() {
                told_us = tell(&trouble, told_us, clock.mono_us());
            }
            std::thread::park_timeout(FOLLOW);
        }
    })
}

/// Logs a trouble, unless one was logged less than a minute before. Returns when one was last.
fn tell(trouble: &impl Display, told_us: Option<u64>, now_us: u64) -> Option<u64> {
    if told_us.is_some_and(|told_us| now_us - told_us < TELL_US) {
        return told_us;
    }
    tracing::error!("{trouble}");
    Some(now_us)
}

/// Prints where a service listens. It serves on whether or not anybody reads that.
pub(crate) fn print_addresses(url: &str, metrics_url: Option<&str>) {
    let mut output = Output::new();
    let mut print = || {
        output.line(url)?;
        metrics_url.map_or(Ok(()), |url| output.line(format!("{url}/metrics")))?;
        output.flush()
    };
    if let Err(error) = print()
        && !error.is_broken_pipe()
    {
        say::warning(error.to_string());
    }
}

fn address(listener: &TcpListener) -> Result<String, CliError> {
    let address = listener.local_addr().map_err(CliError::io("cannot listen"))?;
    Ok(format!("http://{address}"))
}

async fn bind(address: &str) -> Result<TcpListener, CliError> {
    TcpListener::bind(address).await.map_err(|source| {
        let mut doing = format!("cannot listen on {address}");
        if source.kind() == std::io::ErrorKind::AddrInUse
            && let Some(port) = address.rsplit(':').next().and_then(|port| port.parse().ok())
            && let Some(process) = holder(port)
        {
            // Writing to a String does not fail.
            let _ =
                write!(doing, ", which {process} uses; choose another port, or 0 for a free one");
        }
        CliError::Io { doing, source }
    })
}

async fn bind_loopback(address: &str) -> Result<TcpListener, CliError> {
    let listener = bind(address).await?;
    let bound = listener.local_addr().map_err(CliError::io("cannot listen"))?;
    if SocketAddr::ip(&bound).is_loopback() {
        return Ok(listener);
    }
    Err(CliError::Usage(format!(
        "--metrics {address}: use a loopback address; metrics are not served on others"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_is_logged_once_a_minute_whatever_it_is() {
        let first = tell(&"no file handle for a", None, 5);
        assert_eq!(first, Some(5));
        assert_eq!(tell(&"no file handle for b", first, TELL_US), first);
        assert_eq!(tell(&"no file handle for a", first, TELL_US + 5), Some(TELL_US + 5));
    }
}
