//! The bytes of compressed files, as far as they have arrived.
//!
//! A file is a sequence of parts, each of which says where it ends: members of gzip, frames of
//! zstd. Invariants: positions are those of uncompressed bytes; the present end of a file is taken
//! for its end only between two parts; a decoder takes no more memory than its window may have.

use std::fs::File;
use std::io::{self, BufRead, Read};
use std::path::Path;

use flate2::bufread::GzDecoder;
use thiserror::Error;
use zstd::stream::raw::{DParameter, Decoder, Operation};
use zstd::zstd_safe::get_frame_content_size;

const BUFFER_BYTES: usize = 64 * 1024;
/// The most compressed bytes that one call reads, however little they unpack to.
const QUOTA_BYTES: u64 = 16 << 20;
/// The largest window of files that are only searched.
const WINDOW_LOG: u32 = 27;

/// How a file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    Plain,
    Gzip,
    Zstd,
}

impl Packing {
    /// That of the file at `path`, judging by its name.
    pub(super) fn of(path: &Path) -> Self {
        match path.extension() {
            Some(extension) if extension.eq_ignore_ascii_case("gz") => Self::Gzip,
            Some(extension) if extension.eq_ignore_ascii_case("zst") => Self::Zstd,
            _ => Self::Plain,
        }
    }
}

/// What is wrong with a compressed file.
#[derive(Debug, Error)]
pub(super) enum PackedError {
    /// It ends within a part, or before the first one.
    #[error(
        "its compressed data ends too early, after {0} bytes; it may still be arriving, or was copied \
         in part"
    )]
    Unfinished(u64),
    /// The decoder refuses its bytes.
    #[error("its compressed data is damaged before byte {at}: {source}")]
    Damaged { at: u64, source: io::Error },
    /// What follows is no part.
    #[error("at byte {0} there is something else than gzip data")]
    NotGzip(u64),
    /// It takes more memory to read than is allowed.
    #[error(
        "it is compressed with a window of {bytes} bytes, which take as much memory to read; allow \
         this with --zstd-window-log {log} (consumer: {{zstd_window_log: {log}}})"
    )]
    Window { bytes: u64, log: u32 },
}

impl From<PackedError> for io::Error {
    fn from(error: PackedError) -> Self {
        Self::other(error)
    }
}

/// The uncompressed bytes of a file.
pub(super) struct Unpacked(Format);

enum Format {
    Gzip(Gzip),
    Zstd(Zstd),
}

impl Unpacked {
    /// Unpacks `file`. If it grows, its present end is an error of kind `WouldBlock`, as is the end
    /// of what one call may read. A window of zstd has at most `1 << window_log` bytes.
    pub(super) fn new(
        file: File,
        packing: Packing,
        grows: bool,
        window_log: u32,
    ) -> io::Result<Self> {
        assert!(
            (10..=31).contains(&window_log),
            "window log {window_log}: checked with the options"
        );
        let buffer = vec![0; BUFFER_BYTES].into();
        let input = Input { file, buffer, start: 0, end: 0, read: 0, quota: 0, grows };
        Ok(Self(match packing {
            Packing::Plain => unreachable!("a plain file is not unpacked"),
            Packing::Gzip => Format::Gzip(Gzip { stage: Some(Stage::Between(input)), parts: 0 }),
            Packing::Zstd => Format::Zstd(Zstd::new(input, window_log)?),
        }))
    }

    /// Whether all of some parts was read, and nothing of another one.
    pub(super) fn is_between(&self) -> bool {
        match &self.0 {
            Format::Gzip(gzip) => gzip.parts > 0 && matches!(gzip.stage, Some(Stage::Between(_))),
            Format::Zstd(zstd) => zstd.parts > 0 && zstd.is_between,
        }
    }

    fn input(&mut self) -> &mut Input {
        match &mut self.0 {
            Format::Gzip(gzip) => match &mut gzip.stage {
                Some(Stage::Between(input)) => input,
                Some(Stage::Part(decoder)) => decoder.get_mut(),
                None => unreachable!("a stage follows another within one call"),
            },
            Format::Zstd(zstd) => &mut zstd.input,
        }
    }

    pub(super) fn file(&mut self) -> &File {
        &self.input().file
    }

