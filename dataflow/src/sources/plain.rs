//! Reads one plain file in order, and follows it if it grows.
//!
//! Invariant: every read begins before the position and compares what it knows, in the same call as
//! it reads what is new. So bytes that were written over those that were read are never taken for
//! the bytes after them.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use schemas::config::OnTruncate;
use schemas::manifest::Fingerprint;
use thiserror::Error;

use super::lines::Lines;
use super::marks::{FileId, MARK_BYTES, Marks, Tail, read_at};
use super::registry::Registry;
use super::{LogError, Next, Reader, Record};

/// The bytes before the position are not those that were read.
#[derive(Debug, Error)]
#[error("its bytes are not those that were read")]
struct Overwritten;

fn overwritten() -> io::Error {
    io::Error::other(Overwritten)
}

fn is_overwritten(error: &io::Error) -> bool {
    let Some(inner) = error.get_ref() else { return false };
    inner.is::<Overwritten>()
}

/// The times of files are this exact.
const TICK: Duration = Duration::from_secs(1);

fn now() -> SystemTime {
    let since = SystemTime::UNIX_EPOCH.elapsed();
    since.map_or(SystemTime::UNIX_EPOCH, |since| SystemTime::UNIX_EPOCH + since)
}

/// A file's bytes from some position on.
struct Checked {
    file: File,
    /// What was read last.
    tail: Tail,
}

impl Read for Checked {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let known = self.tail.bytes();
        // Where there is little room, fewer bytes are compared.
        let known = &known[known.len() - known.len().min(out.len() / 2)..];
        let before = known.len();
        let read = self.file.read_at(out, self.tail.end() - before as u64)?;
        if out.get(..before.min(read)) != Some(known) {
            return Err(overwritten());
        }
        assert!(before <= read, "what was compared was read");
        out.copy_within(before..read, 0);
        self.tail.push(&out[..read - before]);
        Ok(read - before)
    }
}

/// Reads one file.
pub(super) struct PlainReader {
    lines: Lines<Checked>,
    partition: String,
    path: PathBuf,
    id: FileId,
    input: Arc<Registry>,
    /// The first bytes, as far as there have been any.
    head: Vec<u8>,
    /// What it was recognised by at the end of the last commit.
    marks: Marks,
    /// Its size, and when it had been changed, when it was last looked at.
    looked_at: Option<u64>,
    changed: SystemTime,
    /// When it was last seen to have its name.
    seen: SystemTime,
    /// Whether another file has its name.
    is_rotated: bool,
    /// Set once what was not read can no longer be read, and the job goes on.
    lost: bool,
    truncations: u64,
}

impl PlainReader {
    /// Opens the file at `path`, which is called `partition`, at `position`.
    pub(super) fn open(
        input: Arc<Registry>,
        partition: &str,
        path: PathBuf,
        position: u64,
    ) -> Result<Self, LogError> {
        let failed = |source| LogError::io(&path, source);
        let file = input.folder().open(&path)?;
        let meta = file.metadata().map_err(failed)?;
        if meta.len() < position {
            let (file, bytes) = (path.display().to_string(), meta.len());
            return Err(LogError::Shorter { file, bytes, read: position });
        }
        let id = FileId::of(&meta);
        let tail = Tail::of(&file, position).map_err(failed)?;
        let head = read_at(&file, 0, MARK_BYTES).map_err(failed)?;
        let is_rotated = input.open(partition, id);
        let lines = Lines::new(Checked { file, tail }, position, input.follow().is_some());
        // The rest of a last line may come, and is read by the next run.
        let lines = if input.follow().is_some() { lines } else { lines.only_whole() };
        let mut reader = Self {
            lines,
            partition: partition.to_owned(),
            path,
            id,
            input,
            head,
            marks: Marks::default(),
            looked_at: None,
            changed: SystemTime::UNIX_EPOCH,
            seen: now(),
            is_rotated,
            lost: false,
            truncations: 0,
        };
        // Between the check of the plan and this call, the file may have become another one.
        reader.look()?;
        let same = reader.lost
            || reader.input.known(partition).is_none_or(|known| {
                known.position != position
                    || known.tail.is_none()
                    || known.tail == reader.marks.tail
            });
        if !same {
            reader.lose("was overwritten")?;
        }
        Ok(reader)
    }

    /// Whether no other file has its name. While it has none at all it may be about to get another,
    /// unless it was removed.
    fn has_name(&mut self) -> bool {
        match FileId::at(&self.path) {
            Some(id) if id == self.id => {
                self.seen = now();
                true
            }
            Some(_) => false,
            None => self.lines.source().file.metadata().is_ok_and(|meta| meta.nlink() > 0),
        }
    }

