//! Writing a large file piece by piece, with its checksum.

use schemas::planted::{Bug, planted};
use std::io;

use xxhash_rust::xxh3::Xxh3;

use super::{Storage, StorageError};

const PIECE_BYTES: usize = 1 << 20;

/// Appends to one file of a storage and knows the size and checksum of what it wrote.
pub struct StorageWriter<'s> {
    storage: &'s dyn Storage,
    name: String,
    piece: Vec<u8>,
    hash: Xxh3,
    bytes: u64,
    error: Option<StorageError>,
}

impl<'s> StorageWriter<'s> {
    /// A writer to `name`, which must not exist.
    pub fn new(storage: &'s dyn Storage, name: String) -> Self {
        let piece = Vec::with_capacity(PIECE_BYTES);
        Self { storage, name, piece, hash: Xxh3::new(), bytes: 0, error: None }
    }

    fn write_piece(&mut self) -> Result<(), StorageError> {
        self.hash.update(&self.piece);
        self.bytes += self.piece.len() as u64;
        let written = self.storage.append(&self.name, &self.piece);
        self.piece.clear();
        written
    }

    /// Writes the rest and makes the file durable: its size and checksum.
    pub fn finish(mut self) -> Result<(u64, String), StorageError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        self.write_piece()?;
        if !planted(Bug::ManifestBeforeSegments) {
            self.storage.sync(&self.name)?;
        }
        Ok((self.bytes, format!("{:016x}", self.hash.digest())))
    }
}

impl io::Write for StorageWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE_BYTES
            && let Err(error) = self.write_piece()
        {
            let told = io::Error::new(error.source.kind(), error.to_string());
            // `finish` gives the error itself; the encoder only needs to stop.
            self.error = Some(error);
            return Err(told);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
