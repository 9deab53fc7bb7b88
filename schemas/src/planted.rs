//! Bugs that are planted on purpose, to prove that simulations find them.
//!
//! Invariant: they exist only with the feature `planted`, which only simulations enable. Without it
//! [`planted`] is false at compile time, and the bugs leave no trace.

/// A bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Bug {
    /// The store adds a row to what it has instead of replacing it.
    Increment = 1,
    /// A manifest is created before its segments are durable.
    ManifestBeforeSegments,
    /// Records of the next commit are applied to the current one.
    AppliedEarly,
    /// Old takeovers are removed.
    TakeoverDeleted,
    /// Ids are not part of a commit.
    DedupMissing,
    /// A manifest replaces another with the same number.
    NoFence,
    /// A restart continues one record after its position.
    OffsetByOne,
    /// A window ends one bucket early.
    BucketBoundary,
    /// A commit is published before it exists.
    PublishBeforeCommit,
    /// A restart loads keys on other workers than their records are routed to.
    ReshardByWrongHash,
    /// A restart assumes that everything has been published.
    ForgottenDirtyRow,
    /// Ids are forgotten an hour early.
    HorizonTooShort,
    /// A merge keeps the older of two rows.
    MergeKeepsOlder,
    /// Stream time follows the wall clock while the job is behind.
    AsOfFromWallClock,
    /// A board ranks a tag by its current count, and ignores events ahead of `as_of`.
    BoardForgetsAhead,
    /// Events are accepted however far ahead of the clock they are dated.
    FutureAccepted,
    /// A restart forgets the floor until its first commit ends.
    FloorForgotten,
    /// Events up to an hour above the floor are refused.
    FloorTooHigh,
    /// A tag is evicted from memory before its last change is durable.
    EvictedTooEarly,
    /// A round of publishing skips the last row of a full call.
    PageLosesRow,
    /// A correction is applied although a later one has superseded it.
    CorrectedTwice,
    /// A correction leaves no audit row.
    RepairUnsaid,
    /// A restart forgets which refused records were redelivered.
    AgainForgotten,
    /// A reader serves a promoted keyspace before it knows the job's row there.
    ShownTooEarly,
    /// An event counts once in every hour that its copies claim.
    CountedEachHour,
    /// A promotion takes its version from its host's clock, even if an earlier one is higher.
    PromotedByClock,
    /// A segment that the disk has no room for counts as written.
    RetryDropsSegment,
    /// A failed sync is repeated, instead of writing the file again.
    SyncRepeated,
    /// A manifest is created without asking whether its records are of the topic read so far.
    Unconfirmed,
    /// A record is refused for what it holds in a field that nobody reads.
    UnreadFieldSpoils,
    /// Stream time is the wall clock although no event was accepted.
    AsOfBeforeFirstEvent,
}

impl Bug {
    /// All bugs.
    pub const ALL: [Self; 31] = [
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
        Self::CountedEachHour,
        Self::PromotedByClock,
        Self::RetryDropsSegment,
        Self::SyncRepeated,
        Self::Unconfirmed,
        Self::UnreadFieldSpoils,
        Self::AsOfBeforeFirstEvent,
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

/// Plants a bug in this process, replacing any other.
#[cfg(feature = "planted")]
pub fn plant(bug: Option<Bug>) {
    PLANTED.store(bug.map_or(0, |bug| bug as u8), std::sync::atomic::Ordering::Relaxed);
}

/// Whether `bug` is planted.
#[cfg(feature = "planted")]
pub fn planted(bug: Bug) -> bool {
    PLANTED.load(std::sync::atomic::Ordering::Relaxed) == bug as u8
}

/// Whether `bug` is planted, which without the feature is never the case.
#[cfg(not(feature = "planted"))]
pub const fn planted(_bug: Bug) -> bool {
    false
}
