//! Commits: incremental segments, the manifests that name them, the fence between jobs, and the
//! readers. A commit is the source of truth; a database is a view of it.
//!
//! Invariants: a manifest is created only after everything it names is durable; a number has only
//! one manifest, ever; a takeover is never removed; a file is removed only once no kept commit
//! needs it, and only after a grace period for readers.

mod control;
mod files;
mod filter;
mod follow;
mod housekeeping;
mod lock;
mod merge;
mod publish_rows;
mod queue;
mod retention;
mod rollback;
mod snapshot;
mod takeover;
mod writer;

pub use control::{QueueError, controls, pending, queue};
pub use files::{
    CommitError, Damage, create, list_commits, load, load_header, make_visible, manifest_name,
    newest, segment_name, visible,
};
pub use filter::Filter;
pub use follow::Follower;
pub use housekeeping::{Housekeeper, Housekeeping};
pub use lock::{Lock, LockError, Owner};
pub use merge::{MergeTask, Merged};
pub use queue::{CommitQueue, CommitTask, Latest, MergeQueue, Verdict};
pub use retention::{Retention, RetentionTask};
pub use rollback::{RollbackError, rollback};
pub use snapshot::{OpenSegment, Snapshot, open_segment, open_table};
pub use takeover::{Claimant, TakeoverError, Watch, renew, take_over};
pub use writer::{SegmentWriter, WriteError, WriteJob, Written};