    /// How many compressed bytes were read.
    pub(super) fn compressed(&mut self) -> u64 {
        self.input().read
    }

    /// How much memory the decoder takes, or may soon take.
    pub(super) fn decoder_bytes(&self) -> u64 {
        match &self.0 {
            Format::Gzip(_) => BUFFER_BYTES as u64,
            Format::Zstd(zstd) => BUFFER_BYTES as u64 + zstd.window,
        }
    }

    /// Takes the present end for the end.
    pub(super) fn cannot_grow(&mut self) {
        self.input().grows = false;
    }
}

impl Read for Unpacked {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        self.input().quota = QUOTA_BYTES;
        match &mut self.0 {
            Format::Gzip(gzip) => gzip.read(out),
            Format::Zstd(zstd) => zstd.read(out),
        }
    }
}

/// The bytes of a file.
pub(super) type Source = Box<dyn Read + Send>;

/// The bytes of the file at `path`, unpacked up to its present end.
pub(super) fn open(path: &Path, packing: Packing) -> io::Result<Source> {
    let file = File::open(path)?;
    Ok(match packing {
        Packing::Plain => Box::new(file),
        packing => Box::new(Unpacked::new(file, packing, false, WINDOW_LOG)?),
    })
}

/// The compressed bytes.
struct Input {
    file: File,
    buffer: Box<[u8]>,
    /// What the buffer holds.
    start: usize,
    end: usize,
    /// How much of the file was read into the buffer.
    read: u64,
    /// How much of it this call may still read.
    quota: u64,
    grows: bool,
}

impl Input {
    /// The position of the next byte.
    fn position(&self) -> u64 {
        self.read - (self.end - self.start) as u64
    }
}

impl BufRead for Input {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.start == self.end {
            if self.quota == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let read = self.file.read(&mut self.buffer)?;
            self.quota = self.quota.saturating_sub(read as u64);
            (self.start, self.end) = (0, read);
            self.read += read as u64;
            if read == 0 && self.grows {
                return Err(io::ErrorKind::WouldBlock.into());
            }
        }
        Ok(&self.buffer[self.start..self.end])
    }

    fn consume(&mut self, bytes: usize) {
        assert!(bytes <= self.end - self.start, "only buffered bytes can be consumed");
        self.start += bytes;
    }
}

impl Read for Input {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let bytes = self.fill_buf()?;
        let length = bytes.len().min(out.len());
        out[..length].copy_from_slice(&bytes[..length]);
        self.consume(length);
        Ok(length)
    }
}

struct Gzip {
    /// `None` only within a call.
    stage: Option<Stage>,
    /// How many members were read.
    parts: u64,
}

enum Stage {
    Between(Input),
    Part(Box<GzDecoder<Input>>),
}

impl Gzip {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.stage.take() {
                Some(Stage::Between(mut input)) => {
                    let found = self.next(&mut input);
                    self.stage = Some(match found {
                        Ok(true) => Stage::Part(GzDecoder::new(input).into()),
                        Ok(false) | Err(_) => Stage::Between(input),
                    });
                    if !found? {
                        return Ok(0);
                    }
                }
                Some(Stage::Part(mut decoder)) => match decoder.read(out) {
                    Ok(0) => {
                        self.parts += 1;
                        self.stage = Some(Stage::Between(decoder.into_inner()));
                    }
                    other => {
                        let at = decoder.get_ref().position();
                        self.stage = Some(Stage::Part(decoder));
                        return other.map_err(|source| told(source, at));
                    }
                },
                None => unreachable!("every call leaves a stage"),
            }
        }
    }

    /// Whether another member follows. As `gzip` does, passes over zeros between members and after
    /// the last one, which fill up the blocks of tapes and of some devices.
    fn next(&self, input: &mut Input) -> io::Result<bool> {
        loop {
            let bytes = input.fill_buf()?;
            match bytes.first() {
                Some(0x1f) => return Ok(true),
                Some(0) if self.parts > 0 => {
                    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
                    input.consume(zeros);
                }
                Some(_) => return Err(PackedError::NotGzip(input.position()).into()),
                None if self.parts > 0 => return Ok(false),
                None => return Err(PackedError::Unfinished(input.position()).into()),
            }
        }
    }
}

