//! Reads one compressed file in order. A followed one may still be arriving.
//!
//! Invariant: a line is read once it is whole, and a followed file is read to its end only when it
//! ends between two of its parts and has not changed for a while.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use schemas::manifest::Fingerprint;
use schemas::printable::shown;

use super::lines::Lines;
use super::marks::{MARK_BYTES, read_at};
use super::packed::{Packing, Unpacked};
use super::{LogError, Next, Reader, Record};

/// How often a followed file is looked at while there is nothing to read.
const LOOK: Duration = Duration::from_millis(if cfg!(test) { 2 } else { 200 });
/// A followed file that has not changed for this long is complete if it can be. Copies stop for
/// less, and a file that grows later is read on.
const QUIET: Duration = Duration::from_millis(if cfg!(test) { 50 } else { 5000 });
/// The most bytes that are skipped in one call.
const SKIPPED_MAX: usize = 4 << 20;

/// How a compressed file is read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manner {
    /// Whether it may still be arriving.
    pub(super) follows: bool,
    /// Whether an incomplete last line is left unread.
    pub(super) only_whole: bool,
    /// The largest window of zstd, as a power of two.
    pub(super) window_log: u32,
}

/// What the clock of this computer shows.
#[expect(clippy::disallowed_methods, reason = "files arrive in real time; none is simulated")]
pub(super) fn now() -> Instant {
    Instant::now()
}

/// Reads one compressed file.
pub(super) struct ArchiveReader {
    lines: Lines<Unpacked>,
    path: PathBuf,
    /// How many uncompressed bytes before the position are still to be unpacked.
    skip: u64,
    follows: bool,
    /// Its compressed size when it was last looked at, and since when it has had it.
    size: u64,
    since: Instant,
    looked: Instant,
    /// Whether it has said that it waits.
    said: bool,
    fingerprint: Fingerprint,
}

impl ArchiveReader {
    /// Opens `file`, which is at `path`, at the uncompressed `position`.
    pub(super) fn new(
        file: File,
        path: PathBuf,
        position: u64,
        manner: Manner,
    ) -> Result<Self, LogError> {
        let failed = |source| LogError::io(&path, source);
        let head = read_at(&file, 0, MARK_BYTES).map_err(failed)?;
        let fingerprint = Fingerprint::of(&head);
        let Manner { follows, only_whole, window_log } = manner;
        let unpacked = Unpacked::new(file, Packing::of(&path), follows, window_log);
        let lines = Lines::new(unpacked.map_err(failed)?, position, false);
        let lines = if only_whole { lines.only_whole() } else { lines };
        let now = self::now();
        let (size, skip) = (0, position);
        let said = false;
        let (since, looked) = (now, now);
        Ok(Self { lines, path, skip, follows, size, since, looked, said, fingerprint })
    }

    /// Unpacks some of what lies before the position.
    fn skip(&mut self) -> Result<Next, LogError> {
        let mut scratch = vec![0; 64 * 1024];
        let mut left = SKIPPED_MAX;
        while self.skip > 0 && left > 0 {
            let wanted = scratch.len().min(usize::try_from(self.skip).unwrap_or(usize::MAX));
            match self.lines.source().read(&mut scratch[..wanted]) {
                Ok(0) => {
                    let read = self.lines.position();
                    let (file, bytes) = (self.path.display().to_string(), read - self.skip);
                    return Err(LogError::Shorter { file, bytes, read });
                }
                Ok(read) => {
                    assert!(read as u64 <= self.skip, "more was skipped than there was to skip");
                    self.skip -= read as u64;
                    left = left.saturating_sub(read);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.look()?;
                    return Ok(Next::Wait);
                }
                Err(error) => return Err(LogError::io(&self.path, error)),
            }
        }
        Ok(Next::More)
    }

    /// Looks at a followed file of which all that is there was read.
    fn look(&mut self) -> Result<(), LogError> {
        let now = self::now();
        if !self.follows || now.duration_since(self.looked) < LOOK {
            return Ok(());
        }
        self.looked = now;
        let failed = |source| LogError::io(&self.path, source);
        let there = fs::metadata(&self.path).map_err(failed)?;
        let unpacked = self.lines.source();
        let (own, read) = (unpacked.file().metadata().map_err(failed)?, unpacked.compressed());
        if (own.dev(), own.ino()) != (there.dev(), there.ino()) || own.len() < read {
            let what = "it was replaced before it was complete";
            return Err(failed(io::Error::other(what)));
        }
        if own.len() != self.size || read < own.len() {
            (self.size, self.since) = (own.len(), now);
        } else if now.duration_since(self.since) < QUIET {
        } else if unpacked.is_between() {
            unpacked.cannot_grow();
        } else if !self.said {
            self.said = true;
            tracing::warn!(
                "{}: its compressed data is not complete, after {read} bytes; the rest is waited for",
                shown(&self.path)
            );
        }
        Ok(())
    }
}

impl Reader for ArchiveReader {
    fn read(&mut self, limit: usize, each: &mut dyn FnMut(Record<'_>)) -> Result<Next, LogError> {
        if self.skip > 0 {
            return self.skip();
        }
        let next = self.lines.read(limit, each);
        let next = next.map_err(|source| LogError::io(&self.path, source))?;
        if next == Next::Wait {
            self.look()?;
        }
        Ok(next)
    }

    fn position(&self) -> u64 {
        self.lines.position()
    }

    fn end(&mut self) -> Result<Option<u64>, LogError> {
        if self.follows && self.fingerprint.bytes < MARK_BYTES {
            let head = read_at(self.lines.source().file(), 0, MARK_BYTES);
            let head = head.map_err(|source| LogError::io(&self.path, source))?;
            self.fingerprint = Fingerprint::of(&head);
        }
        Ok(None)
    }

    fn fingerprint(&self) -> Option<Fingerprint> {
        // Before anything was read, other bytes may take the place of those that are there.
        Some(self.fingerprint.clone()).filter(|_| self.lines.position() > 0)
    }

    fn decoder_bytes(&self) -> u64 {
        self.lines.source_ref().decoder_bytes()
    }

    fn packed(&mut self) -> u64 {
        self.lines.source().compressed()
    }

    fn left(&self) -> u64 {
        self.lines.left()
    }
}
