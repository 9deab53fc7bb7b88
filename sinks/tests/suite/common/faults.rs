//! A storage with a hook before every call, to fail it, to count it, or to do something meanwhile.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use sinks::storage::{Storage, StorageError};

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Nothing happens.
    Before,
    /// Half of the bytes are written. Other calls do nothing.
    Torn,
    /// It takes effect, but the answer is lost.
    After,
}

/// A call, and the name it is about (for a link or a rename, the new one).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) what: &'static str,
    pub(crate) name: String,
}

impl Call {
    /// Whether it can change anything.
    pub(crate) fn is_effect(&self) -> bool {
        self.what != "open" && self.what != "list"
    }
}

type Hook = Box<dyn Fn(&Call) -> Option<Mode> + Send + Sync>;

/// A storage with a hook before every call.
pub(crate) struct Hooked {
    inner: Arc<dyn Storage>,
    hook: Hook,
    error: fn() -> io::Error,
}

impl Hooked {
    /// A storage whose calls fail as `hook` decides.
    pub(crate) fn new(
        inner: Arc<dyn Storage>,
        hook: impl Fn(&Call) -> Option<Mode> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Self::answering(|| io::Error::other("injected"), inner, hook)
    }

    /// A storage whose failing calls answer with `error`.
    pub(crate) fn answering(
        error: fn() -> io::Error,
        inner: Arc<dyn Storage>,
        hook: impl Fn(&Call) -> Option<Mode> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self { inner, hook: Box::new(hook), error })
    }

    fn call<T>(
        &self,
        what: &'static str,
        name: &str,
        run: impl FnOnce(bool) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        let error = || StorageError { doing: what, name: name.to_owned(), source: (self.error)() };
        match (self.hook)(&Call { what, name: name.to_owned() }) {
            None => run(false),
            Some(Mode::Torn) if what == "append" => run(true).and_then(|_| Err(error())),
            Some(Mode::After) => run(false).and_then(|_| Err(error())),
            Some(_) => Err(error()),
        }
    }
}

impl Storage for Hooked {
    fn append(&self, name: &str, bytes: &[u8]) -> Result<(), StorageError> {
        self.call("append", name, |torn| {
            self.inner.append(name, if torn { &bytes[..bytes.len() / 2] } else { bytes })
        })
    }

    fn sync(&self, name: &str) -> Result<(), StorageError> {
        self.call("sync", name, |_| self.inner.sync(name))
    }

    fn link(&self, from: &str, to: &str) -> Result<bool, StorageError> {
        self.call("link", to, |_| self.inner.link(from, to))
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), StorageError> {
        self.call("rename", to, |_| self.inner.rename(from, to))
    }

    fn sync_folder(&self, folder: &str) -> Result<(), StorageError> {
        self.call("sync_folder", folder, |_| self.inner.sync_folder(folder))
    }

    fn unlink(&self, name: &str) -> Result<(), StorageError> {
        self.call("unlink", name, |_| self.inner.unlink(name))
    }

    fn open(&self, name: &str) -> Result<Bytes, StorageError> {
        self.call("open", name, |_| self.inner.open(name))
    }

    fn list(&self, folder: &str) -> Result<Vec<String>, StorageError> {
        self.call("list", folder, |_| self.inner.list(folder))
    }

    fn display(&self, name: &str) -> String {
        self.inner.display(name)
    }
}

/// A storage whose effect number `n`, counted from 0, fails, and the number of effects so far.
pub(crate) fn countdown(
    inner: Arc<dyn Storage>,
    n: usize,
    mode: Mode,
) -> (Arc<Hooked>, Arc<AtomicUsize>) {
    let effects = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&effects);
    let hooked = Hooked::new(inner, move |call| {
        let due = call.is_effect() && count.fetch_add(1, Ordering::SeqCst) == n;
        due.then_some(mode)
    });
    (hooked, effects)
}
