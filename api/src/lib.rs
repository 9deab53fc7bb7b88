//! The HTTP service: a thin hyper server over a store.
//!
//! Invariants: a request reads the store once, so that an answer comes from one commit; an answer
//! depends only on the path and the known query keys, but for errors that no cache may store; this
//! crate does not know the job.

mod accept;
mod admin;
mod answer;
mod check;
mod etag;
mod files;
mod forwarded;
mod io;
pub mod limits;
mod metrics;
mod page;
mod problem;
mod respond;
mod room;
mod routes;
mod server;
mod target;
#[cfg(test)]
mod tests;

pub use answer::{BoardsAnswer, TagAnswer};
pub use files::raise_open_files;
pub use metrics::Metrics;
pub use server::{Limits, serve, serve_admin};
