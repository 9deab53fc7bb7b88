//! The first error of a job: operators cannot return one, so they leave it here and stop.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::error::JobError;

/// Where workers leave the error that ends the job.
#[derive(Debug, Default)]
pub(crate) struct Failure {
    set: AtomicBool,
    first: Mutex<Option<JobError>>,
}

impl Failure {
    /// Leaves an error; of several the first counts.
    pub(crate) fn set(&self, error: impl Into<JobError>) {
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert(error.into());
        self.set.store(true, Ordering::Release);
    }

    /// Whether there is one.
    pub(crate) fn is_set(&self) -> bool {
        self.set.load(Ordering::Acquire)
    }

    /// Takes it.
    pub(crate) fn take(&self) -> Option<JobError> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
