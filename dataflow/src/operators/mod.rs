//! The operators of the graph, one a file: pure state, and as little of timely around it as
//! possible.
//!
//! Invariant: an operator does no I/O, but for the source, which reads the inputs and control
//! records, and `tags`, which reads cold rows.

mod ack;
mod audit;
pub(crate) mod boards;
pub(crate) mod close;
pub(crate) mod combine;
pub(crate) mod commit;
pub(crate) mod commit_operator;
pub(crate) mod controls;
pub(crate) mod dedup;
mod intake;
mod last_line;
mod manifest_builder;
pub(crate) mod partitions;
mod refusals;
pub(crate) mod source;
mod stash;
pub(crate) mod tags;
pub(crate) mod ticker;
