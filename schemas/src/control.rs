//! Control records: what a job is asked to do besides reading its inputs, such as corrections.
//!
//! They come in files of the folder `control`, which are taken in the order of their numbers, each
//! exactly once. A file is text: a line with a checksum of all that follows, a line of JSON that
//! says who asks, when and why, and a line of JSON for each record. Invariant: bytes with one bit
//! changed are refused.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::hash::KeyHash;
use crate::manifest::checksum;

const MAGIC: &str = "tagflow-control 1";

/// Who asks for something, when, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asker {
    /// Who: a user and a host.
    pub who: String,
    /// When, in milliseconds of the asker's wall clock.
    pub when_ms: i64,
    /// Why, in the asker's words.
    pub why: String,
    /// The commit that the records were made from.
    pub base: u64,
    /// That commit's history: after a rollback they mean nothing.
    pub history: u64,
}

/// The numbers and texts of a tag's row, but for its buckets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Values {
    /// The number of posts.
    pub total: i64,
    /// The least event time.
    pub first_ms: i64,
    /// The greatest.
    pub last_ms: i64,
    /// The spelling of the earliest event.
    pub display: String,
}

/// How many posts more or less there are in one bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketChange {
    /// Where the bucket starts, in milliseconds.
    pub start_ms: i64,
    /// Its width.
    pub width_ms: i64,
    /// The posts to add.
    pub by: i64,
}

/// What a tag's row must become, told as what it was when that was found out: so that posts that
/// come meanwhile are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Correction {
    /// The hash of (scope, tag).
    pub hash: KeyHash,
    /// The scope; empty for the whole stream.
    pub scope: String,
    /// The tag's key.
    pub key: String,
    /// What the commit holds; none where it has no such row.
    pub stored: Option<Values>,
    /// What the log comes to; none where there is no such tag.
    pub recomputed: Option<Values>,
    /// The buckets that differ.
    pub buckets: Vec<BucketChange>,
}

/// An event id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Id {
    /// The hash of (input, event id).
    pub hash: KeyHash,
    /// The id where it is known, else the hash.
    pub text: String,
    /// The hour of the event's time, since 1970.
    pub hour: u32,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Control {
    /// Correct a tag's row.
    Correct(Correction),
    /// Remember an event id that was forgotten too early.
    Remember(Id),
    /// Forget one that nobody sent.
    Forget(Id),
    /// Write a tag's row again, under a newer version. A tag that is not known becomes a row of
    /// total 0.
    Republish {
        /// The scope; empty for the whole stream.
        scope: String,
        /// The tag's key.
        key: String,
        /// Its display form, where the tag is not known.
        display: String,
    },
    /// Count a record that was refused.
    Redeliver {
        /// The input's name.
        input: String,
        /// The partition's identity.
        partition: String,
        /// The record's position in it.
        position: u64,
        /// The record as it was read, as far as it is text.
        refused: String,
        /// The record to count.
        record: String,
    },
}

/// Why bytes are no control records.
#[derive(Debug, Error)]
pub enum ControlError {
    /// Another kind of file, or a later version's.
    #[error("it does not begin as control records do")]
    NotControls,
    /// Cut off or changed.
    #[error("its checksum is wrong: the file is damaged")]
    Checksum,
    /// The checksum is right and the content is not: another build wrote it.
    #[error("its content cannot be read: {0}")]
    Content(#[from] serde_json::Error),
}

/// The bytes of a file of control records.
pub fn encode(asker: &Asker, controls: &[Control]) -> Result<Vec<u8>, ControlError> {
    let mut rest = serde_json::to_vec(asker)?;
    rest.push(b'\n');
    for control in controls {
        serde_json::to_writer(&mut rest, control)?;
        rest.push(b'\n');
    }
    let mut bytes = format!("{MAGIC} {}\n", checksum(&rest)).into_bytes();
    bytes.extend(rest);
    Ok(bytes)
}

/// Reads a file of control records.
pub fn decode(bytes: &[u8]) -> Result<(Asker, Vec<Control>), ControlError> {
    let end = bytes.iter().take(64).position(|b| *b == b'\n').ok_or(ControlError::NotControls)?;
    let (first, rest) = (&bytes[..end], &bytes[end + 1..]);
    let sum = first.strip_prefix(MAGIC.as_bytes()).and_then(|rest| rest.strip_prefix(b" "));
    if sum.ok_or(ControlError::NotControls)? != checksum(rest).as_bytes() {
        return Err(ControlError::Checksum);
    }
    let mut lines = rest.split(|b| *b == b'\n').filter(|line| !line.is_empty());
    let asker = serde_json::from_slice(lines.next().ok_or(ControlError::NotControls)?)?;
    let controls = lines.map(serde_json::from_slice).collect::<Result<_, _>>()?;
    Ok((asker, controls))
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
    fn control_records_come_back_and_damaged_ones_are_refused() {
        let asker = Asker { who: "ann@host".into(), base: 9, ..Asker::default() };
        let bytes = encode(&asker, &controls()).unwrap();
        assert_eq!(decode(&bytes).unwrap(), (asker, controls()));
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
