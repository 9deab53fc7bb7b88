//! A file that is read as long as it can be, and looked at again where it cannot.
//!
//! Invariants: what goes wrong with one followed file ends no other; nothing is read twice; a
//! compressed file that was read to its end is closed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use schemas::manifest::Fingerprint;
use schemas::printable::shown;

use super::archive::now;
use super::decoders::Decoders;
use super::handles::{HANDLES, Handle};
use super::marks::FileId;
use super::packed::Packing;
use super::{LogError, Next, Reader, Record};

/// How long it waits after the first trouble; twice as long after each that follows.
const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Opens a file at a position, if it still is what it was recognised by before.
type Open = Box<dyn Fn(u64, Option<&Fingerprint>) -> Result<Box<dyn Reader>, LogError> + Send>;

/// Takes note of what a compressed file is recognised by, and how far it was read.
type Seen = Box<dyn Fn(Fingerprint, u64) + Send>;

/// Reads one file.
pub(super) struct PatientReader {
    open: Open,
    seen: Seen,
    path: PathBuf,
    /// Whether it waits where the file cannot be read.
    follows: bool,
    reader: Option<Box<dyn Reader>>,
    /// For the reader of a followed file.
    handle: Option<Handle<'static>>,
    position: u64,
    fingerprint: Option<Fingerprint>,
    trouble: Option<Trouble>,
    shared: Arc<Shared>,
    /// Its size and what is left of it, once it was read to its end.
    ended: Option<(u64, u64)>,
    /// Which file that was, by device and inode.
    id: Option<FileId>,
}

/// What all readers of an input have in common.
#[derive(Debug, Default)]
pub(super) struct Shared {
    decoders: Decoders,
    /// How often a file could not be read.
    pub(super) troubles: AtomicU64,
    /// New files that change: their sizes, times of change, and how often they were looked at.
    changing: Mutex<BTreeMap<PathBuf, (u64, SystemTime, u32)>>,
}

/// A compressed file that is new and incomplete may be a copy of one that was read. This long after
/// it was last changed it is read all the same.
const ARRIVES: Duration = Duration::from_secs(10);

/// Whether a file was changed so short a time ago that it may still be arriving, or cannot tell.
pub(super) fn changed_lately(path: &Path) -> bool {
    let changed = fs::metadata(path).and_then(|meta| meta.modified());
    let age = changed.ok().and_then(|changed| changed.elapsed().ok());
    age.is_none_or(|age| age < ARRIVES)
}

/// A new file that changes at every look is read after this many.
const LOOKS_MAX: u32 = 60;

impl Shared {
    /// Whether a new file has not changed since the last call, or changes all the time.
    pub(super) fn stands_still(&self, path: &Path) -> bool {
        let now = fs::metadata(path).and_then(|meta| Ok((meta.len(), meta.modified()?)));
        let Ok((bytes, changed)) = now else { return false };
        let mut changing = self.changing.lock();
        let looks = match changing.get(path) {
            Some((was, at, _)) if (*was, *at) == (bytes, changed) => LOOKS_MAX,
            Some((_, _, looks)) => looks + 1,
            None => 0,
        };
        changing.insert(path.to_owned(), (bytes, changed, looks));
        if looks >= LOOKS_MAX {
            changing.remove(path);
        }
        looks >= LOOKS_MAX
    }
}

struct Trouble {
    pause: Duration,
    again: Instant,
    said: String,
}

impl PatientReader {
    /// Reads the file at `path` from `position` on.
    pub(super) fn new(
        path: PathBuf,
        position: u64,
        follows: bool,
        shared: Arc<Shared>,
        open: Open,
        seen: Seen,
    ) -> Result<Self, LogError> {
        let mut patient = Self {
            open,
            seen,
            path,
            follows,
            reader: None,
            handle: None,
            position,
            fingerprint: None,
            trouble: None,
            shared,
            ended: None,
            id: None,
        };
        if !patient.is_packed() && patient.may_open() {
            // At once, since another file may soon have its name.
            match (patient.open)(position, None) {
                Ok(reader) => patient.reader = Some(reader),
                Err(error) => drop(patient.wait(error)?),
            }
        }
        Ok(patient)
    }

    fn is_packed(&self) -> bool {
        Packing::of(&self.path) != Packing::Plain
    }

    /// Whether there is a handle for the file. If there is none, it waits until there is.
    fn may_open(&mut self) -> bool {
        if self.follows && self.handle.is_none() {
            self.handle = HANDLES.take(&self.path);
            if self.handle.is_none() {
                let (pause, said) = (PAUSE, String::new());
                self.trouble = Some(Trouble { pause, again: now() + pause, said });
                return false;
            }
        }
        true
    }

