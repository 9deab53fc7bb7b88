//! Where Tagflow's results go: commits on storage and their readers, and publishing to a store.
//!
//! Invariant: nothing here knows timely, and every effect on the outside goes through
//! [`storage::Storage`] or [`publish::Publisher`], so that it can be simulated.

pub mod active;
pub mod commits;
pub mod compare;
pub mod cql;
pub mod invariants;
pub mod publish;
pub mod served;

pub mod storage;
pub mod store;
