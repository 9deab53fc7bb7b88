//! What differs between the tags of two states or stores.
//!
//! Invariant: windows of both sides are evaluated at the same instant, so only counts can differ,
//! not the time at which they were read.

use std::cmp::{Ordering, Reverse};

use schemas::rows::TagRow;
use schemas::windows::Windows;
use serde_json::{Value, json};

use crate::commits::Snapshot;
use crate::difference::{Difference, RowKey, RowKind};
use crate::store::{ServedTag, StoreError, Tag, evaluate};

/// The tags of a commit that have posts, by (scope, key), with windows at `as_of_ms` or the
/// commit's stream time, whichever is later.
pub fn tags_of(snapshot: &Snapshot, as_of_ms: Option<i64>) -> Result<Vec<Tag>, StoreError> {
    let body = &snapshot.manifest.body;
    let at = as_of_ms.max(body.as_of_ms);
    sorted(snapshot.tags_changed(0, None).map(|(_, row)| row), &body.windows, at)
}

/// The same for the rows of a store, with windows at `as_of_ms`.
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
    tags.sort_unstable_by(|a, b| name(a).cmp(&name(b)));
    Ok(tags)
}

fn name(tag: &Tag) -> (&str, &str) {
    (&tag.scope, &tag.name)
}

/// What differs between two lists of tags in (scope, key) order, tags whose totals are furthest
/// apart first.
pub fn diff_tags(a: &[Tag], b: &[Tag]) -> Vec<Difference> {
    debug_assert!(a.is_sorted_by_key(name), "the first list is out of order");
    debug_assert!(b.is_sorted_by_key(name), "the second list is out of order");
    let (mut a, mut b) = (a.iter().peekable(), b.iter().peekable());
    let mut by_size = Vec::new();
    loop {
        let order = match (a.peek(), b.peek()) {
            (Some(left), Some(right)) => name(left).cmp(&name(right)),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => break,
        };
        let left = if order.is_le() { a.next() } else { None };
        let right = if order.is_ge() { b.next() } else { None };
        if left != right {
            let total = |tag: Option<&Tag>| tag.map_or(0, |tag| tag.total);
            by_size.push((total(left).abs_diff(total(right)), diff_tag(left, right)));
        }
    }
    // A stable sort: tags of one size stay in their order.
    by_size.sort_by_key(|(size, _)| Reverse(*size));
    by_size.into_iter().flat_map(|(_, differences)| differences).collect()
}

/// What differs between two tags of one name, field by field.
pub(crate) fn diff_tag(a: Option<&Tag>, b: Option<&Tag>) -> Vec<Difference> {
    let Some(named) = a.or(b).filter(|_| a != b) else { return Vec::new() };
    let row = RowKey::new(RowKind::Tag, &named.scope, &named.name);
    let difference = |(field, a, b)| Difference::new(row.clone(), field, a, b);
    match (a.map(fields), b.map(fields)) {
        (Some(a), Some(b)) => {
            // A window that only one side has does not make the counts differ.
            let pairs = a.into_iter().filter_map(|(field, a)| {
                let b = b.iter().find(|(name, _)| *name == field)?.1.clone();
                (a != b).then_some((field, a, b))
            });
            pairs.map(difference).collect()
        }
        (a, b) => {
            let left = a.into_iter().flatten().map(|(field, a)| (field, a, Value::Null));
            let right = b.into_iter().flatten().map(|(field, b)| (field, Value::Null, b));
            left.chain(right).map(difference).collect()
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
    fn largest_difference_comes_first_and_equal_tags_are_left_out() {
        let a = [tag("a", 5, 1), tag("b", 9, 1), tag("d", 1, 0)];
        let b = [tag("a", 5, 2), tag("b", 2, 1), tag("c", 3, 3), tag("d", 1, 0)];
        let found = diff_tags(&a, &b);
        let short: Vec<_> = found
            .iter()
            .map(|d| format!("{} {} {} {}", d.row.key, d.field, d.left, d.right))
            .collect();
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
        assert_eq!(diff_tags(&a, &a), []);
    }
}
