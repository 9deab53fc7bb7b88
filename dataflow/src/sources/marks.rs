//! What a file is recognised by: the hashes of its first bytes, and of the last bytes before the
//! position that it was read up to.
//!
//! Invariant: names take no part, nor do devices and inodes, which change with reboots and are used
//! again; those tell files apart only while one of them is open.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use schemas::manifest::{Fingerprint, Partition, Position};

use super::packed::{self, Packing};

/// How many bytes of a file's beginning, and before a position, it is recognised by.
pub(super) const MARK_BYTES: u64 = 4096;

/// What tells a file from all others while it is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileId(u64, u64);

impl FileId {
    pub(super) fn of(meta: &fs::Metadata) -> Self {
        Self(meta.dev(), meta.ino())
    }

    /// That of the file at `path`; `None` if none can be reached there.
    pub(super) fn at(path: &Path) -> Option<Self> {
        fs::metadata(path).ok().map(|meta| Self::of(&meta))
    }
}

/// What a file was recognised by when it had been read up to `position`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Marks {
    pub(super) head: Option<Fingerprint>,
    pub(super) tail: Option<Fingerprint>,
    pub(super) position: u64,
}

impl Marks {
    pub(super) fn of(state: &Partition) -> Self {
        let position = match &state.position {
            Position::Offset(offset) => *offset,
            Position::Blocks(blocks) => blocks.bytes,
        };
        Self { head: state.fingerprint.clone(), tail: state.tail.clone(), position }
    }

    /// Whether they say anything: of an empty file, they do not.
    pub(super) fn tell(&self) -> bool {
        let marks = [&self.head, &self.tail].into_iter().flatten();
        marks.map(|mark| mark.bytes).max() > Some(0)
    }
}

