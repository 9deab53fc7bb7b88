//! A service: what is counted of which topics, and what becomes of the counts.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::error::{Findings, instead};
use super::sink::CqlSink;
use super::value::{DURATION_MS_MAX, Duration, Located, Whole};
use super::window::Windowing;
use crate::mapping::Field;
use crate::tags::TAGS_PER_POST_MAX;
use crate::windows::{Window, Windows, window_named};

/// How long a job that follows its inputs remembers an id, unless the file says otherwise.
pub const HORIZON_MS: i64 = 24 * 3_600_000;
/// Places on a board, unless the file says otherwise.
pub const TOP_K: usize = 100;
/// More values of scopes would not fit a scope's number.
const SCOPE_VALUES_MAX: usize = 10_000;

/// What is counted, and what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// How repeated events are known.
    pub dedup: Dedup,
    /// Distinct tags of a post that count.
    pub tags_per_post_max: usize,
    /// How long posts are remembered; `None` means edits and deletes are unsupported, and counted.
    pub posts: Option<Posts>,
    /// What counts are grouped by besides the tag.
    pub scopes: Vec<Scope>,
    /// The windows.
    pub window: Windowing,
    /// What is ranked.
    pub top: Top,
    /// Where results go besides the commits, if anywhere.
    pub sink: Option<CqlSink>,
}

/// What is counted of which topics, and what becomes of the counts.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Service")]
pub(super) struct ServicePart {
    /// The topics that are read.
    #[schemars(length(min = 1))]
    pub(super) sources: Located<Vec<Source>>,
    /// How repeated events are known.
    #[serde(default)]
    dedup: Dedup,
    /// What is done with an event: the one step `extract-hashtags`, which is also the default.
    #[schemars(length(min = 1, max = 1))]
    transforms: Option<Located<Vec<Transform>>>,
    /// Posts are remembered, so that edits and deletes are followed. Without it they are
    /// unsupported, and counted.
    posts: Option<Located<Posts>>,
    /// What counts are grouped by besides the tag. Default: nothing.
    #[serde(default)]
    pub(super) scopes: Located<Vec<Located<Scope>>>,
    /// Windows over event time.
    #[serde(default)]
    window: Windowing,
    /// What is ranked. Default: the 100 largest counts of every window.
    #[schemars(length(min = 1, max = 1))]
    top: Option<Located<Vec<TopPart>>>,
    /// Where results go besides the commits: at most one place in this build. Default: nowhere.
    #[serde(default)]
    sinks: Vec<Located<CqlSink>>,
}

/// A topic that is read.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Source {
    /// The kind of the source.
    #[serde(rename = "type")]
    _type: SourceType,
    /// The topic's name.
    pub(super) id: Located<String>,
}

/// The kinds of sources.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum SourceType {
    /// A topic of this file.
    Topic,
}

/// How repeated events are known.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Dedup {
    /// What two deliveries of one event have in common. Default: `event_id`.
    #[schemars(extend("default" = "event_id"))]
    pub key: DedupKey,
    /// How long an id is remembered. Without it `24h`, and for ever in a bounded run.
    #[serde(rename = "horizon", deserialize_with = "horizon")]
    #[schemars(with = "Duration<60_000, DURATION_MS_MAX>", extend("default" = Value::Null))]
    pub horizon_ms: Option<i64>,
    /// What becomes of an event older than that. Default: `dead-letter`.
    #[schemars(extend("default" = "dead-letter"))]
    pub beyond: Beyond,
}

impl Default for Dedup {
    fn default() -> Self {
        Self { key: DedupKey::EventId, horizon_ms: None, beyond: Beyond::DeadLetter }
    }
}

fn horizon<'de, D: Deserializer<'de>>(from: D) -> Result<Option<i64>, D::Error> {
    Duration::<60_000, DURATION_MS_MAX>::ms(from).map(Some)
}

/// What two deliveries of one event have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DedupKey {
    /// The event's id within its topic.
    EventId,
}

/// What becomes of an event beyond the horizon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Beyond {
    /// It goes to the dead letters.
    #[default]
    DeadLetter,
    /// It is counted as it is, duplicate or not.
    Count,
}

/// A step that is done with every event.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Transform {
    /// Its shape.
    #[serde(rename = "operator")]
    _operator: Operator,
    /// What it does.
    #[serde(rename = "uses")]
    _uses: TransformUses,
    /// Its parameters.
    #[serde(default)]
    with: TransformWith,
}

/// The shapes of steps.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Operator {
    /// One event in, any number out.
    FlatMap,
}

/// What steps do.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum TransformUses {
    /// The hashtags of the caption.
    ExtractHashtags,
}

/// Parameters of `extract-hashtags`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct TransformWith {
    /// Distinct tags of a post that count; the others are counted as dropped. Default: `60`.
    #[schemars(extend("default" = 60))]
    max_per_post: Option<Located<Whole<1, 60>>>,
}

/// How long posts are remembered.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Posts {
    /// How long a post is remembered after it was last heard of.
    #[serde(rename = "keep", deserialize_with = "Duration::<60_000, DURATION_MS_MAX>::ms")]
    #[schemars(with = "Duration<60_000, DURATION_MS_MAX>")]
    pub keep_ms: i64,
}

/// An attribute whose values counts are grouped by.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Scope {
    /// The attribute.
    #[schemars(length(min = 1))]
    pub attribute: String,
    /// The values that are counted; others are overflow.
    #[schemars(length(min = 1))]
    pub allow: Vec<String>,
}

