//! Tagflow's job: sources, timely operators and their state, and when to commit.
//!
//! Invariants: timely's types stay in this crate; operators read no clock and do no I/O but the
//! look-up of a cold row; nothing here knows a database.

pub mod clock;
mod epoch;
pub mod log;
mod records;
