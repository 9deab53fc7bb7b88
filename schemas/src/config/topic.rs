//! A topic: where its records come from and how they are read.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::error::Findings;
use super::files::FileOptions;
use super::source_uri::SourceUri;
use super::value::{DURATION_MS_MAX, Duration, Located, Property, Whole};
use crate::mapping::{Mapping, MappingError};

/// A topic that the service reads.
#[derive(Clone, Debug, PartialEq)]
pub struct Topic {
    /// Its name; an event's identity is (topic, event id).
    pub name: String,
    /// Where its records come from.
    pub source: SourceUri,
    /// What its records call the fields of an event.
    pub mapping: Mapping,
    /// Where a job without state begins.
    pub start: Position,
    /// What happens to records that a Kafka topic's retention removed before they were read.
    pub on_lost: OnLost,
    /// What a bounded run does about a transaction that is open.
    pub on_open_transaction: OnOpenTransaction,
    /// How files are followed.
    pub follow: Follow,
    /// Properties of the Kafka client.
    pub properties: BTreeMap<String, String>,
    /// What its log time follows; `None` means append times if brokers stamp records, else events.
    pub log_time: Option<LogTimeSource>,
    /// How files are found and unpacked.
    pub files: FileOptions,
}

/// Where records come from and how they are read.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Topic")]
pub(super) struct TopicPart {
    /// `kafka://HOST:PORT[,HOST:PORT]/TOPIC`, `file:PATH` (a file or a folder), `stdin:`, or
    /// `generator:?rate=1000` with the parameters `rate`, `posts`, `seed`, `tags-mean`,
    /// `vocabulary`, `zipf`, `duplicates`, `late`, `future` and `bursts`.
    source: Located<SourceUri>,
    /// How records are read.
    #[serde(default)]
    schema: RecordSchema,
    /// How the topic is consumed.
    #[serde(default)]
    consumer: Consumer,
    /// What the log time of its partitions follows. Default: the log's own stamps where it makes
    /// them (Kafka topics with `LogAppendTime`), else the events.
    log_time: Option<Located<LogTimeSource>>,
}

/// How records are read.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RecordSchema {
    /// The records' keys, which nothing depends on.
    #[serde(rename = "key")]
    _key: Option<RecordKey>,
    /// The records' values.
    #[serde(default)]
    value: RecordValue,
}

/// The records' keys.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RecordKey {
    /// Their type.
    #[serde(rename = "type")]
    _type: RecordKeyType,
}

/// The type of keys.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum RecordKeyType {
    /// Any bytes.
    Bytes,
    /// A text.
    String,
}

/// The records' values.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RecordValue {
    /// Their type. Default: `post`.
    #[serde(rename = "type", default)]
    #[schemars(extend("default" = "post"))]
    _type: RecordType,
    /// How they are written. Default: `json`.
    #[serde(rename = "converter", default)]
    #[schemars(extend("default" = "json"))]
    _converter: Converter,
    /// The record's name of a field of the event (`event_id`, `type`, `post_id`, `user_id`, `ts`,
    /// `caption`, `image_id`) or of a scope's attribute. `ts` may say its unit, as in
    /// `created_at:rfc3339`: `ms` (the default), `s`, `us` or `rfc3339`. A field that is not named
    /// here has its own name; an empty text says that records have no such field.
    #[serde(default)]
    fields: BTreeMap<Located<String>, Located<String>>,
}

/// What values are.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum RecordType {
    /// Events about posts.
    #[default]
    Post,
}

/// How values are written.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Converter {
    /// JSON objects.
    #[default]
    Json,
}

/// How a topic is consumed.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Consumer {
    /// Where a job without state begins.
    #[serde(default)]
    default_starting_offset: StartingOffset,
    /// What becomes of records that a Kafka topic's retention removed before they were read.
    /// Default: `error`.
    #[serde(default)]
    #[schemars(extend("default" = "error"))]
    on_lost: Located<OnLost>,
    /// What a bounded run does if a transaction was open when it started. Default: `wait`.
    #[serde(default)]
    #[schemars(extend("default" = "wait"))]
    on_open_transaction: Located<OnOpenTransaction>,
    /// What becomes of a followed file that was truncated or overwritten, so that lines that were
    /// not read yet may be missing. Default: `stop`.
    #[serde(default)]
    #[schemars(extend("default" = "stop"))]
    on_truncate: Located<OnTruncate>,
    /// How long a followed file that was renamed is still read after a new one has its name, and
    /// after it last grew. Default: `60s`.
    #[serde(default)]
    #[schemars(extend("default" = "60s"))]
    rotate_wait: Located<RotateWait>,
    /// Properties of the Kafka client, as librdkafka names them. Secrets are better given by the
    /// environment, as in `TAGFLOW_KAFKA_SASL_PASSWORD`.
    #[serde(default)]
    properties: BTreeMap<Located<String>, Property>,
    /// Whether files are read that links in the folder of a `file:` source lead to outside of it.
    /// Default: false.
    follow_links: Option<Located<bool>>,
    /// The largest window of a zstd file, as a power of two from 10 to 31; 31 reads any, and takes
    /// 2 GiB of memory. Default: 27.
    zstd_window_log: Option<Located<Whole<10, 31>>>,
}

/// What becomes of records that were removed before they were read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnLost {
    /// The job ends with an error that says which they are.
    #[default]
    Error,
    /// The job continues with the records that are left, and counts the others as `lost_records`.
    Skip,
}

/// What a bounded run does if a transaction was open when it started: records behind its first one
/// cannot be read before it ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnOpenTransaction {
    /// It waits until the transaction is committed or aborted.
    #[default]
    Wait,
    /// It ends before the first record of the transaction, at the last stable offset.
    End,
}

