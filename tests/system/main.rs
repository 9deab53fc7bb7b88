//! Whole-system tests: the `tagflow` binary as its users run it, held against an independent
//! recount of the input.

#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::unwrap_used)]

mod browser;
mod cli;
mod config;
mod counts;
mod crash;
mod damage;
mod devtools;
mod docs;
mod doctor;
mod harness;
mod histories;
mod live;
mod modes;
mod reconcile;
mod recount;
mod repair;
mod replay;
mod retention;
mod runbooks;
mod serve;
mod served;
mod services;
mod takeover;
mod untold;
