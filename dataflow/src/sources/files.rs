//! NDJSON files: one, or all of a folder, plain or compressed, bounded or followed.
//!
//! A partition is a file, named by its path relative to the input. Positions are uncompressed
//! bytes. A file is recognised by its first 4 KiB and by the 4 KiB before its position.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use schemas::config::{FileOptions, Follow};
use schemas::manifest::{Fingerprint, Partition, Partitions};
use schemas::printable::shown;
use xxhash_rust::xxh3::xxh3_64;

use super::archive::{ArchiveReader, Manner};
use super::block::BlockReader;
use super::listing::Folder;
use super::marks::{MARK_BYTES, Marks, Tail, has_packed, read_at};
use super::packed::Packing;
use super::patient::{PatientReader, Shared, changed_lately};
use super::plain::PlainReader;
use super::registry::Registry;
use super::whole::end_of_records;
use super::{Discovered, Log, LogError, Moved, Reader, Shape};

/// How files are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Up to their present end, block by block, by all workers.
    Blocks,
    /// Up to their present end, each in order by one worker.
    Ordered,
    /// In order, following them as they grow, are rotated, and new ones appear.
    Follow(Follow),
}

/// A file, or the files of a folder.
#[derive(Clone, Debug)]
pub struct FileLog {
    files: Arc<Registry>,
    mode: Mode,
    shared: Arc<Shared>,
}

impl FileLog {
    /// The input at `path`.
    pub fn new(path: &Path, mode: Mode, options: FileOptions) -> Result<Self, LogError> {
        let follow = if let Mode::Follow(follow) = mode { Some(follow) } else { None };
        let files = Arc::new(Registry::new(Folder::new(path, options)?, follow));
        Ok(Self { files, mode, shared: Arc::default() })
    }

    fn names(&self) -> Result<Vec<String>, LogError> {
        let names = self.files.names()?;
        if names.is_empty() && self.is_bounded() {
            let folder = shown(self.files.folder().root());
            let mut passed_over = self.files.folder().passed_over();
            passed_over.truncate(5);
            if passed_over.is_empty() {
                return Err(LogError::Empty(folder));
            }
            return Err(LogError::Unreadable { folder, passed_over });
        }
        Ok(names)
    }

    fn shape(&self, name: &str, mode: Mode) -> Result<Shape, LogError> {
        let path = self.files.path(name);
        let failed = |error| LogError::io(&path, error);
        let is_packed = Packing::of(&path) != Packing::Plain;
        if let Mode::Follow(_) = mode {
            let meta = fs::metadata(&path).map_err(failed)?;
            if !meta.is_file() {
                return Err(LogError::NotRegular(shown(&path)));
            }
            return Ok(Shape::Ordered { bytes: Some(meta.len()).filter(|_| !is_packed) });
        }
        let mut file = self.files.folder().open(&path)?;
        if is_packed {
            return Ok(Shape::Ordered { bytes: None });
        }
        let bytes = end_of_records(&mut file).map_err(failed)?;
        if mode != Mode::Blocks {
            return Ok(Shape::Ordered { bytes: Some(bytes) });
        }
        let head = read_at(&file, 0, MARK_BYTES).map_err(failed)?;
        let tail = Tail::of(&file, bytes).map_err(failed)?;
        let (fingerprint, tail) =
            (Fingerprint::of(&head), Fingerprint::before(tail.bytes(), bytes));
        Ok(Shape::Blocks { bytes, fingerprint, tail })
    }

