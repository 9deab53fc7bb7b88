//! The first error of a job or a check. Operators cannot return errors, so they record them here
//! and stop.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::error::RunError;

/// The error that ends everything, once one has been recorded.
#[derive(Debug)]
pub(crate) struct Failure<E = RunError> {
    is_set: AtomicBool,
    first: Mutex<Option<E>>,
}

impl<E> Default for Failure<E> {
    fn default() -> Self {
        Self { is_set: AtomicBool::new(false), first: Mutex::new(None) }
    }
}

impl<E> Failure<E> {
    /// Records an error. Later ones are dropped: they tend to be consequences of the first.
    pub(crate) fn set(&self, error: impl Into<E>) {
        self.first.lock().get_or_insert(error.into());
        self.is_set.store(true, Ordering::Release);
    }

    /// Whether an error has been recorded.
    pub(crate) fn is_set(&self) -> bool {
        self.is_set.load(Ordering::Acquire)
    }

    /// Takes the recorded error, if any.
    pub(crate) fn take(&self) -> Option<E> {
        self.first.lock().take()
    }
}
