//! What differs between the tags of two stores.
//!
//! Invariant: both sides' windows are evaluated at one instant, so that only counts differ and not
//! the time at which they were asked.

use std::cmp::Ordering;

use schemas::rows::TagRow;
use schemas::windows::Windows;
use serde::Serialize;
use serde_json::{Value, json};

use crate::commits::Snapshot;
use crate::store::{ServedTag, StoreError, Tag, evaluate};

/// A value that differs. A tag that only one side has differs in all its values.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// The scope; empty for the whole stream.
    pub scope: String,
    /// The tag's key.
    pub key: String,
    /// The field, as in `checkpoint export`.
    pub field: String,
    /// What the first store holds; null where it has no such tag.
    pub a: Value,
    /// What the second one holds.
    pub b: Value,
    /// By how much the totals of the tag differ: the order of a listing.
    #[serde(skip)]
    pub size: u64,
}

/// The tags of a commit that any live post carries, by (scope, key), with windows at `as_of_ms` or
/// the commit's own stream time, whichever is later.
pub fn tags_of(snapshot: &Snapshot, as_of_ms: Option<i64>) -> Result<Vec<Tag>, StoreError> {
    let body = &snapshot.manifest.body;
    let at = as_of_ms.max(body.as_of_ms);
    sorted(snapshot.tags_changed(0, None).map(|(_, row)| row), &body.windows, at)
}

/// The same of the rows of a store, with windows at `as_of_ms`.
pub fn served_tags(
    rows: &[ServedTag],
    windows: &Windows,
    as_of_ms: Option<i64>,
) -> Result<Vec<Tag>, StoreError> {
    sorted(rows.iter().map(ServedTag::row), windows, as_of_ms)
}

fn sorted<'r>(
    rows: impl Iterator<Item = TagRow<'r>>,
    windows: &Windows,
    as_of_ms: Option<i64>,
) -> Result<Vec<Tag>, StoreError> {
    let live = rows.filter(|row| row.total != 0);
    let tags = live.map(|row| evaluate(&row, windows, as_of_ms));
    let mut tags = tags.collect::<Result<Vec<_>, _>>()?;
    tags.sort_unstable_by(|a, b| place(a).cmp(&place(b)));
    Ok(tags)
}

fn place(tag: &Tag) -> (&str, &str) {
    (&tag.scope, &tag.name)
}

/// What differs between two lists of tags in (scope, key) order: those whose totals are furthest
/// apart first.
pub fn compare(a: &[Tag], b: &[Tag]) -> Vec<Difference> {
    let (mut a, mut b) = (a.iter().peekable(), b.iter().peekable());
    let mut found = Vec::new();
    loop {
        let order = match (a.peek(), b.peek()) {
            (Some(left), Some(right)) => place(left).cmp(&place(right)),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => break,
        };
        let left = if order.is_le() { a.next() } else { None };
        let right = if order.is_ge() { b.next() } else { None };
        differ(left, right, &mut found);
    }
    // Stable: fields of one tag stay together, and tags of one size in their order.
    found.sort_by_key(|difference| std::cmp::Reverse(difference.size));
    found
}

/// Adds what differs between two tags of one name.
pub(crate) fn differ(a: Option<&Tag>, b: Option<&Tag>, found: &mut Vec<Difference>) {
    if a == b {
        return;
    }
    let Some(named) = a.or(b) else { return };
    let total = |tag: Option<&Tag>| tag.map_or(0, |tag| tag.total);
    let size = total(a).abs_diff(total(b));
    let (fields_a, fields_b) = (a.map(fields), b.map(fields));
    let all = |side: &Option<Vec<(String, Value)>>| side.clone().unwrap_or_default();
    // A window that only one side has is no difference of the counts.
    let names = all(if a.is_some() { &fields_a } else { &fields_b });
    for (field, _) in names {
        let side = |side: &Option<Vec<(String, Value)>>| {
            let fields = side.iter().flatten();
            fields.clone().find(|(name, _)| *name == field).map(|(_, value)| value.clone())
        };
        let (a, b) = match (side(&fields_a), side(&fields_b)) {
            (Some(a), Some(b)) => (a, b),
            (a, b) if fields_a.is_none() || fields_b.is_none() => {
                (a.unwrap_or_default(), b.unwrap_or_default())
            }
            _ => continue,
        };
        if a != b {
            let (scope, key) = (named.scope.clone(), named.name.clone());
            found.push(Difference { scope, key, field, a, b, size });
        }
    }
}

/// A tag's fields, as `checkpoint export` names them.
fn fields(tag: &Tag) -> Vec<(String, Value)> {
    let own = [
        ("total", json!(tag.total)),
        ("display", json!(tag.display)),
        ("first_seen", json!(tag.first_seen_ms)),
        ("last_seen", json!(tag.last_seen_ms)),
    ];
    let own = own.into_iter().map(|(name, value)| (name.to_owned(), value));
    own.chain(tag.windows.iter().map(|(name, count)| (format!("c{name}"), json!(count)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(name: &str, total: i64, c1h: i64) -> Tag {
        Tag {
            name: name.to_owned(),
            display: name.to_owned(),
            scope: String::new(),
            total,
            windows: vec![("1h".to_owned(), c1h)],
            first_seen_ms: 1,
            last_seen_ms: 2,
        }
    }

    #[test]
    fn the_largest_difference_comes_first_and_equal_tags_not_at_all() {
        let a = [tag("a", 5, 1), tag("b", 9, 1), tag("d", 1, 0)];
        let b = [tag("a", 5, 2), tag("b", 2, 1), tag("c", 3, 3), tag("d", 1, 0)];
        let found = compare(&a, &b);
        let short: Vec<_> =
            found.iter().map(|d| format!("{} {} {} {}", d.key, d.field, d.a, d.b)).collect();
        let want = [
            "b total 9 2",
            "c total null 3",
            "c display null \"c\"",
            "c first_seen null 1",
            "c last_seen null 2",
            "c c1h null 3",
            "a c1h 1 2",
        ];
        assert_eq!(short, want);
        assert_eq!(compare(&a, &a), []);
    }
}
