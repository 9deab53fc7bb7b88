//! Shared by the tests of this crate: a job driven by hand, a model of its commits, and storage
//! that fails.

mod faults;
mod job;
mod model;

use std::sync::Arc;

pub(crate) use faults::{Call, Hooked, Mode, countdown};
pub(crate) use job::{Job, start};
pub(crate) use model::{Batch, Content, assert_holds, assert_shows, key_of, windows};
pub(crate) use simulate::disk::{Choices, PowerDisk};
pub(crate) use simulate::rng::Rng;
pub(crate) use simulate::seed::{Repeat, seeds};
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
