//! Writing segments in the background, so that operators need not wait.
//!
//! Invariant: when a reply arrives, the segment and its name are durable.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use parking_lot::Mutex;
use schemas::manifest::SegmentMeta;
use schemas::rows::Table;
use schemas::segment::{Rows, SegmentError};
use thiserror::Error;

use crate::storage::{Storage, StorageError, StorageWriter, temporary};

/// Why a segment could not be written. The process must exit.
#[derive(Debug, Error)]
pub enum WriteError {
    /// The storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The rows could not be encoded.
    #[error("cannot encode {name}: {error}")]
    Encode {
        /// The segment.
        name: String,
        /// What is wrong.
        error: SegmentError,
    },
}

/// The outcome of a [`WriteJob`].
pub type Written = Result<SegmentMeta, WriteError>;

type Encode = Box<dyn FnOnce(&mut StorageWriter<'_>) -> Result<(), SegmentError> + Send>;

/// A segment to write, and what to call when it is durable.
pub struct WriteJob {
    meta: SegmentMeta,
    encode: Encode,
    reply: Box<dyn FnOnce(Written) + Send>,
}

impl WriteJob {
    /// A segment of `rows` with the name `name`, all changed by one commit.
    pub fn new<T: Table>(
        name: String,
        commit: u64,
        rows: Rows<T>,
        reply: impl FnOnce(Written) + Send + 'static,
    ) -> Self {
        assert!(!rows.is_empty(), "{name} has rows: empty segments are not written");
        let meta = SegmentMeta {
            name,
            table: T::NAME,
            first_commit: commit,
            last_commit: commit,
            rows: rows.len() as u64,
            bytes: 0,
            xxh3: String::new(),
            last_hour: rows.last_hour(),
        };
        let encode = Box::new(move |out: &mut StorageWriter<'_>| rows.encode(out));
        Self { meta, encode, reply: Box::new(reply) }
    }
}

/// Writes a file under a temporary name and makes it durable. Returns its size and checksum.
pub(super) fn write_temporary(
    storage: &dyn Storage,
    name: &str,
    encode: impl FnOnce(&mut StorageWriter<'_>) -> Result<(), SegmentError>,
) -> Result<(u64, String), WriteError> {
    let mut out = StorageWriter::new(storage, temporary(name));
    let encoded = encode(&mut out);
    // If the storage failed, its error explains more than the encoder's.
    let finished = out.finish()?;
    encoded.map_err(|error| WriteError::Encode { name: storage.display(name), error })?;
    Ok(finished)
}

/// The background task that writes segments. Clones share the work, so that the tables of a commit
/// are written in parallel.
#[derive(Clone)]
pub struct SegmentWriter {
    storage: Arc<dyn Storage>,
    jobs: Arc<Mutex<Receiver<WriteJob>>>,
}

impl SegmentWriter {
    /// A writer and the queue it serves. The writer ends when all senders are gone.
    pub fn new(storage: Arc<dyn Storage>) -> (Self, Sender<WriteJob>) {
        let (sender, jobs) = channel();
        (Self { storage, jobs: Arc::new(Mutex::new(jobs)) }, sender)
    }

    /// Writes the segments that are waiting, and returns whether there were any.
    pub fn step(&mut self) -> bool {
        let jobs: Vec<WriteJob> = self.jobs.lock().try_iter().collect();
        let any = !jobs.is_empty();
        self.write(jobs);
        any
    }

    /// Writes segments until the queue is closed.
    pub fn run(mut self) {
        while let Some(job) = self.next() {
            self.write(vec![job]);
        }
    }

    fn next(&self) -> Option<WriteJob> {
        // One clone waits for a job with the lock held; the others wait for the lock.
        self.jobs.lock().recv().ok()
    }

    /// Writes several segments with one sync of their folder.
    fn write(&mut self, jobs: Vec<WriteJob>) {
        let mut done = Vec::with_capacity(jobs.len());
        for job in jobs {
            let WriteJob { mut meta, encode, reply } = job;
            debug_assert!(meta.name.starts_with("segments/"), "{} is not a segment", meta.name);
            let written = write_temporary(&*self.storage, &meta.name, encode).and_then(|file| {
                (meta.bytes, meta.xxh3) = file;
                Ok(self.storage.rename(&temporary(&meta.name), &meta.name)?)
            });
            match written {
                Ok(()) => done.push((meta, reply)),
                Err(error) => reply(Err(error)),
            }
        }
        if done.is_empty() {
            return;
        }
        let mut synced = self.storage.sync_folder("segments").err();
        for (meta, reply) in done {
            // After a failed sync the state of all of them is unknown; one report ends the process.
            match synced.take() {
                None => reply(Ok(meta)),
                Some(error) => return reply(Err(error.into())),
            }
        }
    }
}
