//! Lines of a byte stream: one record per line, positions in bytes.
//!
//! Invariants: memory stays bounded however long a line is; blank lines are not records; a last
//! line without a newline is a record only if the stream cannot grow.

use std::io::{self, Read};

use schemas::event::RECORD_BYTES_MAX;

use super::{Next, Record};

const CHUNK_BYTES: usize = 256 * 1024;

/// A line that is too long to keep; only its head is kept.
struct Long {
    head: Vec<u8>,
    size: u64,
}

/// Cuts a stream into lines.
pub(super) struct Lines<R> {
    source: R,
    buffer: Vec<u8>,
    /// The unread part of the buffer.
    start: usize,
    end: usize,
    /// How many bytes from `start` on are known to hold no newline.
    searched: usize,
    /// The position of the next record.
    position: u64,
    long: Option<Long>,
    /// Lines that start here or later belong to another reader.
    stop: u64,
    /// Whether the stream may still grow.
    grows: bool,
}

impl<R: Read> Lines<R> {
    /// Lines of `source`, which begins at `position` of its partition.
    pub(super) fn new(source: R, position: u64, grows: bool) -> Self {
        Self {
            source,
            buffer: Vec::new(),
            start: 0,
            end: 0,
            searched: 0,
            position,
            long: None,
            stop: u64::MAX,
            grows,
        }
    }

    /// The same, without the lines that start at `stop` or later.
    pub(super) fn until(mut self, stop: u64) -> Self {
        self.stop = stop;
        self
    }

    /// Makes a last line without a newline a record.
    pub(super) fn cannot_grow(&mut self) {
        self.grows = false;
    }

    pub(super) fn position(&self) -> u64 {
        self.position
    }

    pub(super) fn source(&mut self) -> &mut R {
        &mut self.source
    }

    /// Skips everything up to and including the next newline.
    pub(super) fn skip_line(&mut self) -> io::Result<()> {
        loop {
            if let Some(i) = memchr::memchr(b'\n', &self.buffer[self.start..self.end]) {
                self.consume(i + 1);
                return Ok(());
            }
            self.consume(self.end - self.start);
            if self.fill()? == 0 {
                return Ok(());
            }
        }
    }

