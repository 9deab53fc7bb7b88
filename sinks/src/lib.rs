//! Where Tagflow's results go: commits on storage, their readers, and publishing to a store.
//!
//! Invariant: nothing here depends on timely, and all effects on the outside go through
//! [`storage::Storage`] or [`publish::Publisher`], so that they can be simulated.

pub mod active;
pub mod backoff;
pub mod commits;
pub mod cql;
pub mod difference;
pub mod invariants;
pub mod publish;
pub mod storage;
pub mod store;
pub mod store_check;
pub mod tag_diff;
