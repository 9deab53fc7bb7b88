//! Emptied batches, to be filled again: memory that was just read is at hand, and the system need
//! not clear new pages for every slice. Invariant: what is taken from a pool is empty.

use std::sync::{Mutex, PoisonError};

/// More than this are let go.
const KEPT: usize = 64;

/// What a pool can keep.
pub(crate) trait Batch: Default {
    /// Empties it, and keeps its memory.
    fn clear(&mut self);
}

/// Emptied batches of one kind, shared by the workers of a process.
#[derive(Debug)]
pub(crate) struct Pool<T>(Mutex<Vec<T>>);

impl<T> Default for Pool<T> {
    fn default() -> Self {
        Self(Mutex::new(Vec::new()))
    }
}

impl<T: Batch> Pool<T> {
    /// An empty batch, the one that was emptied last where there is any.
    pub(crate) fn take(&self) -> T {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    /// Empties a batch and keeps it.
    pub(crate) fn put(&self, mut batch: T) {
        batch.clear();
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < KEPT {
            kept.push(batch);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Batch for Vec<u8> {
        fn clear(&mut self) {
            self.clear();
        }
    }

    #[test]
    fn batches_come_back_empty_and_no_more_than_are_kept() {
        let pool = Pool::<Vec<u8>>::default();
        assert_eq!(pool.take().capacity(), 0);
        for _ in 0..2 * KEPT {
            pool.put(vec![1; 9]);
        }
        for i in 0..2 * KEPT {
            let batch = pool.take();
            assert!(batch.is_empty() && (batch.capacity() >= 9) == (i < KEPT));
        }
    }
}
