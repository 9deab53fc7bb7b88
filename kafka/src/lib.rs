//! Kafka topics: read partition by partition from given offsets, or written to.
//!
//! Partitions are assigned by hand; each worker has one client, with a queue per partition.
//! Invariants: a topic that is compacted, or is not the one that was read before, is refused by
//! name; records that retention removed before they were read are an error or are counted; only
//! opening a topic and the watch thread ever wait for a broker.

mod chain;
mod client;
mod cluster;
mod error;
mod identity;
mod partition;
mod reader;
mod record;
mod settings;
mod topic;
mod transactions;
mod watch;
mod writer;

pub use cluster::Policy;
pub use error::{Evidence, TopicError};
pub use partition::PartitionReader;
pub use reader::TopicReader;
pub use record::Record;
pub use settings::{KafkaOptions, KafkaSettings, PropertyError};
pub use writer::{Created, TopicWriter, WriterError};
