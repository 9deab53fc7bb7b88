//! Manifests: the small file whose creation is the commit.
//!
//! A manifest is text: a line with a checksum of all that follows, a line of JSON that identifies
//! the commit, and a line of JSON with its content. A takeover that a later one has superseded may
//! shrink to its first two lines. Invariant: bytes with one bit changed are refused.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use xxhash_rust::xxh3::xxh3_64;

pub use crate::counters::Counters;
use crate::hash::HashKey;
use crate::log_time::LogTime;
use crate::rows::TableName;
use crate::windows::Windows;

/// The version of this format.
pub const FORMAT_VERSION: u32 = 1;
const MAGIC: &str = "tagflow-manifest";

/// What identifies a commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The commit's number.
    pub commit: u64,
    /// Rises with every rollback.
    pub history: u64,
    /// The number of the takeover of this start of the job.
    pub generation: u64,
    /// 128 random bits of this start.
    pub owner: String,
    /// Whether this commit began a start of the job.
    pub takeover: bool,
    /// Microseconds, strictly rising from manifest to manifest.
    pub version: i64,
    /// The owner's wall clock, in milliseconds, when it made the commit.
    pub wall_ms: i64,
}

/// A commit: a consistent cut of all state with the input positions it covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// What identifies it.
    pub header: Header,
    /// What it holds.
    pub body: Body,
}

/// What a commit holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Body {
    /// The stream time that windows are evaluated at; none before the first event.
    pub as_of_ms: Option<i64>,
    /// Ids of events before this are forgotten; none without a horizon.
    pub floor_ms: Option<i64>,
    /// The largest event time accepted so far.
    pub largest_ts_ms: Option<i64>,
    /// The secret key of the state's hashes.
    pub hash_key: HashKey,
    /// The version of the tag rules that made the counts.
    pub rules: u32,
    /// The windows that tag rows keep buckets for.
    pub windows: Windows,
    /// The scopes that it counts by besides the whole stream, sorted, such as `region=eu`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub scopes: Option<Vec<String>>,
    /// Input name → what its records were read with when they were counted last: the field of an
    /// event → the record's name of it, and what decides about late events, where there is a
    /// horizon. Of an input that an older build has read there is none.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub mappings: BTreeMap<String, BTreeMap<String, String>>,
    /// Input name → the last commit that was made with its records read otherwise than now.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub read_otherwise: BTreeMap<String, u64>,
    /// Set when a bounded run had read everything.
    pub finished: Option<Finished>,
    /// Whether the owner left in order with this commit.
    pub clean: bool,
    /// Input name → partition identity → how far it has been read.
    pub inputs: BTreeMap<String, BTreeMap<String, Partition>>,
    /// The number of the first file of control records that has not been taken.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub control: u64,
    /// What has been counted since the state began.
    pub counters: Counters,
    /// The files of the commit; of one table, the oldest first.
    pub segments: Vec<SegmentMeta>,
}

/// How a bounded run ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finished {
    /// The `--until` it was given.
    pub until_ms: Option<i64>,
}

/// How far a partition has been read, and its clock.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    /// How far.
    pub position: Position,
    /// The first position that counts: that of the oldest record there was when it was found.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub begin: u64,
    /// Its log time.
    pub log_time: LogTime,
    /// Whether it had been read to the end seen as the previous commit closed.
    pub at_end: bool,
    /// Whether nothing more can come from it.
    pub done: bool,
    /// What it must begin with to be the same partition.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub fingerprint: Option<Fingerprint>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A position in a partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Position {
    /// The next record to read.
    Offset(u64),
    /// A bounded file that is read block by block, in any order.
    Blocks(Blocks),
}

impl Default for Position {
    fn default() -> Self {
        Self::Offset(0)
    }
}

/// The size of the pieces that bounded files are read in.
pub const BLOCK_BYTES: u64 = 8 << 20;

/// Which blocks of a file have been read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocks {
    /// The size of the file when it was last looked at.
    pub bytes: u64,
    /// All blocks before this one are done, and in the partition's log time.
    pub done: u64,
    /// Begun blocks, and done ones behind a gap, by number.
    pub open: BTreeMap<u64, Block>,
}

