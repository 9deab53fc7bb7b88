//! A job driven by hand, what its commits must hold, and storages that fail: shared by the tests
//! of this crate.

mod faults;
mod job;
mod model;

use std::sync::Arc;

pub(crate) use faults::{Call, Hooked, Mode, countdown};
pub(crate) use job::{Job, start};
pub(crate) use model::{Batch, Content, Tag, assert_holds, assert_shows, key_of, windows};
pub(crate) use simulate::disk::{Choices, PowerDisk};
pub(crate) use simulate::rng::Rng;
pub(crate) use simulate::wire::{Faults, Wire, Write};
use sinks::storage::{MemoryStorage, Storage};

/// An empty state.
pub(crate) fn memory() -> Arc<MemoryStorage> {
    Arc::new(MemoryStorage::default())
}

/// Every file of a state, sorted.
pub(crate) fn all_files(storage: &dyn Storage) -> Vec<String> {
    let mut files = Vec::new();
    for folder in sinks::storage::FOLDERS {
        let names = storage.list(folder).unwrap();
        files.extend(names.into_iter().map(|name| format!("{folder}/{name}")));
    }
    files.sort_unstable();
    files
}

/// Names the seed of a test that fails while this is there.
pub(crate) struct Seed(pub(crate) u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {}", self.0);
        }
    }
}