    /// Adds a file to `found`. One of a folder that cannot be looked at is passed over.
    fn find(
        &self,
        name: String,
        former: &str,
        mode: Mode,
        found: &mut Vec<Discovered>,
    ) -> Result<(), LogError> {
        let folder = self.files.folder();
        match self.shape(&name, mode) {
            Ok(shape) => {
                let share = xxh3_64(former.as_bytes());
                found.push(Discovered { partition: name, share, shape });
            }
            // It vanished after it was listed, or is between the two steps of a rotation.
            Err(LogError::Io { source, .. })
                if source.kind() == io::ErrorKind::NotFound
                    && !(folder.is_single() && self.is_bounded()) => {}
            // Something else has its name for a while.
            Err(LogError::NotRegular(_)) if !self.is_bounded() && self.files.was_read(former) => {}
            Err(error) if folder.is_single() => return Err(error),
            Err(LogError::Io { source, .. }) => {
                folder.pass_over(self.files.path(&name), source.to_string());
            }
            Err(error) => folder.pass_over(self.files.path(&name), error.to_string()),
        }
        Ok(())
    }

    /// Reads a partition as of now. `known`: what it was recognised by, if it was read before.
    fn reader(
        &self,
        partition: &str,
        position: u64,
        known: Option<&Fingerprint>,
        only_whole: bool,
    ) -> Result<Box<dyn Reader>, LogError> {
        let path = self.files.path(partition);
        if Packing::of(&path) == Packing::Plain {
            let files = Arc::clone(&self.files);
            return Ok(Box::new(PlainReader::open(files, partition, path, position)?));
        }
        known.map_or(Ok(()), |known| self.verify(partition, known))?;
        let window_log = self.files.folder().window_log();
        // One that has lost its name is a copy, which ends where it ends.
        let follows = !self.is_bounded() && self.files.former(partition).is_none();
        let manner = Manner { follows, only_whole, window_log };
        let file = self.files.folder().open(&path)?;
        Ok(Box::new(ArchiveReader::new(file, path, position, manner)?))
    }

    /// Reads a partition for as long as that is possible.
    fn patient(
        &self,
        partition: &str,
        position: u64,
        only_whole: bool,
    ) -> Result<Box<dyn Reader>, LogError> {
        let (log, name) = (self.clone(), partition.to_owned());
        let open = move |position, known: Option<&Fingerprint>| {
            log.reader(&name, position, known, only_whole)
        };
        let (path, shared, follows) =
            (self.files.path(partition), Arc::clone(&self.shared), !self.is_bounded());
        let (files, name) = (Arc::clone(&self.files), partition.to_owned());
        // So a file that is renamed later, or a copy, continues where this one was read to.
        let seen = move |head, position| {
            files.read(&name, &Marks { head: Some(head), tail: None, position });
        };
        let (open, seen) = (Box::new(open), Box::new(seen));
        Ok(Box::new(PatientReader::new(path, position, follows, shared, open, seen)?))
    }
}

impl Log for FileLog {
    fn locate(&self, known: &Partitions, again: bool) -> Result<Vec<Moved>, LogError> {
        if again {
            self.files.locate_again(known)?;
            return Ok(Vec::new());
        }
        self.files.locate(known)
    }

    fn discover(&self) -> Result<Vec<Discovered>, LogError> {
        let mut found = Vec::new();
        let elsewhere = self.files.elsewhere();
        for name in self.names()?.into_iter().filter(|name| !elsewhere.contains_key(name)) {
            let former = name.clone();
            self.find(name, &former, self.mode, &mut found)?;
        }
        for (name, former) in elsewhere {
            // A file that has lost its name is read in order, as a followed one is.
            let mode = match self.mode {
                Mode::Blocks if name != former => Mode::Ordered,
                mode => mode,
            };
            self.find(name, &former, mode, &mut found)?;
        }
        Ok(found)
    }

    fn verify(&self, partition: &str, known: &Fingerprint) -> Result<(), LogError> {
        let path = self.files.path(partition);
        let is_tail = known.at.is_some();
        if is_tail && Packing::of(&path) != Packing::Plain {
            return Ok(());
        }
        let file = self.files.folder().open(&path);
        let same = file
            .and_then(|file| has_packed(&path, &file, known).map_err(|e| LogError::io(&path, e)));
        match same {
            // Whoever reads it waits until it can be.
            Err(LogError::Io { .. }) if !self.is_bounded() => Ok(()),
            Ok(false) => Err(LogError::Changed(shown(&path))),
            other => other.map(|_| ()),
        }
    }

