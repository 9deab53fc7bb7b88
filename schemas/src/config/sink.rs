//! Where results go besides the commits: databases, and the API.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::de::Error;
use serde::{Deserialize, Deserializer};

use super::store_uri;
use super::value::HostPort;

/// Tables in ScyllaDB or Cassandra.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Sink")]
pub struct CqlSink {
    /// The kind of the sink.
    #[serde(rename = "type")]
    pub kind: SinkType,
    /// Servers to ask first, as `HOST:PORT`.
    #[serde(deserialize_with = "nodes")]
    #[schemars(length(min = 1))]
    pub nodes: Vec<HostPort>,
    /// The keyspace of the tables.
    #[serde(deserialize_with = "keyspace")]
    #[schemars(regex(pattern = "^[A-Za-z][A-Za-z0-9_]{0,47}$"))]
    pub keyspace: String,
    /// The nearest data centre; needed where the cluster has several.
    pub datacenter: Option<String>,
    /// Whether connections are encrypted, and the servers' certificates checked. Default: `false`.
    #[serde(default)]
    pub tls: bool,
    /// How many replicas must answer.
    #[serde(default)]
    pub consistency: ConsistencyPair,
}

/// The kinds of sinks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SinkType {
    /// Tables in ScyllaDB or Cassandra.
    Cql,
}

/// How many replicas must answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ConsistencyPair {
    /// To the job's writes. Default: `LOCAL_QUORUM`.
    #[schemars(extend("default" = "LOCAL_QUORUM"))]
    pub write: Consistency,
    /// To the API's reads. Default: `LOCAL_QUORUM`.
    #[schemars(extend("default" = "LOCAL_QUORUM"))]
    pub read: Consistency,
    /// The levels of table `tag`, if they differ.
    pub tag: TableConsistency,
    /// The levels of table `board`, if they differ.
    pub board: TableConsistency,
}

/// The levels of one table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TableConsistency {
    /// To the job's writes. Default: as for all tables.
    pub write: Option<Consistency>,
    /// To the API's reads. Default: as for all tables.
    pub read: Option<Consistency>,
}

impl ConsistencyPair {
    /// The levels of writes and reads of one table.
    pub fn of(&self, table: TableConsistency) -> (Consistency, Consistency) {
        (table.write.unwrap_or(self.write), table.read.unwrap_or(self.read))
    }
}

/// How many replicas must answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Consistency {
    /// Any one.
    One,
    /// Any one of the nearest data centre.
    LocalOne,
    /// Most.
    Quorum,
    /// Most of the nearest data centre.
    #[default]
    LocalQuorum,
    /// All.
    All,
}

fn nodes<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<HostPort>, D::Error> {
    let nodes = Vec::<HostPort>::deserialize(from)?;
    if nodes.is_empty() {
        return Err(D::Error::custom("name at least one node, for example 127.0.0.1:9042"));
    }
    Ok(nodes)
}

fn keyspace<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    store_uri::keyspace(&String::deserialize(from)?).map_err(D::Error::custom)
}

/// The API and its pages.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Serve {
    /// Where they answer. Default: `127.0.0.1:8080`.
    #[serde(deserialize_with = "address")]
    #[schemars(with = "String", extend("default" = "127.0.0.1:8080"))]
    pub listen: SocketAddr,
    /// Where `/metrics` and purge answer: an address of this machine alone. Default: nowhere.
    #[serde(deserialize_with = "loopback")]
    #[schemars(with = "Option<String>")]
    pub metrics: Option<SocketAddr>,
    /// Proxies that say in `Forwarded` whose requests they pass on, as `ADDRESS/BITS`.
    #[serde(rename = "trusted-proxies", deserialize_with = "networks")]
    #[schemars(with = "Vec<String>")]
    pub trusted_proxies: Vec<IpNet>,
}

/// Parses a network, such as `10.0.0.0/8`, or one address.
pub fn parse_network(text: &str) -> Result<IpNet, String> {
    let address = || text.parse::<IpAddr>().ok().map(IpNet::from);
    text.parse().ok().or_else(address).ok_or_else(|| {
        format!("{text:?} is not a network; write for example 10.0.0.0/8 or 192.0.2.7")
    })
}

fn networks<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<IpNet>, D::Error> {
    let texts = Vec::<String>::deserialize(from)?;
    texts.iter().map(|text| parse_network(text).map_err(D::Error::custom)).collect()
}

impl Default for Serve {
    fn default() -> Self {
        let listen = (Ipv4Addr::LOCALHOST, 8080).into();
        Self { listen, metrics: None, trusted_proxies: Vec::new() }
    }
}

fn address<'de, D: Deserializer<'de>>(from: D) -> Result<SocketAddr, D::Error> {
    let text = String::deserialize(from)?;
    text.parse().map_err(|_| {
        D::Error::custom(format!("{text:?} is not an address; write for example 127.0.0.1:8080"))
    })
}

fn loopback<'de, D: Deserializer<'de>>(from: D) -> Result<Option<SocketAddr>, D::Error> {
    let address = address(from)?;
    if address.ip().is_loopback() {
        return Ok(Some(address));
    }
    // Anyone who reaches it sees what the job does, and may purge.
    let what = format!("{address} is not a loopback address; write 127.0.0.1:PORT");
    Err(D::Error::custom(what))
}