impl Blocks {
    /// The number of blocks of the file.
    pub fn count(&self) -> u64 {
        self.bytes.div_ceil(BLOCK_BYTES)
    }

    /// Whether all of them have been read.
    pub fn are_done(&self) -> bool {
        self.done >= self.count()
    }
}

/// A block of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// The next byte to read, from the start of the file.
    pub offset: u64,
    /// Whether all its records have been read.
    pub done: bool,
    /// The times of its records so far.
    pub times: LogTime,
}

/// The first bytes of a file, or the last record read of a topic's partition, to know it again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// How many bytes; of a file at most 4,096.
    pub bytes: u64,
    /// Their hash, in hexadecimal.
    pub xxh3: String,
    /// Of a record: its position.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub at: Option<u64>,
}

impl Fingerprint {
    /// The fingerprint of a file that begins with `head`.
    pub fn of(head: &[u8]) -> Self {
        Self { bytes: head.len() as u64, xxh3: checksum(head), at: None }
    }
}

/// One file of a commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentMeta {
    /// The file's name.
    pub name: String,
    /// The table whose rows it holds.
    pub table: TableName,
    /// The first commit with rows in it.
    pub first_commit: u64,
    /// The last one.
    pub last_commit: u64,
    /// The number of rows.
    pub rows: u64,
    /// The size of the file.
    pub bytes: u64,
    /// [`checksum`] of the file.
    pub xxh3: String,
    /// Of ids, the last hour in it: the file goes when that expires.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last_hour: Option<u32>,
}

/// The checksum of files: XXH3, 64 bits, in hexadecimal.
pub fn checksum(bytes: &[u8]) -> String {
    format!("{:016x}", xxh3_64(bytes))
}

/// Why bytes are no manifest.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ManifestError {
    /// Another kind of file, or nothing.
    #[error("it does not begin as a manifest")]
    NotAManifest,
    /// A later version's.
    #[error("it has format {0}; this build reads format {FORMAT_VERSION}")]
    Format(String),
    /// Cut off or changed.
    #[error("its checksum is wrong: the file is damaged")]
    Checksum,
    /// The checksum is right and the content is not: another build wrote it.
    #[error("its content cannot be read: {0}")]
    Content(String),
    /// A superseded takeover, of which only the header is kept.
    #[error("its content was removed when a later start superseded it")]
    Shrunk,
}

/// A manifest's bytes. Without a body it is what remains of a superseded takeover.
pub fn encode(header: &Header, body: Option<&Body>) -> Result<Vec<u8>, ManifestError> {
    let content = |e: serde_json::Error| ManifestError::Content(e.to_string());
    let mut rest = serde_json::to_vec(header).map_err(content)?;
    rest.push(b'\n');
    if let Some(body) = body {
        rest.extend(serde_json::to_vec(body).map_err(content)?);
        rest.push(b'\n');
    }
    let mut bytes = format!("{MAGIC} {FORMAT_VERSION} {}\n", checksum(&rest)).into_bytes();
    bytes.extend(rest);
    Ok(bytes)
}

/// Reads a manifest's header and, unless it has been shrunk, its body.
pub fn decode(bytes: &[u8]) -> Result<(Header, Option<Body>), ManifestError> {
    let line_end = bytes.iter().take(64).position(|b| *b == b'\n');
    let (first, rest) = bytes.split_at(line_end.ok_or(ManifestError::NotAManifest)?);
    let rest = &rest[1..];
    let first = std::str::from_utf8(first).map_err(|_| ManifestError::NotAManifest)?;
    let mut words = first.split(' ');
    if words.next() != Some(MAGIC) {
        return Err(ManifestError::NotAManifest);
    }
    let format = words.next().unwrap_or_default();
    if format != FORMAT_VERSION.to_string() {
        return Err(ManifestError::Format(format.chars().take(20).collect()));
    }
    if words.next() != Some(checksum(rest).as_str()) || words.next().is_some() {
        return Err(ManifestError::Checksum);
    }
    let content = |e: serde_json::Error| ManifestError::Content(e.to_string());
    let mut lines = rest.split(|b| *b == b'\n').filter(|line| !line.is_empty());
    let header = lines.next().ok_or(ManifestError::NotAManifest)?;
    let header = serde_json::from_slice(header).map_err(content)?;
    let body = lines.next().map(serde_json::from_slice).transpose().map_err(content)?;
    Ok((header, body))
}

