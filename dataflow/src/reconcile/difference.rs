//! What differs of one key, and what the log tells of it.
//!
//! Invariant: a fact that differs has at least one field that does.

use std::collections::BTreeMap;

use schemas::hash::KeyHash;
use schemas::windows::Buckets;
use serde::Serialize;
use serde_json::{Value, json};
use sinks::commits::Snapshot;

use super::program::{Fact, Kept};

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
    pub(super) id: Option<bool>,
    /// Whether its row has another's scope or key.
    pub(super) misnamed: bool,
}

/// What the log tells of a key.
#[derive(Default)]
pub(super) struct Found {
    /// Its scope, and the tag's key or the id.
    pub(super) name: Option<(String, String)>,
    /// The time of the first event with it, in the order of the log.
    pub(super) first_ms: Option<i64>,
    pub(super) events: Vec<Place>,
}

impl Differing {
    /// Field, stored and recomputed value of all that differs.
    pub(super) fn fields(
        self,
        snapshot: &Snapshot,
        kept: &Kept,
        key: KeyHash,
    ) -> Vec<(String, Value, Value)> {
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
