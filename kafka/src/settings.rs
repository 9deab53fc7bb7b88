//! How a topic is read or written, and which properties of the client may be set.
//!
//! Invariants: no property that counts depend on can be changed; no credentials travel in clear
//! text to another machine; a property's value is never printed.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use schemas::config::{OnLost, OnOpenTransaction, Position};
use thiserror::Error;

/// A topic, and how it is read or written.
#[derive(Clone, Debug)]
pub struct KafkaSettings {
    /// The brokers to contact first, as `host:port`.
    pub brokers: Vec<String>,
    /// The topic.
    pub topic: String,
    /// Whether to read only up to the ends found at the start.
    pub bounded: bool,
    /// The other options.
    pub options: KafkaOptions,
}

/// The options of a topic that do not name it.
#[derive(Clone, Default)]
pub struct KafkaOptions {
    /// Properties of the client.
    pub properties: BTreeMap<String, String>,
    /// The group that offsets are committed for, for lag tools; `group.id` overrides it.
    pub group: String,
    /// Where a job without state begins.
    pub start: Position,
    /// What happens to records that were removed before they were read.
    pub on_lost: OnLost,
    /// What a bounded reader does about a transaction that is open when it begins.
    pub on_open_transaction: OnOpenTransaction,
}

/// Values of properties may be secrets.
impl fmt::Debug for KafkaOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<&String> = self.properties.keys().collect();
        f.debug_struct("KafkaOptions").field("properties", &keys).finish_non_exhaustive()
    }
}

/// Why a property cannot be set.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PropertyError {
    /// Counts depend on the property.
    #[error("the Kafka property {0} cannot be set: {1}")]
    Fixed(String, &'static str),
    /// The client does not know the property, or rejects the value.
    #[error("the Kafka property {0:?}: {1}")]
    Unusable(String, String),
    /// This build lacks TLS.
    #[error(
        "the Kafka property {0} needs TLS, which this build lacks; build with `--features kafka-tls`"
    )]
    NoTls(String),
    /// Kerberos, the default mechanism, is not built in.
    #[error(
        "the Kafka property {0} does not say how to authenticate; set sasl.mechanism=PLAIN or \
         SCRAM-SHA-512"
    )]
    NoMechanism(&'static str),
    /// Credentials would be readable on the network.
    #[error(
        "the Kafka property {property} would send credentials in clear text to {broker}; use \
         security.protocol=sasl_ssl"
    )]
    InClear {
        /// The property that holds them.
        property: String,
        /// A broker on another machine.
        broker: String,
    },
}

impl PropertyError {
    /// The property at fault.
    pub fn property(&self) -> &str {
        match self {
            Self::Fixed(property, _) | Self::Unusable(property, _) | Self::NoTls(property) => {
                property
            }
            Self::NoMechanism(property) => property,
            Self::InClear { property, .. } => property,
        }
    }
}

const BY_ADDRESS: &str = "the kafka: address names the brokers";
const POSITIONS: &str = "positions come from the commits only";
const GROUPS: &str = "partitions are assigned by the job, not by a group";

/// Properties that cannot be set, and why.
const FIXED: [(&str, &str); 33] = [
    ("allow.auto.create.topics", "a missing topic is an error"),
    ("auto.commit.enable", POSITIONS),
    ("auto.commit.interval.ms", POSITIONS),
    ("auto.offset.reset", POSITIONS),
    ("bootstrap.servers", BY_ADDRESS),
    ("check.crcs", "checksums are always checked"),
    ("consume.callback.max.messages", "there are no callbacks"),
    ("coordinator.query.interval.ms", GROUPS),
    ("enable.auto.commit", POSITIONS),
    ("enable.auto.offset.store", POSITIONS),
    ("enable.partition.eof", "the ends of partitions must be seen"),
    ("enabled_events", "the client needs its own events"),
    ("group.instance.id", GROUPS),
    ("group.protocol", GROUPS),
    ("group.protocol.type", GROUPS),
    ("group.remote.assignor", GROUPS),
    ("heartbeat.interval.ms", GROUPS),
    ("isolation.level", "only committed records count"),
    ("log.queue", "the client forwards its logs"),
    ("max.poll.interval.ms", GROUPS),
    ("metadata.broker.list", BY_ADDRESS),
    ("offset.store.method", POSITIONS),
    ("offset.store.path", POSITIONS),
    ("offset.store.sync.interval.ms", POSITIONS),
    ("partition.assignment.strategy", GROUPS),
    ("plugin.library.paths", "no plugins are loaded"),
    ("session.timeout.ms", GROUPS),
    ("statistics.interval.ms", "the client needs them"),
    ("test.mock.broker.rtt", "only real brokers are used"),
    ("test.mock.num.brokers", "only real brokers are used"),
    ("topic.blacklist", "it could hide the topic"),
    ("transactional.id", "nothing is written in transactions"),
    ("enable.gapless.guarantee", "it is for producers"),
];

