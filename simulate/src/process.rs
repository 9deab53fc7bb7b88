//! A simulated process: what dies with it, and what goes wrong for it alone.
//!
//! Every effect of a process on the outside passes [`Process::effect`]: a kill lands between any
//! two of them.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use schemas::manifest::{Header, decode};
use sinks::publish::{Content, JobRow, Outcome, PublishError, PublishRow, Publisher};
use sinks::storage::{Storage, StorageError};

use crate::disk::PowerDisk;
use crate::wire::{Wire, Write};

/// What has gone over the edges of all processes, in order.
#[derive(Default)]
pub struct Probe(Mutex<Seen>);

/// What a [`Probe`] has seen.
#[derive(Default)]
pub struct Seen {
    /// A hash of every effect and its order.
    pub trace: u64,
    /// Their number.
    pub effects: u64,
    /// How often each fault has struck a process.
    pub struck: BTreeMap<&'static str, u64>,
    /// Headers of manifests that were created since somebody looked.
    pub created: Vec<Header>,
}

impl Probe {
    /// What it has seen so far.
    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a fault has struck.
    pub fn strike(&self, fault: &'static str) {
        *self.seen().struck.entry(fault).or_default() += 1;
    }

    /// Notes an effect, and what it writes.
    pub fn note(&self, doing: &str, name: &str, content: &[u8]) {
        let mut seen = self.seen();
        let text = doing.bytes().chain(name.bytes()).chain(content.iter().copied());
        seen.trace = text.fold(seen.trace.wrapping_add(1), |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        seen.effects += 1;
    }
}

/// On which side of an effect its error comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// It has not happened.
    Before,
    /// It has, and its maker does not know.
    After,
}

/// What is wrong with a process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ills {
    /// Effects until it is killed; none: it is not.
    pub left: Option<u64>,
    /// It was killed.
    pub dead: bool,
    /// The disk is full for it.
    pub full: bool,
    /// Syncing fails.
    pub sync_fails: bool,
    /// The next change of a name fails: before it is made, or after.
    pub names_fail: Option<Side>,
    /// The next file cannot be opened.
    pub open_fails: bool,
    /// The next read of the log fails.
    pub read_fails: bool,
    /// So many reads of the log find nothing, though there is something.
    pub slow_reads: u64,
    /// Something of the above has struck: an error is no surprise.
    pub struck: bool,
}

/// One process.
pub struct Process {
    ills: Mutex<Ills>,
    probe: Arc<Probe>,
}

impl Process {
    /// A healthy one.
    pub fn new(probe: Arc<Probe>) -> Arc<Self> {
        Arc::new(Self { ills: Mutex::default(), probe })
    }

    /// Notes that a fault has struck it.
    pub fn strike(&self, fault: &'static str) {
        self.probe.strike(fault);
    }

