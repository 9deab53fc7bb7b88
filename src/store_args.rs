//! Stores as command lines name them.

use schemas::config::{Consistency, ConsistencyPair, StoreUri};
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::{Error, StrDeserializer};
use sinks::cql::{CqlSettings, Tls};

/// A database, and how to reach it.
#[derive(clap::Args, Clone, Default)]
#[command(next_help_heading = "Store")]
pub(crate) struct StoreArgs {
    /// The store: `cql://HOST:PORT[,HOST:PORT]/KEYSPACE` of ScyllaDB or Cassandra
    #[arg(long, value_name = "STORE")]
    pub(crate) store: Option<StoreUri>,
    /// The nearest data centre of the store; required if it has several
    #[arg(long, value_name = "NAME", requires = "store")]
    datacenter: Option<String>,
    /// Encrypt connections to the store and verify its certificate (CA file: `TAGFLOW_CQL_CA`)
    #[arg(long, requires = "store")]
    tls: bool,
    /// How many replicas must answer: `ONE`, `LOCAL_ONE`, `QUORUM`, `LOCAL_QUORUM` or `ALL`
    #[arg(long, value_name = "LEVEL", requires = "store", value_parser = parse_level)]
    consistency: Option<Consistency>,
}

fn parse_level(text: &str) -> Result<Consistency, String> {
    let upper = text.to_ascii_uppercase();
    let text: StrDeserializer<'_, Error> = upper.as_str().into_deserializer();
    Consistency::deserialize(text).map_err(|error| error.to_string())
}

/// How to reach stores that other arguments name.
#[derive(clap::Args, Clone, Default)]
#[command(next_help_heading = "Stores")]
pub(crate) struct Reach {
    /// The nearest data centre of a store; required if it has several
    #[arg(long, value_name = "NAME")]
    datacenter: Option<String>,
    /// Encrypt connections to a store and verify its certificate (CA file: `TAGFLOW_CQL_CA`)
    #[arg(long)]
    tls: bool,
    /// How many replicas must answer: `ONE`, `LOCAL_ONE`, `QUORUM`, `LOCAL_QUORUM` or `ALL`
    #[arg(long, value_name = "LEVEL", value_parser = parse_level)]
    consistency: Option<Consistency>,
}

impl Reach {
    /// Applies these options to a store's settings.
    pub(crate) fn apply(&self, mut settings: CqlSettings) -> CqlSettings {
        settings.datacenter.clone_from(&self.datacenter);
        settings.tls = self.tls.then(Tls::default);
        if let Some(level) = self.consistency {
            settings.consistency =
                ConsistencyPair { write: level, read: level, ..ConsistencyPair::default() };
        }
        settings
    }
}

impl StoreArgs {
    /// The settings of the store, if one is named.
    pub(crate) fn settings(&self) -> Option<CqlSettings> {
        let Self { store, datacenter, tls, consistency } = self.clone();
        Some(Reach { datacenter, tls, consistency }.apply(CqlSettings::from(&store?)))
    }
}
