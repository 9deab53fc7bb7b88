//! The state of the operators: plain data structures, tested alone. Invariant: nothing here knows
//! timely, a clock or a file.

pub(crate) mod board;
pub(crate) mod id_set;
pub(crate) mod tag_index;
pub(crate) mod tag_table;
