//! What became of a refused record that was delivered again: the kind of its row in the repairs.
//!
//! Invariant: commits hold these texts, so they never change; `parse` reads what `kind` writes.

/// What became of a redelivered record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redelivery {
    /// Its event counts, for the first time.
    Counted,
    /// Its event had been counted before.
    Duplicate,
    /// Its event is below the floor of remembered ids, and counts without deduplication.
    CountedBelowFloor,
}

impl Redelivery {
    const ALL: [Self; 3] = [Self::Counted, Self::Duplicate, Self::CountedBelowFloor];

    /// The kind of the row.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Counted => "counted",
            Self::Duplicate => "duplicate",
            Self::CountedBelowFloor => "counted_as_it_is",
        }
    }

    /// Reads the kind of a row; `None` for a row about anything else.
    pub fn parse(kind: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|redelivery| redelivery.kind() == kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_in_commits_never_change() {
        let kinds = Redelivery::ALL.map(Redelivery::kind);
        assert_eq!(kinds, ["counted", "duplicate", "counted_as_it_is"]);
        assert_eq!(kinds.map(Redelivery::parse), Redelivery::ALL.map(Some));
        assert_eq!(Redelivery::parse("correct"), None);
    }
}
