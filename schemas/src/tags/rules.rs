//! The versions of the tag rules. Invariant: a state keeps the version that it was made with, since
//! counts by different rules cannot be added up.

/// The rules by which tags are found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum TagRules {
    /// A tag is everything from its sign to the first character that no tag can hold.
    First = 1,
    /// Default-ignorable characters at the end, which nobody sees, are no part of a tag.
    #[default]
    Second = 2,
}

impl TagRules {
    /// The rules of new states.
    pub const NEWEST: Self = Self::Second;

    /// The rules of a version, if this build knows them.
    pub fn of(version: u32) -> Option<Self> {
        [Self::First, Self::Second].into_iter().find(|rules| rules.version() == version)
    }

    /// The rules by which names of tags are read in a state of `version`: the newest that this
    /// build knows, if a later one made it.
    pub fn for_names(version: u32) -> Self {
        Self::of(version).unwrap_or(Self::NEWEST)
    }

    /// The version, which every manifest records.
    pub fn version(self) -> u32 {
        self as u32
    }
}