/// Properties that hold secrets.
const CREDENTIALS: [&str; 6] = [
    "sasl.password",
    "sasl.username",
    "sasl.oauthbearer.config",
    "sasl.oauthbearer.client.secret",
    "sasl.oauthbearer.client.credentials.client.secret",
    "sasl.oauthbearer.assertion.private.key.pem",
];

/// Memory for records that were fetched but not read yet, over all partitions.
const QUEUED_KIB: usize = 128 * 1024;

impl KafkaSettings {
    /// The brokers as a list.
    pub fn servers(&self) -> String {
        self.brokers.join(",")
    }

    /// The group that offsets are committed for.
    pub(crate) fn group(&self) -> &str {
        self.options.properties.get("group.id").unwrap_or(&self.options.group)
    }

    /// Checks the properties without connecting.
    pub fn check(&self) -> Result<(), PropertyError> {
        for name in self.options.properties.keys() {
            if let Some((name, why)) = FIXED.iter().find(|(fixed, _)| fixed == name) {
                return Err(PropertyError::Fixed((*name).to_owned(), why));
            }
        }
        if self.options.properties.get("group.id").is_some_and(String::is_empty) {
            let what = "it cannot be empty; name a group or leave the property out";
            return Err(PropertyError::Unusable("group.id".to_owned(), what.to_owned()));
        }
        self.check_security()?;
        let config = self.consumer(1);
        config.create_native_config().map(drop).map_err(|error| unusable(&error))
    }

    fn check_security(&self) -> Result<(), PropertyError> {
        let protocol = self.options.properties.get("security.protocol").map(String::as_str);
        let tls = protocol.is_some_and(|protocol| protocol.to_ascii_lowercase().ends_with("ssl"));
        let with_tls = |name: &&String| name.starts_with("ssl.") || name.starts_with("ssl_");
        let scram = ["sasl.mechanism", "sasl.mechanisms"].into_iter().find(|name| {
            self.options.properties.get(*name).is_some_and(|value| value.starts_with("SCRAM"))
        });
        if !cfg!(feature = "kafka-tls") {
            let asks = tls.then_some("security.protocol").or(scram).map(str::to_owned);
            if let Some(name) =
                asks.or_else(|| self.options.properties.keys().find(with_tls).cloned())
            {
                return Err(PropertyError::NoTls(name));
            }
        }
        let secret = CREDENTIALS.iter().find(|name| self.options.properties.contains_key(**name));
        let far = self.brokers.iter().find(|broker| !is_loopback(broker));
        if let (false, Some(property), Some(broker)) = (tls, secret, far) {
            let (property, broker) = ((*property).to_owned(), broker.clone());
            return Err(PropertyError::InClear { property, broker });
        }
        self.check_mechanism()
    }

    /// The client's default mechanism is Kerberos, which is not built in.
    fn check_mechanism(&self) -> Result<(), PropertyError> {
        let protocol = self.options.properties.get("security.protocol");
        let sasl = protocol.is_some_and(|text| text.to_ascii_lowercase().starts_with("sasl"));
        let names = ["sasl.mechanism", "sasl.mechanisms"];
        let named = names.into_iter().find_map(|n| Some((n, self.options.properties.get(n)?)));
        match named {
            Some((name, value)) if value.eq_ignore_ascii_case("GSSAPI") => {
                return Err(PropertyError::NoMechanism(name));
            }
            None if sasl => return Err(PropertyError::NoMechanism("security.protocol")),
            _ => {}
        }
        Ok(())
    }

    /// The configuration that clients of all kinds share.
    pub(crate) fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("client.id", "tagflow")
            .set("reconnect.backoff.max.ms", "2000")
            .set("socket.keepalive.enable", "true")
            .set("enable.metrics.push", "false");
        for (name, value) in self.options.properties.iter().filter(|(name, _)| *name != "group.id")
        {
            config.set(name, value);
        }
        config.set("bootstrap.servers", self.servers());
        let debugs = self.options.properties.get("debug").is_some_and(|what| !what.is_empty());
        config.set_log_level(if debugs { RDKafkaLogLevel::Debug } else { RDKafkaLogLevel::Info });
        config
    }

    /// The configuration of a client that asks questions about the topic.
    pub(crate) fn asking(&self) -> ClientConfig {
        let mut config = self.client();
        // A partition ends behind all its records, whether committed or not; or before the first
        // record of the oldest open transaction.
        let level = if self.ends_stable() { "read_committed" } else { "read_uncommitted" };
        config.set("isolation.level", level);
        config
    }

    /// Whether partitions end before the first record of an open transaction.
    fn ends_stable(&self) -> bool {
        self.bounded && self.options.on_open_transaction == OnOpenTransaction::End
    }

    /// The configuration of a consumer of this number of partitions.
    pub(crate) fn consumer(&self, partitions: usize) -> ClientConfig {
        let queued = (QUEUED_KIB / partitions.max(1)).clamp(1024, 16 * 1024);
        let mut config = ClientConfig::new();
        config
            .set("queued.max.messages.kbytes", queued.to_string())
            .set("queued.min.messages", "20000")
            // A queue that was full is refilled soon after it has been read.
            .set("fetch.queue.backoff.ms", "50");
        let client = self.client();
        for (name, value) in client.config_map() {
            config.set(name, value);
        }
        config.log_level = client.log_level;
        config
            .set("group.id", self.group())
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            .set("isolation.level", "read_committed")
            .set("check.crcs", "true")
            .set("enable.partition.eof", "true")
            .set("allow.auto.create.topics", "false")
            .set("statistics.interval.ms", "500");
        config
    }
}

