//! A disk that loses power: afterwards, what was not synced is there, missing, or there in part.
//!
//! `sync` makes content durable, `sync_folder` makes names durable. A `sync` that fails drops what
//! it should have made durable, and later ones of that file do not tell. After a loss of power,
//! each change of a name since the last sync of its folder has happened or not, independently of
//! the others. The bytes of a file after its last sync are all there, cut off, or zeros.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use sinks::storage::{Storage, StorageError, folder_of};

use crate::rng::Rng;

#[derive(Clone, Default)]
struct File {
    bytes: Vec<u8>,
    /// How many of them are durable.
    synced: usize,
    /// A sync has failed: the others never will be.
    dropped: bool,
}

#[derive(Clone)]
enum Change {
    Add(String, usize),
    Remove(String),
    Rename(String, String, usize),
}

#[derive(Clone, Default)]
struct Disk {
    files: Vec<File>,
    names: BTreeMap<String, usize>,
    /// The names that survive a loss of power.
    durable: BTreeMap<String, usize>,
    /// The changes of names since, by folder.
    pending: BTreeMap<String, Vec<Change>>,
    effects: usize,
    /// The power fails before this effect.
    dies_at: Option<usize>,
}

/// Enumerates the outcomes of a series of choices, like a counter whose digits differ in base.
#[derive(Default)]
pub struct Choices {
    taken: Vec<(usize, usize)>,
    at: usize,
    /// Picks outcomes at random instead.
    rng: Option<Rng>,
}

impl Choices {
    /// Random outcomes that follow from `seed`.
    pub fn random(seed: u64) -> Self {
        Self { rng: Some(Rng(seed)), ..Self::default() }
    }

    /// The outcome of the next choice among `of`.
    fn pick(&mut self, of: usize) -> usize {
        if let Some(rng) = &mut self.rng {
            return rng.below(of as u64) as usize;
        }
        if self.at == self.taken.len() {
            self.taken.push((0, of));
        }
        self.at += 1;
        self.taken[self.at - 1].0
    }

    /// Advances to the next series of outcomes; false after the last.
    pub fn move_on(&mut self) -> bool {
        self.at = 0;
        while let Some((value, of)) = self.taken.pop() {
            if value + 1 < of {
                self.taken.push((value + 1, of));
                return true;
            }
        }
        false
    }
}

fn is_temporary(name: &str) -> bool {
    name.contains("/tmp-")
}

impl Disk {
    fn change(&mut self, change: Change) {
        let name = match &change {
            Change::Add(name, _) | Change::Remove(name) | Change::Rename(_, name, _) => name,
        };
        self.pending.entry(folder_of(name).to_owned()).or_default().push(change.clone());
        Self::apply(&mut self.names, change);
    }

    fn apply(names: &mut BTreeMap<String, usize>, change: Change) {
        match change {
            Change::Add(name, file) => drop(names.insert(name, file)),
            Change::Remove(name) => drop(names.remove(&name)),
            Change::Rename(from, to, file) => {
                names.remove(&from);
                names.insert(to, file);
            }
        }
    }

    /// The disk when the power is back.
    fn after_loss(&self, choices: &mut Choices) -> Self {
        let mut next = Self { files: self.files.clone(), ..Self::default() };
        next.names.clone_from(&self.durable);
        for change in self.pending.values().flatten() {
            // Nobody reads temporary names, so one outcome is enough.
            let idle = matches!(change, Change::Add(name, _) | Change::Remove(name)
                if is_temporary(name));
            if idle || choices.pick(2) == 1 {
                Self::apply(&mut next.names, change.clone());
            }
        }
        for (name, file) in &next.names {
            let File { bytes, synced, .. } = &mut next.files[*file];
            if *synced < bytes.len() {
                match if is_temporary(name) { 1 } else { choices.pick(3) } {
                    0 => {}
                    1 => bytes.truncate(*synced + (bytes.len() - *synced) / 2),
                    _ => bytes[*synced..].fill(0),
                }
                *synced = bytes.len();
            }
        }
        next.durable.clone_from(&next.names);
        next
    }
}

/// A disk whose power can fail.
#[derive(Default)]
pub struct PowerDisk(Mutex<Disk>);

