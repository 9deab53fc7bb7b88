//! From facts that differ to values that differ, with the names of their tags and the events that
//! explain them.
//!
//! Invariant: every fact that differs ends in at least one value of its key.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use schemas::control::Control;
use schemas::hash::KeyHash;
use schemas::rows::Ids;
use schemas::windows::Buckets;
use serde::Serialize;
use serde_json::{Value, json};
use sinks::commits::{OpenSegment, Snapshot};

use super::mend;
use super::program::{Fact, Kept};

/// The events listed for a value, at most.
const EVENTS_MAX: usize = 5;
/// The keys that events are looked up for, at most.
const KEYS_MAX: usize = 10_000;

/// A record's position.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Place {
    /// The input's name.
    pub input: String,
    /// The partition's identity.
    pub partition: String,
    /// The record's position in it.
    pub position: u64,
}

/// A value that differs. A row that only one side has differs in all its values.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Drift {
    /// The scope; empty for the whole stream, and for ids.
    pub scope: String,
    /// The tag's key, or the id. A hash where nothing tells the text.
    pub key: String,
    /// The field, as in `checkpoint export`; `recent` where only buckets inside windows differ, and
    /// `remembered` of an id.
    pub field: String,
    /// What the commit holds; null where it has no such row.
    pub stored: Value,
    /// What the log comes to; null where it has no such row.
    pub recomputed: Value,
    /// The first events that carry the tag, or the id.
    pub events: Vec<Place>,
}

/// One key's facts that differ.
#[derive(Default)]
pub(super) struct Differing {
    pub(super) stored: Option<Fact>,
    pub(super) recomputed: Option<Fact>,
    /// (window, start) → the stored count, and the recomputed one.
    pub(super) buckets: BTreeMap<(u8, i64), (i64, i64)>,
    /// An id's: whether it is stored.
    id: Option<bool>,
    /// Whether its row has another's scope or key.
    misnamed: bool,
}

/// What is looked for in the log again, and what was found.
#[derive(Default)]
pub(super) struct Wanted {
    keys: HashMap<KeyHash, Found>,
}

/// What the log tells of a key.
#[derive(Default)]
pub(super) struct Found {
    /// Its scope, and the tag's key or the id.
    pub(super) name: Option<(String, String)>,
    /// The time of the first event with it, in the order of the log.
    pub(super) first_ms: Option<i64>,
    events: Vec<Place>,
}

impl Wanted {
    /// Whether anything is looked for.
    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Takes note of an event with this key.
    pub(super) fn see(
        &mut self,
        key: KeyHash,
        (scope, name): (&str, &str),
        ts_ms: i64,
        place: impl Fn() -> Place,
    ) {
        let Some(found) = self.keys.get_mut(&key) else { return };
        found.first_ms.get_or_insert(ts_ms);
        found.name.get_or_insert_with(|| (scope.to_owned(), name.to_owned()));
        if found.events.len() < EVENTS_MAX {
            found.events.push(place());
        }
    }
}

/// The keys that differ.
pub(super) struct Differences {
    keys: BTreeMap<KeyHash, Differing>,
}

impl Differences {
    /// Sorts facts by key; `number` is 1 for what is stored and not recomputed. Also the ambiguous
    /// events.
    pub(super) fn new(facts: impl IntoIterator<Item = (Fact, isize)>) -> (Self, BTreeSet<KeyHash>) {
        let mut keys = BTreeMap::<KeyHash, Differing>::new();
        // Several passes may tell of one.
        let mut ambiguous = BTreeSet::new();
        for (fact, number) in facts {
            let is_stored = number > 0;
            match fact {
                Fact::Row { key, .. } => {
                    let of = keys.entry(key).or_default();
                    let side = if is_stored { &mut of.stored } else { &mut of.recomputed };
                    *side = Some(fact);
                }
                Fact::Bucket { key, window, start, count } => {
                    let of = keys.entry(key).or_default();
                    let counts = of.buckets.entry((window, start)).or_default();
                    *(if is_stored { &mut counts.0 } else { &mut counts.1 }) = count;
                }
                Fact::Id(id) => keys.entry(id).or_default().id = Some(is_stored),
                Fact::Misnamed(key) => keys.entry(key).or_default().misnamed = true,
                Fact::Ambiguous(id) => drop(ambiguous.insert(id)),
            }
        }
        (Self { keys }, ambiguous)
    }

    /// What has to be looked up in the log.
    pub(super) fn wanted(&self) -> Wanted {
        let keys = self.keys.keys().take(KEYS_MAX);
        Wanted { keys: keys.map(|key| (*key, Found::default())).collect() }
    }

    /// The keys that differ.
    pub(super) fn keys(&self) -> BTreeSet<KeyHash> {
        self.keys.keys().copied().collect()
    }

    /// What has to be done about the keys that were looked up.
    pub(super) fn controls(
        &self,
        snapshot: &Snapshot,
        kept: &Kept,
        log: &Wanted,
        ids: &[OpenSegment<Ids>],
    ) -> Vec<Control> {
        let of = self.keys.iter().filter_map(|(key, of)| Some((key, of, log.keys.get(key)?)));
        of.filter_map(|(key, of, found)| match of.id {
            Some(is_stored) => mend::id(*key, is_stored, found, ids),
            None => mend::row(*key, of, found, snapshot, kept),
        })
        .collect()
    }

