//! The table of tags in memory: `tag` is one of them, `table` counts, `correct` repairs.
//!
//! Invariant: what a tag's row says at the end of a commit is what the table says of it then.

mod correct;
mod table;
mod tag;

pub(crate) use correct::Change;
pub(crate) use table::{CHUNK, TagTable};
pub use tag::TagError;
pub(crate) use tag::View;

#[cfg(test)]
mod tests;
