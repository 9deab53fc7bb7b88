//! A state folder on a local disk.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rustix::fs::OFlags;
use schemas::printable::shown;

use thiserror::Error;

use super::{FOLDERS, Storage, StorageError, map};

/// Who may use a state folder: its owner. It holds the key of the state's hashes, and records as
/// they came in.
const MODE: u32 = 0o700;

/// Why a folder cannot be read as a state.
#[derive(Debug, Error)]
pub enum OpenError {
    /// It is none, or does not exist.
    #[error("{0} holds no Tagflow state; `tagflow run` creates one")]
    NoState(String),
    /// The system does not let us see.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// A state folder.
#[derive(Clone, Debug)]
pub struct DiskStorage {
    root: PathBuf,
}

impl DiskStorage {
    /// The state in `root`, creating the folder if necessary. Only its owner may use a new one.
    pub fn create(root: &Path) -> Result<Self, StorageError> {
        let is_there = |folder: &Path| folder.as_os_str().is_empty() || folder.is_dir();
        let missing = root.ancestors().take_while(|folder| !is_there(folder)).count();
        let parent = root.parent().filter(|parent| !parent.as_os_str().is_empty());
        parent.map_or(Ok(()), fs::create_dir_all).map_err(|e| error("create", root, e))?;
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(MODE);
        for folder in FOLDERS {
            let path = root.join(folder);
            builder.create(&path).map_err(|e| error("create", &path, e))?;
        }
        // A new folder is durable only once its parent has been synced.
        for folder in root.ancestors().take(missing + 1) {
            let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
            let sync = File::open(folder).and_then(|folder| folder.sync_all());
            sync.map_err(|e| error("sync", folder, e))?;
        }
        Ok(Self { root: root.to_owned() })
    }

    /// The state in `root`, for reading.
    pub fn open_existing(root: &Path) -> Result<Self, OpenError> {
        // The last two were added later; older states lack them.
        for folder in &FOLDERS[..4] {
            let path = root.join(folder);
            let is_folder = match fs::metadata(&path) {
                Ok(metadata) => metadata.is_dir(),
                Err(e) => match e.kind() {
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => false,
                    _ => return Err(error("open", &path, e).into()),
                },
            };
            if !is_folder {
                return Err(OpenError::NoState(shown(root)));
            }
        }
        Ok(Self { root: root.to_owned() })
    }

    /// The path of a name.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }
}

fn error(doing: &'static str, path: &Path, source: io::Error) -> StorageError {
    StorageError { doing, name: shown(path), source }
}

impl Storage for DiskStorage {
    fn append(&self, name: &str, bytes: &[u8]) -> Result<(), StorageError> {
        let path = self.path(name);
        let file = OpenOptions::new().append(true).create(true).open(&path);
        file.and_then(|mut file| file.write_all(bytes)).map_err(|e| error("write", &path, e))
    }

    fn sync(&self, name: &str) -> Result<(), StorageError> {
        let path = self.path(name);
        File::open(&path).and_then(|file| file.sync_all()).map_err(|e| error("sync", &path, e))
    }

    fn link(&self, from: &str, to: &str) -> Result<bool, StorageError> {
        let path = self.path(to);
        match fs::hard_link(self.path(from), &path) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(e) => Err(error("create", &path, e)),
        }
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), StorageError> {
        let path = self.path(to);
        fs::rename(self.path(from), &path).map_err(|e| error("rename", &path, e))
    }

    fn sync_folder(&self, folder: &str) -> Result<(), StorageError> {
        self.sync(folder)
    }

    fn unlink(&self, name: &str) -> Result<(), StorageError> {
        let path = self.path(name);
        fs::remove_file(&path).map_err(|e| error("remove", &path, e))
    }

    fn open(&self, name: &str) -> Result<Bytes, StorageError> {
        let path = self.path(name);
        // A pipe under a file's name would block for ever.
        let not_blocking = OFlags::NONBLOCK.bits().cast_signed();
        let file = OpenOptions::new().read(true).custom_flags(not_blocking).open(&path);
        let bytes = file.and_then(|file| {
            if file.metadata()?.is_file() {
                map::map(&file)
            } else {
                Err(io::Error::other("it is not a regular file, and no part of a state"))
            }
        });
        bytes.map_err(|e| error("open", &path, e))
    }

    fn list(&self, folder: &str) -> Result<Vec<String>, StorageError> {
        let path = self.path(folder);
        let names = fs::read_dir(&path).and_then(|entries| {
            entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
        });
        names.map_err(|e| error("list", &path, e))
    }

    fn display(&self, name: &str) -> String {
        shown(&self.path(name))
    }
}
