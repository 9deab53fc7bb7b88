//! Manifests: the small files whose creation is the commit.
//!
//! A manifest is text: a line with a checksum of the rest, a line of JSON that identifies the
//! commit, and a line of JSON with its content. A superseded takeover may be stripped to its first
//! two lines. Invariant: a manifest with any bit changed is refused.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use crate::counters::Counters;
use crate::hash::HashKey;
use crate::log_time::LogTime;
use crate::rows::TableName;
pub use crate::segment_meta::{SegmentMeta, checksum};
use crate::windows::Windows;

/// The version of this format, and of the tables that manifests name. Since version 2 dead letters
/// have their size.
pub const FORMAT_VERSION: u32 = 2;
/// The oldest version that this build reads and continues.
const FORMAT_OLDEST: u32 = 1;
const MAGIC: &str = "tagflow-manifest";

/// The largest number of a commit. No state comes near it, and an epoch holds it.
pub const COMMIT_MAX: u64 = 1 << 43;
/// The largest version, in microseconds: 70,000 years.
pub const VERSION_MAX: i64 = 1 << 61;
/// The largest of the other numbers. What a job adds to them cannot overflow.
const NUMBER_MAX: u64 = 1 << 53;

/// Whether a manifest can hold this time, in milliseconds.
pub fn is_time(ms: i64) -> bool {
    ms.unsigned_abs() <= NUMBER_MAX
}

/// What identifies a commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The commit's number.
    pub commit: u64,
    /// The number of rollbacks so far.
    pub history: u64,
    /// The number of the takeover with which this run of the job began.
    pub generation: u64,
    /// 128 random bits of this run, in hexadecimal.
    pub owner: String,
    /// Whether this commit is a takeover.
    pub takeover: bool,
    /// Microseconds, strictly increasing from manifest to manifest.
    pub version: i64,
    /// The owner's wall clock, in milliseconds, when it made the commit.
    pub wall_ms: i64,
}

/// A commit: a consistent cut of all state, with the input positions that it covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// What identifies it.
    pub header: Header,
    /// Its content.
    pub body: Body,
}

/// The content of a commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Body {
    /// The stream time that windows are evaluated at, or `None` before the first event.
    pub as_of_ms: Option<i64>,
    /// Ids of events before this time are forgotten. `None` without a horizon.
    pub floor_ms: Option<i64>,
    /// The largest event time accepted so far.
    pub largest_ts_ms: Option<i64>,
    /// The wall clock when that was read. Older builds did not record it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub largest_read_ms: Option<i64>,
    /// The secret key of the state's hashes.
    pub hash_key: HashKey,
    /// The version of the tag rules behind the counts.
    pub rules: u32,
    /// The windows that tag rows keep buckets for.
    pub windows: Windows,
    /// The scopes that are counted besides the whole stream, sorted, such as `region=eu`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub scopes: Option<Vec<String>>,
    /// Input name → how its records were last read: the field of an event → its name in records,
    /// and, with a horizon, what happens to late events. Inputs that only an older build has read
    /// are missing.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub mappings: BTreeMap<String, BTreeMap<String, String>>,
    /// Input name → the last commit for which its records were read in another way than now.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub read_otherwise: BTreeMap<String, u64>,
    /// Set once a bounded run has read everything.
    pub finished: Option<Finished>,
    /// Whether the owner exited cleanly after this commit.
    pub clean: bool,
    /// Input name → identity of the partition → how far it has been read.
    pub inputs: BTreeMap<String, BTreeMap<String, Partition>>,
    /// The number of the first file of control records that has not been consumed.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub control: u64,
    /// What has been counted since the state was created.
    pub counters: Counters,
    /// The files of the commit, those of each table from the oldest to the newest.
    pub segments: Vec<SegmentMeta>,
}

/// How a bounded run ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finished {
    /// Its `--until`.
    pub until_ms: Option<i64>,
}

/// How far a partition has been read, and its clock.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    /// How far it has been read.
    pub position: Position,
    /// The first position that counts: that of the oldest record when the partition was found.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub begin: u64,
    /// Its log time.
    pub log_time: LogTime,
    /// Whether it had been read to its end as known when the previous commit closed.
    pub at_end: bool,
    /// Whether no more records can come from it.
    pub done: bool,
    /// The size of a compressed file when all of it had been read. A larger one has grown since.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub packed: u64,
    /// How to recognize the partition.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub fingerprint: Option<Fingerprint>,
    /// The bytes of a file that lie before the position, at most 4,096.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub tail: Option<Fingerprint>,
    /// The name that a file has lost, to another one or to none. It is then called `NAME@NUMBER`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub former_name: Option<String>,
}

/// The partitions of one input, by name.
pub type Partitions = BTreeMap<String, Partition>;

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A position in a partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Position {
    /// The next record to read.
    Offset(u64),
    /// A bounded file, whose blocks are read in any order.
    Blocks(Blocks),
}

