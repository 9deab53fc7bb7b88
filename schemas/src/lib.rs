//! What crosses a boundary in Tagflow: events, tag rules, rows, segments, manifests and
//! `dataflow.yaml`, as types and as bytes. Invariant: nothing in this crate does I/O or reads a
//! clock.

pub mod config;
pub mod control;
mod counters;
pub mod event;
pub mod hash;
pub mod log_time;
pub mod manifest;
pub mod mapping;
pub mod planted;
pub mod printable;
pub mod rotation;
pub mod rows;
pub mod segment;
mod segment_meta;
pub mod suggest;
pub mod tags;
pub mod time;
pub mod windows;
