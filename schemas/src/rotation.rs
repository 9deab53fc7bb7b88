//! Names of files that were rotated, and which partition of one commit is which of another.
//!
//! Invariant: what a file has been read to stays with it, whatever it is called.

use std::collections::BTreeMap;

use crate::manifest::Partitions;

/// What a file that was called `name` is called as the `number`th that lost this name.
pub fn rotated_name(name: &str, number: u64) -> String {
    format!("{name}@{number}")
}

/// The number in a name that [`rotated_name`] made from `former`.
pub fn rotation_number(name: &str, former: &str) -> Option<u64> {
    name.strip_prefix(former)?.strip_prefix('@')?.parse().ok()
}

/// The name that the partition `name` of `before`, an earlier commit, has in `now`. A file that
/// lost its name is another partition than the one that has it now.
pub fn name_after<'n, T>(
    name: &'n str,
    now: &'n Partitions,
    before: &BTreeMap<String, T>,
) -> Option<&'n str> {
    // The first file that has lost a name since then is the one that had it then.
    let lost = now.iter().filter(|(_, state)| state.former_name.as_deref() == Some(name));
    let since = lost.map(|(name, _)| name.as_str()).filter(|name| !before.contains_key(*name));
    let first = since.min_by_key(|rotated| rotation_number(rotated, name));
    first.or_else(|| now.contains_key(name).then_some(name))
}

/// The name that the partition `name` of `now` had in `before`, an earlier commit, if it was there.
pub fn name_before<'n>(name: &'n str, now: &'n Partitions, before: &Partitions) -> Option<&'n str> {
    let former = now.get(name)?.former_name.as_deref();
    let names = [Some(name), former].into_iter().flatten();
    let mut there = names.filter(|name| before.contains_key(*name));
    there.find(|then| name_after(then, now, before) == Some(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Partition;

    #[test]
    fn partition_is_followed_through_its_names() {
        let of = |names: &[(&str, Option<&str>)]| -> Partitions {
            let state = |former: Option<&str>| Partition {
                former_name: former.map(str::to_owned),
                ..Partition::default()
            };
            names.iter().map(|(name, former)| ((*name).to_owned(), state(*former))).collect()
        };
        let before = of(&[("a", None), ("a@2", Some("a")), ("b", None)]);
        let now = of(&[
            ("a", None),
            ("a@2", Some("a")),
            ("a@9", Some("a")),
            ("a@10", Some("a")),
            ("b", None),
            ("c", None),
        ]);
        let was = |name| name_before(name, &now, &before);
        assert_eq!((was("a@9"), was("a@10")), (Some("a"), None), "a@10 came after that commit");
        assert_eq!((was("a"), was("a@2"), was("b")), (None, Some("a@2"), Some("b")));
        assert_eq!(was("c"), None);
        let is = |name| name_after(name, &now, &before);
        assert_eq!((is("a"), is("a@2"), is("b")), (Some("a@9"), Some("a@2"), Some("b")));
        assert_eq!(rotation_number(&rotated_name("a@1", 7), "a@1"), Some(7));
    }
}
