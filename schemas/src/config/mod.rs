//! `dataflow.yaml`: a job in the manner of Fluvio's stateful dataflows, parsed and checked.
//!
//! The types below mirror the file, and their docs are those of the JSON Schema. Invariant: a
//! [`Config`] has passed every check that needs no I/O; only [`Config::missing_parts`] is left to
//! look at.

mod credentials;
mod error;
mod files;
mod generator;
mod json_schema;
mod service;
mod sink;
mod source_uri;
mod store_uri;
#[cfg(test)]
mod tests;
mod topic;
mod value;
mod window;

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

pub use self::credentials::{hide_all_credentials, hide_credentials};
pub use self::error::{ConfigError, FILE_BYTES_MAX, Finding, LineColumn};
pub use self::files::FileOptions;
pub use self::generator::{GeneratorSource, OutOfRange, ParameterError, PostShape};
pub use self::json_schema::json_schema;
pub use self::service::{Beyond, Dedup, DedupKey, HORIZON_MS, Posts, Scope, Service, TOP_K, Top};
pub use self::sink::{
    Consistency, ConsistencyPair, CqlSink, Serve, SinkType, TableConsistency, parse_network,
};
pub use self::source_uri::{SourceError, SourceUri};
pub use self::store_uri::{KeyspaceError, StoreUri, StoreUriError};
pub use self::topic::{
    Follow, LogTimeSource, OnLost, OnOpenTransaction, OnTruncate, Position, RotateWait, Topic,
};
pub use self::value::{HostPort, HostPortError, Name};
pub use self::window::{
    AssignKey, AssignKeyUses, AssignTimestamp, AssignTimestampUses, AssignTimestampWith, Partition,
    TimeField, UpdateState, UpdateStateUses, Watermark, Windowing,
};

use self::error::{Findings, instead, read};
use self::service::ServicePart;
use self::topic::TopicPart;
use self::value::{DURATION_MS_MAX, Duration, Located, Whole};

/// A checked `dataflow.yaml`.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// What the job is called.
    pub meta: Meta,
    /// Worker threads; `None` means as many as the machine suggests.
    pub workers: Option<usize>,
    /// Where the commits are, and how long they are kept.
    pub state: State,
    /// The topics that the service reads, in the order of its sources.
    pub topics: Vec<Topic>,
    /// What is counted of them.
    pub service: Service,
    /// The API and its pages; `None` means they are not served.
    pub serve: Option<Serve>,
    missing: Vec<Finding>,
}

/// A job of Tagflow: which topics it reads, what it counts of them, and where the counts go.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "dataflow.yaml")]
struct Dataflow {
    /// The vocabulary of this file.
    #[serde(rename = "apiVersion")]
    _api_version: ApiVersion,
    /// What the job is called.
    meta: Meta,
    /// How the job runs.
    #[serde(default)]
    config: Runtime,
    /// Where records come from, by names of your own.
    topics: BTreeMap<Located<Name>, TopicPart>,
    /// What is counted, under a name of your own; this build runs exactly one service.
    #[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
    services: Located<BTreeMap<Located<Name>, ServicePart>>,
    /// The API and its pages. Without it they are not served.
    serve: Option<Serve>,
}

/// The vocabularies of this file.
#[derive(Debug, Deserialize, JsonSchema)]
enum ApiVersion {
    /// The one this page describes.
    #[serde(rename = "tagflow/v1")]
    V1,
}

/// What the job is called.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Meta {
    /// The job's name.
    #[serde(deserialize_with = "Name::read")]
    #[schemars(with = "Name")]
    pub name: String,
    /// A version of your own.
    pub version: Option<String>,
}

/// How the job runs.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Runtime {
    /// Worker threads. Default: one less than the machine's cores, at least one.
    workers: Option<Whole<1, 256>>,
    /// Where the commits are, and how long they stay.
    state: State,
}

/// Where the commits are, and how long they stay.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct State {
    /// The folder, made where it does not exist. Default: `./state`.
    #[schemars(extend("default" = "./state"))]
    pub path: PathBuf,
    /// The least time between commits, at most `5s`. Default: `1s`.
    #[serde(rename = "every", deserialize_with = "Duration::<10, 5000>::ms")]
    #[schemars(with = "Duration<10, 5000>", extend("default" = "1s"))]
    pub every_ms: u64,
    /// How long old commits stay, as the byte budget allows. Default: `1h`.
    #[serde(rename = "keep", deserialize_with = "Duration::<1, DURATION_MS_MAX>::ms")]
    #[schemars(with = "Duration<1, DURATION_MS_MAX>", extend("default" = "1h"))]
    pub keep_ms: i64,
    /// How much longer files stay for readers that have opened an old commit: ten seconds if such
    /// files take more than `bytes`. Default: `10m`.
    #[serde(rename = "grace", deserialize_with = "Duration::<1, DURATION_MS_MAX>::ms")]
    #[schemars(with = "Duration<1, DURATION_MS_MAX>", extend("default" = "10m"))]
    pub grace_ms: u64,
    /// The most bytes that old commits may hold. Default: as much again as the live state.
    pub bytes: Option<u64>,
}

