//! What differs between the two sides of a tag: of two states or stores, or of a store and its
//! commit.

use serde_json::{Value, json};

use crate::difference::{Difference, RowKey, RowKind};
use crate::store::Tag;

/// What differs between two tags of one name, field by field.
pub fn diff_tag(a: Option<&Tag>, b: Option<&Tag>) -> Vec<Difference> {
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
    fn every_field_of_a_missing_side_differs_and_equal_tags_do_not() {
        let short = |a: Option<&Tag>, b: Option<&Tag>| -> Vec<String> {
            let line = |d: &Difference| format!("{} {} {} {}", d.row.key, d.field, d.left, d.right);
            diff_tag(a, b).iter().map(line).collect()
        };
        let (a, b) = (tag("a", 5, 1), tag("a", 5, 2));
        assert_eq!(short(Some(&a), Some(&b)), ["a c1h 1 2"]);
        assert_eq!(short(Some(&a), Some(&a)), [""; 0]);
        let want = [
            "a total null 5",
            "a display null \"a\"",
            "a first_seen null 1",
            "a last_seen null 2",
            "a c1h null 1",
        ];
        assert_eq!(short(None, Some(&a)), want);
    }
}