/// What is ranked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Top {
    /// Places on a board.
    pub k: usize,
    /// The names of the windows with a board, and `all`.
    pub over: Vec<String>,
}

/// What is ranked.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Top")]
struct TopPart {
    /// Places on a board. Default: `100`.
    #[serde(default = "places", deserialize_with = "Whole::<1, 1000>::read")]
    #[schemars(with = "Whole<1, 1000>", extend("default" = 100))]
    k: usize,
    /// What ranks. Default: `count`.
    #[serde(rename = "by", default)]
    #[schemars(extend("default" = "count"))]
    _by: RankedBy,
    /// Windows by their duration, such as `1h`, and `all`. Default: every window and `all`.
    #[schemars(length(min = 1))]
    over: Option<Located<Vec<Located<String>>>>,
}

fn places() -> usize {
    TOP_K
}

/// What ranks.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum RankedBy {
    /// The number of posts.
    #[default]
    Count,
}

impl ServicePart {
    /// The checked service.
    pub(super) fn check(self, name: String, found: &mut Findings) -> Service {
        if let Some(Located { at, .. }) = self.posts {
            found.missing(at, "posts: edits and deletes are");
        }
        if let Some(second) = self.sinks.get(1) {
            found.mistake(second.at, "a second sink; this build writes to one sink at most");
        }
        check_scopes(&self.scopes, found);
        Service {
            name,
            dedup: self.dedup,
            tags_per_post_max: tags_per_post_max(self.transforms, found),
            posts: self.posts.map(|posts| posts.value),
            scopes: self.scopes.value.into_iter().map(|scope| scope.value).collect(),
            top: top(self.top, &self.window.windows, found),
            window: self.window,
            sink: self.sinks.into_iter().next().map(|sink| sink.value),
        }
    }
}

/// The only entry of a list that has exactly one in this build.
fn only<T>(list: Located<Vec<T>>, what: &str, found: &mut Findings) -> Option<T> {
    if list.value.len() != 1 {
        let number = list.value.len();
        let what = format!("{what} has {number} entries; this build takes exactly one");
        found.mistake(list.at, what);
    }
    list.value.into_iter().next()
}

fn tags_per_post_max(transforms: Option<Located<Vec<Transform>>>, found: &mut Findings) -> usize {
    let transform = transforms.and_then(|list| only(list, "transforms", found));
    let Some(Located { value, at }) = transform.and_then(|t| t.with.max_per_post) else {
        return TAGS_PER_POST_MAX;
    };
    if value.0 != TAGS_PER_POST_MAX {
        found.missing(at, "values of max-per-post other than 60 are");
    }
    value.0
}

fn check_scopes(scopes: &Located<Vec<Located<Scope>>>, found: &mut Findings) {
    let mut attributes = Vec::new();
    for Located { value: Scope { attribute, allow }, at } in &scopes.value {
        if attribute.is_empty() || attribute.contains(|c: char| c == '=' || c.is_control()) {
            found.mistake(*at, format!("{attribute:?} is not an attribute; write a field's name"));
        }
        if Field::ALL.iter().any(|field| field.name() == attribute) {
            let what = format!("{attribute:?} is a field of every event; it cannot be a scope");
            found.mistake(*at, what);
        }
        if attributes.contains(&attribute) {
            found.mistake(*at, format!("{attribute:?} is already a scope; merge the two"));
        }
        attributes.push(attribute);
        let mut values: Vec<_> = allow.iter().collect();
        values.sort();
        if values.is_empty() || values.windows(2).any(|pair| pair[0] == pair[1]) {
            found.mistake(*at, "allow must list the values to count, each once");
        }
    }
    let values: usize = scopes.value.iter().map(|scope| scope.value.allow.len()).sum();
    if values > SCOPE_VALUES_MAX {
        let what = format!("{values} values of scopes; at most {SCOPE_VALUES_MAX} can be kept");
        found.mistake(scopes.at, what);
    }
}

fn top(list: Option<Located<Vec<TopPart>>>, windows: &Windows, found: &mut Findings) -> Top {
    let known: Vec<_> = windows.iter().map(Window::name).chain(["all".to_owned()]).collect();
    let part = list.and_then(|list| only(list, "top", found));
    let Some(TopPart { k, over, .. }) = part else {
        return Top { k: TOP_K, over: known };
    };
    let Some(Located { value: asked, at }) = over else { return Top { k, over: known } };
    if asked.is_empty() {
        found.mistake(at, "name windows or all, or leave over out for all of them");
    }
    let mut over: Vec<String> = Vec::new();
    for Located { value: word, at } in asked {
        // Not by name: 60m is the window 1h.
        let window = window_named(windows, &word);
        let index = window.or_else(|| known.iter().position(|name| *name == word));
        match index.map(|index| &known[index]) {
            Some(name) if over.contains(name) => {
                found.mistake(at, format!("{name:?} is given twice; remove one"));
            }
            Some(name) => over.push(name.clone()),
            None => {
                let known: Vec<_> = known.iter().map(String::as_str).collect();
                let what =
                    format!("{word:?} is not a window of this job{}", instead(&word, &known));
                found.mistake(at, what);
            }
        }
    }
    if over.len() < known.len() {
        found.missing(at, "boards for some of the windows are");
    }
    Top { k, over }
}
