//! The columns of a segment, and why bytes are not one.
//!
//! Invariant: every table's file begins with the two words of the key.

use std::sync::Arc;

use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};
use thiserror::Error;

use crate::rows::Table;

/// Why bytes are not a valid segment.
#[derive(Debug, Error)]
pub enum SegmentError {
    /// Not an Arrow file, or a damaged one.
    #[error("not a valid Arrow file: {0}")]
    Arrow(#[from] ArrowError),
    /// The file ends early or points outside itself.
    #[error("the file is truncated or damaged")]
    Bounds,
    /// The rows are those of another table or another version.
    #[error("its columns are not those of this table")]
    Schema,
    /// The rows could not be written.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// The columns of a table's files.
pub(super) fn schema_of<T: Table>() -> SchemaRef {
    let mut fields = vec![
        Field::new("hash_hi", DataType::UInt64, false),
        Field::new("hash_lo", DataType::UInt64, false),
    ];
    fields.extend(T::fields());
    Arc::new(Schema::new(fields))
}