    /// Waits after an error of the operating system; any other ends the job.
    fn wait(&mut self, error: LogError) -> Result<Next, LogError> {
        self.keep();
        if self.is_packed() {
            // What a decoder has taken in may have been something else.
            self.close();
        }
        if self.reader.is_none() {
            self.handle = None;
        }
        let read = self.position;
        match error {
            LogError::Io { .. } if self.follows => {}
            LogError::Changed(file) | LogError::Shorter { file, .. } if self.follows => {
                return Err(LogError::Lost { file, read, how: "was replaced" });
            }
            error => return Err(error),
        }
        self.shared.troubles.fetch_add(1, Ordering::Relaxed);
        let said = error.to_string();
        let before = self.trouble.take();
        if before.as_ref().is_none_or(|trouble| trouble.said != said) {
            tracing::warn!("{said}; other files are read, and this one is looked at again");
        }
        let pause = before.map_or(PAUSE, |trouble| (2 * trouble.pause).min(PAUSE_MAX));
        self.trouble = Some(Trouble { pause, again: now() + pause, said });
        Ok(Next::Wait)
    }

    fn close(&mut self) {
        self.keep();
        self.reader = None;
        self.handle = None;
        self.shared.decoders.closed(&self.path);
    }

    /// Takes over what the reader knows.
    fn keep(&mut self) {
        if let Some(reader) = &self.reader {
            self.position = reader.position();
            self.fingerprint = reader.fingerprint().or_else(|| self.fingerprint.take());
            if let (true, Some(fingerprint)) = (self.is_packed(), &self.fingerprint) {
                (self.seen)(fingerprint.clone(), self.position);
            }
        }
    }
}

impl Reader for PatientReader {
    fn read(&mut self, limit: usize, each: &mut dyn FnMut(Record<'_>)) -> Result<Next, LogError> {
        if self.ended.is_some() {
            return Ok(Next::End);
        }
        if self.trouble.as_ref().is_some_and(|trouble| now() < trouble.again) {
            return Ok(Next::Wait);
        }
        if self.reader.is_none() && !self.may_open() {
            return Ok(Next::Wait);
        }
        let reader = match &mut self.reader {
            Some(reader) => reader,
            None => match (self.open)(self.position, self.fingerprint.as_ref()) {
                Ok(reader) => self.reader.insert(reader),
                Err(error) => return self.wait(error),
            },
        };
        let next = match reader.read(limit, each) {
            Ok(next) => next,
            Err(error) => return self.wait(error),
        };
        let (before, now) = (self.position, reader.position());
        assert!(now >= before, "a reader went back from {before} to {now}");
        if next == Next::End && Packing::of(&self.path) != Packing::Plain {
            self.ended = Some((reader.packed(), reader.left()));
            self.id = FileId::at(&self.path);
            self.close();
        } else if let bytes @ 1.. = reader.decoder_bytes()
            && self.shared.decoders.used(&self.path, bytes, now)
            && now > before
        {
            // Not while it is only unpacked up to where it was, which would never end.
            self.close();
            if next == Next::Wait {
                let (pause, said) = (PAUSE, String::new());
                self.trouble = Some(Trouble { pause, again: self::now() + pause, said });
                return Ok(next);
            }
        } else if now > before {
            self.position = now;
        }
        let was_in_trouble = |trouble: Trouble| !trouble.said.is_empty();
        if (next == Next::End || now > before) && self.trouble.take().is_some_and(was_in_trouble) {
            tracing::info!("{} is read again", shown(&self.path));
        }
        Ok(next)
    }

    fn position(&self) -> u64 {
        self.reader.as_ref().map_or(self.position, |reader| reader.position())
    }

    fn end(&mut self) -> Result<Option<u64>, LogError> {
        self.keep();
        if self.shared.decoders.is_in_the_way(&self.path, self.position()) {
            self.close();
        }
        let Some(reader) = &mut self.reader else { return Ok(None) };
        match reader.end() {
            Ok(end) => Ok(end),
            Err(error) => self.wait(error).map(|_| None),
        }
    }

    fn fingerprint(&self) -> Option<Fingerprint> {
        let reader = self.reader.as_ref().and_then(|reader| reader.fingerprint());
        reader.or_else(|| self.fingerprint.clone())
    }

    fn tail(&self) -> Option<Fingerprint> {
        self.reader.as_ref().and_then(|reader| reader.tail())
    }

    fn rotated(&mut self) -> Option<String> {
        self.reader.as_mut().and_then(|reader| reader.rotated())
    }

    fn truncations(&mut self) -> u64 {
        self.reader.as_mut().map_or(0, |reader| reader.truncations())
    }

    fn let_go(&mut self) {
        if let Some(reader) = &mut self.reader {
            reader.let_go();
        }
    }

    fn packed(&mut self) -> u64 {
        self.ended.map_or(0, |(packed, _)| packed)
    }

    fn decoder_bytes(&self) -> u64 {
        self.reader.as_ref().map_or(0, |reader| reader.decoder_bytes())
    }

    fn left(&self) -> u64 {
        self.ended.map_or(0, |(_, left)| left)
    }

    fn goes_on(&mut self) -> bool {
        let Some((packed, _)) = self.ended.filter(|_| self.follows) else { return false };
        // Grown, or another one, which is then found out.
        let has_changed = fs::metadata(&self.path).is_ok_and(|meta| {
            meta.len() != packed || self.id.is_some_and(|id| id != FileId::of(&meta))
        });
        if has_changed {
            self.ended = None;
        }
        has_changed
    }
}
