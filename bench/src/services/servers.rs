//! The servers of a run, and names for new topics and keyspaces on them.

use std::error::Error;
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use crate::measure::measure;

/// The number of partitions of each topic.
pub(super) const PARTITIONS: u32 = 6;

/// The addresses of a Kafka and a database.
pub(super) struct Servers {
    kafka: String,
    cql: String,
    /// Makes names unique.
    stamp: u128,
}

impl Servers {
    /// The servers that the environment names.
    #[allow(clippy::disallowed_methods, reason = "servers outlive a run")]
    pub(super) fn find() -> Result<Self, Box<dyn Error>> {
        let named = |variable: &str| {
            std::env::var(variable).map_err(|_| {
                format!(
                    "{variable} is not set; `scripts/services up` starts servers, `env` sets it"
                )
            })
        };
        let stamp = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_millis();
        Ok(Self { kafka: named("TAGFLOW_TEST_KAFKA")?, cql: named("TAGFLOW_TEST_CQL")?, stamp })
    }

    /// The URI of a new topic.
    pub(super) fn topic(&self, name: &str) -> String {
        format!("kafka://{}/bench_{name}_{}", self.kafka, self.stamp)
    }

    /// The URI of a new keyspace, after creating its tables.
    pub(super) fn keyspace(&self, tagflow: &Path, name: &str) -> Result<String, Box<dyn Error>> {
        let store = format!("cql://{}/bench_{name}_{}", self.cql, self.stamp);
        measure(Command::new(tagflow).args(["store", "init", "--store", &store]))?;
        Ok(store)
    }
}
