//! A state in memory, for tests and for jobs that keep nothing.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::{Storage, StorageError};

/// Files in memory; everything is durable at once.
#[derive(Debug, Default)]
pub struct MemoryStorage {
    files: Mutex<BTreeMap<String, Bytes>>,
}

impl MemoryStorage {
    fn files(&self) -> MutexGuard<'_, BTreeMap<String, Bytes>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes a file's bytes, as a fault would.
    pub fn damage(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        if let Some(file) = self.files().get_mut(name) {
            let mut bytes = file.to_vec();
            change(&mut bytes);
            *file = Bytes::from(bytes);
        }
    }
}

fn not_found(doing: &'static str, name: &str) -> StorageError {
    StorageError { doing, name: name.to_owned(), source: io::ErrorKind::NotFound.into() }
}

impl Storage for MemoryStorage {
    fn append(&self, name: &str, bytes: &[u8]) -> Result<(), StorageError> {
        let mut files = self.files();
        let file = files.entry(name.to_owned()).or_default();
        *file = [file, bytes].concat().into();
        Ok(())
    }

    fn sync(&self, name: &str) -> Result<(), StorageError> {
        self.files().get(name).map(|_| ()).ok_or_else(|| not_found("sync", name))
    }

    fn link(&self, from: &str, to: &str) -> Result<bool, StorageError> {
        let mut files = self.files();
        let bytes = files.get(from).cloned().ok_or_else(|| not_found("create", from))?;
        if files.contains_key(to) {
            return Ok(false);
        }
        files.insert(to.to_owned(), bytes);
        Ok(true)
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), StorageError> {
        let mut files = self.files();
        let bytes = files.remove(from).ok_or_else(|| not_found("rename", from))?;
        files.insert(to.to_owned(), bytes);
        Ok(())
    }

    fn sync_folder(&self, _: &str) -> Result<(), StorageError> {
        Ok(())
    }

    fn unlink(&self, name: &str) -> Result<(), StorageError> {
        self.files().remove(name).map(|_| ()).ok_or_else(|| not_found("remove", name))
    }

    fn open(&self, name: &str) -> Result<Bytes, StorageError> {
        self.files().get(name).cloned().ok_or_else(|| not_found("open", name))
    }

    fn list(&self, folder: &str) -> Result<Vec<String>, StorageError> {
        let prefix = format!("{folder}/");
        let files = self.files();
        Ok(files.keys().filter_map(|n| n.strip_prefix(&prefix)).map(str::to_owned).collect())
    }

    fn display(&self, name: &str) -> String {
        name.to_owned()
    }
}
