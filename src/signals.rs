//! Ctrl-C and SIGTERM: the first signal stops cleanly, the second exits at once.

use std::sync::mpsc::channel;

use tokio::signal::unix::{SignalKind, signal};

/// The exit code after a second signal, by the convention of shells.
const INTERRUPTED: i32 = 130;

/// Calls `stop` at the first signal. Returns once signals are handled.
pub(crate) fn on_stop(stop: impl FnOnce() + Send + 'static) {
    let (ready, listening) = channel();
    let listen = async move {
        let (Ok(mut interrupt), Ok(mut terminate)) =
            (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
        else {
            return tracing::error!("cannot handle signals");
        };
        drop(ready);
        let signal = tokio::select! {
            _ = interrupt.recv() => "SIGINT",
            _ = terminate.recv() => "SIGTERM",
        };
        tracing::info!(signal, "stopping; a second signal exits at once");
        stop();
        tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
        // Commits survive a kill at any point, so this loses only the work since the last one.
        std::process::exit(INTERRUPTED);
    };
    std::thread::spawn(move || match runtime() {
        Ok(runtime) => runtime.block_on(listen),
        Err(error) => tracing::error!(%error, "cannot handle signals"),
    });
    // Nothing is ever sent; the other end is dropped once signals are handled.
    let _: Result<(), _> = listening.recv();
}

/// A runtime for one thread.
pub(crate) fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}
