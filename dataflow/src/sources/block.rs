//! A part of a file, such as one of the blocks of a bounded one. A record belongs to the block that
//! it starts in.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Take};
use std::path::Path;

use schemas::manifest::Fingerprint;

use super::lines::Lines;
use super::{BLOCK_BYTES, LogError, Next, Reader, Record};

/// Reads one block.
pub(super) struct BlockReader {
    lines: Lines<Take<File>>,
    file: String,
    stop: u64,
}

impl BlockReader {
    /// Reads block `number` of the first `bytes` bytes of the file at `path` from `offset` on.
    pub(super) fn open(
        mut source: File,
        path: &Path,
        bytes: u64,
        number: u64,
        offset: u64,
    ) -> Result<Self, LogError> {
        let file = path.display().to_string();
        let error = |source| LogError::Io { file: file.clone(), source };
        let start = number * BLOCK_BYTES;
        let stop = (start + BLOCK_BYTES).min(bytes);
        assert!(offset >= start, "offset {offset} is not before block {number}");
        // A record that straddles the block's start belongs to the previous block. The byte before
        // the start tells whether there is one.
        let from = if offset == start { start.saturating_sub(1) } else { offset };
        source.seek(SeekFrom::Start(from)).map_err(error)?;
        // What was appended since the file's size was taken belongs to the next run, also where it
        // continues the last line.
        let source = source.take(bytes.saturating_sub(from));
        let mut lines = Lines::new(source, from, false).until(stop);
        if from < offset {
            lines.skip_line().map_err(error)?;
        }
        Ok(Self { lines, file, stop })
    }

    /// Reads the bytes of the file at `path` from `position` up to `end` in order, as if nothing
    /// followed them.
    pub(super) fn part(
        mut source: File,
        path: &Path,
        position: u64,
        end: u64,
    ) -> Result<Self, LogError> {
        let error = |source| LogError::io(path, source);
        source.seek(SeekFrom::Start(position)).map_err(error)?;
        let lines = Lines::new(source.take(end.saturating_sub(position)), position, false);
        Ok(Self { lines, file: path.display().to_string(), stop: end })
    }
}

impl Reader for BlockReader {
    fn read(&mut self, limit: usize, each: &mut dyn FnMut(Record<'_>)) -> Result<Next, LogError> {
        let read = self.lines.read(limit, each);
        read.map_err(|source| LogError::Io { file: self.file.clone(), source })
    }

    fn position(&self) -> u64 {
        self.lines.position()
    }

    fn end(&mut self) -> Result<Option<u64>, LogError> {
        Ok(Some(self.stop))
    }

    fn fingerprint(&self) -> Option<Fingerprint> {
        None
    }
}
