//! The rows that segments hold, one kind a file, and the registry of their tables. Invariant: a row
//! reads back as it was written.

mod board;
mod column;
mod dead_letter;
mod detail;
mod id;
mod redelivery;
mod repair;
mod table;
mod tag;

use serde::de::{Deserialize, Deserializer, Error};

pub use self::detail::{BelowFloor, OtherDetail};
pub use self::redelivery::Redelivery;
pub use self::table::{Served, Table, TableName, TableVisitor};

/// The registry. Each line names a file, the table it declares, and what else it exports.
macro_rules! tables {
    ($($file:ident::{$table:ident $(, $more:ident)*};)+) => {
        $(
            pub use self::$file::{$table $(, $more)*};
            impl table::Registered for $table {}
        )+

        impl TableName {
            /// Every table.
            pub const ALL: &[Self] = &[$($table::NAME),+];

            /// Calls `visitor` with the type of the table.
            pub fn visit<V: TableVisitor>(self, visitor: V) -> V::Output {
                match self {
                    $($table::NAME => visitor.visit::<$table>(),)+
                    _ => unreachable!("a table that is not registered does not compile"),
                }
            }
        }
    };
}

tables! {
    tag::{Tags, TagRow};
    board::{Boards, BoardEntry, BoardRow, board_hash};
    id::{Ids, IdRow, hour_of};
    dead_letter::{DeadLetters, DeadLetterRow, BEYOND_HORIZON, FUTURE, partition_hash, record_hash};
    repair::{Repairs, RepairRow, repair_hash};
}

impl<'de> Deserialize<'de> for TableName {
    fn deserialize<D: Deserializer<'de>>(text: D) -> Result<Self, D::Error> {
        let name = std::borrow::Cow::<str>::deserialize(text)?;
        let table = Self::ALL.iter().find(|table| table.as_str() == name);
        table.copied().ok_or_else(|| Error::custom(format!("unknown table {name:?}")))
    }
}
