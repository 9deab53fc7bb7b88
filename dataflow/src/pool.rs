//! Emptied batches, to be filled again: their memory is still in the cache, and the system need not
//! clear new pages for every slice.
//!
//! Invariants: what is taken from a pool is empty; a pool holds no more memory than
//! [`POOL_BYTES_MAX`], whatever a burst needed.

use parking_lot::Mutex;

/// A pool keeps this many batches: a few for each worker, even after a burst.
const POOL_BATCHES_MAX: usize = 64;
/// The most memory that the batches of a pool take.
const POOL_BYTES_MAX: usize = 48 << 20;

/// What a pool can keep.
pub(crate) trait Batch: Default {
    /// Empties it without freeing its memory.
    fn clear(&mut self);
    /// How much memory it takes.
    fn bytes(&self) -> usize;
}

/// Emptied batches of one kind, shared by the workers of a process.
#[derive(Debug)]
pub(crate) struct Pool<T>(Mutex<Kept<T>>);

#[derive(Debug)]
struct Kept<T> {
    batches: Vec<T>,
    bytes: usize,
}

impl<T> Default for Pool<T> {
    fn default() -> Self {
        Self(Mutex::new(Kept { batches: Vec::new(), bytes: 0 }))
    }
}

impl<T: Batch> Pool<T> {
    /// An empty batch: the one that was put back last, or a new one.
    pub(crate) fn take(&self) -> T {
        let mut kept = self.0.lock();
        let batch = kept.batches.pop().unwrap_or_default();
        kept.bytes -= batch.bytes();
        batch
    }

    /// Empties a batch and keeps it.
    pub(crate) fn put(&self, mut batch: T) {
        batch.clear();
        let bytes = batch.bytes();
        let mut kept = self.0.lock();
        if kept.batches.len() < POOL_BATCHES_MAX && kept.bytes + bytes <= POOL_BYTES_MAX {
            kept.bytes += bytes;
            kept.batches.push(batch);
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

        fn bytes(&self) -> usize {
            self.capacity()
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

    #[test]
    fn large_batches_are_freed_rather_than_kept() {
        let pool = Pool::<Vec<u8>>::default();
        for _ in 0..9 {
            pool.put(Vec::with_capacity(POOL_BYTES_MAX / 4));
        }
        let kept = std::iter::repeat_with(|| pool.take()).take_while(|batch| batch.capacity() > 0);
        assert_eq!(kept.count(), 4);
    }
}