/// What a decoder's error means after `at` bytes.
fn told(source: io::Error, at: u64) -> io::Error {
    match source.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => source,
        io::ErrorKind::UnexpectedEof => PackedError::Unfinished(at).into(),
        _ if source.raw_os_error().is_some() => source,
        _ => PackedError::Damaged { at, source }.into(),
    }
}

struct Zstd {
    input: Input,
    decoder: Decoder<'static>,
    /// Whether the decoder holds nothing that it had no room for.
    is_flushed: bool,
    is_between: bool,
    /// How many frames were read.
    parts: u64,
    /// The largest window so far.
    window: u64,
}

impl Zstd {
    fn new(input: Input, window_log: u32) -> io::Result<Self> {
        let mut decoder = Decoder::new()?;
        decoder.set_parameter(DParameter::WindowLogMax(window_log))?;
        Ok(Self { input, decoder, is_flushed: true, is_between: true, parts: 0, window: 0 })
    }

    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            let at = self.input.position();
            let wants = self.is_flushed || self.is_between;
            let bytes = if wants { self.input.fill_buf()? } else { &[] };
            if bytes.is_empty() && wants {
                let is_end = self.is_between && self.parts > 0;
                return if is_end { Ok(0) } else { Err(PackedError::Unfinished(at).into()) };
            }
            let frame = if self.is_between { bytes } else { &[] };
            self.window = self.window.max(window_bytes(frame).unwrap_or(0));
            let status = self.decoder.run_on_buffers(bytes, out);
            let status = status.map_err(|source| window(&source, frame, at))?;
            assert!(status.bytes_written <= out.len(), "the decoder wrote past the buffer");
            self.input.consume(status.bytes_read);
            self.is_flushed = status.bytes_written < out.len();
            self.is_between = status.remaining == 0;
            self.parts += u64::from(self.is_between);
            if status.bytes_written > 0 {
                return Ok(status.bytes_written);
            }
        }
    }
}

/// What an error means that the decoder returned for the beginning of `frame`.
fn window(source: &io::Error, frame: &[u8], at: u64) -> io::Error {
    let text = source.to_string();
    if text.contains("too much memory")
        && let Some(bytes) = window_bytes(frame)
    {
        let log = bytes.next_power_of_two().trailing_zeros();
        return PackedError::Window { bytes, log }.into();
    }
    PackedError::Damaged { at, source: io::Error::other(text) }.into()
}

