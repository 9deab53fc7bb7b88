//! System tests: run the `tagflow` binary as users do and compare its counts with an independent
//! recount of the input.

#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::unwrap_used)]

mod browser;
mod checkpoints;
mod cli;
mod clients;
mod config;
mod copies;
mod counts;
mod crash;
mod devtools;
mod docs;
mod doctor;
mod full_disk;
mod harness;
mod histories;
mod inconclusive;
mod memory;
mod messages;
mod oracle;
mod outputs;
mod read_modes;
mod reconcile;
mod records;
mod refused_login;
mod repair;
mod replay;
mod retention;
mod rotation;
mod runbooks;
mod serve;
mod services;
mod state_folder;
mod store_drift;
mod takeover;
mod unbounded;
mod unfinished;
mod version;
