//! Standard input as a log with one partition. It cannot be read again, so each run of a job reads
//! a new partition; records that are piped in again are dropped as duplicates.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};

use parking_lot::Mutex;
use schemas::manifest::Fingerprint;

use super::lines::Lines;
use super::{Discovered, Log, LogError, Next, Reader, Record, Shape};

const CHUNK_BYTES: usize = 256 * 1024;
const CHUNKS_WAITING: usize = 8;

/// Standard input, read by a thread into a bounded channel.
pub struct StdinLog {
    partition: String,
    chunks: Mutex<Option<Receiver<io::Result<Vec<u8>>>>>,
}

impl StdinLog {
    /// Standard input, for the run that made takeover `generation`.
    pub fn new(generation: u64) -> Self {
        let (sender, chunks) = sync_channel(CHUNKS_WAITING);
        // The thread may still block in a read when the job ends; it ends with the process.
        std::thread::spawn(move || pump(&mut io::stdin(), &sender));
        Self { partition: format!("stdin@{generation}"), chunks: Some(chunks).into() }
    }
}

fn pump(source: &mut dyn Read, chunks: &SyncSender<io::Result<Vec<u8>>>) {
    loop {
        let mut chunk = vec![0; CHUNK_BYTES];
        let read = source.read(&mut chunk).map(|n| {
            chunk.truncate(n);
            chunk
        });
        let last = !matches!(&read, Ok(chunk) if !chunk.is_empty());
        if chunks.send(read).is_err() || last {
            return;
        }
    }
}

impl Log for StdinLog {
    fn discover(&self) -> Result<Vec<Discovered>, LogError> {
        let partition = self.partition.clone();
        Ok(vec![Discovered { partition, share: 0, shape: Shape::Ordered { bytes: None } }])
    }

    fn verify(&self, _: &str, _: &Fingerprint) -> Result<(), LogError> {
        Ok(())
    }

    fn open(&self, _: &str, _: u64) -> Result<Box<dyn Reader>, LogError> {
        let chunks = self.chunks.lock().take();
        let chunks = chunks.ok_or_else(|| LogError::Gone("stdin".into()))?;
        let pipe = Pipe { chunks, chunk: Vec::new(), read: 0, ended: false };
        Ok(Box::new(StdinReader { lines: Lines::new(pipe, 0, true), ended: false }))
    }

    fn is_bounded(&self) -> bool {
        // Nothing follows its end.
        true
    }

    fn is_repeatable(&self) -> bool {
        false
    }
}

/// The receiving end of the channel as a stream that never blocks; 0 bytes mean "not now".
struct Pipe {
    chunks: Receiver<io::Result<Vec<u8>>>,
    chunk: Vec<u8>,
    read: usize,
    ended: bool,
}

impl Read for Pipe {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.read == self.chunk.len() {
            match self.chunks.try_recv() {
                Ok(chunk) => (self.chunk, self.read) = (chunk?, 0),
                Err(TryRecvError::Empty) => return Ok(0),
                Err(TryRecvError::Disconnected) => {}
            }
            self.ended = self.chunk.len() == self.read;
        }
        debug_assert!(self.read <= self.chunk.len(), "a chunk is read once");
        let n = out.len().min(self.chunk.len() - self.read);
        out[..n].copy_from_slice(&self.chunk[self.read..self.read + n]);
        self.read += n;
        Ok(n)
    }
}

struct StdinReader {
    lines: Lines<Pipe>,
    ended: bool,
}

impl Reader for StdinReader {
    fn read(&mut self, limit: usize, each: &mut dyn FnMut(Record<'_>)) -> Result<Next, LogError> {
        let error = |source| LogError::Io { file: "stdin".into(), source };
        if self.ended {
            return Ok(Next::End);
        }
        let next = self.lines.read(limit, each).map_err(error)?;
        if next == Next::Wait && self.lines.source().ended {
            // Nothing follows, so a last line without a newline is a record.
            self.lines.cannot_grow();
            self.ended = true;
            return self.lines.read(limit, each).map_err(error);
        }
        Ok(next)
    }

    fn position(&self) -> u64 {
        self.lines.position()
    }

    fn end(&mut self) -> Result<Option<u64>, LogError> {
        Ok(None)
    }

    fn fingerprint(&self) -> Option<Fingerprint> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_they_arrive() {
        let (sender, chunks) = sync_channel(CHUNKS_WAITING);
        let pipe = Pipe { chunks, chunk: Vec::new(), read: 0, ended: false };
        let mut reader = StdinReader { lines: Lines::new(pipe, 0, true), ended: false };
        let mut lines = Vec::new();
        let mut read = |reader: &mut StdinReader| {
            reader.read(10, &mut |r| lines.push(r.bytes.to_vec())).unwrap()
        };
        assert_eq!(read(&mut reader), Next::Wait);
        sender.send(Ok(b"a\nb".to_vec())).unwrap();
        assert_eq!(read(&mut reader), Next::Wait);
        sender.send(Ok(b"c".to_vec())).unwrap();
        sender.send(Ok(Vec::new())).unwrap();
        assert_eq!(read(&mut reader), Next::End);
        assert_eq!(read(&mut reader), Next::End);
        assert_eq!(lines, [&b"a"[..], b"bc"]);
    }
}
