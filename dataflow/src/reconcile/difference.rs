//! What differs in one key, and what the log says about it.
//!
//! Invariant: facts that differ give at least one field that differs.

use std::collections::BTreeMap;

use schemas::hash::KeyHash;
use schemas::windows::Buckets;
use serde_json::{Value, json};
use sinks::commits::Snapshot;
use sinks::difference::RecordPosition;

use super::program::{Fact, Kept};

/// The facts of one key that differ.
#[derive(Default)]
pub(super) struct KeyFacts {
    pub(super) stored: Option<Fact>,
    pub(super) recomputed: Option<Fact>,
    /// (window, start) → the stored count and the recomputed one.
    pub(super) buckets: BTreeMap<(u8, i64), (i64, i64)>,
    /// For an id, whether it is stored.
    pub(super) id: Option<bool>,
    /// Whether the stored row has the scope or key of another.
    pub(super) misnamed: bool,
}

/// What the log says about a key.
#[derive(Default)]
pub(super) struct Evidence {
    /// Its scope, and the tag's key or the id.
    pub(super) name: Option<(String, String)>,
    /// The time of the first event with it, in the order of the log.
    pub(super) first_ms: Option<i64>,
    /// The first events with it.
    pub(super) events: Vec<RecordPosition>,
}

impl KeyFacts {
    /// The fields that differ, each with its stored and its recomputed value.
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
        let mut any_sum = gone || new;
        for (i, (window, stored)) in kept.windows.iter().zip(sums(snapshot, kept, key)).enumerate()
        {
            let last = kept.as_of_ms / window.slide_ms;
            let inside = self
                .buckets
                .iter()
                .filter(|((w, start), _)| usize::from(*w) == i && *start <= last);
            let more: i64 = inside.map(|(_, (stored, recomputed))| recomputed - stored).sum();
            any_sum |= more != 0;
            let side = |missing: bool, n: i64| if missing { Value::Null } else { json!(n) };
            if more != 0 || gone || new {
                let field = format!("c{}", window.name());
                add(&field, side(new, stored), side(gone, stored + more));
            }
        }
        if let Some((&(finest, _), _)) = self.buckets.first_key_value().filter(|_| !any_sum) {
            let slide_ms = kept.window(finest).slide_ms;
            let list = |side: fn(&(i64, i64)) -> i64| {
                let of = self.buckets.iter().filter(|((window, _), _)| *window == finest);
                of.map(|((_, start), counts)| json!([start * slide_ms, side(counts)])).collect()
            };
            add("recent", list(|counts| counts.0), list(|counts| counts.1));
        }
        debug_assert!(!fields.is_empty() || self.misnamed, "facts that differ give no field");
        fields
    }
}

/// The values of a row, or nulls if there is none.
fn row(fact: Option<&Fact>) -> [Value; 4] {
    match fact {
        Some(Fact::Row { total, first_ms, last_ms, display, .. }) => {
            [json!(display), json!(total), json!(first_ms), json!(last_ms)]
        }
        None => [Value::Null, Value::Null, Value::Null, Value::Null],
        Some(other) => unreachable!("{other:?} is kept as a row: checked by Differences::new"),
    }
}

/// The sum of each window of the stored row at the commit's stream time.
fn sums(snapshot: &Snapshot, kept: &Kept, key: KeyHash) -> Vec<i64> {
    let tiers = kept.windows.tiers();
    let Some(row) = snapshot.tag(key).filter(|row| row.total != 0) else {
        return vec![0; tiers.len()];
    };
    let buckets = Buckets::decode(tiers.slot(row.as_of), row.recent)
        .unwrap_or_else(|_| unreachable!("a damaged row ends the check: see stored::rows"));
    let as_of = tiers.slot(kept.as_of_ms);
    (0..tiers.len()).map(|i| buckets.sum(&tiers, i, as_of)).collect()
}
