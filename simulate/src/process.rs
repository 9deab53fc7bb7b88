//! A simulated process, and the faults that strike it alone.
//!
//! Invariant: every effect of a process on disk and store passes [`Process::effect`], so that a
//! kill can land between any two.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use schemas::manifest::{Header, decode};
use sinks::publish::{Content, JobRow, Outcome, PublishError, PublishRow, Publisher};
use sinks::storage::{Storage, StorageError};

use crate::disk::PowerDisk;
use crate::wire::{Wire, Write};

/// What a disk answers that fails, and one that is full. A job waits both out.
const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// Records the effects of all processes, in order.
#[derive(Default)]
pub(crate) struct Probe(Mutex<Seen>);

/// What a [`Probe`] has recorded.
#[derive(Default)]
pub(crate) struct Seen {
    /// A hash of every effect and its order.
    pub(crate) trace: u64,
    /// How often each fault has struck.
    pub(crate) struck: BTreeMap<&'static str, u64>,
    /// Headers of the manifests created since the last look.
    pub(crate) created: Vec<Header>,
}

impl Probe {
    /// What was recorded so far.
    pub(crate) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock()
    }

    /// Counts a fault that has struck.
    pub(crate) fn strike(&self, fault: &'static str) {
        *self.seen().struck.entry(fault).or_default() += 1;
    }

    /// Records an effect and the bytes that it writes.
    pub(crate) fn note(&self, doing: &str, name: &str, content: &[u8]) {
        let mut seen = self.seen();
        let text = doing.bytes().chain(name.bytes()).chain(content.iter().copied());
        seen.trace = text.fold(seen.trace.wrapping_add(1), |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    }
}

/// When a failing change of a file name reports its error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NameFault {
    /// Before the change, which is not made.
    Before,
    /// After the change, which is made.
    After,
}

/// The faults that are due for a process.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ProcessFaults {
    /// The number of effects until it is killed, if it will be.
    pub(crate) effects_left: Option<u64>,
    /// It has been killed.
    pub(crate) dead: bool,
    /// How often the disk is full before it has room again.
    pub(crate) full: u64,
    /// How many of the next syncs fail.
    pub(crate) sync_fails: u64,
    /// The next change of a file name fails.
    pub(crate) names_fail: Option<NameFault>,
    /// The next file cannot be opened.
    pub(crate) open_fails: bool,
    /// The next read of the log fails.
    pub(crate) read_fails: bool,
    /// How many of the next reads of the log return nothing.
    pub(crate) slow_reads: u64,
    /// It has read records of another topic.
    pub(crate) other_topic: bool,
    /// A fault has struck that the process does not wait out, so it may end with an error.
    pub(crate) struck: bool,
}

/// A process.
pub(crate) struct Process {
    faults: Mutex<ProcessFaults>,
    probe: Arc<Probe>,
}

impl Process {
    /// A process without faults.
    pub(crate) fn new(probe: Arc<Probe>) -> Arc<Self> {
        Arc::new(Self { faults: Mutex::default(), probe })
    }

    /// Counts a fault that has struck.
    pub(crate) fn strike(&self, fault: &'static str) {
        self.probe.strike(fault);
    }

