//! Bugs that are planted on purpose, to show that simulations find them.
//!
//! They exist only with the feature `planted`, which only the simulations ask for. Without it
//! [`planted`] is false at compile time, and no trace of them is left.

/// A bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Bug {
    /// The store adds a row to what it has instead of replacing it.
    Increment = 1,
    /// A manifest is created before its segments are durable.
    ManifestBeforeSegments,
    /// Records of the next commit are applied to the present one.
    AppliedEarly,
    /// Old takeovers are removed.
    TakeoverDeleted,
    /// Ids are not part of a commit.
    DedupMissing,
    /// A manifest replaces the one of its number.
    NoFence,
    /// A restart goes on one record behind its position.
    OffsetByOne,
    /// A window ends one bucket early.
    BucketBoundary,
    /// A commit is published before it exists.
    PublishBeforeCommit,
    /// A restart gives keys to other workers than records go to.
    ReshardByWrongHash,
    /// A restart believes that everything is published.
    ForgottenDirtyRow,
    /// Ids are forgotten an hour early.
    HorizonTooShort,
    /// A merge keeps the older of two rows.
    MergeKeepsOlder,
    /// Stream time follows the wall clock while the job is behind.
    AsOfFromWallClock,
    /// A board takes a tag at what it counts now, and forgets what lies ahead.
    BoardForgetsAhead,
    /// Events are taken however far ahead of the clock they are dated.
    FutureAccepted,
    /// A restart forgets the floor until its first commit ends.
    FloorForgotten,
    /// Events up to an hour above the floor are refused.
    FloorTooHigh,
    /// A tag is let go from memory though its last change is not durable.
    EvictedTooEarly,
    /// A round of publishing passes over the last row of a full call.
    PageLosesRow,
    /// A correction is applied though a later one has made it void.
    CorrectedTwice,
    /// A correction leaves no row that says so.
    RepairUnsaid,
    /// A restart forgets which refused records were delivered again.
    AgainForgotten,
    /// A reader shows a promoted keyspace before it knows the job's row there.
    ShownTooEarly,
    /// A promotion counts from its host's clock, whatever the one before counts from.
    PromotedByClock,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 25] = [
        Self::Increment,
        Self::ManifestBeforeSegments,
        Self::AppliedEarly,
        Self::TakeoverDeleted,
        Self::DedupMissing,
        Self::NoFence,
        Self::OffsetByOne,
        Self::BucketBoundary,
        Self::PublishBeforeCommit,
        Self::ReshardByWrongHash,
        Self::ForgottenDirtyRow,
        Self::HorizonTooShort,
        Self::MergeKeepsOlder,
        Self::AsOfFromWallClock,
        Self::BoardForgetsAhead,
        Self::FutureAccepted,
        Self::FloorForgotten,
        Self::FloorTooHigh,
        Self::EvictedTooEarly,
        Self::PageLosesRow,
        Self::CorrectedTwice,
        Self::RepairUnsaid,
        Self::AgainForgotten,
        Self::ShownTooEarly,
        Self::PromotedByClock,
    ];

    /// Its name on the command line.
    pub fn name(self) -> String {
        let mut name = String::new();
        for letter in format!("{self:?}").chars() {
            if letter.is_uppercase() && !name.is_empty() {
                name.push('-');
            }
            name.extend(letter.to_lowercase());
        }
        name
    }
}

#[cfg(feature = "planted")]
static PLANTED: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(0);

/// Plants a bug in this process, in place of the one before.
#[cfg(feature = "planted")]
pub fn plant(bug: Option<Bug>) {
    PLANTED.store(bug.map_or(0, |bug| bug as u8), std::sync::atomic::Ordering::Relaxed);
}

/// Whether `bug` is planted.
#[cfg(feature = "planted")]
pub fn planted(bug: Bug) -> bool {
    PLANTED.load(std::sync::atomic::Ordering::Relaxed) == bug as u8
}

/// Whether `bug` is planted: never.
#[cfg(not(feature = "planted"))]
pub const fn planted(_bug: Bug) -> bool {
    false
}
