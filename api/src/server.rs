//! The two listeners: accepting connections, limits, and an orderly shutdown.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::sync::Arc;

use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper_util::rt::TokioTimer;
use hyper_util::server::graceful::GracefulShutdown;
use prometheus_client::registry::Registry;
use sinks::store::Store;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::io::PatientIo;
use crate::limits::{CONNECTIONS_MAX, DRAIN_WAIT, HEAD_BYTES_MAX, HEAD_WAIT, HEADERS_MAX};
use crate::metrics::Metrics;
use crate::{admin, routes};

fn builder() -> Builder {
    let mut builder = Builder::new();
    // Without a timer hyper would wait for ever for a silent client.
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WAIT)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX);
    builder
}

/// Serves `store` until `shutdown`, then finishes the current answers.
pub async fn serve(
    listener: TcpListener,
    store: Arc<dyn Store>,
    metrics: Metrics,
    shutdown: impl Future<Output = ()>,
) {
    let handle = move |stream: TcpStream, graceful: &GracefulShutdown| {
        let (store, counters) = (Arc::clone(&store), metrics.clone());
        let service = service_fn(move |request| {
            let (store, metrics) = (Arc::clone(&store), counters.clone());
            async move {
                let (route, response) = routes::answer(request, store).await;
                metrics.answered(route, response.status().as_u16());
                Ok::<_, Infallible>(response)
            }
        });
        let connection = builder().serve_connection(PatientIo::new(stream), service);
        let (connection, metrics) = (graceful.watch(connection), metrics.clone());
        metrics.connected(1);
        async move {
            // A broken connection concerns only its client.
            let _ = connection.await;
            metrics.connected(-1);
        }
    };
    accept(listener, handle, shutdown).await;
}

/// Serves metrics until `shutdown`.
pub async fn serve_admin(
    listener: TcpListener,
    registry: Arc<Registry>,
    shutdown: impl Future<Output = ()>,
) {
    let handle = move |stream: TcpStream, graceful: &GracefulShutdown| {
        let registry = Arc::clone(&registry);
        let service = service_fn(move |request| {
            let response = admin::answer(&request, &registry);
            async move { Ok::<_, Infallible>(response) }
        });
        let connection = builder().serve_connection(PatientIo::new(stream), service);
        let connection = graceful.watch(connection);
        async move {
            let _ = connection.await;
        }
    };
    accept(listener, handle, shutdown).await;
}

async fn accept<F: Future<Output = ()> + Send + 'static>(
    listener: TcpListener,
    handle: impl Fn(TcpStream, &GracefulShutdown) -> F,
    shutdown: impl Future<Output = ()>,
) {
    let graceful = GracefulShutdown::new();
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let next = async {
            let permit = Arc::clone(&room).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            () = &mut shutdown => break,
            next = next => next,
        };
        match accepted {
            Ok((stream, _)) => {
                // Answers are written at once, so waiting to fill packets only delays them.
                let _ = stream.set_nodelay(true);
                let connection = handle(stream, &graceful);
                tokio::spawn(async move {
                    connection.await;
                    drop(permit);
                });
            }
            Err(error) => pause_after(&error).await,
        }
    }
    drop(listener);
    // Connections that are still open then are cut off.
    let _ = tokio::time::timeout(DRAIN_WAIT, graceful.shutdown()).await;
}

/// Waits briefly, because without free file descriptors accepting fails again at once.
async fn pause_after(error: &io::Error) {
    tracing::warn!(%error, "cannot accept a connection");
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
}
