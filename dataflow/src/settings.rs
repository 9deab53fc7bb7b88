//! What a job is told to do, apart from where its state is.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use schemas::config::{Beyond, HORIZON_MS, LogTimeSource, Scope, State, TOP_K, Watermark};
use schemas::event::Decoder;
use schemas::mapping::Mapping;
use schemas::time::format_duration_ms;
use schemas::windows::Windows;
use sinks::commits::Retention;

use crate::decisions::Decisions;
use crate::sources::Log;
use crate::stream_time::TimeRules;

/// All that decides what a record counts as, but for the record and those before it: what the
/// decoder reads, and what becomes of late events. Written into commits; options keep their sign,
/// which no field of a record has.
pub(crate) fn read_with(
    decoder: &Decoder,
    log_time: Option<LogTimeSource>,
    horizon_ms: Option<i64>,
    beyond: Beyond,
) -> BTreeMap<String, String> {
    let mut all = decoder.names().clone();
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
    /// Its name; an event's identity is (input, event id).
    pub name: String,
    /// Where its records are.
    pub log: Arc<dyn Log>,
    /// How its records are read.
    pub decoder: Decoder,
    /// What its log time follows; `None` means append times if brokers stamp records, else events.
    pub log_time: Option<LogTimeSource>,
}

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Input").field("name", &self.name).finish_non_exhaustive()
    }
}

/// When a tag that nothing needs in memory leaves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Idle {
    /// A tag that nothing touched for so many commits is not in use.
    pub commits: u64,
    /// At each commit one part in so many is looked through for tags to let go.
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
    /// How long an event id is remembered; none: for ever.
    pub horizon_ms: Option<i64>,
    /// What becomes of events beyond the horizon.
    pub beyond: Beyond,
    /// Events dated further ahead of the clock are refused; none: they are not.
    pub max_future_ms: Option<i64>,
    /// A topic's partition whose log time is so far ahead of the slowest one's waits for it.
    pub max_skew_ms: i64,
    /// Whether stream time follows the wall clock once the job has caught up.
    pub live: bool,
    /// A bounded run reads events up to this time, and ends at it.
    pub until_ms: Option<i64>,
    /// A replay that ends with a commit ends at its stream time.
    pub ends_at_ms: Option<i64>,
    /// What the job that a replay repeats decided.
    pub decisions: Option<Arc<Decisions>>,
    /// What counts are grouped by besides the tag.
    pub scopes: Vec<Scope>,
    /// The sliding windows.
    pub windows: Windows,
    /// Places on a board.
    pub top_k: usize,
    /// Records a second that are read at most.
    pub limit_rate: Option<u64>,
    /// How long old commits stay.
    pub retention: Retention,
    /// When tags leave memory.
    pub idle: Idle,
    /// How long a run waits at its end for a store that does not answer.
    pub store_wait_ms: u64,
    /// An owner of the state that made no commit for so long, watched by a newcomer, counts as
    /// gone: several times as long as a commit that catches up lasts, and its writing with it.
    pub silent_ms: u64,
    /// Whether it takes control records only: it reads no input, and a finished run stays
    /// finished.
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
            repair_only: false,
        }
    }
}

/// So many times its interval lasts a commit of a job that is behind.
const STRETCH: u64 = 5;
/// A commit takes records for so long at most, unless its interval is longer.
const COMMIT_MS_MAX: u64 = 5_000;

impl Settings {
    /// Those of a bounded run: every id is kept, no clock is read.
    #[must_use]
    pub fn bounded(self) -> Self {
        Self { horizon_ms: None, max_future_ms: None, live: false, ..self }
    }

    /// How long a commit lasts while there is more to read than can be read: a row is written once
    /// for all that a commit changes, and what is behind is not fresh anyway.
    pub fn stretched_ms(&self) -> u64 {
        (STRETCH * self.every_ms).min(self.commit_ms_max())
    }

    /// How long a commit takes records at most, whatever it waits for.
    pub(crate) fn commit_ms_max(&self) -> u64 {
        COMMIT_MS_MAX.max(self.every_ms)
    }

    /// The names of all scopes; the first is the whole stream, `""`.
    pub fn scope_names(&self) -> Arc<[String]> {
        let values = self.scopes.iter().flat_map(|scope| {
            scope.allow.iter().map(|value| format!("{}={value}", scope.attribute))
        });
        std::iter::once(String::new()).chain(values).collect()
    }

    /// The names of scopes besides the whole stream, sorted.
    pub fn scopes_sorted(&self) -> Vec<String> {
        let mut names = self.scope_names()[1..].to_vec();
        names.sort_unstable();
        names
    }

    /// The decoder of records with these names, which reads the scopes' attributes as well.
    pub fn decoder(&self, mapping: &Mapping) -> Decoder {
        let attributes: Vec<String> = self.scopes.iter().map(|s| s.attribute.clone()).collect();
        Decoder::new(mapping.clone(), &attributes)
    }

    /// The index of a scope's value among [`Self::scope_names`].
    pub(crate) fn scope_index(&self, scope: usize, value: usize) -> u16 {
        let before: usize = self.scopes[..scope].iter().map(|s| s.allow.len()).sum();
        (1 + before + value) as u16
    }

    pub(crate) fn time_rules(&self) -> TimeRules {
        let Self { live, until_ms, ends_at_ms, horizon_ms, .. } = *self;
        TimeRules { live, until_ms, ends_at_ms, horizon_ms }
    }
}
