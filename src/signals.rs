//! Ctrl-C and SIGTERM: the first asks for an end in order, the second ends at once.

use std::sync::mpsc::channel;

use tokio::signal::unix::{SignalKind, signal};

/// The exit code after a second signal, as shells count it.
const INTERRUPTED: i32 = 130;

/// Calls `stop` at the first signal. Returns when signals are listened for.
pub(crate) fn on_stop(stop: impl FnOnce() + Send + 'static) {
    let (ready, listening) = channel();
    let listen = async move {
        let (Ok(mut interrupt), Ok(mut terminate)) =
            (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
        else {
            return tracing::error!("cannot listen for signals");
        };
        drop(ready);
        tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
        stop();
        tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
        // Commits survive a kill at any point, so this loses nothing but the last second's work.
        std::process::exit(INTERRUPTED);
    };
    std::thread::spawn(move || match runtime() {
        Ok(runtime) => runtime.block_on(listen),
        Err(error) => tracing::error!(%error, "cannot listen for signals"),
    });
    // Nothing is ever sent: the end of the other side is the word.
    let _: Result<(), _> = listening.recv();
}

/// A runtime for one thread.
pub(crate) fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}