    fn open(&self, partition: &str, position: u64) -> Result<Box<dyn Reader>, LogError> {
        // A compressed file is closed once it is read, since its decoder may take much memory.
        match Packing::of(&self.files.path(partition)) {
            Packing::Plain if self.is_bounded() => self.reader(partition, position, None, true),
            _ => self.patient(partition, position, true),
        }
    }

    fn open_block(
        &self,
        partition: &str,
        bytes: u64,
        number: u64,
        offset: u64,
    ) -> Result<Box<dyn Reader>, LogError> {
        let path = self.files.path(partition);
        let file = self.files.folder().open(&path)?;
        Ok(Box::new(BlockReader::open(file, &path, bytes, number, offset)?))
    }

    fn open_part(
        &self,
        _worker: usize,
        partition: &str,
        position: u64,
        end: u64,
    ) -> Result<Box<dyn Reader>, LogError> {
        let path = self.files.path(partition);
        if Packing::of(&path) != Packing::Plain {
            return self.patient(partition, position, false);
        }
        let file = self.files.folder().open(&path)?;
        Ok(Box::new(BlockReader::part(file, &path, position, end)?))
    }

    fn packed(&self, partition: &str) -> Result<u64, LogError> {
        let path = self.files.path(partition);
        match Packing::of(&path) {
            Packing::Plain => Ok(0),
            _ => Ok(fs::metadata(&path).map_or(0, |meta| meta.len())),
        }
    }

    fn passed_over(&self) -> Vec<String> {
        self.files.folder().passed_over()
    }

    fn troubles(&self) -> u64 {
        self.files.folder().troubles() + self.shared.troubles.load(Ordering::Relaxed)
    }

    fn size(&self, partition: &str) -> Result<Option<u64>, LogError> {
        let path = self.files.path(partition);
        if Packing::of(&path) != Packing::Plain {
            return Ok(None);
        }
        // Whether it can be read is seen when it is opened.
        Ok(fs::metadata(&path).ok().map(|meta| meta.len()))
    }

    fn is_bounded(&self) -> bool {
        self.files.follow().is_none()
    }

    fn beginning(&self, partition: &str, _first: bool) -> Result<u64, LogError> {
        let path = self.files.path(partition);
        let is_packed = Packing::of(&path) != Packing::Plain;
        // Each look at what a compressed file is a copy of may unpack all of it.
        let looks = !is_packed || self.is_bounded() || !self.files.has_marks();
        if !looks && !self.shared.stands_still(&path) {
            return Err(LogError::Arriving(shown(&path)));
        }
        match self.files.beginning(partition) {
            Err(_) if self.is_bounded() && is_packed => Ok(0),
            Err(_) if !self.is_bounded() && !changed_lately(&path) => Ok(0),
            Err(_) if !self.is_bounded() => Err(LogError::Arriving(shown(&path))),
            other => other.map_err(|e| LogError::io(&path, e)),
        }
    }

    fn resume(&self, partition: &str, state: &Partition) -> Result<(), LogError> {
        let known = [&state.fingerprint, &state.tail].into_iter().flatten();
        known.into_iter().try_for_each(|known| self.verify(partition, known))
    }

    fn former_name(&self, partition: &str) -> Option<String> {
        self.files.former(partition)
    }

    fn rotate_wait_us(&self) -> u64 {
        self.files.follow().map_or(0, |follow| 1000 * follow.rotate_wait.0.unsigned_abs())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;

    use super::super::{BLOCK_BYTES, Next, Record};
    use super::*;

    fn log(path: &Path, mode: Mode) -> FileLog {
        FileLog::new(path, mode, FileOptions::default()).unwrap()
    }

    fn drain(reader: &mut dyn Reader) -> (Vec<(u64, String)>, Next) {
        let mut out = Vec::new();
        loop {
            let mut each = |r: Record<'_>| {
                out.push((r.position, String::from_utf8_lossy(r.bytes).into_owned()));
            };
            match reader.read(3, &mut each).unwrap() {
                Next::More => {}
                next => return (out, next),
            }
        }
    }

