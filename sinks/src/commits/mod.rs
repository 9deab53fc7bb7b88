//! Commits: incremental segments, the manifests that name them, the fence between jobs, and the
//! readers. DESIGN: the commit is the truth; a database is a view of it.
//!
//! Invariants: a manifest is created only after everything it names is durable; of one number only
//! one manifest ever exists; a takeover is never removed; files go only when no kept commit needs
//! them, after a grace for readers.

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
    CommitError, create, list_commits, load, load_header, make_visible, manifest_name, newest,
    segment_name, visible,
};
pub use filter::Filter;
pub use follow::Follower;
pub use housekeeping::{Housekeeper, Kept};
pub use lock::{Lock, LockError, Owner};
pub use merge::{MergeTask, Merged};
pub use queue::{CommitQueue, CommitTask, Latest, MergeQueue};
pub use retention::{Retention, RetentionTask};
pub use rollback::{RollbackError, rollback};
pub use snapshot::{OpenSegment, Snapshot, open_segment, open_table};
pub use takeover::{Start, TakeoverError, Watch, renew, take_over};
pub use writer::{SegmentWriter, WriteError, WriteJob, Written};
