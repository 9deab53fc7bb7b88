//! Tests of commits, their readers and publishing: one binary, since every further one links the
//! whole workspace again.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used
)]

mod common;
mod control;
mod crash;
mod fence;
mod merge;
mod publish;
mod readers;
mod retention;
mod rollback;
mod storage;
mod store;
mod tasks;