impl PowerDisk {
    /// A disk whose power fails before effect `n`.
    pub fn dying_at(n: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Disk { dies_at: Some(n), ..Disk::default() })))
    }

    /// The number of effects so far.
    pub fn effects(&self) -> usize {
        self.0.lock().effects
    }

    /// One of the states that the disk may be in when the power is back.
    pub fn after_loss(&self, choices: &mut Choices) -> Arc<Self> {
        Arc::new(Self(Mutex::new(self.0.lock().after_loss(choices))))
    }

    /// All files by name.
    pub fn content(&self) -> BTreeMap<String, Vec<u8>> {
        let disk = self.0.lock();
        let names = disk.names.iter();
        names.map(|(name, file)| (name.clone(), disk.files[*file].bytes.clone())).collect()
    }

    /// A sync of this file fails: nothing that was written since the last one will ever be durable.
    pub fn drop_unsynced(&self, name: &str) {
        let mut disk = self.0.lock();
        if let Some(file) = disk.names.get(name).copied() {
            disk.files[file].dropped = true;
        }
    }

    /// Changes the content of a file, as no job ever does; returns what it was.
    pub fn overwrite(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut disk = self.0.lock();
        let file = disk.names.get(name).copied();
        let file = file.unwrap_or_else(|| unreachable!("only existing files are changed"));
        let bytes = &mut disk.files[file].bytes;
        let before = bytes.clone();
        change(bytes);
        before
    }

    fn effect<T>(
        &self,
        doing: &'static str,
        name: &str,
        run: impl FnOnce(&mut Disk) -> Result<T, io::ErrorKind>,
    ) -> Result<T, StorageError> {
        let mut disk = self.0.lock();
        let error = |source| StorageError { doing, name: name.to_owned(), source };
        if disk.dies_at.is_some_and(|n| disk.effects >= n) {
            return Err(error(io::Error::other("no power")));
        }
        disk.effects += 1;
        run(&mut disk).map_err(|kind| error(kind.into()))
    }
}

impl Storage for PowerDisk {
    fn append(&self, name: &str, bytes: &[u8]) -> Result<(), StorageError> {
        self.effect("write", name, |disk| {
            let file = disk.names.get(name).copied().unwrap_or_else(|| {
                disk.files.push(File::default());
                disk.change(Change::Add(name.to_owned(), disk.files.len() - 1));
                disk.files.len() - 1
            });
            disk.files[file].bytes.extend_from_slice(bytes);
            Ok(())
        })
    }

    fn sync(&self, name: &str) -> Result<(), StorageError> {
        self.effect("sync", name, |disk| {
            let file = *disk.names.get(name).ok_or(io::ErrorKind::NotFound)?;
            let file = &mut disk.files[file];
            if !file.dropped {
                file.synced = file.bytes.len();
            }
            Ok(())
        })
    }

    fn link(&self, from: &str, to: &str) -> Result<bool, StorageError> {
        self.effect("create", to, |disk| {
            let file = *disk.names.get(from).ok_or(io::ErrorKind::NotFound)?;
            let free = !disk.names.contains_key(to);
            if free {
                disk.change(Change::Add(to.to_owned(), file));
            }
            Ok(free)
        })
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), StorageError> {
        self.effect("rename", to, |disk| {
            let file = *disk.names.get(from).ok_or(io::ErrorKind::NotFound)?;
            disk.change(Change::Rename(from.to_owned(), to.to_owned(), file));
            Ok(())
        })
    }

    fn sync_folder(&self, folder: &str) -> Result<(), StorageError> {
        self.effect("sync", folder, |disk| {
            for change in disk.pending.remove(folder).unwrap_or_default() {
                Disk::apply(&mut disk.durable, change);
            }
            Ok(())
        })
    }

    fn unlink(&self, name: &str) -> Result<(), StorageError> {
        self.effect("remove", name, |disk| {
            disk.names.get(name).ok_or(io::ErrorKind::NotFound)?;
            disk.change(Change::Remove(name.to_owned()));
            Ok(())
        })
    }

    fn open(&self, name: &str) -> Result<Bytes, StorageError> {
        let disk = self.0.lock();
        let bytes = disk.names.get(name).map(|file| disk.files[*file].bytes.clone().into());
        let source = || io::ErrorKind::NotFound.into();
        bytes.ok_or_else(|| StorageError { doing: "open", name: name.to_owned(), source: source() })
    }

    fn list(&self, folder: &str) -> Result<Vec<String>, StorageError> {
        let (disk, prefix) = (self.0.lock(), format!("{folder}/"));
        let names = disk.names.keys();
        Ok(names.filter_map(|name| name.strip_prefix(&prefix)).map(str::to_owned).collect())
    }

    fn display(&self, name: &str) -> String {
        name.to_owned()
    }
}
