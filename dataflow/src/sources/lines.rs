//! Lines of a byte stream: one record per line, positions in bytes.
//!
//! Invariants: memory stays bounded however long a line is, and a call returns soon however many
//! blank lines there are; every byte belongs to a record or a blank line, whatever the pieces that
//! it was read in; a last line without a newline is a record only as [`Rest`] says.

use std::io::{self, Read};

use schemas::event::RECORD_BYTES_MAX;

use super::whole::Brackets;
use super::{Next, Record};

const CHUNK_BYTES: usize = 256 * 1024;
/// The most chunks that one call reads.
const CHUNKS_MAX: usize = 16;
/// The byte order mark, which files begin with that some editors and exports write. Where files
/// were joined it stands at the beginning of a line.
const MARK: &[u8] = "\u{feff}".as_bytes();
/// The most of them that are passed over, as where empty files were joined.
const MARKS_MAX: usize = 64;

/// What the bytes after the last newline are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    /// The beginning of a line: the stream grows.
    Begins,
    /// A record if they are whole; otherwise they are left.
    IfWhole,
    /// A record.
    Record,
}

/// A line that is too long to keep; only its head is kept.
struct Long {
    head: Vec<u8>,
    /// Without a byte order mark.
    size: u64,
    mark: u64,
    /// Whether its last byte so far is a carriage return.
    returns: bool,
    blank: bool,
    brackets: Brackets,
}

impl Long {
    fn new(bytes: &[u8]) -> Self {
        let head = without_mark(bytes);
        assert!(head.len() > RECORD_BYTES_MAX, "a line of {} bytes is kept whole", head.len());
        let mut long = Self {
            head: head[..=RECORD_BYTES_MAX].to_vec(),
            size: 0,
            mark: (bytes.len() - head.len()) as u64,
            returns: false,
            blank: true,
            brackets: Brackets::default(),
        };
        long.add(head);
        long
    }

    /// Its length so far.
    fn length(&self) -> u64 {
        self.mark + self.size
    }

    fn add(&mut self, bytes: &[u8]) {
        self.size += bytes.len() as u64;
        self.returns = bytes.last().map_or(self.returns, |last| *last == b'\r');
        self.blank &= is_blank(bytes);
        self.brackets.add(bytes);
    }
}

fn without_mark(mut line: &[u8]) -> &[u8] {
    for _ in 0..MARKS_MAX {
        line = line.strip_prefix(MARK).unwrap_or(line);
    }
    line
}

fn is_blank(bytes: &[u8]) -> bool {
    bytes.iter().all(u8::is_ascii_whitespace)
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
    rest: Rest,
}

impl<R: Read> Lines<R> {
    /// Lines of `source`, which begins at `position` of its partition. If it does not grow, its
    /// last line is a record, with or without a newline.
    pub(super) fn new(source: R, position: u64, grows: bool) -> Self {
        let rest = if grows { Rest::Begins } else { Rest::Record };
        Self {
            source,
            buffer: Vec::new(),
            start: 0,
            end: 0,
            searched: 0,
            position,
            long: None,
            stop: u64::MAX,
            rest,
        }
    }

    /// The same, without the lines that start at `stop` or later.
    pub(super) fn until(mut self, stop: u64) -> Self {
        self.stop = stop;
        self
    }

    /// The same, but for a last line without a newline that is not whole: it is left unread.
    pub(super) fn only_whole(mut self) -> Self {
        self.rest = Rest::IfWhole;
        self
    }

    /// Makes a last line without a newline a record.
    pub(super) fn cannot_grow(&mut self) {
        self.rest = Rest::Record;
    }

    /// How many bytes of a line were read whose end is not known.
    pub(super) fn left(&self) -> u64 {
        self.long.as_ref().map_or(0, Long::length) + (self.end - self.start) as u64
    }

    pub(super) fn position(&self) -> u64 {
        self.position
    }

    pub(super) fn source(&mut self) -> &mut R {
        &mut self.source
    }

