//! Storage as commits use it: small and honest, so that every state a crash can leave behind can
//! be enumerated.
//!
//! Names are `folder/file`. Invariant for users: nothing is durable before its `sync`, and no name
//! before its folder's; after an error of a sync nothing is known and the process must end.

mod disk;
mod map;
mod memory;
mod writer;

use std::io;

use bytes::Bytes;
pub use disk::DiskStorage;
pub use memory::MemoryStorage;
use thiserror::Error;
pub use writer::StorageWriter;

/// The folders of a state.
pub const FOLDERS: [&str; 6] = ["commits", "segments", "visible", "locks", "refused", "control"];

/// What went wrong, on which file.
#[derive(Debug, Error)]
#[error("cannot {doing} {name}: {source}")]
pub struct StorageError {
    /// What was being done: `write`, `sync`, …
    pub doing: &'static str,
    /// The file or folder, as the user knows it.
    pub name: String,
    /// What the system said.
    pub source: io::Error,
}

impl StorageError {
    /// Whether the file does not exist.
    pub fn is_not_found(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }
}

/// Files in a few folders.
pub trait Storage: Send + Sync {
    /// Appends to a file, which is created where it does not exist.
    fn append(&self, name: &str, bytes: &[u8]) -> Result<(), StorageError>;
    /// Makes a file's content durable.
    fn sync(&self, name: &str) -> Result<(), StorageError>;
    /// Gives a file a second name. False where that name exists already.
    fn link(&self, from: &str, to: &str) -> Result<bool, StorageError>;
    /// Renames a file, replacing the one of that name.
    fn rename(&self, from: &str, to: &str) -> Result<(), StorageError>;
    /// Makes the names in a folder durable.
    fn sync_folder(&self, folder: &str) -> Result<(), StorageError>;
    /// Removes a name.
    fn unlink(&self, name: &str) -> Result<(), StorageError>;
    /// The content of a file, which must not change any more. It outlives the file's removal.
    fn open(&self, name: &str) -> Result<Bytes, StorageError>;
    /// The names of the files in a folder, without the folder, in no order.
    fn list(&self, folder: &str) -> Result<Vec<String>, StorageError>;
    /// A name as the user knows it, for messages.
    fn display(&self, name: &str) -> String;
}

/// Writes a small file under a temporary name, makes it durable and renames it into place.
pub fn replace(storage: &dyn Storage, name: &str, bytes: &[u8]) -> Result<(), StorageError> {
    let temporary = temporary(name);
    match storage.unlink(&temporary) {
        Err(error) if !error.is_not_found() => return Err(error),
        _ => {}
    }
    storage.append(&temporary, bytes)?;
    storage.sync(&temporary)?;
    storage.rename(&temporary, name)?;
    storage.sync_folder(folder_of(name))
}

/// The folder of a name.
pub fn folder_of(name: &str) -> &str {
    name.split_once('/').map_or("", |(folder, _)| folder)
}

/// The name under which a file is written before it is whole.
pub fn temporary(name: &str) -> String {
    let (folder, file) = name.split_once('/').unwrap_or(("", name));
    format!("{folder}/tmp-{file}")
}
