//! The details of dead letters that readers of a commit tell apart.
//!
//! Invariant: commits hold these texts, so they never change, and `FromStr` reads what `Display`
//! writes.

use std::fmt;
use std::str::FromStr;

const BELOW_FLOOR: &str = "its time lies below the floor of remembered ids";
const COUNTED: &str = "counted; ";

/// What became of an event below the floor of remembered ids, as a dead letter's detail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BelowFloor {
    /// It was refused.
    Refused,
    /// It was counted, duplicate or not.
    Counted,
}

impl fmt::Display for BelowFloor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counted = if *self == Self::Counted { COUNTED } else { "" };
        write!(f, "{counted}{BELOW_FLOOR}")
    }
}

/// The detail of a dead letter of another kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OtherDetail;

impl FromStr for BelowFloor {
    type Err = OtherDetail;

    fn from_str(detail: &str) -> Result<Self, OtherDetail> {
        match detail.strip_suffix(BELOW_FLOOR) {
            Some("") => Ok(Self::Refused),
            Some(COUNTED) => Ok(Self::Counted),
            _ => Err(OtherDetail),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_in_commits_never_change() {
        let refused = "its time lies below the floor of remembered ids";
        let counted = "counted; its time lies below the floor of remembered ids";
        for (detail, text) in [(BelowFloor::Refused, refused), (BelowFloor::Counted, counted)] {
            assert_eq!(detail.to_string(), text);
            assert_eq!(text.parse(), Ok(detail));
        }
        for other in ["", "ts 5 lies before 9", "counted", "because its time lies below the floor"]
        {
            assert_eq!(other.parse::<BelowFloor>(), Err(OtherDetail), "{other}");
        }
    }
}