    /// The values that differ, by scope and key.
    pub(super) fn values(self, snapshot: &Snapshot, kept: &Kept, mut log: Wanted) -> Vec<Drift> {
        let mut values = Vec::new();
        for (key, of) in self.keys {
            let Found { name, events, .. } = log.keys.remove(&key).unwrap_or_default();
            let row = snapshot.tag(key).filter(|_| of.id.is_none());
            let stored = row.map(|row| (row.scope.to_owned(), row.tag.to_owned()));
            let misnamed = name.clone().zip(stored.clone()).filter(|_| of.misnamed);
            let (scope, text) = name.or(stored).unwrap_or_else(|| (String::new(), key.to_string()));
            let mut fields = of.fields(snapshot, kept, key);
            if let Some((log, stored)) = misnamed {
                let names = [("scope", stored.0, log.0), ("key", stored.1, log.1)];
                let wrong = names.into_iter().filter(|(_, stored, log)| stored != log);
                fields.extend(wrong.map(|(f, s, l)| (f.to_owned(), json!(s), json!(l))));
            }
            values.extend(fields.into_iter().map(|(field, stored, recomputed)| Drift {
                scope: scope.clone(),
                key: text.clone(),
                field,
                stored,
                recomputed,
                events: events.clone(),
            }));
        }
        values.sort_by(|a, b| (&a.scope, &a.key).cmp(&(&b.scope, &b.key)));
        values
    }
}

impl Differing {
    /// Field, stored and recomputed value of all that differs.
    fn fields(self, snapshot: &Snapshot, kept: &Kept, key: KeyHash) -> Vec<(String, Value, Value)> {
        if let Some(stored) = self.id {
            return vec![("remembered".to_owned(), json!(stored), json!(!stored))];
        }
        let mut fields = Vec::new();
        let mut add = |field: &str, stored: Value, recomputed: Value| {
            if stored != recomputed {
                fields.push((field.to_owned(), stored, recomputed));
            }
        };
        if self.stored.is_some() || self.recomputed.is_some() {
            let (stored, recomputed) = (row(self.stored.as_ref()), row(self.recomputed.as_ref()));
            for (i, field) in ["display", "total", "first_seen", "last_seen"].iter().enumerate() {
                add(field, stored[i].clone(), recomputed[i].clone());
            }
        }
        let (gone, new) = (
            self.recomputed.is_none() && self.stored.is_some(),
            self.stored.is_none() && self.recomputed.is_some(),
        );
        let sums = sums(snapshot, kept, key);
        let mut any_sum = gone || new;
        for (i, window) in kept.windows.iter().enumerate() {
            let last = kept.as_of_ms / window.slide_ms;
            let inside = self
                .buckets
                .iter()
                .filter(|((w, start), _)| usize::from(*w) == i && *start <= last);
            let more: i64 = inside.map(|(_, (stored, recomputed))| recomputed - stored).sum();
            any_sum |= more != 0;
            let stored = sums.get(i).copied().unwrap_or_default();
            let side = |missing: bool, n: i64| if missing { Value::Null } else { json!(n) };
            if more != 0 || gone || new {
                let field = format!("c{}", window.name());
                add(&field, side(new, stored), side(gone, stored + more));
            }
        }
        if !any_sum && !self.buckets.is_empty() {
            let list = |side: fn(&(i64, i64)) -> i64| {
                let finest = self.buckets.keys().next().map_or(0, |(window, _)| *window);
                let slide_ms = kept.windows.iter().nth(finest.into()).map_or(1, |w| w.slide_ms);
                let of = self.buckets.iter().filter(|((window, _), _)| *window == finest);
                of.map(|((_, start), counts)| json!([start * slide_ms, side(counts)])).collect()
            };
            add("recent", list(|counts| counts.0), list(|counts| counts.1));
        }
        fields
    }
}

/// The values of a row's fact, or nothing.
fn row(fact: Option<&Fact>) -> [Value; 4] {
    match fact {
        Some(Fact::Row { total, first_ms, last_ms, display, .. }) => {
            [json!(display), json!(total), json!(first_ms), json!(last_ms)]
        }
        _ => [Value::Null, Value::Null, Value::Null, Value::Null],
    }
}

/// What each window of a stored row comes to at the commit's stream time.
fn sums(snapshot: &Snapshot, kept: &Kept, key: KeyHash) -> Vec<i64> {
    let tiers = kept.windows.tiers();
    let row = snapshot.tag(key).filter(|row| row.total != 0);
    let Some(row) = row else { return Vec::new() };
    let Ok(buckets) = Buckets::decode(tiers.slot(row.as_of), row.recent) else { return Vec::new() };
    let as_of = tiers.slot(kept.as_of_ms);
    (0..tiers.len()).map(|i| buckets.sum(&tiers, i, as_of)).collect()
}
