//! What a manifest says about the file of a segment. Invariant: it is enough to refuse a file in
//! which any bit has changed.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::rows::TableName;

/// A file of a commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentMeta {
    /// The file's name.
    pub name: String,
    /// The table whose rows it holds.
    pub table: TableName,
    /// The first commit whose rows it holds.
    pub first_commit: u64,
    /// The last commit whose rows it holds.
    pub last_commit: u64,
    /// The number of rows.
    pub rows: u64,
    /// The size of the file.
    pub bytes: u64,
    /// [`checksum`] of the file.
    pub xxh3: String,
    /// The last hour that any of its rows expires with, for tables whose rows expire. A commit
    /// drops the file once the horizon has passed that hour.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last_hour: Option<u32>,
}

/// The checksum of files: 64 bits of XXH3, in hexadecimal.
pub fn checksum(bytes: &[u8]) -> String {
    format!("{:016x}", xxh3_64(bytes))
}
