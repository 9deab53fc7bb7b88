//! Repairs of tags: corrections, and writing a row again.
//!
//! Invariant: posts that were counted after the commit that a correction was made from stay
//! counted.

use schemas::control::{Correction, Values};
use schemas::hash::KeyHash;
use schemas::rows::TagRow;
use serde_json::{Map, Value, json};

use super::table::TagTable;
use super::tag::{Tag, TagError};

/// The fields of a row that a correction changed, before and after, as JSON objects.
pub(crate) struct Change {
    pub(crate) before: String,
    pub(crate) after: String,
    /// Whether the tag has fewer posts than before.
    pub(crate) total_fell: bool,
}

impl TagTable {
    /// Corrects a row. `None` if its scope is not counted. `cold` looks up one that is not in
    /// memory.
    pub(crate) fn correct<'c>(
        &mut self,
        correction: &'c Correction,
        cold: impl FnOnce(KeyHash) -> Option<TagRow<'c>>,
    ) -> Result<Option<Change>, TagError> {
        let Correction { hash, scope, key, stored, recomputed, buckets } = correction;
        let Some(scope_index) = self.scope_index(scope) else { return Ok(None) };
        // A row under a wrong name has the right numbers.
        let named = |row| TagRow { scope, ..row };
        let at = self.find_or_load(*hash, |hash| cold(hash).map(named))?;
        let at = at.unwrap_or_else(|| self.insert(Tag::empty(*hash)));
        self.touch(at);
        let Self { slab, tiers, scopes, .. } = self;
        let tag = slab.tag_mut(at);
        let (heap_bytes, before) = (tag.heap_bytes(), fields(tag, tiers, scopes));
        let total = |values: &Option<Values>| values.as_ref().map_or(0, |values| values.total);
        let was = tag.total;
        tag.total = (was + total(recomputed) - total(stored)).max(0);
        for change in buckets {
            let end_ms = change.start_ms + change.width_ms;
            let slots = tiers.slot(change.start_ms)..tiers.slot(end_ms);
            tag.buckets.adjust(tiers, slots, change.by);
        }
        tag.scope = scope_index;
        set_times(tag, key, stored.as_ref(), recomputed.as_ref());
        let (before, after) = differing(before, fields(tag, tiers, scopes));
        let (total_fell, now_bytes) = (tag.total < was, tag.heap_bytes());
        self.heap_bytes = self.heap_bytes - heap_bytes + now_bytes;
        Ok(Some(Change { before, after, total_fell }))
    }

    /// Has a row written again. A tag that is not known gets a row with total 0. Returns whether
    /// its scope is counted.
    pub(crate) fn republish<'c>(
        &mut self,
        hash: KeyHash,
        [scope, key, display]: [&str; 3],
        cold: impl FnOnce(KeyHash) -> Option<TagRow<'c>>,
    ) -> Result<bool, TagError> {
        let Some(scope_index) = self.scope_index(scope) else { return Ok(false) };
        let at = self.find_or_load(hash, cold)?;
        let at = at.unwrap_or_else(|| {
            let mut tag = Tag::empty(hash);
            tag.scope = scope_index;
            tag.set_text(key, display);
            self.heap_bytes += tag.heap_bytes();
            self.insert(tag)
        });
        self.touch(at);
        Ok(true)
    }
}

/// Sets times and spelling: what was recomputed replaces what was stored, and is merged with what
/// came since.
fn set_times(tag: &mut Tag, key: &str, stored: Option<&Values>, recomputed: Option<&Values>) {
    let display = tag.display().to_owned();
    let Some(right) = recomputed else {
        tag.set_text(key, if display.is_empty() { key } else { &display });
        if tag.total == 0 {
            (tag.first_ms, tag.last_ms) = (i64::MAX, i64::MIN);
        }
        return;
    };
    let is_stored = |same: fn(&Tag, &Values) -> bool| stored.is_some_and(|s| same(tag, s));
    let first = is_stored(|tag, s| tag.first_ms == s.first_ms && *tag.display() == *s.display);
    let last = is_stored(|tag, s| tag.last_ms == s.last_ms);
    let now = (tag.first_ms, display.as_str());
    let right_first = (right.first_ms, right.display.as_str());
    let (first_ms, spelling) = if first { right_first } else { now.min(right_first) };
    let last_ms = if last { right.last_ms } else { tag.last_ms.max(right.last_ms) };
    tag.set_text(key, spelling);
    (tag.first_ms, tag.last_ms) = (first_ms, last_ms);
}