    /// The faults that are due.
    pub(crate) fn faults(&self) -> MutexGuard<'_, ProcessFaults> {
        self.faults.lock()
    }

    /// It reads records of another topic, so it must end with an error.
    pub(crate) fn read_other_topic(&self) {
        let mut faults = self.faults();
        if !faults.other_topic {
            (faults.other_topic, faults.struck) = (true, true);
            self.strike("topic recreated");
        }
    }

    /// An effect on disk or store; an error if the process dies before it, or if it fails.
    pub(crate) fn effect(&self, doing: &str, name: &str, content: &[u8]) -> Result<(), io::Error> {
        let mut faults = self.faults();
        let dies = faults.effects_left == Some(0) && !faults.dead;
        if dies {
            faults.dead = true;
            self.probe.strike("kill");
        }
        faults.effects_left = faults.effects_left.map(|left| left.saturating_sub(1));
        faults.struck |= faults.dead;
        if faults.dead {
            let kind = if dies { io::ErrorKind::Interrupted } else { io::ErrorKind::Other };
            return Err(io::Error::new(kind, "killed"));
        }
        let (fault, left, error) = match doing {
            "write" | "create" => ("disk full", &mut faults.full, ENOSPC),
            "sync" => ("sync fails", &mut faults.sync_fails, EIO),
            _ => ("", &mut 0, 0),
        };
        let fails = *left > 0;
        *left = left.saturating_sub(1);
        drop(faults);
        if fails {
            self.probe.strike(fault);
        }
        self.probe.note(doing, name, content);
        if fails { Err(io::Error::from_raw_os_error(error)) } else { Ok(()) }
    }

    /// A read from disk.
    fn read(&self, opens: bool) -> Result<(), io::Error> {
        let mut faults = self.faults();
        let fails = opens && std::mem::take(&mut faults.open_fails);
        if fails {
            self.probe.strike("open fails");
        }
        if faults.dead {
            faults.struck = true;
            return Err(io::Error::other("killed"));
        }
        if fails { Err(io::Error::from_raw_os_error(EIO)) } else { Ok(()) }
    }
}

/// The disk as a process sees it.
pub(crate) struct Mounted {
    /// The disk.
    pub(crate) disk: Arc<PowerDisk>,
    /// The process.
    pub(crate) process: Arc<Process>,
}

impl Mounted {
    fn effect(&self, doing: &'static str, name: &str) -> Result<(), StorageError> {
        self.write(doing, name, b"")
    }

    fn write(&self, doing: &'static str, name: &str, bytes: &[u8]) -> Result<(), StorageError> {
        let effect = self.process.effect(doing, name, bytes);
        effect.map_err(|source| StorageError { doing, name: name.to_owned(), source })
    }

    /// A change of a file name, which may fail before or after it happens.
    fn change_name<T>(
        &self,
        doing: &'static str,
        name: &str,
        change: impl FnOnce() -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        self.effect(doing, name)?;
        let fails = self.process.faults().names_fail.take();
        if let Some(fault) = fails {
            self.process.strike("name fails");
            if fault == NameFault::After {
                change()?;
            }
            let source = io::Error::from_raw_os_error(EIO);
            return Err(StorageError { doing, name: name.to_owned(), source });
        }
        change()
    }

    fn read(&self, doing: &'static str, name: &str) -> Result<(), StorageError> {
        let read = self.process.read(doing == "open" && name.starts_with("segments/"));
        read.map_err(|source| StorageError { doing, name: name.to_owned(), source })
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
        if let Err(error) = self.effect("sync", name) {
            self.disk.drop_unsynced(name);
            return Err(error);
        }
        self.disk.sync(name)
    }

    fn link(&self, from: &str, to: &str) -> Result<bool, StorageError> {
        self.change_name("create", to, || {
            let created = self.disk.link(from, to)?;
            if created && to.starts_with("commits/") {
                let header = decode(&self.disk.open(to)?).map(|(header, _)| header);
                self.process.probe.seen().created.extend(header);
            }
            Ok(created)
        })
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), StorageError> {
        self.change_name("rename", to, || self.disk.rename(from, to))
    }

    fn sync_folder(&self, folder: &str) -> Result<(), StorageError> {
        self.effect("sync", folder)?;
        self.disk.sync_folder(folder)
    }

    fn unlink(&self, name: &str) -> Result<(), StorageError> {
        self.change_name("remove", name, || self.disk.unlink(name))
    }

    fn open(&self, name: &str) -> Result<Bytes, StorageError> {
        self.read("open", name)?;
        self.disk.open(name)
    }

    fn list(&self, folder: &str) -> Result<Vec<String>, StorageError> {
        self.read("list", folder)?;
        self.disk.list(folder)
    }

    fn display(&self, name: &str) -> String {
        name.to_owned()
    }
}

/// The store as a process sees it.
pub(crate) struct Connected {
    /// The connection to it.
    pub(crate) wire: Wire,
    /// The process.
    pub(crate) process: Arc<Process>,
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
        // Few, so that a round of publishing takes several calls.
        16
    }
}