    fn drain_to_error(reader: &mut dyn Reader) -> LogError {
        loop {
            match reader.read(3, &mut |_| ()) {
                Ok(Next::More) => {}
                Ok(next) => panic!("{next:?}, not an error"),
                Err(error) => return error,
            }
        }
    }

    fn texts(reader: &mut dyn Reader) -> Vec<String> {
        drain(reader).0.into_iter().map(|(_, text)| text).collect()
    }

    #[test]
    fn folder_is_read_in_name_order_whatever_the_compression() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("sub")).unwrap();
        fs::write(at("b.ndjson"), "1\n2\n").unwrap();
        fs::write(at("notes.txt"), "no").unwrap();
        fs::write(at(".hidden.ndjson"), "no").unwrap();
        let mut gz = flate2::write::GzEncoder::new(
            File::create(at("sub/a.jsonl.gz")).unwrap(),
            flate2::Compression::fast(),
        );
        gz.write_all(b"3\n4\n").unwrap();
        gz.finish().unwrap();
        fs::write(at("c.json.zst"), zstd::encode_all(&b"5\n6\n"[..], 1).unwrap()).unwrap();

        let log = log(folder.path(), Mode::Ordered);
        let found = log.discover().unwrap();
        let names: Vec<_> = found.iter().map(|f| f.partition.as_str()).collect();
        assert_eq!(names, ["b.ndjson", "c.json.zst", "sub/a.jsonl.gz"]);
        assert_eq!(texts(&mut *log.open("b.ndjson", 0).unwrap()), ["1", "2"]);
        assert_eq!(texts(&mut *log.open("sub/a.jsonl.gz", 2).unwrap()), ["4"]);
        assert_eq!(texts(&mut *log.open("c.json.zst", 2).unwrap()), ["6"]);
        let past = drain_to_error(&mut *log.open("c.json.zst", 9).unwrap());
        assert!(matches!(past, LogError::Shorter { bytes: 4, read: 9, .. }), "{past}");
    }

    #[test]
    fn tailed_file_waits_for_newlines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.ndjson");
        fs::write(&path, "1\n2").unwrap();
        let log = log(&path, Mode::Follow(Follow::default()));
        let mut reader = log.open("a.ndjson", 0).unwrap();
        assert_eq!(drain(&mut *reader), (vec![(0, "1".into())], Next::Wait));
        let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"3\n").unwrap();
        assert_eq!(drain(&mut *reader), (vec![(2, "23".into())], Next::Wait));
        assert_eq!(reader.end().unwrap(), Some(5));
        let known = reader.fingerprint().unwrap();
        assert!(log.verify("a.ndjson", &known).is_ok());
        fs::write(&path, "9\n").unwrap();
        assert!(matches!(reader.end(), Err(LogError::Lost { read: 5, .. })));
        assert!(matches!(log.verify("a.ndjson", &known), Err(LogError::Changed(_))));
    }

    #[test]
    fn last_line_that_is_not_whole_is_left_in_every_way_of_reading() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.ndjson");
        let whole = "{\"a\":1}\n{\"b\":2}";
        for (text, end, records) in [
            (whole.to_owned(), 15, 2),
            (format!("{whole}\n"), 16, 2),
            (format!("{whole}\n{{\"c\":\"}}"), 16, 2),
            ("{\"c\":".to_owned(), 0, 0),
            (format!("\u{feff}{whole}\n\u{feff}{{}}"), 24, 3),
        ] {
            fs::write(&path, &text).unwrap();
            let blocks = log(&path, Mode::Blocks);
            let Shape::Blocks { bytes, .. } = blocks.discover().unwrap()[0].shape.clone() else {
                panic!()
            };
            assert_eq!(bytes, end, "{text}");
            let ordered = log(&path, Mode::Ordered);
            let shape = Shape::Ordered { bytes: Some(end) };
            assert_eq!(ordered.discover().unwrap()[0].shape, shape);
            assert_eq!(ordered.size("a.ndjson").unwrap(), Some(text.len() as u64));
            let mut reader = ordered.open("a.ndjson", 0).unwrap();
            let (read, next) = drain(&mut *reader);
            assert_eq!((read.len(), next, reader.position()), (records, Next::End, end));
            let mut block = blocks.open_block("a.ndjson", bytes, 0, 0).unwrap();
            if bytes > 0 {
                assert_eq!(drain(&mut *block), (read, Next::End));
            }
        }
    }

    #[test]
    fn what_is_appended_to_a_line_that_was_read_is_a_line_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.ndjson");
        fs::write(&path, "{}{\"a\":1}\n").unwrap();
        for mode in [Mode::Blocks, Mode::Ordered, Mode::Follow(Follow::default())] {
            let log = log(&path, mode);
            let mut part = log.open_part(0, "a.ndjson", 0, 2).unwrap();
            assert_eq!(drain(&mut *part), (vec![(0, "{}".into())], Next::End));
        }
        let log = log(&path, Mode::Blocks);
        let mut before = log.open_block("a.ndjson", 2, 0, 0).unwrap();
        assert_eq!(texts(&mut *before), ["{}"], "what was appended since is not read");
        let mut after = log.open_block("a.ndjson", 10, 0, 2).unwrap();
        assert_eq!(drain(&mut *after).0, [(2, "{\"a\":1}".into())]);
    }

    #[test]
    fn line_over_many_blocks_is_read_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.ndjson");
        let long = "x".repeat(2 * BLOCK_BYTES as usize + 5);
        let text = format!("a\n{long}\nb\n");
        fs::write(&path, &text).unwrap();
        let log = log(&path, Mode::Blocks);
        let mut read = Vec::new();
        let bytes = text.len() as u64;
        for number in 0..bytes.div_ceil(BLOCK_BYTES) {
            let reader = log.open_block("a.ndjson", bytes, number, number * BLOCK_BYTES);
            read.extend(drain(&mut *reader.unwrap()).0.into_iter().map(|(position, _)| position));
        }
        assert_eq!(read, [0, 2, 3 + long.len() as u64]);
    }

    #[test]
    fn blocks_cover_a_file_without_gap_or_overlap() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.ndjson");
        let mut text = String::new();
        let mut starts = Vec::new();
        let mut i = 0_u64;
        while (text.len() as u64) < 2 * BLOCK_BYTES + 1000 {
            // The lengths make one record start exactly at a block's first byte.
            let left = BLOCK_BYTES - text.len() as u64 % BLOCK_BYTES;
            let length =
                if i.is_multiple_of(5) && left < 4000 { left - 1 } else { 500 + i * 37 % 900 };
            starts.push((text.len() as u64, length));
            text.extend(std::iter::repeat_n('x', length as usize));
            text.push('\n');
            i += 1;
        }
        fs::write(&path, &text).unwrap();
        let log = log(&path, Mode::Blocks);
        let Shape::Blocks { bytes, .. } = log.discover().unwrap()[0].shape.clone() else {
            panic!()
        };
        let mut read = Vec::new();
        for number in 0..bytes.div_ceil(BLOCK_BYTES) {
            let mut reader =
                log.open_block("a.ndjson", bytes, number, number * BLOCK_BYTES).unwrap();
            let (records, next) = drain(&mut *reader);
            assert_eq!(next, Next::End);
            // Resumed after its third record, a block yields the rest.
            if let Some((offset, _)) = records.get(3) {
                let mut resumed = log.open_block("a.ndjson", bytes, number, *offset).unwrap();
                assert_eq!(drain(&mut *resumed).0, records[3..]);
            }
            read.extend(records.into_iter().map(|(position, r)| (position, r.len() as u64)));
        }
        assert_eq!(read, starts);
        assert!(
            starts.iter().any(|(start, _)| *start == BLOCK_BYTES),
            "a record starts at the edge of a block"
        );
    }
}
