//! Where the whole records of a file end, whose last line may be unfinished.
//!
//! A last line without a newline is a record if it is one JSON value in brackets, which nothing can
//! make longer. Anything else may be the first part of a line that its writer has not finished.
//! Invariant: the end depends on the file's bytes alone.

use std::io::{self, Read, Seek, SeekFrom};

const CHUNK_BYTES: u64 = 64 * 1024;

/// Tells whether bytes are one JSON object or array, by its brackets. Whether it is valid is up to
/// who decodes it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Brackets {
    state: State,
    depth: u64,
    in_text: bool,
    escaped: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Only white space, or a byte order mark, so far.
    #[default]
    Before,
    Inside,
    /// The first bracket was closed.
    After,
    /// Something stands outside the brackets.
    Other,
}

impl Brackets {
    /// Takes the next bytes into account.
    pub(super) fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            match (self.state, byte) {
                (State::Other, _) => return,
                (State::Before, b'{' | b'[') => (self.state, self.depth) = (State::Inside, 1),
                (State::Before, 0xef | 0xbb | 0xbf) => {}
                (State::Before | State::After, byte) if byte.is_ascii_whitespace() => {}
                (State::Before | State::After, _) => self.state = State::Other,
                (State::Inside, _) if self.in_text => match byte {
                    _ if self.escaped => self.escaped = false,
                    b'\\' => self.escaped = true,
                    b'"' => self.in_text = false,
                    _ => {}
                },
                (State::Inside, b'"') => self.in_text = true,
                (State::Inside, b'{' | b'[') => self.depth += 1,
                (State::Inside, b'}' | b']') => {
                    self.depth -= 1;
                    if self.depth == 0 {
                        self.state = State::After;
                    }
                }
                (State::Inside, _) => {}
            }
        }
    }

    /// Whether all the bytes so far are one value.
    pub(super) fn are_closed(&self) -> bool {
        self.state == State::After
    }
}

/// The end of the whole records of `file`.
pub(super) fn end_of_records(file: &mut (impl Read + Seek)) -> io::Result<u64> {
    let bytes = file.seek(SeekFrom::End(0))?;
    let last = last_line(file, bytes)?;
    assert!(last <= bytes, "the last line begins at {last} of {bytes} bytes");
    let mut brackets = Brackets::default();
    file.seek(SeekFrom::Start(last))?;
    let mut chunk = Vec::new();
    let mut line = file.take(bytes - last);
    loop {
        chunk.clear();
        line.by_ref().take(CHUNK_BYTES).read_to_end(&mut chunk)?;
        if chunk.is_empty() {
            break;
        }
        brackets.add(&chunk);
    }
    Ok(if brackets.are_closed() { bytes } else { last })
}

/// Where the last line begins: after the last newline in the first `bytes` bytes.
fn last_line(file: &mut (impl Read + Seek), bytes: u64) -> io::Result<u64> {
    let mut chunk = Vec::new();
    let mut end = bytes;
    while end > 0 {
        let start = end.saturating_sub(CHUNK_BYTES);
        file.seek(SeekFrom::Start(start))?;
        chunk.clear();
        file.by_ref().take(end - start).read_to_end(&mut chunk)?;
        if let Some(newline) = memchr::memrchr(b'\n', &chunk) {
            return Ok(start + newline as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn left(text: &str) -> u64 {
        text.len() as u64 - end_of_records(&mut Cursor::new(text.as_bytes())).unwrap()
    }

    #[test]
    fn last_line_is_whole_with_a_newline_or_with_all_its_brackets_closed() {
        for whole in [
            "",
            "a\n",
            "{}",
            "x\n{\"a\":[1,{\"}\":\"\\\"}\"}]} \t\r",
            "\u{feff}{\"a\":1}",
            "[1]",
            "{\"a\":1e400,\"b\":\"\u{e9}\"}",
        ] {
            assert_eq!(left(whole), 0, "{whole:?}");
        }
        for (text, want) in [
            ("x\n{\"a\":\"}", 7),
            ("{\"a\":1", 6),
            ("1", 1),
            ("x\n\"a\"", 3),
            ("{}{", 3),
            ("{} x", 4),
            ("\n  ", 2),
            ("x\n\u{feff}", 3),
        ] {
            assert_eq!(left(text), want, "{text:?}");
        }
    }

    #[test]
    fn last_line_of_any_length_is_found() {
        for length in [CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES] {
            let text = format!("{{}}\n{{\"a\":\"{}", "x".repeat(length as usize));
            assert_eq!(left(&text), length + 6);
            assert_eq!(left(&format!("{text}\"}}")), 0);
            assert_eq!(left(&format!("{text}\n")), 0);
        }
    }
}
