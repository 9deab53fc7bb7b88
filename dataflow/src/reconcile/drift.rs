//! From facts that differ to values that differ, with the names of their tags and the events that
//! explain them.
//!
//! Invariant: every row, bucket or id that differs becomes at least one value of its key.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use schemas::control::Control;
use schemas::hash::KeyHash;
use schemas::rows::Ids;
use serde_json::json;
use sinks::commits::{OpenSegment, Snapshot};
use sinks::difference::{Difference, RecordPosition, RowKey, RowKind};

use super::corrections::{correct_id, correct_row};
use super::difference::{Evidence, KeyFacts};
use super::program::{Fact, Kept};

/// The most events listed for a value.
const EVENTS_MAX: usize = 5;
/// The most keys looked up in the log.
const KEYS_MAX: usize = 10_000;

/// What the log says about the keys that are looked up.
#[derive(Default)]
pub(super) struct LogEvidence {
    keys: HashMap<KeyHash, Evidence>,
}

impl LogEvidence {
    /// Whether no key is looked up.
    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Notes an event with this key, if the key is looked up.
    pub(super) fn note(
        &mut self,
        key: KeyHash,
        (scope, name): (&str, &str),
        ts_ms: i64,
        position: impl Fn() -> RecordPosition,
    ) {
        let Some(evidence) = self.keys.get_mut(&key) else { return };
        evidence.first_ms.get_or_insert(ts_ms);
        evidence.name.get_or_insert_with(|| (scope.to_owned(), name.to_owned()));
        if evidence.events.len() < EVENTS_MAX {
            evidence.events.push(position());
        }
    }
}

/// The keys that differ.
pub(super) struct Differences {
    keys: BTreeMap<KeyHash, KeyFacts>,
}

impl Differences {
    /// Groups facts by key; a fact counted 1 is only stored, one counted -1 only recomputed. Also
    /// returns the ids of the ambiguous events. Whether one is remembered whose copies claim
    /// different hours proves nothing.
    pub(super) fn new(facts: impl IntoIterator<Item = (Fact, isize)>) -> (Self, BTreeSet<KeyHash>) {
        let mut keys = BTreeMap::<KeyHash, KeyFacts>::new();
        // Several passes may report the same one.
        let (mut ambiguous, mut in_many_hours) = (BTreeSet::new(), BTreeSet::new());
        for (fact, number) in facts {
            debug_assert!(number == 1 || number == -1, "{fact:?} counts {number}");
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
                Fact::Ambiguous { id, in_hours } => {
                    ambiguous.insert(id);
                    if in_hours {
                        in_many_hours.insert(id);
                    }
                }
            }
        }
        keys.retain(|key, of| of.id.is_none() || !in_many_hours.contains(key));
        (Self { keys }, ambiguous)
    }

    /// What to look up in the log.
    pub(super) fn evidence(&self) -> LogEvidence {
        let keys = self.keys.keys().take(KEYS_MAX);
        let keys: HashMap<_, _> = keys.map(|key| (*key, Evidence::default())).collect();
        debug_assert_eq!(keys.is_empty(), self.keys.is_empty(), "a key that is not looked up");
        LogEvidence { keys }
    }

    /// The keys that differ.
    pub(super) fn keys(&self) -> BTreeSet<KeyHash> {
        self.keys.keys().copied().collect()
    }

    /// The repairs of the keys that were looked up.
    pub(super) fn controls(
        &self,
        snapshot: &Snapshot,
        kept: &Kept,
        log: &LogEvidence,
        ids: &[OpenSegment<Ids>],
    ) -> Vec<Control> {
        let of = self.keys.iter().filter_map(|(key, of)| Some((key, of, log.keys.get(key)?)));
        of.filter_map(|(key, of, evidence)| match of.id {
            Some(is_stored) => correct_id(*key, is_stored, evidence, ids),
            None => correct_row(*key, of, evidence, snapshot, kept),
        })
        .collect()
    }

    /// The values that differ, by scope and key.
    pub(super) fn list(
        self,
        snapshot: &Snapshot,
        kept: &Kept,
        mut log: LogEvidence,
    ) -> Vec<Difference> {
        let mut differences = Vec::new();
        for (key, of) in self.keys {
            // Beyond KEYS_MAX a key was not looked up.
            let Evidence { name, events, .. } = log.keys.remove(&key).unwrap_or_default();
            let kind = if of.id.is_some() { RowKind::Id } else { RowKind::Tag };
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
            let row = RowKey { scope, key: text, kind };
            differences.extend(fields.into_iter().map(|(field, stored, recomputed)| Difference {
                events: events.clone(),
                ..Difference::new(row.clone(), field, stored, recomputed)
            }));
        }
        differences.sort_by(|a, b| a.row.cmp(&b.row));
        differences
    }
}