impl Default for State {
    fn default() -> Self {
        let minute = 60_000;
        Self {
            path: PathBuf::from("./state"),
            every_ms: 1000,
            keep_ms: 60 * minute,
            grace_ms: 10 * minute.unsigned_abs(),
            bytes: None,
        }
    }
}

impl Config {
    /// Parses and checks the text of `file`; errors carry its name.
    ///
    /// ```
    /// use schemas::config::{Config, SourceUri};
    /// let text = "
    /// apiVersion: tagflow/v1
    /// meta: {name: hashtags}
    /// topics: {posts: {source: 'stdin:'}}
    /// services: {count-tags: {sources: [{type: topic, id: posts}]}}
    /// ";
    /// let config = Config::parse(text, "dataflow.yaml")?;
    /// assert_eq!(config.topics[0].source, SourceUri::Stdin);
    /// let error = Config::parse(&text.replace("source:", "sauce:"), "dataflow.yaml").unwrap_err();
    /// assert_eq!(
    ///     error.to_string(),
    ///     r#"dataflow.yaml:4:18: unknown key "sauce"; did you mean "source"?"#
    /// );
    /// # Ok::<(), schemas::config::ConfigError>(())
    /// ```
    pub fn parse(text: &str, file: &str) -> Result<Self, ConfigError> {
        let checked = match read::<Dataflow>(text) {
            Ok(dataflow) => dataflow.check(),
            Err(mistake) => Err(vec![mistake]),
        };
        checked.map_err(|mistakes| ConfigError { file: file.to_owned(), mistakes })
    }

    /// What the file uses and this build lacks, in the order of the checks.
    pub fn missing_parts(&self) -> &[Finding] {
        &self.missing
    }
}

impl Dataflow {
    fn check(mut self) -> Result<Config, Vec<Finding>> {
        let mut found = Findings::default();
        let mut services: Vec<_> = self.services.value.into_iter().collect();
        services.sort_by_key(|(name, _)| name.at);
        for (name, _) in services.iter().skip(1) {
            found.mistake(name.at, "a second service; this build runs exactly one");
        }
        let Some((name, service)) = services.into_iter().next() else {
            found.mistake(self.services.at, "a job needs a service; name one and its sources");
            return Err(found.mistakes);
        };
        let topics = read_topics(&mut self.topics, &service, &mut found);
        // A misspelt source leaves a topic unread: that is one mistake, not two.
        if found.mistakes.is_empty() {
            for (Located { value: Name(name), at }, _) in self.topics {
                let what = format!("nothing reads topic {name:?}; add it to sources or remove it");
                found.mistake(at, what);
            }
        }
        let config = Config {
            meta: self.meta,
            workers: self.config.workers.map(|workers| workers.0),
            state: self.config.state,
            topics,
            service: service.check(name.value.0, &mut found),
            serve: self.serve,
            missing: found.missing,
        };
        if found.mistakes.is_empty() { Ok(config) } else { Err(found.mistakes) }
    }
}

/// Takes out of `topics` those that the sources of `service` name.
fn read_topics(
    topics: &mut BTreeMap<Located<Name>, TopicPart>,
    service: &ServicePart,
    found: &mut Findings,
) -> Vec<Topic> {
    if service.sources.value.is_empty() {
        found.mistake(service.sources.at, "a service needs a source: {type: topic, id: …}");
    }
    let scopes = service.scopes.value.iter();
    let attributes: Vec<_> = scopes.map(|scope| scope.value.attribute.as_str()).collect();
    let mut read: Vec<Topic> = Vec::new();
    for Located { value: id, at } in service.sources.value.iter().map(|source| &source.id) {
        if read.iter().any(|topic| topic.name == *id) {
            found.mistake(*at, format!("topic {id:?} is already a source; remove one"));
        } else if let Some(name) = topics.keys().find(|name| name.value.0 == *id).cloned()
            && let Some(topic) = topics.remove(&name)
        {
            read.push(topic.check(name.value.0, &attributes, found));
        } else {
            let known: Vec<_> = topics.keys().map(|name| name.value.0.as_str()).collect();
            found.mistake(*at, format!("there is no topic {id:?}{}", instead(id, &known)));
        }
    }
    read
}