/// The client's error about a property, without its value.
pub(crate) fn unusable(error: &KafkaError) -> PropertyError {
    match error {
        KafkaError::ClientConfig(_, reason, name, value) => {
            let reason = if value.is_empty() {
                reason.clone()
            } else {
                reason.replace(value.as_str(), "…")
            };
            PropertyError::Unusable(name.clone(), reason)
        }
        other => PropertyError::Unusable("properties".to_owned(), other.to_string()),
    }
}

/// Whether a `host:port` is on this machine.
fn is_loopback(broker: &str) -> bool {
    let host = broker.rsplit_once(':').map_or(broker, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(broker: &str, properties: &[(&str, &str)]) -> KafkaSettings {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let options = KafkaOptions {
            properties: properties.iter().map(own).collect(),
            group: "tagflow-t".to_owned(),
            ..KafkaOptions::default()
        };
        let (brokers, topic) = (vec![broker.to_owned()], "t".to_owned());
        KafkaSettings { brokers, topic, bounded: false, options }
    }

    fn refused(broker: &str, properties: &[(&str, &str)]) -> String {
        settings(broker, properties).check().unwrap_err().to_string()
    }

    const LOCAL: &str = "127.0.0.1:9092";
    const FAR: &str = "kafka.example:9092";

    #[test]
    fn properties_that_counts_depend_on_are_refused() {
        for (name, _) in FIXED {
            let error = refused(LOCAL, &[(name, "1")]);
            assert!(error.contains(name) && error.contains("cannot be set"), "{error}");
        }
        assert_eq!(settings(LOCAL, &[("fetch.min.bytes", "7")]).check(), Ok(()));
    }

    #[test]
    fn errors_about_properties_do_not_show_the_value() {
        let error = refused(LOCAL, &[("fetch.mn.bytes", "7")]);
        assert!(error.contains("\"fetch.mn.bytes\": No such configuration property"), "{error}");
        let error = refused(LOCAL, &[("fetch.min.bytes", "hunter2")]);
        assert!(error.contains("fetch.min.bytes") && !error.contains("hunter2"), "{error}");
    }

    #[test]
    fn empty_group_is_refused() {
        let error = refused(LOCAL, &[("group.id", "")]);
        assert!(error.contains("\"group.id\": it cannot be empty"), "{error}");
        assert_eq!(settings(LOCAL, &[("group.id", "g")]).check(), Ok(()));
    }

    #[test]
    fn credentials_are_not_sent_in_clear_text() {
        let plain = [("sasl.mechanism", "PLAIN"), ("sasl.password", "hunter2")];
        let error = refused(FAR, &plain);
        assert!(error.contains("sasl.password") && error.contains(FAR), "{error}");
        assert!(!error.contains("hunter2"));
        let sasl = [plain[0], plain[1], ("security.protocol", "SASL_PLAINTEXT")];
        assert!(refused(FAR, &sasl).contains("in clear text"));
        assert_eq!(settings(LOCAL, &sasl).check(), Ok(()));
        assert_eq!(settings("[::1]:9092", &sasl).check(), Ok(()));
        assert!(!format!("{:?}", settings(LOCAL, &sasl)).contains("hunter2"));
    }

    #[test]
    fn missing_mechanism_is_refused() {
        let kerberos = [("security.protocol", "sasl_plaintext"), ("sasl.mechanism", "GSSAPI")];
        for (number, property) in [(1, "security.protocol"), (2, "sasl.mechanism")] {
            let error = refused(LOCAL, &kerberos[..number]);
            assert!(error.contains(&format!("{property} does not say how")), "{error}");
            assert!(error.contains("sasl.mechanism=PLAIN or SCRAM-SHA-512"), "{error}");
        }
    }

    #[cfg(not(feature = "kafka-tls"))]
    #[test]
    fn tls_without_its_feature_is_refused() {
        for property in [
            ("security.protocol", "SSL"),
            ("security.protocol", "sasl_ssl"),
            ("ssl.ca.location", "ca.pem"),
            ("sasl.mechanisms", "SCRAM-SHA-512"),
        ] {
            let error = refused(FAR, &[property]);
            assert!(error.contains("kafka-tls") && error.contains(property.0), "{error}");
        }
    }

    #[cfg(feature = "kafka-tls")]
    #[test]
    fn tls_properties_are_accepted() {
        let properties = [("security.protocol", "sasl_ssl"), ("sasl.mechanisms", "SCRAM-SHA-512")];
        let secret = [properties[0], properties[1], ("sasl.username", "u"), ("sasl.password", "p")];
        assert_eq!(settings(FAR, &secret).check(), Ok(()));
    }
}
