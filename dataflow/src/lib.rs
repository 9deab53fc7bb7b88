//! Tagflow's job: sources, timely operators and their state, and when to commit.
//!
//! Invariants: timely's types stay in this crate; operators read no clock and do no I/O but the
//! look-up of a cold row; nothing here knows a database.

mod acquire;
mod budget;
pub mod clock;
mod confirm;
mod context;
mod decisions;
mod epoch;
mod error;
mod estimate;
mod failure;
pub mod generator;
mod inputs;
mod job;
mod key_cache;
mod largest;
mod limits;
pub mod lockstep;
mod low_watermark;
mod next_commit;
mod operators;
mod plan;
mod pool;
mod prepare;
mod process;
mod publishing;
mod rate_limiter;
mod reasons;
mod rebuild;
pub mod reconcile;
mod records;
mod repair;
mod run;
mod settings;
pub mod sources;
mod spec;
mod state;
mod status;
mod store_wait;
mod stream_time;
mod worker_id;

pub use acquire::roll_back;
pub use budget::Memory;
pub use decisions::Decisions;
pub use error::{AcquireError, RunError, StartError};
pub use estimate::{Estimate, Load};
pub use inputs::{InputError, InputSpec, Origin};
pub use process::Stop;
pub use publishing::Publication;
pub use reasons::{Reasons, RefusedRecord};
pub use rebuild::{Rebuild, RebuildError, publish_rest, rebuild};
pub use repair::{Repair, RepairError, RepairTarget, repairs, request_repairs};
pub use run::{Running, Started, start};
pub use settings::{Idle, Input, Settings};
pub use spec::{JobSpec, StateAt};
pub use state::tag_table::TagError;
pub use status::{Progress, Publishing, StateSize, Status, Work};