impl Default for Position {
    fn default() -> Self {
        Self::Offset(0)
    }
}

/// The size of the blocks that bounded files are read in.
pub const BLOCK_BYTES: u64 = 8 << 20;

/// Which blocks of a file have been read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocks {
    /// The size of the file when it was last checked.
    pub bytes: u64,
    /// All blocks before this one are done, and included in the partition's log time.
    pub done: u64,
    /// Blocks that have been begun, and blocks that are done after one that is not, by number.
    pub open: BTreeMap<u64, Block>,
}

impl Blocks {
    /// The number of blocks in the file.
    pub fn count(&self) -> u64 {
        self.bytes.div_ceil(BLOCK_BYTES)
    }

    /// Whether all blocks have been read.
    pub fn are_done(&self) -> bool {
        self.done >= self.count()
    }
}

/// A block of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// The next byte to read, counted from the start of the file.
    pub offset: u64,
    /// Whether all its records have been read.
    pub done: bool,
    /// The times of its records read so far.
    pub times: LogTime,
}

/// How to recognize a partition: by the first bytes of a file and the last that were read of it, or
/// by the last record read from a partition of a topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// The number of bytes, for a file at most 4,096.
    pub bytes: u64,
    /// Their [`checksum`].
    pub xxh3: String,
    /// The position, for a record, and for bytes that lie before one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub at: Option<u64>,
}

impl Fingerprint {
    /// The fingerprint of a file that begins with `head`.
    pub fn of(head: &[u8]) -> Self {
        Self { bytes: head.len() as u64, xxh3: checksum(head), at: None }
    }

    /// The fingerprint of `bytes`, which lie before position `at` of a file.
    pub fn before(bytes: &[u8], at: u64) -> Self {
        Self { at: Some(at), ..Self::of(bytes) }
    }
}

/// Why these bytes are not a valid manifest.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ManifestError {
    /// Another kind of file, or an empty one.
    #[error("it is not a manifest")]
    NotAManifest,
    /// Another version of the format.
    #[error("it has format {0}; this build reads formats up to {FORMAT_VERSION}")]
    Format(String),
    /// The file is truncated or changed.
    #[error("its checksum does not match")]
    Checksum,
    /// The checksum matches, but this build cannot read the content: another build wrote it.
    #[error("its content cannot be read: {0}")]
    Content(String),
    /// A superseded takeover, of which only the header is left.
    #[error("its content was removed after a later job took over")]
    Stripped,
}

/// Refuses numbers that no job can have written, and that could overflow.
fn check_numbers(header: &Header, body: Option<&Body>) -> Result<(), ManifestError> {
    let mut numbers = vec![
        ("commit", header.commit, COMMIT_MAX),
        ("generation", header.generation, COMMIT_MAX),
        ("history", header.history, COMMIT_MAX),
        ("version", header.version.unsigned_abs(), VERSION_MAX.unsigned_abs()),
        ("wall_ms", header.wall_ms.unsigned_abs(), NUMBER_MAX),
    ];
    if let Some(body) = body {
        let times = [body.as_of_ms, body.floor_ms, body.largest_ts_ms, body.largest_read_ms];
        let times = times.into_iter().flatten().map(i64::unsigned_abs);
        numbers.extend(times.map(|ms| ("time", ms, NUMBER_MAX)));
        numbers.push(("control", body.control, COMMIT_MAX));
        let counters = body.counters.named();
        numbers.extend(counters.map(|(name, number)| (name, number, NUMBER_MAX)));
        let sizes = body.segments.iter().flat_map(|s| [("rows", s.rows), ("bytes", s.bytes)]);
        numbers.extend(sizes.map(|(name, number)| (name, number, NUMBER_MAX / 1000)));
    }
    match numbers.into_iter().find(|(_, number, max)| number > max) {
        Some((name, number, _)) => {
            Err(ManifestError::Content(format!("{name} {number} is out of range")))
        }
        None => Ok(()),
    }
}

