//! Emptied batches, to be filled again: their memory is still in the cache, and the system need not
//! clear new pages for every slice.
//!
//! Invariant: what is taken from a pool is empty.

use parking_lot::Mutex;

/// A pool keeps this many batches: a few for each worker, even after a burst.
const POOL_BATCHES_MAX: usize = 64;

/// What a pool can keep.
pub(crate) trait Batch: Default {
    /// Empties it without freeing its memory.
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
    /// An empty batch: the one that was put back last, or a new one.
    pub(crate) fn take(&self) -> T {
        self.0.lock().pop().unwrap_or_default()
    }

    /// Empties a batch and keeps it.
    pub(crate) fn put(&self, mut batch: T) {
        batch.clear();
        let mut kept = self.0.lock();
        if kept.len() < POOL_BATCHES_MAX {
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
    fn batches_come_back_empty_up_to_the_limit() {
        let pool = Pool::<Vec<u8>>::default();
        assert_eq!(pool.take().capacity(), 0);
        for _ in 0..2 * POOL_BATCHES_MAX {
            pool.put(vec![1; 9]);
        }
        for i in 0..2 * POOL_BATCHES_MAX {
            let batch = pool.take();
            assert!(batch.is_empty() && (batch.capacity() >= 9) == (i < POOL_BATCHES_MAX));
        }
    }
}