    /// What cannot be read any more is lost: an error, unless the job is to go on.
    fn lose(&mut self, how: &'static str) -> Result<(), LogError> {
        let (file, read) = (self.path.display().to_string(), self.lines.position());
        match self.input.follow() {
            None => return Err(LogError::Changed(file)),
            Some(follow) if follow.on_truncate == OnTruncate::Stop => {
                return Err(LogError::Lost { file, read, how });
            }
            Some(_) => {}
        }
        if !self.lost {
            self.truncations += 1;
            tracing::warn!(
                "{file} {how}: lines after byte {read} that had not been read are missing; it is \
                 read from its beginning"
            );
        }
        self.lost = true;
        Ok(())
    }

    /// Takes the marks of what has been read.
    fn look(&mut self) -> Result<(), LogError> {
        match self.take_marks() {
            Err(error) if is_overwritten(&error) => self.lose("was overwritten"),
            other => other.map_err(|source| LogError::io(&self.path, source)),
        }
    }

    fn take_marks(&mut self) -> io::Result<()> {
        let position = self.lines.position();
        let Checked { file, tail } = self.lines.source();
        let meta = file.metadata()?;
        let (bytes, changed) = (Some(meta.len()), meta.modified()?);
        let same = (self.looked_at, self.changed) == (bytes, changed);
        if !same {
            let head = read_at(file, 0, MARK_BYTES)?;
            if !head.starts_with(&self.head) {
                return Err(overwritten());
            }
            (self.head, self.looked_at, self.changed) = (head, bytes, changed);
        }
        let from = position.saturating_sub(MARK_BYTES);
        let length = (position - from) as usize;
        let mark = if tail.end() == position {
            Fingerprint::before(&tail.bytes()[tail.bytes().len() - length..], position)
        } else {
            // Lines wait in the buffer. What lies before them is theirs if what was read last is.
            let bytes = read_at(file, from, tail.end() - from)?;
            let known = tail.bytes();
            if !bytes.ends_with(&known[known.len().saturating_sub(bytes.len())..]) {
                return Err(overwritten());
            }
            Fingerprint::before(bytes.get(..length).ok_or_else(overwritten)?, position)
        };
        let head = Fingerprint::of(&self.head);
        self.marks = Marks { head: Some(head), tail: Some(mark), position };
        self.input.read(&self.partition, &self.marks);
        Ok(())
    }
}

impl Reader for PlainReader {
    fn read(&mut self, limit: usize, each: &mut dyn FnMut(Record<'_>)) -> Result<Next, LogError> {
        if !self.lost {
            match self.lines.read(limit, each) {
                Err(error) if is_overwritten(&error) => self.lose("was overwritten")?,
                other => return other.map_err(|source| LogError::io(&self.path, source)),
            }
        }
        // Until the end of the commit it has its name.
        Ok(if self.is_rotated { Next::End } else { Next::Wait })
    }

    fn position(&self) -> u64 {
        self.lines.position()
    }

    fn end(&mut self) -> Result<Option<u64>, LogError> {
        let meta = self.lines.source().file.metadata();
        let bytes = meta.map_err(|source| LogError::io(&self.path, source))?.len();
        let read = self.lines.position();
        if !self.lost && bytes < read {
            if self.input.follow().is_none() {
                let file = self.path.display().to_string();
                return Err(LogError::Shorter { file, bytes, read });
            }
            self.lose("was truncated")?;
        }
        if !self.lost {
            self.look()?;
        }
        Ok(Some(if self.lost { read } else { bytes }))
    }

    fn fingerprint(&self) -> Option<Fingerprint> {
        self.marks.head.clone()
    }

    fn tail(&self) -> Option<Fingerprint> {
        self.marks.tail.clone()
    }

    fn rotated(&mut self) -> Option<String> {
        if self.is_rotated || self.input.follow().is_none() || (!self.lost && self.has_name()) {
            return None;
        }
        self.is_rotated = true;
        // Of a file that was overwritten nothing is left under another name.
        let id = (!self.lost).then_some(self.id);
        // What had the name in between was written after this one was last seen to have it.
        let since = self.seen.checked_sub(TICK).map_or(self.changed, |seen| seen.max(self.changed));
        let former = self.partition.clone();
        self.partition = self.input.rotate(&former, id, since);
        assert_ne!(self.partition, former, "another file may have the name that this one has lost");
        Some(self.partition.clone())
    }

    fn truncations(&mut self) -> u64 {
        // Counted in the commit in which the file is read from its beginning.
        if self.is_rotated { std::mem::take(&mut self.truncations) } else { 0 }
    }

    fn let_go(&mut self) {
        self.input.let_go(&self.partition);
        self.lines.cannot_grow();
    }
}

impl Drop for PlainReader {
    fn drop(&mut self) {
        self.input.close(&self.partition);
    }
}
