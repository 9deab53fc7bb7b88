//! The bytes of a file, unpacked if its name says that it is compressed.
//!
//! Invariant: positions are those of uncompressed bytes.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use flate2::read::MultiGzDecoder;

use super::LogError;

/// How a file is compressed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    Plain,
    Gzip,
    Zstd,
}

impl Packing {
    /// That of the file at `path`, judging by its name.
    pub(super) fn of(path: &Path) -> Self {
        match path.extension().and_then(|e| e.to_str()) {
            Some("gz") => Self::Gzip,
            Some("zst") => Self::Zstd,
            _ => Self::Plain,
        }
    }
}

/// A file's bytes from some position on.
pub(super) type Source = Box<dyn Read + Send>;

/// The bytes of the file at `path` from `position` on.
pub(super) fn open(path: &Path, packing: Packing, position: u64) -> Result<Source, LogError> {
    let failed = |source| LogError::io(path, source);
    let mut file = File::open(path).map_err(failed)?;
    let bytes = file.metadata().map_err(failed)?.len();
    let shorter = |bytes| {
        let file = path.display().to_string();
        LogError::Shorter { file, bytes, read: position }
    };
    let mut source: Source = match packing {
        Packing::Plain if position > bytes => return Err(shorter(bytes)),
        Packing::Plain => {
            file.seek(SeekFrom::Start(position)).map_err(failed)?;
            return Ok(Box::new(file));
        }
        Packing::Gzip => Box::new(MultiGzDecoder::new(io::BufReader::new(file))),
        Packing::Zstd => Box::new(zstd::stream::read::Decoder::new(file).map_err(failed)?),
    };
    let skipped = io::copy(&mut source.by_ref().take(position), &mut io::sink());
    let skipped = skipped.map_err(failed)?;
    if skipped < position {
        return Err(shorter(skipped));
    }
    Ok(source)
}
