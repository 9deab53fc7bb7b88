//! How a job reads and counts.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use schemas::config::{Beyond, HORIZON_MS, LogTimeSource, Scope, State, TOP_K, Watermark};
use schemas::event::Decoder;
use schemas::mapping::Mapping;
use schemas::time::format_duration_ms;
use schemas::windows::Windows;
use sinks::commits::Retention;

use crate::budget::Memory;
use crate::decisions::Decisions;
use crate::limits::{COMMIT_MS_MAX, STRETCH};
use crate::sources::Log;
use crate::stream_time::TimeRules;

/// The version of the rules by which records are decoded. Those before the second refused a record
/// for what it held in fields that nobody reads, and did not see every field that was there twice.
const DECODING: (&str, &str) = ("records:", "2");

/// Whether records were decoded by rules other than the present ones.
pub(crate) fn decoded_otherwise(mapping: &BTreeMap<String, String>) -> bool {
    mapping.get(DECODING.0).is_none_or(|version| version != DECODING.1)
}

/// How records are read, apart from the records themselves: what the decoder looks for, and what
/// becomes of late events. Commits record it. Options are written with their dashes, which no field
/// of a record has.
pub(crate) fn read_with(
    decoder: &Decoder,
    log_time: Option<LogTimeSource>,
    horizon_ms: Option<i64>,
    beyond: Beyond,
) -> BTreeMap<String, String> {
    let mut all = decoder.names().clone();
    all.insert(DECODING.0.to_owned(), DECODING.1.to_owned());
    let Some(horizon_ms) = horizon_ms else { return all };
    let beyond = if beyond == Beyond::Count { "yes" } else { "no" };
    let log_time = match log_time {
        None => "auto",
        Some(LogTimeSource::Event) => "event",
        Some(LogTimeSource::Append) => "append",
    };
    all.insert("--horizon".to_owned(), format_duration_ms(horizon_ms));
    all.insert("--count-beyond".to_owned(), beyond.to_owned());
    all.insert("log_time:".to_owned(), log_time.to_owned());
    all
}

/// The scopes of a state, from their names: `region=eu` and `region=us` are one of two values.
pub(crate) fn scopes(names: &[String]) -> Vec<Scope> {
    let mut scopes: Vec<Scope> = Vec::new();
    for (attribute, value) in names.iter().filter_map(|name| name.split_once('=')) {
        match scopes.iter_mut().find(|scope| scope.attribute == attribute) {
            Some(scope) => scope.allow.push(value.to_owned()),
            None => scopes
                .push(Scope { attribute: attribute.to_owned(), allow: vec![value.to_owned()] }),
        }
    }
    scopes
}

/// A named input and how to read it.
#[derive(Clone)]
pub struct Input {
    /// Its name. An event is identified by input and event id.
    pub name: String,
    /// Where its records are.
    pub log: Arc<dyn Log>,
    /// How its records are read.
    pub decoder: Decoder,
    /// What its log time follows. `None` means append times if brokers stamp records, else events.
    pub log_time: Option<LogTimeSource>,
}

impl Input {
    /// Logs what was passed over since the last call.
    pub(crate) fn tell_passed_over(&self) {
        for what in self.log.passed_over() {
            tracing::warn!(input = self.name, "passed over {what}");
        }
    }
}

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Input").field("name", &self.name).finish_non_exhaustive()
    }
}

/// When tags are evicted from memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Idle {
    /// A tag that was not touched in this many commits is idle.
    pub commits: u64,
    /// Each commit looks for idle tags in one of this many parts.
    pub parts: usize,
}

impl Default for Idle {
    fn default() -> Self {
        Self { commits: 60, parts: 32 }
    }
}

