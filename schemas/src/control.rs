//! Control records: requests to a job, such as corrections.
//!
//! They come in numbered files in the folder `control`, which a job consumes in order, each exactly
//! once. A file is text: a line with a checksum of the rest, a line of JSON with who requested it,
//! when and why, and a line of JSON for each record. Invariant: a file with any bit changed is
//! refused.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::hash::KeyHash;
use crate::manifest::checksum;

const MAGIC: &str = "tagflow-control 1";

/// The author of control records, when they were written, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Author {
    /// Who: a user and a host.
    pub who: String,
    /// When, in milliseconds of the author's wall clock.
    pub when_ms: i64,
    /// Why, in the author's words.
    pub why: String,
    /// The commit that the records are based on.
    pub base: u64,
    /// That commit's history. After a rollback the records no longer apply.
    pub history: u64,
}

/// The values of a tag's row, except its buckets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Values {
    /// The number of posts.
    pub total: i64,
    /// The earliest event time.
    pub first_ms: i64,
    /// The latest event time.
    pub last_ms: i64,
    /// The spelling of the earliest event.
    pub display: String,
}

/// A change to the count of one bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketChange {
    /// The start of the bucket, in milliseconds.
    pub start_ms: i64,
    /// Its width.
    pub width_ms: i64,
    /// The number of posts to add, or to take away if negative.
    pub by: i64,
}

/// A correction to a tag's row: the difference between the row as stored and as recomputed, so that
/// posts counted in the meantime are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Correction {
    /// The hash of (scope, tag).
    pub hash: KeyHash,
    /// The scope; empty for the whole stream.
    pub scope: String,
    /// The tag's key.
    pub key: String,
    /// The values in the commit, or `None` if it has no such row.
    pub stored: Option<Values>,
    /// The values recomputed from the log, or `None` if it has no such tag.
    pub recomputed: Option<Values>,
    /// The buckets that differ.
    pub buckets: Vec<BucketChange>,
}

/// An event id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Id {
    /// The hash of (input, event id).
    pub hash: KeyHash,
    /// The id if it is known, or else the hash.
    pub text: String,
    /// The hour of the event's time, since 1970.
    pub hour: u32,
}

/// One request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Control {
    /// Correct a tag's row.
    Correct(Correction),
    /// Remember an event id that was forgotten too early.
    Remember(Id),
    /// Forget an event id that is not in the log.
    Forget(Id),
    /// Write a tag's row again, with a newer version. An unknown tag gets a row with total 0.
    Republish {
        /// The scope; empty for the whole stream.
        scope: String,
        /// The tag's key.
        key: String,
        /// Its display form, if the tag is unknown.
        display: String,
    },
    /// Deliver a record again that was refused.
    Redeliver {
        /// The input's name.
        input: String,
        /// The partition's identity.
        partition: String,
        /// The record's position in it.
        position: u64,
        /// The record as it was read, with invalid UTF-8 replaced.
        refused: String,
        /// The record to count instead.
        record: String,
    },
}

impl Control {
    /// About how many bytes of a file it takes.
    pub fn bytes(&self) -> usize {
        let texts = match self {
            Self::Correct(Correction { scope, key, buckets, .. }) => {
                scope.len() + 3 * key.len() + buckets.len() * size_of::<BucketChange>()
            }
            Self::Remember(id) | Self::Forget(id) => id.text.len(),
            Self::Republish { scope, key, display } => scope.len() + key.len() + display.len(),
            Self::Redeliver { input, partition, refused, record, .. } => {
                input.len() + partition.len() + refused.len() + record.len()
            }
        };
        texts + size_of::<Self>()
    }
}

/// Why these bytes are not a valid file of control records.
#[derive(Debug, Error)]
pub enum ControlError {
    /// Another kind of file, or a later version.
    #[error("it is not a control file that this build can read")]
    NotControls,
    /// The file is truncated or changed.
    #[error("its checksum does not match")]
    Checksum,
    /// The checksum matches, but this build cannot read the content: another build wrote it.
    #[error("its content cannot be read: {0}")]
    Content(#[from] serde_json::Error),
}

/// Encodes a file of control records.
pub fn encode(author: &Author, controls: &[Control]) -> Result<Vec<u8>, ControlError> {
    let mut rest = serde_json::to_vec(author)?;
    rest.push(b'\n');
    for control in controls {
        serde_json::to_writer(&mut rest, control)?;
        rest.push(b'\n');
    }
    let mut bytes = format!("{MAGIC} {}\n", checksum(&rest)).into_bytes();
    bytes.extend(rest);
    Ok(bytes)
}

/// Decodes a file of control records.
pub fn decode(bytes: &[u8]) -> Result<(Author, Vec<Control>), ControlError> {
    let end = bytes.iter().take(64).position(|b| *b == b'\n').ok_or(ControlError::NotControls)?;
    let (first, rest) = (&bytes[..end], &bytes[end + 1..]);
    let sum = first.strip_prefix(MAGIC.as_bytes()).and_then(|rest| rest.strip_prefix(b" "));
    if sum.ok_or(ControlError::NotControls)? != checksum(rest).as_bytes() {
        return Err(ControlError::Checksum);
    }
    let mut lines = rest.split(|b| *b == b'\n').filter(|line| !line.is_empty());
    let author = serde_json::from_slice(lines.next().ok_or(ControlError::NotControls)?)?;
    let controls = lines.map(serde_json::from_slice).collect::<Result<_, _>>()?;
    Ok((author, controls))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn controls() -> Vec<Control> {
        let hash = KeyHash { hi: u64::MAX, lo: 7 };
        let values = Values { total: 3, first_ms: 1, last_ms: 2, display: "Sun".into() };
        let buckets = vec![BucketChange { start_ms: 60_000, width_ms: 60_000, by: -2 }];
        let (scope, key) = ("region=eu".to_owned(), "sun".to_owned());
        vec![
            Control::Correct(Correction {
                hash,
                scope: scope.clone(),
                key: key.clone(),
                stored: Some(values),
                recomputed: None,
                buckets,
            }),
            Control::Remember(Id { hash, text: "a\n1".into(), hour: 9 }),
            Control::Forget(Id { hash, text: "b".into(), hour: 9 }),
            Control::Republish { scope, key, display: "Sun".into() },
            Control::Redeliver {
                input: "input".into(),
                partition: "a".into(),
                position: 9,
                refused: "{".into(),
                record: "{}".into(),
            },
        ]
    }

    #[test]
    fn control_records_read_back_and_damage_is_refused() {
        let author = Author { who: "ann@host".into(), base: 9, ..Author::default() };
        let bytes = encode(&author, &controls()).unwrap();
        assert_eq!(decode(&bytes).unwrap(), (author, controls()));
        for end in 0..bytes.len() {
            assert!(decode(&bytes[..end]).is_err(), "cut at {end}");
        }
        for at in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[at / 8] ^= 1 << (at % 8);
            assert!(decode(&flipped).is_err(), "bit {at}");
        }
    }
}
