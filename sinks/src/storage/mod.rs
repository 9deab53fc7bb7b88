//! The storage interface of commits: small enough that tests can enumerate every state a crash can
//! leave behind.
//!
//! Names are `folder/file`. Invariant: content is durable only after `sync`, and a name only after
//! `sync_folder`. If a sync fails, the outcome is unknown: the system may have dropped what was
//! written, and answers the next sync with success. So the file has to be written again.

mod disk;
mod map;
mod memory;
mod waiting;
mod writer;

use std::io;

use bytes::Bytes;
pub use disk::{DiskStorage, OpenError};
pub use memory::MemoryStorage;
use thiserror::Error;
pub use waiting::{Lack, Patience, Waiting, lack};
pub use writer::StorageWriter;

/// The folders of a state.
pub const FOLDERS: [&str; 6] = ["commits", "segments", "visible", "locks", "refused", "control"];

/// A failed operation on a file or folder.
#[derive(Debug, Error)]
#[error("cannot {doing} {name}: {source}")]
pub struct StorageError {
    /// The operation: `write`, `sync`, …
    pub doing: &'static str,
    /// The file or folder, as the user knows it.
    pub name: String,
    /// The system's error.
    pub source: io::Error,
}

impl StorageError {
    /// Whether the file does not exist.
    pub fn is_not_found(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }
}

/// Files in the folders of a state.
pub trait Storage: Send + Sync {
    /// Appends to a file, creating it if necessary.
    fn append(&self, name: &str, bytes: &[u8]) -> Result<(), StorageError>;
    /// Makes a file's content durable.
    fn sync(&self, name: &str) -> Result<(), StorageError>;
    /// Gives a file a second name. Returns false if that name is taken.
    fn link(&self, from: &str, to: &str) -> Result<bool, StorageError>;
    /// Renames a file, replacing any file of that name.
    fn rename(&self, from: &str, to: &str) -> Result<(), StorageError>;
    /// Makes the names in a folder durable.
    fn sync_folder(&self, folder: &str) -> Result<(), StorageError>;
    /// Removes a name.
    fn unlink(&self, name: &str) -> Result<(), StorageError>;
    /// The content of a file, which must not change afterwards. It stays readable if the file is
    /// removed.
    fn open(&self, name: &str) -> Result<Bytes, StorageError>;
    /// The names of the files in a folder, without the folder, in any order.
    fn list(&self, folder: &str) -> Result<Vec<String>, StorageError>;
    /// A name as the user knows it, for messages.
    fn display(&self, name: &str) -> String;
}

/// Writes a small file under a temporary name, makes it durable and renames it into place.
pub fn replace(storage: &dyn Storage, name: &str, bytes: &[u8]) -> Result<(), StorageError> {
    let temporary = temporary(name);
    remove_if_exists(storage, &temporary)?;
    storage.append(&temporary, bytes)?;
    storage.sync(&temporary)?;
    storage.rename(&temporary, name)?;
    storage.sync_folder(folder_of(name))
}

/// Removes a file that may not exist.
pub fn remove_if_exists(storage: &dyn Storage, name: &str) -> Result<(), StorageError> {
    match storage.unlink(name) {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

fn split(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some((folder, file)) if !file.is_empty() => (folder, file),
        _ => unreachable!("{name:?} is not a name of the form folder/file"),
    }
}

/// The folder of a name.
pub fn folder_of(name: &str) -> &str {
    split(name).0
}

/// The name that a file has until it is complete.
pub fn temporary(name: &str) -> String {
    let (folder, file) = split(name);
    assert!(!file.starts_with("tmp-"), "{name} is a temporary name already");
    format!("{folder}/tmp-{file}")
}
