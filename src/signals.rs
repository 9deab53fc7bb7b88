//! Ctrl-C and SIGTERM: the first signal stops cleanly, the second exits at once. Invariant: no
//! other signal that comes of a limit ends a command without a word.

use std::sync::mpsc::channel;
use std::sync::{Arc, OnceLock};

use tokio::signal::unix::{SignalKind, signal};

use crate::say;

/// The exit code after a second signal, by the convention of shells.
const INTERRUPTED: i32 = 130;

/// A file would grow beyond the limit of file sizes; Linux, macOS and the BSDs share the number.
const SIGXFSZ: i32 = 25;

type StopJob = Box<dyn Fn() + Send + Sync>;

/// Has a write beyond the limit of file sizes fail, with the name of the file, instead of ending
/// the process.
pub(crate) fn outlive_size_limit() {
    let Ok(runtime) = runtime() else { return };
    let _entered = runtime.enter();
    // A signal that was listened to once no longer ends the process.
    let _ = signal(SignalKind::from_raw(SIGXFSZ));
}

/// Handles signals from now on. Returns where to put how to stop the job once it has begun; before
/// that, the first signal ends the command, as a kill would but with a word.
pub(crate) fn on_stop_of_job() -> Arc<OnceLock<StopJob>> {
    let job = Arc::new(OnceLock::<StopJob>::new());
    let begun = Arc::clone(&job);
    on_stop(move || match begun.get() {
        Some(stop) => stop(),
        None => {
            say::warning("stopped before the job had begun; nothing was counted");
            say::end();
            std::process::exit(0);
        }
    });
    job
}

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
        // First: nothing, not even a log, may come before it.
        stop();
        tracing::info!(signal, "stopping; a second signal exits at once");
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
