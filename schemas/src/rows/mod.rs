//! The rows that segments hold, one kind a file. Invariant: a row names every column it has, and
//! reading one back gives what was written.

mod board;
mod dead_letter;
mod detail;
mod id;
mod repair;
mod tag;

pub use board::{BoardEntry, BoardRow, Boards, board_hash};
pub use dead_letter::{
    BEYOND_HORIZON, DeadLetterRow, DeadLetters, FUTURE, partition_hash, record_hash,
};
pub use detail::{BelowFloor, OtherDetail};
pub use id::{IdRow, Ids};
pub use repair::{RepairRow, Repairs, repair_hash};
pub use tag::{TagRow, Tags};
