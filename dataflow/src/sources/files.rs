//! NDJSON files: one, or all of a folder, plain or compressed, bounded or followed.
//!
//! A partition is a file, named by its path relative to the input. Positions are uncompressed
//! bytes. A file is recognised by its first 4 KiB and by the 4 KiB before its position.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use schemas::config::Follow;
use schemas::manifest::{Fingerprint, Partition, Partitions};
use xxhash_rust::xxh3::xxh3_64;

use super::block::BlockReader;
use super::lines::Lines;
use super::marks::{MARK_BYTES, Tail, has};
use super::packed::{Packing, Source};
use super::plain::PlainReader;
use super::registry::Registry;
use super::{Discovered, Log, LogError, Moved, Next, Reader, Record, Shape, packed, whole};

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
#[derive(Debug)]
pub struct FileLog {
    files: Arc<Registry>,
    mode: Mode,
}

impl FileLog {
    /// The input at `path`.
    pub fn new(path: &Path, mode: Mode) -> Result<Self, LogError> {
        let meta = fs::metadata(path).map_err(|e| LogError::io(path, e))?;
        let (root, single) = if meta.is_dir() {
            (path.to_owned(), None)
        } else {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
            let name = name.ok_or_else(|| LogError::Empty(path.display().to_string()))?;
            // A path with a file name has a parent, if only "".
            (path.parent().unwrap_or(Path::new("")).to_owned(), Some(name))
        };
        let follow = if let Mode::Follow(follow) = mode { Some(follow) } else { None };
        Ok(Self { files: Arc::new(Registry::new(root, single, follow)), mode })
    }

    fn names(&self) -> Result<Vec<String>, LogError> {
        let names = self.files.names()?;
        if names.is_empty() && self.is_bounded() {
            return Err(LogError::Empty(self.files.root().display().to_string()));
        }
        Ok(names)
    }

    fn shape(&self, name: &str, mode: Mode) -> Result<Shape, LogError> {
        let path = self.files.path(name);
        let meta = fs::metadata(&path).map_err(|e| LogError::io(&path, e))?;
        if !meta.is_file() {
            return Err(LogError::NotRegular(path.display().to_string()));
        }
        if Packing::of(&path) != Packing::Plain {
            return Ok(Shape::Ordered { bytes: None });
        }
        Ok(match mode {
            Mode::Blocks => {
                let (bytes, fingerprint) = (whole::end_at(&path)?, fingerprint(&path, MARK_BYTES)?);
                let tail = File::open(&path).and_then(|file| Tail::of(&file, bytes));
                let tail = tail.map_err(|e| LogError::io(&path, e))?;
                Shape::Blocks { bytes, fingerprint, tail: Fingerprint::before(tail.bytes(), bytes) }
            }
            Mode::Ordered => Shape::Ordered { bytes: Some(whole::end_at(&path)?) },
            Mode::Follow(_) => Shape::Ordered { bytes: Some(meta.len()) },
        })
    }
}

