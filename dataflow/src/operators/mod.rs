//! The operators of the graph, one a file: pure state and about 25 lines of timely around it.

mod ack;
pub(crate) mod audit;
pub(crate) mod boards;
pub(crate) mod close;
pub(crate) mod combine;
pub(crate) mod commit;
pub(crate) mod controls;
pub(crate) mod dedup;
pub(crate) mod partitions;
pub(crate) mod read;
pub(crate) mod source;
mod stash;
pub(crate) mod tag_state;
pub(crate) mod tags;
pub(crate) mod ticker;

use timely::container::CapacityContainerBuilder;
use timely::dataflow::operators::generic::OutputBuilder;

use crate::epoch::Epoch;

/// An output of records of one kind.
type Out<D> = OutputBuilder<Epoch, CapacityContainerBuilder<Vec<D>>>;