    fn consume(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.end - self.start, "only buffered bytes can be consumed");
        self.start += bytes;
        self.position += bytes as u64;
        self.searched = 0;
    }

    fn fill(&mut self) -> io::Result<usize> {
        debug_assert!(self.start <= self.end && self.end <= self.buffer.len());
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        self.buffer.resize(self.end + CHUNK_BYTES, 0);
        loop {
            match self.source.read(&mut self.buffer[self.end..]) {
                Ok(read) => {
                    self.end += read;
                    return Ok(read);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Calls `each` with at most `limit` lines.
    pub(super) fn read(
        &mut self,
        limit: usize,
        each: &mut dyn FnMut(Record<'_>),
    ) -> io::Result<Next> {
        let mut left = limit;
        while left > 0 {
            if self.position >= self.stop {
                return Ok(Next::End);
            }
            let from = self.start + self.searched;
            match memchr::memchr(b'\n', &self.buffer[from..self.end]) {
                Some(i) => left -= usize::from(self.line(from + i, 1, each)),
                None if self.fill_line()? > 0 => {}
                None if self.grows => return Ok(Next::Wait),
                None => {
                    self.line(self.end, 0, each);
                    return Ok(Next::End);
                }
            }
        }
        Ok(Next::More)
    }

    /// Reads more if the buffer has no newline. Of a line that is too long, only the head is kept.
    fn fill_line(&mut self) -> io::Result<usize> {
        let waiting = self.end - self.start;
        if let Some(long) = &mut self.long {
            long.size += waiting as u64;
            self.start = self.end;
        } else if waiting > RECORD_BYTES_MAX {
            let head = self.buffer[self.start..self.start + RECORD_BYTES_MAX].to_vec();
            self.long = Some(Long { head, size: waiting as u64 });
            self.start = self.end;
        }
        self.searched = self.end - self.start;
        self.fill()
    }

    /// Hands over the line that ends at `end`, followed by `newline` bytes. False if it is blank.
    fn line(&mut self, end: usize, newline: usize, each: &mut dyn FnMut(Record<'_>)) -> bool {
        debug_assert!(self.start <= end && end + newline <= self.end, "a line is in the buffer");
        let rest = &self.buffer[self.start..end];
        let position = self.position;
        let (bytes, size) = match &self.long {
            Some(long) => (&*long.head, long.size + rest.len() as u64),
            None => (&rest[..rest.len().min(RECORD_BYTES_MAX + 1)], rest.len() as u64),
        };
        let record = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        let blank = record.iter().all(u8::is_ascii_whitespace) && self.long.is_none();
        if !blank {
            each(Record { position, bytes: record, size, stamp_ms: None });
        }
        self.position += size + newline as u64;
        self.start = end + newline;
        self.searched = 0;
        self.long = None;
        !blank
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Yields at most a few bytes at a time.
    struct Dribble<'a>(&'a [u8], usize);

    impl Read for Dribble<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let n = self.1.min(self.0.len()).min(out.len());
            out[..n].copy_from_slice(&self.0[..n]);
            self.0 = &self.0[n..];
            Ok(n)
        }
    }

    fn all(mut lines: Lines<impl Read>, limit: usize) -> (Vec<(u64, Vec<u8>, u64)>, Next, u64) {
        let mut out = Vec::new();
        loop {
            let mut each = |r: Record<'_>| out.push((r.position, r.bytes.to_vec(), r.size));
            match lines.read(limit, &mut each).unwrap() {
                Next::More => {}
                next => return (out, next, lines.position()),
            }
        }
    }

    proptest! {
        #[test]
        fn lines_equal_a_split_of_the_text(
            text in r"[ab\n\r ]{0,60}",
            step in 1_usize..9,
            limit in 1_usize..4,
            grows: bool,
        ) {
            let dribble = Dribble(text.as_bytes(), step);
            let (lines, next, position) = all(Lines::new(dribble, 5, grows), limit);
            let mut want = Vec::new();
            let mut at = 0;
            for part in text.split_inclusive('\n') {
                let line = part.strip_suffix('\n').unwrap_or(part);
                let whole = part.ends_with('\n') || !grows;
                if whole && !line.trim().is_empty() {
                    let cut = line.strip_suffix('\r').unwrap_or(line);
                    want.push((5 + at as u64, cut.as_bytes().to_vec(), line.len() as u64));
                }
                at += if whole { part.len() } else { 0 };
            }
            prop_assert_eq!(lines, want);
            prop_assert_eq!(next, if grows { Next::Wait } else { Next::End });
            prop_assert_eq!(position, 5 + at as u64);
        }
    }

    #[test]
    fn long_line_is_cut_and_skipped() {
        let long = "x".repeat(3 * CHUNK_BYTES + 7);
        let text = format!("a\n{long}\nb\n");
        let (lines, _, position) = all(Lines::new(Dribble(text.as_bytes(), 100_000), 0, true), 10);
        assert_eq!(lines.len(), 3);
        assert_eq!((lines[1].0, lines[1].2), (2, long.len() as u64));
        assert!(lines[1].1.len() <= RECORD_BYTES_MAX + 1);
        assert_eq!((lines[2].0, &*lines[2].1), (3 + long.len() as u64, &b"b"[..]));
        assert_eq!(position, text.len() as u64);
    }

    #[test]
    fn line_at_the_limit_is_kept_whole() {
        for extra in [0, 1] {
            let text = format!("{}\n", "x".repeat(RECORD_BYTES_MAX + extra));
            let (lines, ..) = all(Lines::new(Dribble(text.as_bytes(), 1 << 20), 0, true), 10);
            assert_eq!(lines[0].1.len(), RECORD_BYTES_MAX + extra);
            assert_eq!(lines[0].2, (RECORD_BYTES_MAX + extra) as u64);
        }
    }
}
