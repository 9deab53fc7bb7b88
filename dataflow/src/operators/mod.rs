//! The operators of the graph, one a file: pure state and about 25 lines of timely around it.

mod ack;
pub(crate) mod boards;
pub(crate) mod close;
pub(crate) mod combine;
pub(crate) mod commit;
pub(crate) mod dedup;
mod held;
pub(crate) mod mint;
pub(crate) mod read;
pub(crate) mod source;
pub(crate) mod tags;
