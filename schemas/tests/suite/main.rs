//! Tests of what crosses a boundary: one binary, since every further one links all of it again.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used
)]

mod codecs;
mod common;
mod conformance;
mod damage;
