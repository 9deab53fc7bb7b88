//! Who uses a state: a file that a process keeps locked while it runs.
//!
//! A lock only informs; it is not the fence. A superseded job stops because it cannot create its
//! next manifest. Invariant: the lock is released when the process dies, however it dies.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Who holds a lock, for messages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// 128 random bits of this run, in hexadecimal.
    pub id: String,
    /// The process id.
    pub pid: u32,
    /// The host it runs on.
    pub host: String,
    /// When it started, in milliseconds.
    pub started_ms: i64,
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.pid == 0 {
            return write!(f, "another process");
        }
        let started = schemas::time::format_ms(self.started_ms);
        write!(f, "process {} on {} (started {started})", self.pid, self.host)
    }
}

/// Why a lock could not be taken.
#[derive(Debug, Error)]
#[error("cannot lock {file}: {source}")]
pub struct LockError {
    file: String,
    source: io::Error,
}

/// A held lock; released when it is dropped or the process ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
    path: PathBuf,
}

fn path(root: &Path, id: &str) -> PathBuf {
    root.join("locks").join(id)
}

impl Lock {
    /// Takes the lock of a new owner of the state in `root`.
    pub fn take(root: &Path, owner: &Owner) -> Result<Self, LockError> {
        assert!(!owner.id.is_empty() && !owner.id.contains('/'), "{:?} is a file name", owner.id);
        let path = path(root, &owner.id);
        let take = || {
            let mut file = OpenOptions::new().write(true).create_new(true).open(&path)?;
            file.try_lock().map_err(io::Error::from)?;
            file.write_all(&serde_json::to_vec(owner)?)?;
            file.sync_all()?;
            Ok(file)
        };
        match take() {
            Ok(file) => Ok(Self { _file: file, path }),
            Err(source) => {
                // Nobody else has this name: another try must find it free.
                let _ = std::fs::remove_file(&path);
                Err(LockError { file: path.display().to_string(), source })
            }
        }
    }

    /// Who holds the lock of owner `id`, or `None` if that process is gone.
    pub fn holder(root: &Path, id: &str) -> Option<Owner> {
        // The owner may not have written its name yet, or we may not be able to read it.
        let unknown = || Owner { id: id.into(), pid: 0, host: String::new(), started_ms: 0 };
        let mut file = match File::open(path(root, id)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(_) => return Some(unknown()),
        };
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                // What cannot be read is no name.
                let _ = file.read_to_string(&mut text);
                Some(serde_json::from_str(&text).unwrap_or_else(|_| unknown()))
            }
            _ => None,
        }
    }

    /// Removes the lock files of owners that are gone, except that of `keep`.
    pub fn sweep(root: &Path, keep: &str) {
        let Ok(entries) = std::fs::read_dir(root.join("locks")) else { return };
        for entry in entries.flatten() {
            let id = entry.file_name().to_string_lossy().into_owned();
            if id != keep && Self::holder(root, &id).is_none() {
                // Best effort: a leftover lock file is small and harmless.
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lock_names_its_holder_until_it_is_dropped() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("locks")).unwrap();
        let owner = Owner { id: "a1".into(), pid: 7, host: "h".into(), started_ms: 0 };
        let lock = Lock::take(root.path(), &owner).unwrap();
        assert_eq!(Lock::holder(root.path(), "a1"), Some(owner));
        drop(lock);
        assert_eq!(Lock::holder(root.path(), "a1"), None);
        assert_eq!(Lock::holder(root.path(), "b2"), None);
    }
}