fn fingerprint(path: &Path, bytes: u64) -> Result<Fingerprint, LogError> {
    let mut head = Vec::new();
    let read = File::open(path).and_then(|file| file.take(bytes).read_to_end(&mut head));
    read.map_err(|e| LogError::io(path, e))?;
    Ok(Fingerprint::of(&head))
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
            let (share, shape) = (xxh3_64(name.as_bytes()), self.shape(&name, self.mode)?);
            found.push(Discovered { partition: name, share, shape });
        }
        for (name, former) in elsewhere {
            // A file that has lost its name is read in order, as a followed one is.
            let mode = match self.mode {
                Mode::Blocks if name != former => Mode::Ordered,
                mode => mode,
            };
            let (share, shape) = (xxh3_64(former.as_bytes()), self.shape(&name, mode)?);
            found.push(Discovered { partition: name, share, shape });
        }
        Ok(found)
    }

    fn verify(&self, partition: &str, known: &Fingerprint) -> Result<(), LogError> {
        let path = self.files.path(partition);
        let is_tail = known.at.is_some();
        if is_tail && Packing::of(&path) != Packing::Plain {
            return Ok(());
        }
        let same = File::open(&path).and_then(|file| has(&file, known));
        if same.map_err(|e| LogError::io(&path, e))? {
            return Ok(());
        }
        Err(LogError::Changed(path.display().to_string()))
    }

    fn open(&self, partition: &str, position: u64) -> Result<Box<dyn Reader>, LogError> {
        let path = self.files.path(partition);
        if Packing::of(&path) == Packing::Plain {
            let files = Arc::clone(&self.files);
            return Ok(Box::new(PlainReader::open(files, partition, path, position)?));
        }
        Ok(Box::new(PackedReader::open(path, position)?))
    }

    fn open_block(
        &self,
        partition: &str,
        bytes: u64,
        number: u64,
        offset: u64,
    ) -> Result<Box<dyn Reader>, LogError> {
        let path = self.files.path(partition);
        Ok(Box::new(BlockReader::open(&path, bytes, number, offset)?))
    }

    fn open_part(
        &self,
        worker: usize,
        partition: &str,
        position: u64,
        end: u64,
    ) -> Result<Box<dyn Reader>, LogError> {
        let path = self.files.path(partition);
        match Packing::of(&path) {
            Packing::Plain => Ok(Box::new(BlockReader::part(&path, position, end)?)),
            _ => self.open_on(worker, partition, position),
        }
    }

    fn size(&self, partition: &str) -> Result<Option<u64>, LogError> {
        let path = self.files.path(partition);
        if Packing::of(&path) != Packing::Plain {
            return Ok(None);
        }
        let meta = fs::metadata(&path).map_err(|e| LogError::io(&path, e))?;
        Ok(Some(meta.len()))
    }

    fn is_bounded(&self) -> bool {
        self.files.follow().is_none()
    }

    fn beginning(&self, partition: &str, _first: bool) -> Result<u64, LogError> {
        let beginning = self.files.beginning(partition);
        beginning.map_err(|e| LogError::io(&self.files.path(partition), e))
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

/// Reads one compressed file, which does not grow.
struct PackedReader {
    lines: Lines<Source>,
    path: PathBuf,
    fingerprint: Fingerprint,
}

impl PackedReader {
    fn open(path: PathBuf, position: u64) -> Result<Self, LogError> {
        let source = packed::open(&path, Packing::of(&path), position)?;
        let fingerprint = fingerprint(&path, MARK_BYTES)?;
        Ok(Self { lines: Lines::new(source, position, false), path, fingerprint })
    }
}

impl Reader for PackedReader {
    fn read(&mut self, limit: usize, each: &mut dyn FnMut(Record<'_>)) -> Result<Next, LogError> {
        let next = self.lines.read(limit, each);
        next.map_err(|source| LogError::io(&self.path, source))
    }

    fn position(&self) -> u64 {
        self.lines.position()
    }

    fn end(&mut self) -> Result<Option<u64>, LogError> {
        Ok(None)
    }

    fn fingerprint(&self) -> Option<Fingerprint> {
        Some(self.fingerprint.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::super::BLOCK_BYTES;
    use super::*;

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

        let log = FileLog::new(folder.path(), Mode::Ordered).unwrap();
        let found = log.discover().unwrap();
        let names: Vec<_> = found.iter().map(|f| f.partition.as_str()).collect();
        assert_eq!(names, ["b.ndjson", "c.json.zst", "sub/a.jsonl.gz"]);
        assert_eq!(texts(&mut *log.open("b.ndjson", 0).unwrap()), ["1", "2"]);
        assert_eq!(texts(&mut *log.open("sub/a.jsonl.gz", 2).unwrap()), ["4"]);
        assert_eq!(texts(&mut *log.open("c.json.zst", 2).unwrap()), ["6"]);
        assert!(matches!(log.open("c.json.zst", 9), Err(LogError::Shorter { .. })));
    }

    #[test]
    fn tailed_file_waits_for_newlines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.ndjson");
        fs::write(&path, "1\n2").unwrap();
        let log = FileLog::new(&path, Mode::Follow(Follow::default())).unwrap();
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
            let blocks = FileLog::new(&path, Mode::Blocks).unwrap();
            let Shape::Blocks { bytes, .. } = blocks.discover().unwrap()[0].shape.clone() else {
                panic!()
            };
            assert_eq!(bytes, end, "{text}");
            let ordered = FileLog::new(&path, Mode::Ordered).unwrap();
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
            let log = FileLog::new(&path, mode).unwrap();
            let mut part = log.open_part(0, "a.ndjson", 0, 2).unwrap();
            assert_eq!(drain(&mut *part), (vec![(0, "{}".into())], Next::End));
        }
        let log = FileLog::new(&path, Mode::Blocks).unwrap();
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
        let log = FileLog::new(&path, Mode::Blocks).unwrap();
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
        let log = FileLog::new(&path, Mode::Blocks).unwrap();
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