fn fields(tag: &Tag, tiers: &schemas::windows::Tiers, scopes: &[String]) -> Map<String, Value> {
    let [mut first_ms, mut last_ms, mut display] =
        [json!(tag.first_ms), json!(tag.last_ms), json!(tag.display())];
    if tag.total == 0 {
        (first_ms, last_ms, display) = (Value::Null, Value::Null, Value::Null);
    }
    let recent: Vec<_> = tag.buckets.iter(tiers).collect();
    let named = [
        ("scope", json!(scopes[usize::from(tag.scope)])),
        ("key", json!(tag.key())),
        ("display", display),
        ("total", json!(tag.total)),
        ("first_seen", first_ms),
        ("last_seen", last_ms),
        ("recent", json!(recent)),
    ];
    named.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// The fields that differ, before and after.
fn differing(mut before: Map<String, Value>, mut after: Map<String, Value>) -> (String, String) {
    before.retain(|name, value| {
        let differs = after.get(name) != Some(value);
        if !differs {
            after.remove(name);
        }
        differs
    });
    (Value::Object(before).to_string(), Value::Object(after).to_string())
}

#[cfg(test)]
mod tests {
    use schemas::control::BucketChange;

    use super::super::tests::{mention, segment, table};
    use super::*;

    const MINUTE: i64 = 60_000;
    const START: i64 = 28_333_333 * MINUTE;

    fn correction(stored: Option<Values>, recomputed: Option<Values>) -> Correction {
        let (hash, scope, key) =
            (mention("sun", 0).mentions[0].tag, String::new(), "sun".to_owned());
        Correction { hash, scope, key, stored, recomputed, buckets: Vec::new() }
    }

    #[allow(clippy::unnecessary_wraps, reason = "what corrections hold")]
    fn values(total: i64, first_ms: i64, last_ms: i64, display: &str) -> Option<Values> {
        Some(Values { total, first_ms, last_ms, display: display.to_owned() })
    }

    /// What a table of `posts` holds after a correction, and what that changed.
    fn corrected(posts: &[(&str, i64)], correction: &Correction) -> (Option<Values>, Change) {
        let mut table = table();
        for (tag, ts_ms) in posts {
            table.apply(&mention(tag, *ts_ms), |_| None).unwrap();
        }
        let change = table.correct(correction, |_| None).unwrap().unwrap();
        let rows = segment(table.close(START + MINUTE, |_| ()));
        let (_, row) = rows.iter().next().unwrap();
        let values = values(row.total, row.first_seen, row.last_seen, row.display);
        (values.filter(|values| values.total > 0), change)
    }

    #[test]
    fn posts_counted_since_are_kept() {
        let posts = [("Sun", START), ("sun", START + 5), ("SUN", START + 9)];
        // The commit counted two posts where the log had three.
        let wrong =
            correction(values(2, START, START + 5, "Sun"), values(3, START - 1, START + 6, "suN"));
        let (row, change) = corrected(&posts, &wrong);
        assert_eq!(row, values(4, START - 1, START + 9, "suN"));
        assert!(!change.total_fell && change.after.contains("\"total\":4"), "{}", change.after);
        let too_many = correction(values(2, START, START + 5, "Sun"), None);
        let (row, change) = corrected(&posts, &too_many);
        assert_eq!(row.map(|row| row.total), Some(1));
        assert!(change.total_fell && change.before == r#"{"total":3}"#, "{}", change.before);
    }

    #[test]
    fn extra_row_is_removed_and_missing_row_is_added() {
        let too_many = correction(values(1, START, START, "Sun"), None);
        assert_eq!(corrected(&[("Sun", START)], &too_many).0, None);
        let mut missing = correction(None, values(2, START, START + 1, "Sun"));
        missing.buckets = vec![BucketChange { start_ms: START, width_ms: MINUTE, by: 2 }];
        let (row, change) = corrected(&[], &missing);
        assert_eq!(row, missing.recomputed);
        assert!(change.after.contains(&format!("[[{START},2]]")), "{}", change.after);
    }
}
