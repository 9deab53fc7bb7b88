//! Finds the circles in a graph of imports.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// From a file to the files it imports, and by which items.
pub(crate) type Arrows = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

/// The largest sets of files that all reach each other (strongly connected components).
pub(crate) fn knots(arrows: &Arrows) -> Vec<BTreeSet<String>> {
    let reached: BTreeMap<&str, BTreeSet<&str>> =
        arrows.keys().map(|file| (file.as_str(), reached(arrows, file))).collect();
    let mut knots = BTreeSet::new();
    for (file, to) in &reached {
        let back = |to: &&&str| reached.get(**to).is_some_and(|back| back.contains(file));
        knots.insert(to.iter().filter(back).map(|to| (*to).to_owned()).collect());
    }
    knots.into_iter().filter(|knot: &BTreeSet<String>| !knot.is_empty()).collect()
}

/// The files that a file leads to.
fn reached<'a>(arrows: &'a Arrows, from: &'a str) -> BTreeSet<&'a str> {
    let (mut reached, mut next) = (BTreeSet::new(), vec![from]);
    while let Some(file) = next.pop() {
        let to = arrows.get(file).into_iter().flat_map(BTreeMap::keys);
        next.extend(to.map(String::as_str).filter(|to| reached.insert(*to)));
    }
    reached
}

/// The shortest circle through every file of a knot, each once, the shortest ones first. A circle
/// begins with its first file by name, and its last file imports that one.
pub(crate) fn circles(arrows: &Arrows, knot: &BTreeSet<String>) -> Vec<Vec<String>> {
    let mut circles = BTreeSet::new();
    for mut circle in knot.iter().filter_map(|file| shortest(arrows, file)) {
        let first = circle.iter().enumerate().min_by_key(|(_, file)| *file).map_or(0, |(at, _)| at);
        circle.rotate_left(first);
        circles.insert((circle.len(), circle));
    }
    circles.into_iter().map(|(_, circle)| circle).collect()
}

/// The shortest path from a file back to itself, without its end.
fn shortest(arrows: &Arrows, from: &str) -> Option<Vec<String>> {
    let mut before: BTreeMap<&str, &str> = BTreeMap::new();
    let mut queue = VecDeque::from([from]);
    while let Some(file) = queue.pop_front() {
        for to in arrows.get(file).into_iter().flat_map(BTreeMap::keys) {
            if to == from {
                let mut way = vec![file.to_owned()];
                let mut at = file;
                while at != from {
                    at = before[at];
                    way.push(at.to_owned());
                }
                way.reverse();
                return Some(way);
            }
            if !before.contains_key(to.as_str()) {
                before.insert(to, file);
                queue.push_back(to);
            }
        }
    }
    None
}

/// Describes a circle, one line per file: the items that it imports from the next one.
pub(crate) fn describe(arrows: &Arrows, circle: &[String]) -> String {
    let next = circle.iter().cycle().skip(1);
    let lines = circle.iter().zip(next).map(|(file, next)| {
        let items = arrows[file][next].iter().cloned().collect::<Vec<_>>().join(", ");
        format!("{file} imports {items} from {next}")
    });
    lines.collect::<Vec<_>>().join("\n      ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knots_are_found_with_their_shortest_loops() {
        let items = BTreeSet::from(["X".to_owned()]);
        let mut arrows = Arrows::new();
        for (from, to) in
            ["ab", "ba", "bc", "cd", "da", "de", "fg", "gf", "ef"].map(|s| s.split_at(1))
        {
            arrows.entry(from.to_owned()).or_default().insert(to.to_owned(), items.clone());
        }
        let knots = knots(&arrows);
        let names = |files: &BTreeSet<String>| files.iter().cloned().collect::<String>();
        assert_eq!(knots.iter().map(names).collect::<Vec<_>>(), ["abcd", "fg"]);
        let circles = circles(&arrows, &knots[0]);
        assert_eq!(
            circles.iter().map(|circle| circle.concat()).collect::<Vec<_>>(),
            ["ab", "abcd"]
        );
        assert_eq!(describe(&arrows, &circles[0]), "a imports X from b\n      b imports X from a");
    }
}
