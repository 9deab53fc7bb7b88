//! The HTTP service: a thin hyper server over a store.
//!
//! Invariants: a request reads the store once, so that an answer comes from one commit; an answer
//! depends only on the path and the known query keys; this crate does not know the job.

mod admin;
mod answer;
mod io;
pub mod limits;
mod metrics;
mod page;
mod problem;
mod routes;
mod server;

pub use answer::{BoardsAnswer, TagAnswer};
pub use metrics::Metrics;
pub use server::{serve, serve_admin};