/// Encodes a manifest; without a body, what is left of a superseded takeover.
pub fn encode(header: &Header, body: Option<&Body>) -> Result<Vec<u8>, ManifestError> {
    check_numbers(header, body)?;
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

/// Decodes a manifest's header and, unless it has been stripped, its body.
pub fn decode(bytes: &[u8]) -> Result<(Header, Option<Body>), ManifestError> {
    let line_end = bytes.iter().take(64).position(|b| *b == b'\n');
    let (first, rest) = bytes.split_at(line_end.ok_or(ManifestError::NotAManifest)?);
    let rest = &rest[1..];
    let first = std::str::from_utf8(first).map_err(|_| ManifestError::NotAManifest)?;
    let mut words = first.split(' ');
    if words.next() != Some(MAGIC) {
        return Err(ManifestError::NotAManifest);
    }
    let format = words.next().ok_or(ManifestError::NotAManifest)?;
    if !(FORMAT_OLDEST..=FORMAT_VERSION).any(|known| format == known.to_string()) {
        return Err(ManifestError::Format(format.chars().take(20).collect()));
    }
    if words.next() != Some(checksum(rest).as_str()) || words.next().is_some() {
        return Err(ManifestError::Checksum);
    }
    let content = |e: serde_json::Error| ManifestError::Content(e.to_string());
    let mut lines = rest.split(|b| *b == b'\n').filter(|line| !line.is_empty());
    let header = lines.next().ok_or(ManifestError::NotAManifest)?;
    let header: Header = serde_json::from_slice(header).map_err(content)?;
    let body: Option<Body> =
        lines.next().map(serde_json::from_slice).transpose().map_err(content)?;
    check_numbers(&header, body.as_ref())?;
    Ok((header, body))
}

impl Manifest {
    /// Encodes the manifest.
    pub fn encode(&self) -> Result<Vec<u8>, ManifestError> {
        encode(&self.header, Some(&self.body))
    }

    /// Decodes a manifest with its body.
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        let (header, body) = decode(bytes)?;
        Ok(Self { header, body: body.ok_or(ManifestError::Stripped)? })
    }

    /// The files of one table, from the oldest to the newest.
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
        let position = Position::Blocks(blocks);
        let (fingerprint, tail) =
            (Fingerprint::of(b"{}").into(), Fingerprint::before(b"{}", 2).into());
        let done = Partition { done: true, packed: 7, fingerprint, tail, ..Partition::default() };
        let former_name = Some("a.ndjson".to_owned());
        let read = Partition { position, log_time, at_end: true, former_name, ..done };
        let partitions =
            [("a.ndjson".to_owned(), read), ("b.ndjson".to_owned(), Partition::default())];
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
                largest_read_ms: Some(3),
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
    fn manifest_reads_back_the_same() {
        let manifest = manifest();
        assert_eq!(Manifest::decode(&manifest.encode().unwrap()), Ok(manifest));
    }

    #[test]
    fn counters_of_older_builds_default_to_zero() {
        let old: Counters = serde_json::from_str(r#"{"events":3,"scope_overflow":1}"#).unwrap();
        assert_eq!(old, Counters { events: 3, scope_overflow: 1, ..Counters::default() });
        let fingerprint: Fingerprint = serde_json::from_str(r#"{"bytes":2,"xxh3":"0"}"#).unwrap();
        assert_eq!(fingerprint.at, None);
    }

    #[test]
    fn manifests_of_the_format_before_are_read() {
        let manifest = manifest();
        let bytes = String::from_utf8(manifest.encode().unwrap()).unwrap();
        let older = bytes.replacen("tagflow-manifest 2", "tagflow-manifest 1", 1);
        assert_eq!(Manifest::decode(older.as_bytes()), Ok(manifest));
        let newer = bytes.replacen("tagflow-manifest 2", "tagflow-manifest 3", 1);
        let error = Manifest::decode(newer.as_bytes()).unwrap_err();
        assert_eq!(error.to_string(), "it has format 3; this build reads formats up to 2");
    }

    #[test]
    fn stripped_takeover_keeps_its_header() {
        let Manifest { header, .. } = manifest();
        let bytes = encode(&header, None).unwrap();
        assert_eq!(decode(&bytes), Ok((header, None)));
        assert_eq!(Manifest::decode(&bytes), Err(ManifestError::Stripped));
    }

    #[test]
    fn any_truncation_or_flipped_bit_is_refused() {
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

    #[test]
    fn numbers_that_no_job_reaches_are_refused() {
        let changes: [fn(&mut Manifest); 7] = [
            |m| m.header.commit = u64::MAX,
            |m| m.header.generation = COMMIT_MAX + 1,
            |m| m.header.version = i64::MAX,
            |m| m.header.wall_ms = i64::MIN,
            |m| m.body.as_of_ms = Some(i64::MAX),
            |m| m.body.counters.duplicates = u64::MAX,
            |m| m.body.segments[0].bytes = u64::MAX,
        ];
        for change in changes {
            let mut changed = manifest();
            change(&mut changed);
            let refused = changed.encode().unwrap_err();
            assert!(refused.to_string().contains("out of range"), "{refused}");
            // A file with such a number, and with the right checksum.
            let mut rest = serde_json::to_vec(&changed.header).unwrap();
            rest.push(b'\n');
            rest.extend(serde_json::to_vec(&changed.body).unwrap());
            rest.push(b'\n');
            let first = format!("{MAGIC} {FORMAT_VERSION} {}\n", checksum(&rest));
            let file = [first.as_bytes(), &rest].concat();
            assert_eq!(Manifest::decode(&file), Err(refused));
        }
    }
}