/// A job's settings.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The least time between commits.
    pub every_ms: u64,
    /// How long an event id is remembered. `None` means for ever.
    pub horizon_ms: Option<i64>,
    /// What becomes of events beyond the horizon.
    pub beyond: Beyond,
    /// Events dated further ahead of the clock are refused. `None` means no event is.
    pub max_future_ms: Option<i64>,
    /// A topic's partition waits if its log time is further ahead of the slowest one than this.
    pub max_skew_ms: i64,
    /// Whether stream time follows the wall clock once the job has caught up.
    pub live: bool,
    /// A bounded run counts events up to this time, and ends at it.
    pub until_ms: Option<i64>,
    /// The stream time of the commit that a replay ends with.
    pub ends_at_ms: Option<i64>,
    /// What the job that a replay repeats decided.
    pub decisions: Option<Arc<Decisions>>,
    /// What counts are grouped by besides the tag.
    pub scopes: Vec<Scope>,
    /// The sliding windows.
    pub windows: Windows,
    /// Places on a board.
    pub top_k: usize,
    /// The most records that are read per second.
    pub limit_rate: Option<u64>,
    /// How long old commits stay.
    pub retention: Retention,
    /// When tags are evicted from memory.
    pub idle: Idle,
    /// How long a run waits at its end for a store that does not answer.
    pub store_wait_ms: u64,
    /// An owner of the state that makes no commit for this long counts as gone. It is several times
    /// what a commit of a job that is behind takes, including its writing.
    pub silent_ms: u64,
    /// How much may wait in memory.
    pub memory: Memory,
    /// Whether the job only applies repairs: it reads no input, and a finished run stays finished.
    pub repair_only: bool,
}

impl Default for Settings {
    fn default() -> Self {
        let (state, watermark) = (State::default(), Watermark::default());
        Self {
            every_ms: state.every_ms,
            horizon_ms: Some(HORIZON_MS),
            beyond: Beyond::default(),
            max_future_ms: Some(watermark.max_future_ms),
            max_skew_ms: watermark.max_skew_ms,
            live: true,
            until_ms: None,
            ends_at_ms: None,
            decisions: None,
            scopes: Vec::new(),
            windows: Windows::default(),
            top_k: TOP_K,
            limit_rate: None,
            retention: Retention::default(),
            idle: Idle::default(),
            store_wait_ms: 5 * 60_000,
            silent_ms: 20_000,
            memory: Memory::default(),
            repair_only: false,
        }
    }
}

impl Settings {
    /// The same settings for a bounded run, which keeps every id and follows no clock.
    #[must_use]
    pub fn bounded(self) -> Self {
        Self { horizon_ms: None, max_future_ms: None, live: false, ..self }
    }

    /// How long a commit lasts while the job is behind.
    pub fn stretched_ms(&self) -> u64 {
        (STRETCH * self.every_ms).min(self.commit_ms_max())
    }

    /// The longest that a commit takes records, whatever it waits for.
    pub(crate) fn commit_ms_max(&self) -> u64 {
        COMMIT_MS_MAX.max(self.every_ms)
    }

    /// The names of all scopes. The first is the whole stream, `""`.
    pub fn scope_names(&self) -> Arc<[String]> {
        let values = self.scopes.iter().flat_map(|scope| {
            scope.allow.iter().map(|value| format!("{}={value}", scope.attribute))
        });
        std::iter::once(String::new()).chain(values).collect()
    }

    /// The names of all scopes but the whole stream, sorted.
    pub fn scopes_sorted(&self) -> Vec<String> {
        let mut names = self.scope_names()[1..].to_vec();
        names.sort_unstable();
        names
    }

    /// A decoder for records with these field names and the attributes of all scopes.
    pub fn decoder(&self, mapping: &Mapping) -> Decoder {
        let attributes: Vec<String> = self.scopes.iter().map(|s| s.attribute.clone()).collect();
        Decoder::new(mapping.clone(), &attributes)
    }

    /// The index in [`Self::scope_names`] of a value of a scope.
    pub(crate) fn scope_index(&self, scope: usize, value: usize) -> u16 {
        let before: usize = self.scopes[..scope].iter().map(|s| s.allow.len()).sum();
        (1 + before + value) as u16
    }

    pub(crate) fn time_rules(&self) -> TimeRules {
        let Self { live, until_ms, ends_at_ms, horizon_ms, .. } = *self;
        let ahead_ms = self.windows.iter().map(|window| window.duration_ms).max().unwrap_or(0);
        TimeRules { live, until_ms, ends_at_ms, horizon_ms, ahead_ms }
    }
}