impl Manifest {
    /// The bytes of the manifest file.
    pub fn encode(&self) -> Result<Vec<u8>, ManifestError> {
        encode(&self.header, Some(&self.body))
    }

    /// Reads a whole manifest.
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        let (header, body) = decode(bytes)?;
        Ok(Self { header, body: body.ok_or(ManifestError::Shrunk)? })
    }

    /// Its files of one table, the oldest first.
    pub fn segments(&self, table: TableName) -> impl DoubleEndedIterator<Item = &SegmentMeta> {
        self.body.segments.iter().filter(move |s| s.table == table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::{Ids, Table};

    fn manifest() -> Manifest {
        let mut log_time = LogTime::default();
        (0..100).for_each(|ts| log_time.observe(ts * 7));
        let block = Block { offset: 9, done: false, times: log_time.clone() };
        let blocks = Blocks { bytes: 99, done: 3, open: [(4, block)].into() };
        let partitions = [
            (
                "a.ndjson".to_owned(),
                Partition {
                    position: Position::Blocks(blocks),
                    begin: 0,
                    log_time,
                    at_end: true,
                    done: true,
                    fingerprint: Some(Fingerprint::of(b"{}")),
                },
            ),
            ("b.ndjson".to_owned(), Partition::default()),
        ];
        Manifest {
            header: Header {
                commit: 7,
                history: 1,
                generation: 5,
                owner: "00ff".into(),
                takeover: false,
                version: 1_700_000_000_000_000,
                wall_ms: 1_700_000_000_000,
            },
            body: Body {
                as_of_ms: Some(1),
                floor_ms: None,
                largest_ts_ms: Some(2),
                hash_key: HashKey::new(3),
                rules: 1,
                windows: Windows::default(),
                scopes: Some(vec!["region=eu".into()]),
                mappings: [("input".into(), [("ts".into(), "at:s".into())].into())].into(),
                read_otherwise: [("input".into(), 3)].into(),
                finished: Some(Finished { until_ms: None }),
                clean: true,
                inputs: [("input".to_owned(), partitions.into())].into(),
                control: 4,
                counters: Counters { events: 1, ..Counters::default() },
                segments: vec![SegmentMeta {
                    name: "x.arrow".into(),
                    table: Ids::NAME,
                    first_commit: 1,
                    last_commit: 2,
                    rows: 3,
                    bytes: 4,
                    xxh3: checksum(b"x"),
                    last_hour: Some(5),
                }],
            },
        }
    }

    #[test]
    fn a_manifest_comes_back() {
        let manifest = manifest();
        assert_eq!(Manifest::decode(&manifest.encode().unwrap()), Ok(manifest));
    }

    #[test]
    fn counters_of_an_older_build_lack_the_newer_ones() {
        let old: Counters = serde_json::from_str(r#"{"events":3,"scope_overflow":1}"#).unwrap();
        assert_eq!(old, Counters { events: 3, scope_overflow: 1, ..Counters::default() });
        let fingerprint: Fingerprint = serde_json::from_str(r#"{"bytes":2,"xxh3":"0"}"#).unwrap();
        assert_eq!(fingerprint.at, None);
    }

    #[test]
    fn a_shrunk_takeover_keeps_its_header() {
        let Manifest { header, .. } = manifest();
        let bytes = encode(&header, None).unwrap();
        assert_eq!(decode(&bytes), Ok((header, None)));
        assert_eq!(Manifest::decode(&bytes), Err(ManifestError::Shrunk));
    }

    #[test]
    fn every_truncation_and_every_flip_is_refused() {
        let bytes = manifest().encode().unwrap();
        for end in 0..bytes.len() {
            assert!(decode(&bytes[..end]).is_err(), "cut at {end}");
        }
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                assert!(decode(&flipped).is_err(), "bit {bit} of byte {at}");
            }
        }
        assert!(matches!(decode(b"tagflow-manifest 9 0\n{}"), Err(ManifestError::Format(_))));
    }
}