/// At most `bytes` bytes of a file from `from` on: fewer only at its end.
pub(super) fn read_at(file: &File, from: u64, bytes: u64) -> io::Result<Vec<u8>> {
    let mut read = vec![0; usize::try_from(bytes).map_err(io::Error::other)?];
    let mut filled = 0;
    while filled < read.len() {
        match file.read_at(&mut read[filled..], from + filled as u64) {
            Ok(0) => break,
            Ok(more) => filled += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    read.truncate(filled);
    Ok(read)
}

/// Whether a plain file has the bytes that `mark` was made of.
pub(super) fn has(file: &File, mark: &Fingerprint) -> io::Result<bool> {
    let from = mark.at.map_or(Some(0), |at| at.checked_sub(mark.bytes));
    let Some(from) = from.filter(|_| mark.bytes <= MARK_BYTES) else { return Ok(false) };
    let bytes = read_at(file, from, mark.bytes)?;
    Ok(bytes.len() as u64 == mark.bytes
        && Fingerprint { at: mark.at, ..Fingerprint::of(&bytes) } == *mark)
}

/// The same of the file at `path`, which may have been packed since `mark` was made.
pub(super) fn has_packed(path: &Path, file: &File, mark: &Fingerprint) -> io::Result<bool> {
    let unpacked = Marks { head: Some(mark.clone()), tail: None, position: mark.bytes };
    Ok(has(file, mark)? || furthest(path, [&unpacked])?.is_some())
}

/// The largest position of `marks` up to which the file at `path` is one of those that they were
/// taken of, unpacked where its name says that it is packed.
pub(super) fn furthest<'m>(
    path: &Path,
    marks: impl IntoIterator<Item = &'m Marks>,
) -> io::Result<Option<u64>> {
    let marks: Vec<&Marks> = marks.into_iter().filter(|marks| marks.tell()).collect();
    if marks.is_empty() {
        return Ok(None);
    }
    let file = File::open(path)?;
    match Packing::of(path) {
        Packing::Plain => furthest_plain(&file, &marks),
        packing => furthest_packed(path, packing, &file, &marks),
    }
}

fn furthest_plain(file: &File, marks: &[&Marks]) -> io::Result<Option<u64>> {
    let bytes = file.metadata()?.len();
    let mut furthest = None;
    for marks in marks.iter().filter(|marks| marks.position <= bytes) {
        let both = [&marks.head, &marks.tail];
        let mut said = both.into_iter().flatten();
        if furthest.is_none_or(|furthest| furthest < marks.position)
            && said.try_fold(true, |all, mark| Ok::<_, io::Error>(all && has(file, mark)?))?
        {
            furthest = Some(marks.position);
        }
    }
    Ok(furthest)
}

/// One pass over the unpacked bytes, up to the largest position of those that begin alike.
fn furthest_packed(
    path: &Path,
    packing: Packing,
    file: &File,
    marks: &[&Marks],
) -> io::Result<Option<u64>> {
    let mut source = packed::open(path, packing)?;
    let (mut head, mut tail) = (Vec::new(), Tail::default());
    source.by_ref().take(MARK_BYTES).read_to_end(&mut head)?;
    tail.push(&head);
    let begins = |mark: &Fingerprint| {
        let bytes = head.get(..usize::try_from(mark.bytes).unwrap_or(usize::MAX));
        bytes.is_some_and(|bytes| Fingerprint::of(bytes) == *mark)
    };
    let mut alike = BTreeMap::new();
    for marks in marks {
        // A packed file is itself recognised by its packed beginning.
        let Some(head) = &marks.head else { continue };
        if begins(head) || has(file, head)? {
            alike.entry(marks.position).or_insert_with(Vec::new).push(&marks.tail);
        }
    }
    let mut furthest = None;
    let mut chunk = vec![0; 1 << 16];
    for (position, tails) in alike {
        while tail.end < position {
            let wanted = (position - tail.end).min(chunk.len() as u64) as usize;
            match source.read(&mut chunk[..wanted])? {
                0 => return Ok(furthest),
                read => tail.push(&chunk[..read]),
            }
        }
        let ends = |mark: &Option<Fingerprint>| {
            mark.as_ref().is_none_or(|mark| tail.mark(position, mark.bytes).as_ref() == Some(mark))
        };
        if tails.into_iter().any(ends) {
            furthest = Some(position);
        }
    }
    Ok(furthest)
}

/// The last bytes before a position.
#[derive(Debug, Default)]
pub(super) struct Tail {
    bytes: Vec<u8>,
    end: u64,
}

impl Tail {
    /// The last bytes of `file` before `end`.
    pub(super) fn of(file: &File, end: u64) -> io::Result<Self> {
        let from = end.saturating_sub(MARK_BYTES);
        let bytes = read_at(file, from, end - from)?;
        Ok(Self { bytes, end })
    }

    pub(super) fn push(&mut self, more: &[u8]) {
        self.end += more.len() as u64;
        let kept = MARK_BYTES as usize;
        if more.len() >= kept {
            self.bytes.clear();
            self.bytes.extend_from_slice(&more[more.len() - kept..]);
            return;
        }
        let over = (self.bytes.len() + more.len()).saturating_sub(kept);
        self.bytes.drain(..over);
        self.bytes.extend_from_slice(more);
        assert!(self.bytes.len() <= kept, "{} bytes are kept of a file", self.bytes.len());
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The position that they lie before.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// The mark of the `bytes` bytes before `position`, which lie among those that are kept.
    fn mark(&self, position: u64, bytes: u64) -> Option<Fingerprint> {
        assert!(position <= self.end, "{position} lies behind the bytes that were read");
        let end = self.bytes.len() as u64 - (self.end - position).min(self.bytes.len() as u64);
        let from = end.checked_sub(bytes)?;
        Some(Fingerprint::before(&self.bytes[from as usize..end as usize], position))
    }
}

/// The file of one of `folders` that has the bytes that `marks` were taken of, under any name.
pub(super) fn search(folders: &[PathBuf], marks: &Marks) -> Option<PathBuf> {
    let mut paths = Vec::new();
    for entry in folders.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten() {
        paths.extend(entry.ok().map(|entry| entry.path()));
    }
    // Packed copies come last: those that are still written do not end the search.
    paths.sort_unstable_by_key(|path| (Packing::of(path) != Packing::Plain, path.clone()));
    paths.into_iter().find(|path| {
        let is_file = fs::metadata(path).is_ok_and(|meta| meta.is_file());
        is_file && furthest(path, [marks]).is_ok_and(|found| found.is_some())
    })
}