/// How files are followed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Follow {
    /// What becomes of one that was truncated or overwritten.
    pub on_truncate: OnTruncate,
    /// How long one that lost its name is still read.
    pub rotate_wait: RotateWait,
}

/// What becomes of a followed file that was truncated or overwritten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OnTruncate {
    /// The job ends with an error that says what may be missing.
    #[default]
    Stop,
    /// The job reads the file from its beginning, and counts that as `truncations`.
    GoOn,
}

/// How long a followed file is read after it has lost its name, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct RotateWait(
    #[serde(deserialize_with = "Duration::<1, DURATION_MS_MAX>::ms")]
    #[schemars(with = "Duration<1, DURATION_MS_MAX>")]
    pub i64,
);

impl Default for RotateWait {
    /// Writers open their log again within seconds of a rotation.
    fn default() -> Self {
        Self(60_000)
    }
}

/// Where a job without state begins; one with state continues where it was.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct StartingOffset {
    /// The position. Default: `Beginning`.
    #[serde(default)]
    #[schemars(extend("default" = "Beginning"))]
    position: Located<Position>,
}

/// Where a job without state begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum Position {
    /// With the oldest record that is there.
    #[default]
    Beginning,
    /// With the first record that comes after the start.
    End,
}

/// What a partition's log time follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "LogTime")]
pub enum LogTimeSource {
    /// The log's stamps of its records.
    Append,
    /// The events' own times.
    Event,
}

impl TopicPart {
    /// The checked topic; its records may have `attributes` as well.
    pub(super) fn check(self, name: String, attributes: &[&str], found: &mut Findings) -> Topic {
        let is_kafka = matches!(self.source.value, SourceUri::Kafka { .. });
        let follow = self.consumer.follow(&self.source.value, found);
        let files = self.consumer.files(&self.source.value, found);
        let position = self.consumer.default_starting_offset.position;
        if position.value == Position::End && !is_kafka {
            let what = "only a kafka: source can begin at its end; use Beginning";
            found.mistake(position.at, what);
        }
        if self.consumer.on_lost.value == OnLost::Skip && !is_kafka {
            let what = "only a kafka: source loses records by retention; leave on_lost out";
            found.mistake(self.consumer.on_lost.at, what);
        }
        if self.consumer.on_open_transaction.value == OnOpenTransaction::End && !is_kafka {
            let what = "only a kafka: source has transactions; leave on_open_transaction out";
            found.mistake(self.consumer.on_open_transaction.at, what);
        }
        if let Some(name) = self.consumer.properties.keys().next().filter(|_| !is_kafka) {
            let what = "only a kafka: source has a client with properties; leave them out";
            found.mistake(name.at, what);
        }
        if let Some(Located { value: LogTimeSource::Append, at }) = self.log_time
            && !is_kafka
        {
            let what = "only a kafka: source stamps its records; use event, or leave log_time out";
            found.mistake(at, what);
        }
        Topic {
            name,
            files,
            source: self.source.value,
            mapping: mapping(&self.schema.value.fields, attributes, found),
            start: position.value,
            on_lost: self.consumer.on_lost.value,
            on_open_transaction: self.consumer.on_open_transaction.value,
            follow,
            properties: self
                .consumer
                .properties
                .into_iter()
                .map(|(name, property)| (name.value, property.0))
                .collect(),
            log_time: self.log_time.map(|log_time| log_time.value),
        }
    }
}

impl Consumer {
    /// How files are followed, if the source is one.
    fn follow(&self, source: &SourceUri, found: &mut Findings) -> Follow {
        let (on_truncate, rotate_wait) = (&self.on_truncate, &self.rotate_wait);
        let follow = Follow { on_truncate: on_truncate.value, rotate_wait: rotate_wait.value };
        if !matches!(source, SourceUri::File(_)) {
            if follow.on_truncate != OnTruncate::default() {
                let what = "only a file: source can be truncated; leave on_truncate out";
                found.mistake(on_truncate.at, what);
            }
            if follow.rotate_wait != RotateWait::default() {
                let what = "only a file: source is rotated; leave rotate_wait out";
                found.mistake(rotate_wait.at, what);
            }
        }
        follow
    }

    /// How the files of `source` are found and unpacked.
    fn files(&self, source: &SourceUri, found: &mut Findings) -> FileOptions {
        let (links, log) = (self.follow_links.as_ref(), self.zstd_window_log.as_ref());
        let given = links.map(|links| links.at).or(log.map(|log| log.at));
        if let Some(at) = given.filter(|_| !matches!(source, SourceUri::File(_))) {
            let what = "only a file: source has links and zstd files; leave this out";
            found.mistake(at, what);
        }
        let default = FileOptions::default();
        FileOptions {
            follow_links: links.map_or(default.follow_links, |links| links.value),
            zstd_window_log: log.map_or(default.zstd_window_log, |log| log.value.0 as u32),
        }
    }
}

/// The mapping that `fields` describes.
fn mapping(
    fields: &BTreeMap<Located<String>, Located<String>>,
    attributes: &[&str],
    found: &mut Findings,
) -> Mapping {
    let mut mapping = Mapping::default();
    // One by one, so that each mistake has its location.
    for (left, right) in fields {
        let pair = (left.value.as_str(), right.value.as_str());
        mapping = mapping.with([pair], attributes).unwrap_or_else(|error| {
            let is_left = matches!(error, MappingError::UnknownField(..));
            found.mistake(if is_left { left.at } else { right.at }, error);
            Mapping::default()
        });
    }
    mapping
}