    pub(super) fn source_ref(&self) -> &R {
        &self.source
    }

    /// Skips everything up to and including the next newline, or up to where the lines end that
    /// this reader may read.
    pub(super) fn skip_line(&mut self) -> io::Result<()> {
        loop {
            if let Some(i) = memchr::memchr(b'\n', &self.buffer[self.start..self.end]) {
                self.consume(i + 1);
                return Ok(());
            }
            self.consume(self.end - self.start);
            if self.position >= self.stop || self.fill()? == 0 {
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
        if self.buffer.is_empty() {
            // Not resized, since this asks for memory that is zero already.
            self.buffer = vec![0; CHUNK_BYTES];
        } else {
            self.buffer.resize(self.end + CHUNK_BYTES, 0);
        }
        loop {
            match self.source.read(&mut self.buffer[self.end..]) {
                Ok(0) if self.end == 0 => {
                    // A file that is followed and idle takes no memory.
                    self.buffer = Vec::new();
                    return Ok(0);
                }
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
        let (mut left, mut chunks) = (limit, 0);
        while left > 0 {
            if self.position >= self.stop {
                return Ok(Next::End);
            }
            let from = self.start + self.searched;
            match memchr::memchr(b'\n', &self.buffer[from..self.end]) {
                Some(i) => left -= usize::from(self.line(from + i, 1, each)),
                None if chunks == CHUNKS_MAX => return Ok(Next::More),
                None => match self.fill_line() {
                    Ok(0) => return Ok(self.at_end(each)),
                    Ok(_) => chunks += 1,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        return Ok(Next::Wait);
                    }
                    Err(error) => return Err(error),
                },
            }
        }
        Ok(Next::More)
    }

    /// Hands over the bytes after the last newline if they are a record.
    fn at_end(&mut self, each: &mut dyn FnMut(Record<'_>)) -> Next {
        let is_record = match self.rest {
            Rest::Begins => return Next::Wait,
            Rest::Record => true,
            Rest::IfWhole => {
                let begun = self.long.as_ref();
                let mut brackets = begun.map_or_else(Brackets::default, |long| long.brackets);
                brackets.add(&self.buffer[self.start..self.end]);
                brackets.are_closed()
            }
        };
        if is_record {
            self.line(self.end, 0, each);
        }
        Next::End
    }

    /// Reads more if the buffer has no newline. Of a line that is too long, only the head is kept.
    fn fill_line(&mut self) -> io::Result<usize> {
        let waiting = self.end - self.start;
        let bytes = &self.buffer[self.start..self.end];
        if let Some(long) = &mut self.long {
            long.add(bytes);
            self.start = self.end;
        } else if waiting > RECORD_BYTES_MAX + MARKS_MAX * MARK.len() {
            self.long = Some(Long::new(bytes));
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
        let (bytes, size, blank) = match &self.long {
            Some(long) => {
                let returns = rest.last().map_or(long.returns, |last| *last == b'\r');
                let size = long.size + rest.len() as u64 - u64::from(returns);
                (&*long.head, size, long.blank && is_blank(rest))
            }
            None => {
                let line = without_mark(rest);
                let line = line.strip_suffix(b"\r").unwrap_or(line);
                let bytes = &line[..line.len().min(RECORD_BYTES_MAX + 1)];
                (bytes, line.len() as u64, is_blank(line))
            }
        };
        if !blank {
            each(Record { position, bytes, size, is_null: false, stamp_ms: None });
        }
        let length = self.long.as_ref().map_or(0, Long::length) + rest.len() as u64;
        self.position += length + newline as u64;
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
            text in "(\u{feff}|[ab\n\r ]){0,60}",
            step in 1_usize..9,
            limit in 1_usize..4,
            ends in 0..3_usize,
        ) {
            let rest = [Rest::Begins, Rest::IfWhole, Rest::Record][ends];
            let lines = Lines::new(Dribble(text.as_bytes(), step), 5, rest == Rest::Begins);
            let lines = if rest == Rest::IfWhole { lines.only_whole() } else { lines };
            let (lines, next, position) = all(lines, limit);
            let mut want = Vec::new();
            let mut at = 0;
            for part in text.split_inclusive('\n') {
                let line = part.strip_suffix('\n').unwrap_or(part);
                let whole = part.ends_with('\n') || rest == Rest::Record;
                let line = line.trim_start_matches('\u{feff}');
                if whole && !line.trim_ascii().is_empty() {
                    let cut = line.strip_suffix('\r').unwrap_or(line);
                    want.push((5 + at as u64, cut.as_bytes().to_vec(), cut.len() as u64));
                }
                at += if whole { part.len() } else { 0 };
            }
            prop_assert_eq!(lines, want);
            prop_assert_eq!(next, if rest == Rest::Begins { Next::Wait } else { Next::End });
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

    #[test]
    fn size_of_a_record_is_that_of_its_bytes_without_its_line_ending() {
        let marks = "\u{feff}\u{feff}";
        for length in [RECORD_BYTES_MAX, RECORD_BYTES_MAX + 1, RECORD_BYTES_MAX + 2, 1 << 20] {
            let record = "x".repeat(length);
            for text in
                [format!("{record}\n"), format!("{record}\r\n"), format!("{marks}{record}\r\n")]
            {
                for step in [1000, 1 << 20] {
                    let dribble = Dribble(text.as_bytes(), step);
                    let (lines, _, position) = all(Lines::new(dribble, 0, true), 10);
                    assert_eq!((lines[0].2, position), (length as u64, text.len() as u64));
                    assert_eq!(lines[0].1.len(), length.min(RECORD_BYTES_MAX + 1));
                }
            }
        }
    }

    #[test]
    fn line_that_begins_with_much_white_space_is_one_record_however_it_is_read() {
        for spaces in [RECORD_BYTES_MAX + 1, RECORD_BYTES_MAX + 200, 3 * CHUNK_BYTES] {
            let line = format!("{}{{}}", " ".repeat(spaces));
            let text = format!("{line}\n{}\n", " ".repeat(spaces));
            for step in [1000, 100_000, 1 << 20] {
                let dribble = Dribble(text.as_bytes(), step);
                let (lines, _, position) = all(Lines::new(dribble, 0, true), 10);
                let sizes: Vec<_> = lines.iter().map(|(at, _, size)| (*at, *size)).collect();
                assert_eq!(sizes, [(0, line.len() as u64)], "{spaces} spaces, {step} at a time");
                assert_eq!(position, text.len() as u64);
            }
        }
    }

    #[test]
    fn call_returns_soon_though_it_finds_no_record() {
        for byte in [b'\n', b'x', b' '] {
            let mut lines = Lines::new(io::repeat(byte), 0, true);
            let mut each = |_: Record<'_>| panic!("there is no record");
            assert_eq!(lines.read(10, &mut each).unwrap(), Next::More);
            assert!(lines.buffer.capacity() < 4 * CHUNK_BYTES);
        }
    }

    #[test]
    fn last_line_that_is_not_whole_is_left_however_long_it_is() {
        for length in [5, RECORD_BYTES_MAX, 3 * CHUNK_BYTES] {
            let half = format!("{{\"a\":\"{}", "x".repeat(length));
            let text = format!("{{}}\n{half}");
            let dribble = Dribble(text.as_bytes(), 100_000);
            let mut lines = Lines::new(dribble, 0, false).only_whole();
            let mut records = 0;
            while lines.read(9, &mut |_| records += 1).unwrap() != Next::End {}
            assert_eq!((records, lines.position(), lines.left()), (1, 3, half.len() as u64));
            assert_eq!(lines.read(9, &mut |_| panic!("left")).unwrap(), Next::End);

            let text = format!("{text}\"}}");
            let (whole, _, position) =
                all(Lines::new(Dribble(text.as_bytes(), 100_000), 0, false).only_whole(), 9);
            assert_eq!((whole.len(), position), (2, text.len() as u64));
        }
    }
}
