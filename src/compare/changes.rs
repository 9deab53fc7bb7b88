//! What differs between two sides, tag by tag, and how it is printed.
//!
//! Invariant: both sides are read in order, once for the summary and, where every tag is printed,
//! once more for those; only as many tags are kept as `--limit` says.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::iter::Peekable;

use schemas::printable::counted;
use serde::{Serialize, Serializer};
use serde_json::Value;
use sinks::store::Tag;
use sinks::tag_diff::diff_tag;

use super::sorted::{Sorted, place};
use crate::printer::Print;

/// The values of a tag on one side, by field.
#[derive(Clone, Debug, Default)]
struct Values(Vec<(String, Value)>);

impl Serialize for Values {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(field, value)| (field, value)))
    }
}

/// A tag that differs.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Change {
    scope: String,
    key: String,
    /// The values that differ; null if the side does not have the tag.
    a: Option<Values>,
    b: Option<Values>,
    /// How far its totals are apart.
    #[serde(skip)]
    size: u64,
}

/// How two sides compare.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Summary {
    /// The commits.
    pub(super) a: u64,
    pub(super) b: u64,
    /// Tags that either side has.
    pub(super) compared: u64,
    pub(super) same: u64,
    /// Tags of both sides with values that differ.
    pub(super) changed: u64,
    pub(super) only_a: u64,
    pub(super) only_b: u64,
    /// Tags that differ in any way.
    pub(super) differ: u64,
}

impl Change {
    /// What differs between a tag's sides, in these fields or in all; nothing if they are the same.
    fn new(a: Option<&Tag>, b: Option<&Tag>, fields: &BTreeSet<String>) -> Option<Self> {
        let (mut left, mut right) = (Values::default(), Values::default());
        let mut row = None;
        for difference in diff_tag(a, b) {
            if fields.is_empty() || fields.contains(&difference.field) {
                left.0.push((difference.field.clone(), difference.left));
                right.0.push((difference.field, difference.right));
            }
            row = Some(difference.row);
        }
        let (both, row) = (a.is_some() && b.is_some(), row?);
        if both && left.0.is_empty() {
            return None;
        }
        let total = |tag: Option<&Tag>| tag.map_or(0, |tag| tag.total);
        Some(Self {
            scope: row.scope,
            key: row.key,
            a: a.is_some().then_some(left),
            b: b.is_some().then_some(right),
            size: total(a).abs_diff(total(b)),
        })
    }
}

impl Summary {
    fn add(&mut self, change: Option<&Change>) {
        self.compared += 1;
        let kind = match change {
            None => &mut self.same,
            Some(Change { a: Some(_), b: Some(_), .. }) => &mut self.changed,
            Some(Change { a: Some(_), .. }) => &mut self.only_a,
            Some(_) => &mut self.only_b,
        };
        *kind += 1;
        self.differ += u64::from(change.is_some());
    }
}

/// The largest of the changes so far, by how far totals are apart, then in order.
pub(super) struct Largest {
    limit: usize,
    changes: BTreeMap<(Reverse<u64>, u64), Change>,
}

impl Largest {
    fn add(&mut self, number: u64, change: Change) {
        self.changes.insert((Reverse(change.size), number), change);
        if self.changes.len() > self.limit {
            self.changes.pop_last();
        }
    }
}

/// Compares two sides. Returns the summary and the `limit` largest changes.
pub(super) fn summarize(
    a: &Sorted,
    b: &Sorted,
    fields: &BTreeSet<String>,
    limit: usize,
) -> io::Result<(Summary, Vec<Change>)> {
    let mut summary = Summary::default();
    let mut largest = Largest { limit, changes: BTreeMap::new() };
    for pair in (Pairs { a: a.tags().peekable(), b: b.tags().peekable() }) {
        let (left, right) = pair?;
        let change = Change::new(left.as_ref(), right.as_ref(), fields);
        summary.add(change.as_ref());
        change.into_iter().for_each(|change| largest.add(summary.compared, change));
    }
    Ok((summary, largest.changes.into_values().collect()))
}

/// Every change, in order.
pub(super) fn changes(
    a: &Sorted,
    b: &Sorted,
    fields: &BTreeSet<String>,
) -> impl Iterator<Item = io::Result<Change>> {
    let pairs = Pairs { a: a.tags().peekable(), b: b.tags().peekable() };
    pairs.filter_map(|pair| match pair {
        Ok((a, b)) => Change::new(a.as_ref(), b.as_ref(), fields).map(Ok),
        Err(error) => Some(Err(error)),
    })
}

