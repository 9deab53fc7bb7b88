//! The two listeners: accepting connections, limits, and an orderly shutdown.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper_util::rt::TokioTimer;
use hyper_util::server::graceful::GracefulShutdown;
use ipnet::IpNet;
use prometheus_client::registry::Registry;
use rustix::io::Errno;
use sinks::store::Store;
use tokio::net::{TcpListener, TcpStream};

use crate::io::PatientIo;
use crate::limits::{
    ADMIN_CONNECTIONS_MAX, BACKLOG, CONNECTIONS_MAX, DRAIN_WAIT, FIRST_WAIT, HEAD_BUFFER_BYTES,
    HEAD_WAIT, HEADERS_READ,
};
use crate::metrics::Metrics;
use crate::room::{Phase, Room, Seat};
use crate::{admin, forwarded, routes};

/// How long to wait before another attempt to accept a connection.
const PAUSE: Duration = Duration::from_millis(20);
/// How often to look whether the job needs files that connections hold.
const LOOK: Duration = Duration::from_secs(1);

fn builder() -> Builder {
    let mut builder = Builder::new();
    // Without a timer hyper would wait for ever for a silent client.
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_WAIT);
    builder.max_buf_size(HEAD_BUFFER_BYTES).max_headers(HEADERS_READ);
    builder
}

/// What a service takes from outside.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    /// Proxies that say in `Forwarded` whose requests they pass on.
    pub trusted: Vec<IpNet>,
}

/// Serves `store` until `shutdown`, then finishes the current answers.
pub async fn serve(
    listener: TcpListener,
    store: Arc<dyn Store>,
    limits: Limits,
    metrics: Metrics,
    shutdown: impl Future<Output = ()>,
) {
    let room = Room::new(CONNECTIONS_MAX, FIRST_WAIT, limits.trusted, metrics.clone());
    serve_in(room, listener, store, metrics, shutdown).await;
}

/// Serves `store` to those who find a place in `room`.
pub(crate) async fn serve_in(
    room: Arc<Room>,
    listener: TcpListener,
    store: Arc<dyn Store>,
    metrics: Metrics,
    shutdown: impl Future<Output = ()>,
) {
    let handle = move |stream: TcpStream, seat: Arc<Seat>, graceful: &GracefulShutdown| {
        let (store, metrics) = (Arc::clone(&store), metrics.clone());
        let asking = Arc::clone(&seat);
        let service = service_fn(move |request: Request<Incoming>| {
            let (store, metrics) = (Arc::clone(&store), metrics.clone());
            let seat = Arc::clone(&asking);
            async move {
                if seat.trusted {
                    let client = forwarded::client(request.headers(), seat.room().trusted());
                    seat.is_for(client);
                }
                seat.now(Phase::Answering);
                // Others get their turn between the requests that a client sends at once.
                tokio::task::yield_now().await;
                let (route, response) = routes::answer(request, store, !seat.probes_only).await;
                metrics.answered(route, response.status().as_u16());
                seat.now(Phase::Sending);
                Ok::<_, Infallible>(response)
            }
        });
        let connection = builder().serve_connection(PatientIo::new(stream, seat), service);
        let connection = graceful.watch(connection);
        async move {
            // A broken connection concerns only its client.
            let _ = connection.await;
        }
    };
    accept(listener, room, handle, shutdown).await;
}

/// Serves metrics until `shutdown`.
pub async fn serve_admin(
    listener: TcpListener,
    registry: Arc<Registry>,
    shutdown: impl Future<Output = ()>,
) {
    let room = Room::new(ADMIN_CONNECTIONS_MAX, FIRST_WAIT, Vec::new(), Metrics::default());
    let handle = move |stream: TcpStream, seat: Arc<Seat>, graceful: &GracefulShutdown| {
        let (registry, asking) = (Arc::clone(&registry), Arc::clone(&seat));
        let service = service_fn(move |request| {
            let response = admin::answer(&request, &registry);
            asking.now(Phase::Sending);
            async move { Ok::<_, Infallible>(response) }
        });
        let connection = builder().serve_connection(PatientIo::new(stream, seat), service);
        let connection = graceful.watch(connection);
        async move {
            let _ = connection.await;
        }
    };
    accept(listener, room, handle, shutdown).await;
}

async fn accept<F: Future<Output = ()> + Send + 'static>(
    listener: TcpListener,
    room: Arc<Room>,
    handle: impl Fn(TcpStream, Arc<Seat>, &GracefulShutdown) -> F,
    shutdown: impl Future<Output = ()>,
) {
    let graceful = GracefulShutdown::new();
    // The standard library lets 128 wait. Without the right to more, those must do.
    let _ = rustix::net::listen(&listener, BACKLOG);
    let mut shutdown = std::pin::pin!(shutdown);
    let mut failing = false;
    loop {
        let next = async {
            while !room.has_room() {
                tokio::time::sleep(PAUSE).await;
            }
            listener.accept().await
        };
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            accepted = next => accepted,
            () = tokio::time::sleep(LOOK) => {
                room.make_room();
                continue;
            }
        };
        match accepted {
            Ok((stream, peer)) => {
                failing = false;
                // Answers are written at once, so waiting to fill packets only delays them.
                let _ = stream.set_nodelay(true);
                let seat = Arc::new(room.admit(peer.ip()));
                let connection = handle(stream, Arc::clone(&seat), &graceful);
                let task = tokio::spawn(connection);
                seat.ends_by(task.abort_handle());
                // Whoever made room is let go now, so that its file is free.
                tokio::task::yield_now().await;
            }
            Err(error) => {
                note(&error, &mut failing);
                if is_shortage(&error) {
                    room.give_back();
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
    drop(listener);
    room.dismiss();
    // Connections that are still open then are cut off.
    let _ = tokio::time::timeout(DRAIN_WAIT, graceful.shutdown()).await;
}

/// Whether accepting would fail again at once: the process or the system has no file, buffer or
/// memory left. Any other error concerns a client that is gone.
fn is_shortage(error: &io::Error) -> bool {
    let shortages = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    let number = error.raw_os_error();
    number.is_some_and(|number| shortages.iter().any(|errno| errno.raw_os_error() == number))
}

/// Says once that connections wait, until one is accepted again.
fn note(error: &io::Error, failing: &mut bool) {
    if is_shortage(error) && !std::mem::replace(failing, true) {
        tracing::warn!(%error, "connections wait until files are free; counting is not affected");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortage_of_files_is_waited_out_and_a_client_that_is_gone_is_not() {
        for errno in [Errno::MFILE, Errno::NFILE] {
            assert!(is_shortage(&io::Error::from_raw_os_error(errno.raw_os_error())));
        }
        assert!(!is_shortage(&io::ErrorKind::ConnectionAborted.into()));
        assert!(!is_shortage(&io::Error::from_raw_os_error(Errno::CONNABORTED.raw_os_error())));
    }
}
