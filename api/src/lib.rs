//! Tagflow's HTTP service: a thin hyper server over a store.
//!
//! Invariants: one request is one read of the store, so everything in an answer comes from one
//! commit; an answer depends on the path and the known query keys alone; this crate knows no job.

mod admin;
mod answer;
mod io;
pub mod limits;
mod metrics;
mod page;
mod problem;
mod routes;
mod server;

pub use answer::{Boards, TagAnswer};
pub use metrics::Metrics;
pub use server::{serve, serve_admin};