/// The two sides of each tag that either has.
struct Pairs<A: Iterator, B: Iterator> {
    a: Peekable<A>,
    b: Peekable<B>,
}

impl<A, B> Iterator for Pairs<A, B>
where
    A: Iterator<Item = io::Result<Tag>>,
    B: Iterator<Item = io::Result<Tag>>,
{
    type Item = io::Result<(Option<Tag>, Option<Tag>)>;

    fn next(&mut self) -> Option<Self::Item> {
        let order = match (self.a.peek(), self.b.peek()) {
            (None, None) => return None,
            (Some(Ok(a)), Some(Ok(b))) => place(a).cmp(&place(b)),
            // An error is taken first.
            (Some(Err(_)), _) | (Some(Ok(_)), None) => Ordering::Less,
            (_, Some(_)) => Ordering::Greater,
        };
        let left = if order.is_le() { self.a.next().transpose() } else { Ok(None) };
        let right = if order.is_ge() { self.b.next().transpose() } else { Ok(None) };
        Some(left.and_then(|left| Ok((left, right?))))
    }
}

impl Print for Summary {
    fn lines(&self) -> Vec<String> {
        let Self { a, b, same, changed, only_a, only_b, .. } = self;
        let same = counted(same, "tag is the same", "tags are the same");
        vec![format!(
            "commits {a} and {b}: {same}, {changed} changed, {only_a} only in A, {only_b} only in B"
        )]
    }
}

impl Print for Change {
    fn lines(&self) -> Vec<String> {
        let Self { scope, key, a, b, .. } = self;
        let scope = if scope.is_empty() { String::new() } else { format!(" in {scope}") };
        let values: Vec<String> = match (a, b) {
            (Some(a), Some(b)) => {
                let pairs = a.0.iter().zip(&b.0);
                pairs.map(|((field, a), (_, b))| format!("{field} {a} | {b}")).collect()
            }
            (Some(values), None) => only("A", values),
            (None, Some(values)) => only("B", values),
            (None, None) => unreachable!("one side has the tag: see `Change::new`"),
        };
        vec![format!("{key}{scope}: {}", values.join(", "))]
    }
}

fn only(side: &str, values: &Values) -> Vec<String> {
    let values = values.0.iter().map(|(field, value)| format!("{field} {value}"));
    std::iter::once(format!("only in {side}")).chain(values).collect()
}

#[cfg(test)]
mod tests {
    use super::super::sorted::Sorter;
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

    fn side(tags: &[Tag]) -> Sorted {
        let mut sorter = Sorter::default();
        tags.iter().for_each(|tag| sorter.push(tag.clone()).unwrap());
        sorter.finish().unwrap()
    }

    fn sides() -> (Sorted, Sorted) {
        let a = [tag("a", 5, 1), tag("b", 9, 1), tag("d", 1, 0), tag("e", 1, 0)];
        let b = [tag("a", 5, 2), tag("b", 2, 1), tag("c", 3, 3), tag("d", 1, 0)];
        (side(&a), side(&b))
    }

    fn lines(changes: &[Change]) -> Vec<String> {
        changes.iter().flat_map(Print::lines).collect()
    }

    #[test]
    fn summary_counts_tags_and_the_largest_change_comes_first() {
        let (a, b) = sides();
        let (summary, changes) = summarize(&a, &b, &BTreeSet::new(), 3).unwrap();
        assert_eq!(
            summary.lines(),
            ["commits 0 and 0: 1 tag is the same, 2 changed, 1 only in A, 1 only in B"]
        );
        assert_eq!((summary.compared, summary.differ), (5, 4));
        let want = [
            "b: total 9 | 2",
            "c: only in B, total 3, display \"c\", first_seen 1, last_seen 2, c1h 3",
            "e: only in A, total 1, display \"e\", first_seen 1, last_seen 2, c1h 0",
        ];
        assert_eq!(lines(&changes), want);
        assert_eq!(summarize(&a, &a, &BTreeSet::new(), 9).unwrap().0.differ, 0);
    }

    #[test]
    fn all_changes_come_in_order_and_only_in_the_fields_asked_for() {
        let (a, b) = sides();
        let total = ["total".to_owned()].into();
        let got: Vec<Change> = changes(&a, &b, &total).collect::<Result<_, _>>().unwrap();
        assert_eq!(
            lines(&got),
            ["b: total 9 | 2", "c: only in B, total 3", "e: only in A, total 1"]
        );
        let json = serde_json::to_value(&got[1]).unwrap();
        assert_eq!(json["a"], Value::Null);
        assert_eq!(json["b"]["total"], 3);
    }
}
