//! When an event happened, which windows it counts in, and how far clocks may differ.

use schemars::JsonSchema;
use serde::de::Error;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::value::{DURATION_MS_MAX, Duration};
use crate::time::format_duration_ms;
use crate::windows::{Window, Windows};

/// Windows over event time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
#[schemars(rename = "Window")]
pub struct Windowing {
    /// Where an event's time comes from.
    pub assign_timestamp: AssignTimestamp,
    /// How far back is counted: one to four sliding windows. `all` is the total, which is
    /// always kept. Default: `all`, `1h` by `1m`, `24h` by `10m`.
    #[serde(rename = "horizons", deserialize_with = "horizons")]
    #[schemars(with = "Vec<Horizon>", extend("default" = default_horizons()))]
    pub windows: Windows,
    /// How far times may differ.
    pub watermark: Watermark,
    /// By which key posts are counted, and what is kept for a key.
    pub partition: Partition,
}

/// Where an event's time comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AssignTimestamp {
    /// The operator. Default: `field`.
    #[schemars(extend("default" = "field"))]
    pub uses: AssignTimestampUses,
    /// Its parameters.
    pub with: AssignTimestampWith,
}

/// What an event's time is taken from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AssignTimestampUses {
    /// A field of the event.
    #[default]
    Field,
}

/// Parameters of the operator `field`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AssignTimestampWith {
    /// The event's field; what records call it is said in the topic's `fields`. Default: `ts`.
    #[schemars(extend("default" = "ts"))]
    pub field: TimeField,
}

/// The event's fields that are times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TimeField {
    /// When it happened.
    #[default]
    Ts,
}

/// How far back is counted.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Horizon {
    /// Everything.
    All,
    /// A sliding window.
    Sliding(Sliding),
}

/// A sliding window.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Sliding {
    /// How far it reaches back; a multiple of the slide.
    #[serde(rename = "duration", deserialize_with = "Duration::<1000, DURATION_MS_MAX>::ms")]
    #[schemars(with = "Duration<1000, DURATION_MS_MAX>")]
    duration_ms: i64,
    /// The step by which it moves, at least `1s`. That of a longer window is a multiple of a
    /// shorter one's.
    #[serde(rename = "slide", deserialize_with = "Duration::<1000, DURATION_MS_MAX>::ms")]
    #[schemars(with = "Duration<1000, DURATION_MS_MAX>")]
    slide_ms: i64,
}

/// How a file writes [`Windows::default`].
fn default_horizons() -> Value {
    let windows = Windows::default();
    let sliding = windows.iter().map(|window| {
        let [duration, slide] = [window.duration_ms, window.slide_ms].map(format_duration_ms);
        json!({"sliding": {"duration": duration, "slide": slide}})
    });
    [json!("all")].into_iter().chain(sliding).collect()
}

fn horizons<'de, D: Deserializer<'de>>(from: D) -> Result<Windows, D::Error> {
    let horizons = Vec::<Horizon>::deserialize(from)?;
    let windows = horizons.into_iter().filter_map(|horizon| match horizon {
        Horizon::All => None,
        Horizon::Sliding(Sliding { duration_ms, slide_ms }) => {
            Some(Window { duration_ms, slide_ms })
        }
    });
    Windows::try_from(windows.collect::<Vec<_>>()).map_err(D::Error::custom)
}

/// How far times may differ.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Watermark {
    /// A partition this far ahead of the slowest waits for it. Default: `10m`.
    #[serde(rename = "max-skew", deserialize_with = "Duration::<1000, DURATION_MS_MAX>::ms")]
    #[schemars(with = "Duration<1000, DURATION_MS_MAX>", extend("default" = "10m"))]
    pub max_skew_ms: i64,
    /// An event dated further ahead of the clock is a dead letter. Default: `5m`.
    #[serde(rename = "max-future", deserialize_with = "Duration::<1000, DURATION_MS_MAX>::ms")]
    #[schemars(with = "Duration<1000, DURATION_MS_MAX>", extend("default" = "5m"))]
    pub max_future_ms: i64,
}

impl Default for Watermark {
    fn default() -> Self {
        Self { max_skew_ms: 10 * 60_000, max_future_ms: 5 * 60_000 }
    }
}

/// By which key posts are counted, and what is kept for a key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Partition {
    /// The key.
    pub assign_key: AssignKey,
    /// What is kept.
    pub update_state: UpdateState,
}

/// The key of the counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AssignKey {
    /// The operator. Default: `tag`.
    #[schemars(extend("default" = "tag"))]
    pub uses: AssignKeyUses,
}

/// What a key is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AssignKeyUses {
    /// The normalized hashtag.
    #[default]
    Tag,
}

/// What is kept for a key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UpdateState {
    /// The operator. Default: `count`.
    #[schemars(extend("default" = "count"))]
    pub uses: UpdateStateUses,
}

/// What is kept for a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum UpdateStateUses {
    /// The number of posts.
    #[default]
    Count,
}
