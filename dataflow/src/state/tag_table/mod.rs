//! The tags in memory: `table` counts them, `correct` repairs them, `slab` holds them.
//!
//! Invariant: the row of a tag in a commit equals the tag in memory when the commit was closed.

mod correct;
mod slab;
mod table;
mod tag;

pub(crate) use correct::Change;
pub(crate) use slab::CHUNK;
pub(crate) use table::TagTable;
pub use tag::TagError;
pub(crate) use tag::View;

#[cfg(test)]
mod tests;
