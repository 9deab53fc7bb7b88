//! What a table is. A kind of row is declared once, by implementing [`Table`] in its own file, and
//! segments, merges, readers, rollbacks and tests follow that declaration.
//!
//! Invariant: every [`Table`] is in the registry (`rows/mod.rs`). One that is not does not compile.

use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::Field;
use serde::Serialize;

use crate::hash::{Hasher, KeyHash};

/// The name of a table in manifests, file names and listings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct TableName(&'static str);

impl TableName {
    pub(super) const fn new(name: &'static str) -> Self {
        Self(name)
    }

    /// The name as text.
    pub const fn as_str(self) -> &'static str {
        self.0
    }
}

/// Implemented by the registry for each of its tables.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not in the registry of tables",
    note = "add its line to `tables!` in schemas/src/rows/mod.rs"
)]
pub trait Registered {}

/// A kind of row. If several segments hold rows with one key, the newest row wins.
pub trait Table: Registered + Sized + 'static {
    /// The table's name. It is part of the format of manifests and never changes.
    const NAME: TableName;
    /// Set for tables that readers see, in commits or through a database.
    const SERVED: Option<Served<Self>> = None;

    /// Whether an older row of a key is kept instead of a newer one. By default the newer one is.
    const OUTLIVES: Option<Outlives<Self>> = None;

    /// The typed columns of one batch.
    type Columns: Send + Sync;
    /// One row, borrowed from a batch.
    type Row<'a>;
    /// Collects rows column by column.
    type Builder: Send;

    /// The columns after `hash_hi` and `hash_lo`.
    fn fields() -> Vec<Field>;
    /// The typed columns of a batch whose schema has been checked.
    fn columns(batch: &RecordBatch) -> Self::Columns;
    /// Row `i` of a batch.
    fn row(columns: &Self::Columns, hash: KeyHash, i: usize) -> Self::Row<'_>;
    /// A builder without rows.
    fn builder() -> Self::Builder;
    /// Appends a row.
    fn push(builder: &mut Self::Builder, row: &Self::Row<'_>);
    /// How many bytes of texts a builder holds, in columns with 32-bit offsets.
    fn text_bytes(_: &Self::Builder) -> usize {
        0
    }
    /// The last columns, which files of older builds may lack, as such files have them: zeros.
    fn added(_rows: usize) -> Vec<ArrayRef> {
        Vec::new()
    }
    /// The columns after the hashes, in the order of [`Self::fields`].
    fn finish(builder: Self::Builder) -> Vec<ArrayRef>;

    /// The hour since 1970 that the row expires with. Once the horizon has passed it, merges drop
    /// the row, and a commit drops a segment in which no later row is left. `None` keeps it.
    fn expires(_: &Self::Row<'_>) -> Option<u32> {
        None
    }
}

/// Tells whether the first row, which is older, is kept instead of the second one.
pub(super) type Outlives<T> =
    for<'a, 'b> fn(&<T as Table>::Row<'a>, &<T as Table>::Row<'b>) -> bool;

/// What a rollback needs to know about a table that readers see: it writes every row that has
/// changed since the older commit again, so that databases and caches replace theirs.
pub struct Served<T: Table> {
    /// The key that the row belongs under.
    pub key: fn(&Hasher, &T::Row<'_>) -> KeyHash,
    /// The commit that last changed the row.
    pub commit: fn(&T::Row<'_>) -> u64,
    /// The stream time of that commit.
    pub as_of_ms: fn(&T::Row<'_>) -> i64,
    /// Marks the row as changed by another commit.
    pub restamp: fn(&mut T::Row<'_>, u64),
    /// Empties the row: what readers get for a key that the older commit lacks.
    pub clear: fn(&mut T::Row<'_>),
}

/// An operation on a table that is known only by its name.
pub trait TableVisitor {
    /// Its result.
    type Output;

    /// Runs it with the table's type.
    fn visit<T: Table>(self) -> Self::Output;
}
