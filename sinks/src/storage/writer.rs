//! Writing a large file in chunks, computing its checksum on the way.

use std::io;

use schemas::planted::{Bug, planted};
use xxhash_rust::xxh3::Xxh3;

use super::{Storage, StorageError};

const CHUNK_BYTES: usize = 1 << 20;

/// Appends to one file and keeps track of its size and checksum.
pub struct StorageWriter<'s> {
    storage: &'s dyn Storage,
    name: String,
    chunk: Vec<u8>,
    hash: Xxh3,
    bytes: u64,
    error: Option<StorageError>,
}

impl<'s> StorageWriter<'s> {
    /// A writer to `name`, which must not exist yet.
    pub fn new(storage: &'s dyn Storage, name: String) -> Self {
        let chunk = Vec::with_capacity(CHUNK_BYTES);
        Self { storage, name, chunk, hash: Xxh3::new(), bytes: 0, error: None }
    }

    fn write_chunk(&mut self) -> Result<(), StorageError> {
        self.hash.update(&self.chunk);
        self.bytes += self.chunk.len() as u64;
        let written = self.storage.append(&self.name, &self.chunk);
        self.chunk.clear();
        written
    }

    /// Writes the rest, makes the file durable, and returns its size and checksum.
    pub fn finish(mut self) -> Result<(u64, String), StorageError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        self.write_chunk()?;
        if !planted(Bug::ManifestBeforeSegments) {
            match self.storage.sync(&self.name) {
                Err(_) if planted(Bug::SyncRepeated) => self.storage.sync(&self.name)?,
                synced => synced?,
            }
        }
        Ok((self.bytes, format!("{:016x}", self.hash.digest())))
    }
}

impl io::Write for StorageWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        debug_assert!(self.error.is_none(), "an encoder stops at the first error");
        self.chunk.extend_from_slice(bytes);
        if self.chunk.len() >= CHUNK_BYTES
            && let Err(error) = self.write_chunk()
        {
            let stop = io::Error::new(error.source.kind(), error.to_string());
            // `finish` returns the error itself; the encoder only needs to stop.
            self.error = Some(error);
            return Err(stop);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