/// The size of the window that a frame's header asks for (RFC 8878, 3.1.1.1).
fn window_bytes(frame: &[u8]) -> Option<u64> {
    const SINGLE_SEGMENT: u8 = 0x20;
    if frame.get(4)? & SINGLE_SEGMENT != 0 {
        return get_frame_content_size(frame).ok().flatten();
    }
    let descriptor = u64::from(*frame.get(5)?);
    let base = 1_u64 << (10 + (descriptor >> 3));
    Some(base + base / 8 * (descriptor & 7))
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, Write};

    use super::*;

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(text: &[u8]) -> Vec<u8> {
        zstd::encode_all(text, 1).unwrap()
    }

    fn unpacked(bytes: &[u8], packing: Packing, grows: bool) -> (Unpacked, File) {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.rewind().unwrap();
        let other = file.try_clone().unwrap();
        (Unpacked::new(file, packing, grows, 27).unwrap(), other)
    }

    fn read(bytes: &[u8], packing: Packing) -> Result<Vec<u8>, String> {
        let mut text = Vec::new();
        let (mut unpacked, _) = unpacked(bytes, packing, false);
        unpacked.read_to_end(&mut text).map(|_| text).map_err(|error| error.to_string())
    }

    #[test]
    fn file_is_all_of_its_parts_and_zeros_behind_gzip_are_passed_over() {
        let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"abc"].concat();
        for (bytes, packing) in [
            ([gzip(b"ab"), gzip(b""), gzip(b"cd")].concat(), Packing::Gzip),
            ([gzip(b"ab"), gzip(b"cd"), vec![0; 200_000]].concat(), Packing::Gzip),
            ([gzip(b"ab"), vec![0; 512], gzip(b"cd"), vec![0]].concat(), Packing::Gzip),
            ([skippable.clone(), zstd(b"ab"), skippable, zstd(b"cd")].concat(), Packing::Zstd),
        ] {
            assert_eq!(read(&bytes, packing).unwrap(), b"abcd");
        }
    }

    #[test]
    fn call_ends_though_much_is_read_that_unpacks_to_nothing() {
        let (mut unpacked, file) = unpacked(&gzip(b"ab"), Packing::Gzip, false);
        // A hole, which reads as zeros.
        file.set_len(4 * QUOTA_BYTES).unwrap();
        let (mut text, mut calls) = (Vec::new(), 0);
        let mut buffer = [0; 9];
        loop {
            match unpacked.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => text.extend_from_slice(&buffer[..read]),
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
            calls += 1;
            let read = unpacked.compressed();
            assert!(read <= calls * (QUOTA_BYTES + BUFFER_BYTES as u64), "{read} in {calls} calls");
        }
        assert_eq!(text, b"ab");
        assert!(calls > 3, "{calls} calls");
    }

    #[test]
    fn every_cut_of_a_file_that_grows_waits_and_then_continues() {
        let long = "0123456789".repeat(30_000);
        for (whole, packing) in [
            ([gzip(b"ab"), vec![0; 9], gzip(long.as_bytes())].concat(), Packing::Gzip),
            ([zstd(b"ab"), zstd(long.as_bytes())].concat(), Packing::Zstd),
        ] {
            for step in [1, 7, 1000] {
                let (mut unpacked, mut file) = unpacked(&[], packing, true);
                let mut text = Vec::new();
                let mut buffer = vec![0; 5000];
                let mut arrived = 0;
                for piece in whole.chunks(step) {
                    file.write_all(piece).unwrap();
                    arrived += piece.len() as u64;
                    file.seek(io::SeekFrom::Start(unpacked.compressed())).unwrap();
                    let error = loop {
                        match unpacked.read(&mut buffer) {
                            Ok(0) => panic!("the end of a file that grows"),
                            Ok(read) => text.extend_from_slice(&buffer[..read]),
                            Err(error) => break error,
                        }
                    };
                    assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{error}");
                    file.seek(io::SeekFrom::Start(arrived)).unwrap();
                }
                assert_eq!(text.len(), 2 + long.len());
                assert!(text.ends_with(long.as_bytes()));
                assert!(unpacked.is_between());
                unpacked.cannot_grow();
                assert_eq!(unpacked.read(&mut buffer).unwrap(), 0);
            }
        }
    }

    #[test]
    fn error_says_what_is_wrong_and_where() {
        for (whole, packing) in [(gzip(b"abc"), Packing::Gzip), (zstd(b"abc"), Packing::Zstd)] {
            for cut in 0..whole.len() {
                let error = read(&whole[..cut], packing).unwrap_err();
                assert!(error.contains(&format!("too early, after {cut} bytes")), "{error}");
            }
        }
        let behind = [gzip(b"abc"), b"x".to_vec()].concat();
        let error = read(&behind, Packing::Gzip).unwrap_err();
        assert!(error.contains(&format!("at byte {}", behind.len() - 1)), "{error}");
        let mut wrong = gzip(b"abc");
        wrong[12] ^= 0xff;
        assert!(read(&wrong, Packing::Gzip).unwrap_err().contains("damaged"));
        assert!(read(b"plain text", Packing::Zstd).unwrap_err().contains("damaged"));
    }

    #[test]
    fn window_that_is_too_large_is_refused_with_the_option_that_allows_it() {
        // Frames with the windows of --long=28 and --long=31, and no content.
        for (log, descriptor) in [(28_u32, 18_u8 << 3), (31, 21 << 3)] {
            let frame = [0x28, 0xb5, 0x2f, 0xfd, 0, descriptor, 1, 0, 0];
            let error = read(&frame, Packing::Zstd).unwrap_err();
            assert!(error.contains(&format!("--zstd-window-log {log}")), "{error}");
        }
        let allowed = [0x28, 0xb5, 0x2f, 0xfd, 0, 17 << 3, 1, 0, 0];
        assert_eq!(read(&allowed, Packing::Zstd).unwrap(), b"");
    }
}
