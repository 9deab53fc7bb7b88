//! A state in memory, for tests and for jobs that keep nothing.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::{FOLDERS, Storage, StorageError, folder_of};

/// A file, which may have several names.
type File = Arc<Mutex<Bytes>>;
type Files = BTreeMap<String, File>;

/// Files in memory. Everything is durable at once; otherwise it behaves like a disk.
#[derive(Debug, Default)]
pub struct MemoryStorage {
    files: Mutex<Files>,
}

impl MemoryStorage {
    /// Changes a file's bytes, as a fault would.
    pub fn damage(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        if let Some(file) = self.files.lock().get(name) {
            let mut file = file.lock();
            let mut bytes = file.to_vec();
            change(&mut bytes);
            *file = Bytes::from(bytes);
        }
    }
}

fn not_found(doing: &'static str, name: &str) -> StorageError {
    StorageError { doing, name: name.to_owned(), source: io::ErrorKind::NotFound.into() }
}

fn find(files: &Files, doing: &'static str, name: &str) -> Result<File, StorageError> {
    files.get(name).cloned().ok_or_else(|| not_found(doing, name))
}

fn check_folder(doing: &'static str, folder: &str, name: &str) -> Result<(), StorageError> {
    if FOLDERS.contains(&folder) { Ok(()) } else { Err(not_found(doing, name)) }
}

impl Storage for MemoryStorage {
    fn append(&self, name: &str, bytes: &[u8]) -> Result<(), StorageError> {
        check_folder("write", folder_of(name), name)?;
        let file = Arc::clone(self.files.lock().entry(name.to_owned()).or_default());
        let mut file = file.lock();
        *file = [&file, bytes].concat().into();
        Ok(())
    }

    fn sync(&self, name: &str) -> Result<(), StorageError> {
        find(&self.files.lock(), "sync", name).map(drop)
    }

    fn link(&self, from: &str, to: &str) -> Result<bool, StorageError> {
        let mut files = self.files.lock();
        let file = find(&files, "create", from)?;
        check_folder("create", folder_of(to), to)?;
        if files.contains_key(to) {
            return Ok(false);
        }
        files.insert(to.to_owned(), file);
        Ok(true)
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), StorageError> {
        let mut files = self.files.lock();
        let file = find(&files, "rename", from)?;
        check_folder("rename", folder_of(to), to)?;
        // POSIX: if both names belong to one file, nothing happens.
        if files.get(to).is_none_or(|replaced| !Arc::ptr_eq(replaced, &file)) {
            files.remove(from);
            files.insert(to.to_owned(), file);
        }
        Ok(())
    }

    fn sync_folder(&self, folder: &str) -> Result<(), StorageError> {
        check_folder("sync", folder, folder)
    }

    fn unlink(&self, name: &str) -> Result<(), StorageError> {
        self.files.lock().remove(name).map(drop).ok_or_else(|| not_found("remove", name))
    }

    fn open(&self, name: &str) -> Result<Bytes, StorageError> {
        find(&self.files.lock(), "open", name).map(|file| file.lock().clone())
    }

    fn list(&self, folder: &str) -> Result<Vec<String>, StorageError> {
        check_folder("list", folder, folder)?;
        let prefix = format!("{folder}/");
        let files = self.files.lock();
        Ok(files.keys().filter_map(|n| n.strip_prefix(&prefix)).map(str::to_owned).collect())
    }

    fn display(&self, name: &str) -> String {
        name.to_owned()
    }
}
