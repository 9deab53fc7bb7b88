//! Writing segments in the background, so that operators need not wait.
//!
//! Invariant: when a reply arrives, the segment and its name are durable. A segment that could not
//! be written for lack of space is written again from its beginning.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use parking_lot::Mutex;
use schemas::manifest::SegmentMeta;
use schemas::planted::{Bug, planted};
use schemas::rows::Table;
use schemas::segment::{Rows, SegmentError};
use thiserror::Error;

use crate::storage::{
    Patience, Storage, StorageError, StorageWriter, Waiting, remove_if_exists, temporary,
};

/// Why a segment could not be written. The job must end.
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

type Encode = Box<dyn FnMut(&mut StorageWriter<'_>) -> Result<(), SegmentError> + Send>;

/// A segment to write, and what to call when it is durable.
pub struct WriteJob {
    meta: SegmentMeta,
    encode: Encode,
    reply: Box<dyn FnOnce(Written) + Send>,
    /// Whether an attempt has failed, which may have left a part of the file.
    failed: bool,
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
        let (mut rows, mut sealed) = (Some(rows), None);
        let encode = Box::new(move |out: &mut StorageWriter<'_>| {
            if let Some(rows) = rows.take() {
                sealed = Some(rows.seal()?);
            }
            // Rows that cannot be sealed end the job at the first attempt.
            sealed.as_ref().map_or(Ok(()), |sealed| sealed.encode(out))
        });
        Self { meta, encode, reply: Box::new(reply), failed: false }
    }

    /// Writes the segment and gives it its name, which the folder's sync makes durable.
    fn write(&mut self, storage: &dyn Storage) -> Result<(), WriteError> {
        let Self { meta, encode, failed, .. } = self;
        let temporary = temporary(&meta.name);
        if *failed {
            remove_if_exists(storage, &temporary)?;
        }
        (meta.bytes, meta.xxh3) = write_temporary(storage, &meta.name, encode)?;
        Ok(storage.rename(&temporary, &meta.name)?)
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

/// The background task that writes segments. Several can share the work, so that the tables of a
/// commit are written in parallel.
pub struct SegmentWriter {
    storage: Arc<dyn Storage>,
    jobs: Arc<Mutex<Receiver<WriteJob>>>,
    /// Those that the next step tries again.
    again: Vec<WriteJob>,
    patience: Patience,
}

impl SegmentWriter {
    /// A writer and the queue it serves. The writer ends when all senders are gone.
    pub fn new(storage: Arc<dyn Storage>, waiting: &Arc<Waiting>) -> (Self, Sender<WriteJob>) {
        let (sender, jobs) = channel();
        let (jobs, patience) = (Arc::new(Mutex::new(jobs)), Patience::new(waiting));
        (Self { storage, jobs, again: Vec::new(), patience }, sender)
    }

    /// Another writer that serves the same queue.
    #[must_use]
    pub fn another(&self) -> Self {
        let (storage, jobs) = (Arc::clone(&self.storage), Arc::clone(&self.jobs));
        Self { storage, jobs, again: Vec::new(), patience: self.patience.another() }
    }

    /// Writes the segments that are waiting, and returns whether there were any.
    pub fn step(&mut self) -> bool {
        let mut jobs = std::mem::take(&mut self.again);
        jobs.extend(self.jobs.lock().try_iter());
        let any = !jobs.is_empty();
        self.write(jobs);
        any
    }

    /// Writes segments until the queue is closed.
    pub fn run(mut self) {
        while let Some(job) = self.next() {
            self.write(vec![job]);
            while !self.again.is_empty() {
                self.patience.pause();
                let again = std::mem::take(&mut self.again);
                self.write(again);
            }
        }
    }

    fn next(&self) -> Option<WriteJob> {
        // One writer waits for a job with the lock held; the others wait for the lock.
        self.jobs.lock().recv().ok()
    }

    /// Writes several segments with one sync of their folder.
    fn write(&mut self, jobs: Vec<WriteJob>) {
        let mut written = Vec::with_capacity(jobs.len());
        for mut job in jobs {
            debug_assert!(job.meta.name.starts_with("segments/"), "{}", job.meta.name);
            match job.write(&*self.storage) {
                Ok(()) => written.push(job),
                Err(error) => self.failed(job, error),
            }
        }
        if written.is_empty() {
            return;
        }
        match self.storage.sync_folder("segments") {
            Ok(()) => written.into_iter().for_each(|job| (job.reply)(Ok(job.meta))),
            // The state of all of them is unknown.
            Err(error) if self.patience.outlasts(&error) => {
                written.iter_mut().for_each(|job| job.failed = true);
                self.again.append(&mut written);
            }
            // One report ends the job.
            Err(error) => {
                self.patience.waits_no_more(false);
                if let Some(job) = written.pop() {
                    (job.reply)(Err(error.into()));
                }
            }
        }
        if self.again.is_empty() {
            self.patience.goes_on();
        }
    }

    /// An attempt has failed: the segment is written again, or the job ends.
    fn failed(&mut self, mut job: WriteJob, error: WriteError) {
        if !self.patience.outlasts(&error) {
            self.patience.waits_no_more(false);
            return (job.reply)(Err(error));
        }
        if planted(Bug::RetryDropsSegment) {
            return (job.reply)(Ok(job.meta));
        }
        // Half a file would keep others from being written. If it stays, the next attempt removes
        // it.
        let _ = self.storage.unlink(&temporary(&job.meta.name));
        job.failed = true;
        self.again.push(job);
    }
}
