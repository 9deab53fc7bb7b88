//! A job driven by hand, what its commits must hold, and storages that fail: shared by the tests
//! of this crate. Every binary uses its own part of it.
#![allow(dead_code, unused_imports)]

mod faults;
mod job;
mod model;
mod power;
mod wire;

use std::sync::Arc;

pub(crate) use faults::{Call, Hooked, Mode, countdown};
pub(crate) use job::{Job, start};
pub(crate) use model::{Batch, Content, Tag, assert_holds, assert_shows, key_of, windows};
pub(crate) use power::{Choices, PowerDisk};
use sinks::storage::{MemoryStorage, Storage};
pub(crate) use wire::{Faults, Wire, Write};

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

/// A small generator of numbers; the seed is printed by the test that made it.
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// Names the seed of a test that fails while this is there.
pub(crate) struct Seed(pub(crate) u64);

impl Drop for Seed {
    #[allow(clippy::print_stderr)]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {}", self.0);
        }
    }
}
