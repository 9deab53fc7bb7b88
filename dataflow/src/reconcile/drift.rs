//! From facts that differ to values that differ, with the names of their tags and the events that
//! explain them.
//!
//! Invariant: every fact that differs ends in at least one value of its key.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use schemas::control::Control;
use schemas::hash::KeyHash;
use schemas::rows::Ids;
use serde_json::json;
use sinks::commits::{OpenSegment, Snapshot};

use super::difference::{Differing, Drift, Found, Place};
use super::mend;
use super::program::{Fact, Kept};

/// The events listed for a value, at most.
const EVENTS_MAX: usize = 5;
/// The keys that events are looked up for, at most.
const KEYS_MAX: usize = 10_000;

/// What is looked for in the log again, and what was found.
#[derive(Default)]
pub(super) struct Wanted {
    keys: HashMap<KeyHash, Found>,
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