    /// What is wrong with it.
    pub fn ills(&self) -> MutexGuard<'_, Ills> {
        self.ills.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An effect on the outside; an error where the process does not live to have it.
    pub fn effect(&self, doing: &str, name: &str, content: &[u8]) -> Result<(), io::Error> {
        let mut ills = self.ills();
        let dies = ills.left == Some(0) && !ills.dead;
        if dies {
            ills.dead = true;
            self.probe.strike("kill");
        }
        ills.left = ills.left.map(|left| left.saturating_sub(1));
        let fails = match doing {
            "write" | "create" => ills.full,
            "sync" => ills.sync_fails,
            _ => false,
        };
        ills.struck |= ills.dead || fails;
        if ills.dead {
            let kind = if dies { io::ErrorKind::Interrupted } else { io::ErrorKind::Other };
            return Err(io::Error::new(kind, "killed"));
        }
        drop(ills);
        if fails {
            self.probe.strike(if doing == "sync" { "sync fails" } else { "disk full" });
        }
        self.probe.note(doing, name, content);
        if fails { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    /// A look at the outside.
    fn look(&self, opens: bool) -> Result<(), io::Error> {
        let mut ills = self.ills();
        let fails = opens && std::mem::take(&mut ills.open_fails);
        ills.struck |= ills.dead || fails;
        if fails {
            self.probe.strike("open fails");
        }
        if ills.dead || fails { Err(io::Error::other("input/output error")) } else { Ok(()) }
    }
}

/// A disk as a process sees it.
pub struct Mounted {
    /// The disk.
    pub disk: Arc<PowerDisk>,
    /// The process.
    pub process: Arc<Process>,
}

impl Mounted {
    fn effect(&self, doing: &'static str, name: &str) -> Result<(), StorageError> {
        self.write(doing, name, b"")
    }

    fn write(&self, doing: &'static str, name: &str, bytes: &[u8]) -> Result<(), StorageError> {
        let effect = self.process.effect(doing, name, bytes);
        effect.map_err(|source| StorageError { doing, name: name.to_owned(), source })
    }

    /// A change of a name, which may fail on either side.
    fn name<T>(
        &self,
        doing: &'static str,
        name: &str,
        change: impl FnOnce() -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        self.effect(doing, name)?;
        let fails = self.process.ills().names_fail.take();
        if let Some(side) = fails {
            self.process.ills().struck = true;
            self.process.strike("name fails");
            if side == Side::After {
                change()?;
            }
            let source = io::Error::other("input/output error");
            return Err(StorageError { doing, name: name.to_owned(), source });
        }
        change()
    }

    fn look(&self, doing: &'static str, name: &str) -> Result<(), StorageError> {
        let look = self.process.look(doing == "open" && name.starts_with("segments/"));
        look.map_err(|source| StorageError { doing, name: name.to_owned(), source })
    }
}

impl Storage for Mounted {
    fn append(&self, name: &str, bytes: &[u8]) -> Result<(), StorageError> {
        use io::ErrorKind::{Interrupted, StorageFull};
        let effect = self.write("write", name, bytes);
        if let Err(error) = &effect
            && matches!(error.source.kind(), Interrupted | StorageFull)
        {
            self.process.strike("write torn");
            self.disk.append(name, &bytes[..bytes.len() / 2])?;
        }
        effect.and_then(|()| self.disk.append(name, bytes))
    }

    fn sync(&self, name: &str) -> Result<(), StorageError> {
        self.effect("sync", name)?;
        self.disk.sync(name)
    }

    fn link(&self, from: &str, to: &str) -> Result<bool, StorageError> {
        self.name("create", to, || {
            let created = self.disk.link(from, to)?;
            if created && to.starts_with("commits/") {
                let header = decode(&self.disk.open(to)?).map(|(header, _)| header);
                self.process.probe.seen().created.extend(header);
            }
            Ok(created)
        })
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), StorageError> {
        self.name("rename", to, || self.disk.rename(from, to))
    }

    fn sync_folder(&self, folder: &str) -> Result<(), StorageError> {
        self.effect("sync", folder)?;
        self.disk.sync_folder(folder)
    }

    fn unlink(&self, name: &str) -> Result<(), StorageError> {
        self.name("remove", name, || self.disk.unlink(name))
    }

    fn open(&self, name: &str) -> Result<Bytes, StorageError> {
        self.look("open", name)?;
        self.disk.open(name)
    }

    fn list(&self, folder: &str) -> Result<Vec<String>, StorageError> {
        self.look("list", folder)?;
        self.disk.list(folder)
    }

    fn display(&self, name: &str) -> String {
        name.to_owned()
    }
}

/// A store as a process sees it.
pub struct Connected {
    /// The wire to it.
    pub wire: Wire,
    /// The process.
    pub process: Arc<Process>,
}

impl Connected {
    fn effect(&self, doing: &str, name: &str) -> Result<(), PublishError> {
        self.process
            .effect(doing, name, b"")
            .map_err(|error| PublishError::Fatal(error.to_string()))
    }
}

impl Publisher for Connected {
    fn job(&mut self, name: &str) -> Result<Option<Option<JobRow>>, PublishError> {
        self.effect("ask", name)?;
        self.wire.job(name)
    }

    fn upsert(&mut self, rows: &[PublishRow]) -> Result<Vec<Outcome>, PublishError> {
        self.wire.line().full_calls += u64::from(rows.len() == self.rows_max());
        let mut outcomes = Vec::with_capacity(rows.len());
        for row in rows {
            self.effect("upsert", &format!("{row:?}"))?;
            outcomes.push(self.wire.line().send(Write::Row(row.clone())));
        }
        Ok(outcomes)
    }

    fn older(&mut self, version: i64, most: usize) -> Result<Option<Vec<Content>>, PublishError> {
        self.wire.older(version, most)
    }

    fn set_job(&mut self, row: &JobRow) -> Result<Outcome, PublishError> {
        self.effect("published", &format!("{row:?}"))?;
        self.wire.set_job(row)
    }

    fn rows_max(&self) -> usize {
        // Few, so that a round takes several.
        16
    }
}
