//! Stores as command lines name them.

use schemas::config::{Consistency, ConsistencyPair, StoreUri};
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::{Error, StrDeserializer};
use sinks::cql::{CqlSettings, Tls};

use crate::error::CliError;

/// A database, and how to reach it.
#[derive(clap::Args, Clone, Default)]
pub(crate) struct StoreArgs {
    /// The store: `cql://HOST:PORT[,HOST:PORT]/KEYSPACE` of ScyllaDB or Cassandra
    #[arg(long, value_name = "STORE")]
    pub(crate) store: Option<StoreUri>,
    /// The nearest data centre of the store; needed where it has several
    #[arg(long, value_name = "NAME", requires = "store")]
    datacenter: Option<String>,
    /// Encrypt connections to the store, and check its certificate (authorities: `TAGFLOW_CQL_CA`)
    #[arg(long, requires = "store")]
    tls: bool,
    /// How many copies must answer: `ONE`, `LOCAL_ONE`, `QUORUM`, `LOCAL_QUORUM` or `ALL`
    #[arg(long, value_name = "LEVEL", requires = "store", value_parser = parse_level)]
    consistency: Option<Consistency>,
}

fn parse_level(text: &str) -> Result<Consistency, String> {
    let upper = text.to_ascii_uppercase();
    let text: StrDeserializer<'_, Error> = upper.as_str().into_deserializer();
    Consistency::deserialize(text).map_err(|error| error.to_string())
}

impl StoreArgs {
    /// How to reach it; none where none is named.
    pub(crate) fn settings(&self) -> Option<CqlSettings> {
        let mut settings = CqlSettings::from(self.store.as_ref()?);
        settings.datacenter.clone_from(&self.datacenter);
        settings.tls = self.tls.then(Tls::default);
        if let Some(level) = self.consistency {
            settings.consistency =
                ConsistencyPair { write: level, read: level, ..ConsistencyPair::default() };
        }
        Some(settings)
    }
}

/// The message for a command that has to be told where the counts are.
pub(crate) fn nowhere() -> CliError {
    CliError::Usage("name a --state folder or a --store".to_owned())
}
