//! The first error of a job. Operators cannot return errors, so they record them here and stop.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::error::RunError;

/// The error that ends the job, once one has been recorded.
#[derive(Debug, Default)]
pub(crate) struct Failure {
    is_set: AtomicBool,
    first: Mutex<Option<RunError>>,
}

impl Failure {
    /// Records an error. Later ones are dropped: they tend to be consequences of the first.
    pub(crate) fn set(&self, error: impl Into<RunError>) {
        self.first.lock().get_or_insert(error.into());
        self.is_set.store(true, Ordering::Release);
    }

    /// Whether an error has been recorded.
    pub(crate) fn is_set(&self) -> bool {
        self.is_set.load(Ordering::Acquire)
    }

    /// Takes the recorded error, if any.
    pub(crate) fn take(&self) -> Option<RunError> {
        self.first.lock().take()
    }
}
