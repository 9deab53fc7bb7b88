//! Reads which files of a crate import which.
//!
//! An arrow leads from a file that names an item, in a `use` line or in a path, to the file that
//! defines the item: re-exports are followed. A `mod` line is not an arrow. Neither is a re-export
//! in `lib.rs`, `main.rs` or `mod.rs`, unless the file uses the name itself. Items that are used
//! without being named, such as a method of a value, are not seen. A tree such as `file::{Item}`
//! outside `use` stands in a macro that re-exports.
//!
//! Invariant: exactly the files that the crate compiles outside tests are read, from its root along
//! the `mod` lines.

use std::collections::{BTreeMap, BTreeSet};

use crate::graph::Arrows;
use crate::tokens::{is_word, tokens, without_tests};

/// The longest chain of re-exports that is followed.
const DEPTH_MAX: usize = 16;

type Path = Vec<String>;

/// One name that a `use` brings into a file.
struct Import {
    /// The name, or `*`.
    name: String,
    path: Path,
    /// Whether it is visible outside the file.
    public: bool,
}

/// What a file declares and names.
struct Source {
    file: String,
    module: Path,
    /// `mod` lines, with the file that an attribute names instead.
    children: Vec<(String, Option<String>)>,
    imports: Vec<Import>,
    /// Paths outside of `use`.
    paths: Vec<Path>,
    /// Names that the file defines, at any depth.
    items: BTreeSet<String>,
    /// Single words outside `use` and paths.
    words: BTreeSet<String>,
}

/// All files of a crate.
struct Crate {
    sources: Vec<Source>,
    /// The first source of each module.
    modules: BTreeMap<Path, usize>,
}

/// The arrows between the files of the crate whose root is `root`, such as `src/lib.rs`; `files`
/// has their texts by path.
pub(crate) fn arrows(files: &BTreeMap<String, String>, root: &str) -> Arrows {
    let mut all = Crate { sources: Vec::new(), modules: BTreeMap::new() };
    all.read(files, root, Vec::new());
    let mut arrows = Arrows::new();
    for source in &all.sources {
        let shows = ["lib.rs", "main.rs", "mod.rs"].iter().any(|name| source.file.ends_with(name));
        let only_shown = |i: &&Import| i.public && shows && !source.words.contains(&i.name);
        let imports = source.imports.iter().filter(|import| !only_shown(import));
        let imports = imports.map(|import| (&import.path, import.name == "*"));
        for (path, whole) in imports.chain(source.paths.iter().map(|path| (path, false))) {
            let found = source.absolute(path, 0).and_then(|path| all.resolve(&path, 0));
            let (target, item) = match found {
                Some((target, Some(item))) => (target, item),
                // A module alone is only a prefix for paths, which say what is used.
                Some((target, None)) if whole => (target, "*".to_owned()),
                _ => continue,
            };
            if target.file != source.file {
                let to = arrows.entry(source.file.clone()).or_default();
                to.entry(target.file.clone()).or_default().insert(item);
            }
        }
    }
    arrows
}

/// Every path that a file names, in `use` lines and elsewhere, outside its tests.
pub(crate) fn paths(text: &str) -> Vec<Vec<String>> {
    let source = Source::read("", Vec::new(), &without_tests(&tokens(text)));
    source.imports.into_iter().map(|import| import.path).chain(source.paths).collect()
}

impl Crate {
    /// Reads a file and those that its `mod` lines name.
    fn read(&mut self, files: &BTreeMap<String, String>, file: &str, module: Path) {
        let text = files.get(file).unwrap_or_else(|| panic!("{file} is not a file of the crate"));
        let source = Source::read(file, module.clone(), &without_tests(&tokens(text)));
        let (parent, name) = file.rsplit_once('/').unwrap_or(("", file));
        let folder = match name {
            "lib.rs" | "main.rs" | "mod.rs" => parent.to_owned(),
            name => format!("{parent}/{}", name.trim_end_matches(".rs")),
        };
        let children = source.children.clone();
        self.modules.entry(module.clone()).or_insert(self.sources.len());
        self.sources.push(source);
        for (child, other) in children {
            let named = other.map(|other| format!("{parent}/{other}"));
            let plain = [format!("{folder}/{child}.rs"), format!("{folder}/{child}/mod.rs")];
            let child_file =
                named.or_else(|| plain.into_iter().find(|file| files.contains_key(file)));
            let Some(child_file) = child_file else {
                panic!("{file} declares {child}, which has no file");
            };
            self.read(files, &child_file, [module.as_slice(), &[child]].concat());
        }
    }

    /// The file that defines what a path from the root names, and the item; no item for a module.
    fn resolve(&self, path: &[String], depth: usize) -> Option<(&Source, Option<String>)> {
        let mut source = &self.sources[self.modules[&[][..]]];
        for (at, name) in path.iter().enumerate() {
            let rest = &path[at + 1..];
            let child = [source.module.as_slice(), std::slice::from_ref(name)].concat();
            let child = self.modules.get(&child).map(|child| &self.sources[*child]);
            let import = source.imports.iter().find(|import| import.name == *name);
            // A function may have the name of its module; more of the path means the module.
            if let Some(child) = child
                && (import.is_none() || !rest.is_empty())
            {
                source = child;
                continue;
            }
            let of_import = |import: &Import, name: &[String]| {
                let path = source.absolute(&import.path, depth + 1)?;
                self.resolve(&[&path, name, rest].concat(), depth + 1)
            };
            let found = match import {
                _ if depth == DEPTH_MAX => None,
                Some(import) => return of_import(import, &[]),
                None if source.items.contains(name) => None,
                None => {
                    let globs = source.imports.iter().filter(|import| import.name == "*");
                    let mut found = globs.filter_map(|i| of_import(i, std::slice::from_ref(name)));
                    found.find(|(source, item)| item.as_ref().is_some_and(|i| source.defines(i)))
                }
            };
            return Some(found.unwrap_or((source, Some(name.clone()))));
        }
        Some((source, None))
    }
}

impl Source {
    fn read(file: &str, module: Path, tokens: &[&str]) -> Self {
        let mut source = Self {
            file: file.to_owned(),
            module,
            children: Vec::new(),
            imports: Vec::new(),
            paths: Vec::new(),
            items: BTreeSet::new(),
            words: BTreeSet::new(),
        };
        let mut at = 0;
        while at < tokens.len() {
            at += source.read_one(&tokens[..at], &tokens[at..]);
        }
        source
    }

    /// Reads the item that `rest` begins with; returns the number of tokens.
    fn read_one(&mut self, before: &[&str], rest: &[&str]) -> usize {
        match rest {
            ["use", next, ..] if is_word(next) || *next == "::" => {
                let length = rest.iter().position(|token| *token == ";").unwrap_or(rest.len());
                let public = is_public(before);
                self.read_use(&mut Vec::new(), &rest[1..length], public);
                length
            }
            ["mod", name, ";", ..] => {
                let other = match before {
                    [.., "#", "[", "path", "=", other, "]"] => Some(other.trim_matches('"')),
                    _ => None,
                };
                self.children.push(((*name).to_owned(), other.map(str::to_owned)));
                3
            }
            [
                "struct" | "enum" | "union" | "trait" | "type" | "fn" | "const" | "static",
                name,
                ..,
            ] if is_word(name) => {
                self.items.insert((*name).to_owned());
                1
            }
            [first, "::", "{", ..] if is_word(first) => {
                let length = tree(rest);
                self.read_use(&mut Vec::new(), &rest[..length], true);
                length
            }
            [first, "::", next, ..] if is_word(first) && is_word(next) => {
                let pairs = rest[1..].chunks_exact(2);
                let more = pairs.take_while(|pair| pair[0] == "::" && is_word(pair[1])).count();
                let words = rest[..=2 * more].iter().step_by(2);
                if !matches!(before, [.., "::" | "."]) {
                    self.paths.push(words.map(|word| (*word).to_owned()).collect());
                }
                1 + 2 * more
            }
            [word, ..] => {
                self.words.insert((*word).to_owned());
                1
            }
            [] => 1,
        }
    }

    /// Reads a tree of a `use` after `prefix`.
    fn read_use(&mut self, prefix: &mut Path, tree: &[&str], public: bool) {
        let length = prefix.len();
        let mut rest = tree;
        loop {
            match rest {
                ["{", inner @ .., "}"] => {
                    let mut depth = 0;
                    let is_comma = |token: &&str| {
                        depth += i32::from(*token == "{") - i32::from(*token == "}");
                        depth == 0 && *token == ","
                    };
                    let trees = inner.split(is_comma).filter(|tree| !tree.is_empty());
                    trees.for_each(|tree| self.read_use(prefix, tree, public));
                    break;
                }
                ["::", next @ ..] => rest = next,
                [word, "::", next @ ..] => {
                    prefix.push((*word).to_owned());
                    rest = next;
                }
                [word, renamed @ ..] => {
                    let mut path = prefix.clone();
                    if !matches!(*word, "self" | "*") {
                        path.push((*word).to_owned());
                    }
                    let name = match renamed {
                        ["as", name] => (*name).to_owned(),
                        _ if *word == "*" => "*".to_owned(),
                        _ => path.last().cloned().unwrap_or_default(),
                    };
                    self.imports.push(Import { name, path, public });
                    break;
                }
                [] => break,
            }
        }
        prefix.truncate(length);
    }

    /// A path from the root of the crate; `None` for paths of other crates and of items of the
    /// file itself.
    fn absolute(&self, path: &[String], depth: usize) -> Option<Path> {
        let (first, rest) = path.split_first().filter(|_| depth < DEPTH_MAX)?;
        match first.as_str() {
            "crate" => return Some(rest.to_vec()),
            "self" => return Some([&self.module, rest].concat()),
            "super" => {
                let above = path.iter().take_while(|word| *word == "super").count();
                let kept = self.module.len().checked_sub(above)?;
                return Some([&self.module[..kept], &path[above..]].concat());
            }
            _ => {}
        }
        if self.has_child(first) {
            return Some([&self.module, path].concat());
        }
        // A crate and an item imported from it may have the same name.
        let import = self.imports.iter().find(|i| i.name == *first && i.path != path)?;
        let start = self.absolute(&import.path, depth + 1)?;
        Some([&start, rest].concat())
    }

    fn has_child(&self, name: &str) -> bool {
        self.children.iter().any(|(child, _)| child == name)
    }

    fn defines(&self, name: &str) -> bool {
        self.items.contains(name)
    }
}

/// The length of the tree at the start of `tokens`, to the brace that closes it.
fn tree(tokens: &[&str]) -> usize {
    let mut depth = 0;
    let closes = |token: &&str| {
        depth += i32::from(*token == "{") - i32::from(*token == "}");
        depth == 0 && *token == "}"
    };
    tokens.iter().position(closes).map_or(tokens.len(), |at| at + 1)
}

/// Whether a `use` after these tokens is a re-export.
fn is_public(before: &[&str]) -> bool {
    match before {
        [.., "pub"] => true,
        [.., ")"] => before
            .iter()
            .rposition(|token| *token == "(")
            .is_some_and(|open| open > 0 && before[open - 1] == "pub"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The arrows of a crate, one a line, between files without `src/` and `.rs`.
    fn read(files: &[(&str, &str)]) -> Vec<String> {
        let path = |name: &str| format!("src/{name}.rs");
        let files = files.iter().map(|(name, text)| (path(name), (*text).to_owned()));
        let arrows = arrows(&files.collect(), "src/lib.rs");
        let short = |file: &str| file["src/".len()..].trim_end_matches(".rs").to_owned();
        let mut lines = Vec::new();
        for (from, targets) in &arrows {
            for (to, items) in targets {
                let items = items.iter().cloned().collect::<Vec<_>>().join(" ");
                lines.push(format!("{} -> {}: {items}", short(from), short(to)));
            }
        }
        lines
    }

    #[test]
    fn nested_braces_and_renames_are_read() {
        let lines = read(&[
            ("lib", "mod a; mod b; mod c;"),
            (
                "a",
                "use crate::{b::{self, One, Two as Deux}, c::{Three}}; use std::fs::{self, File};",
            ),
            ("b", "pub struct One; pub struct Two;"),
            ("c", "pub(crate) struct Three;"),
        ]);
        assert_eq!(lines, ["a -> b: One Two", "a -> c: Three"]);
    }

    #[test]
    fn paths_outside_use_are_read() {
        let lines = read(&[
            ("lib", "mod a; mod b; mod c; fn f() { a::run(); }"),
            ("a", "use crate::b; pub fn run() -> Option<crate::c::Three> { b::one(); None }"),
            ("b", "pub fn one() {}"),
            ("c", "pub struct Three;"),
        ]);
        assert_eq!(lines, ["a -> b: one", "a -> c: Three", "lib -> a: run"]);
    }

    #[test]
    fn self_and_super_are_modules() {
        let lines = read(&[
            ("lib", "mod a; mod top;"),
            ("top", "pub struct Top;"),
            ("a/mod", "mod b; mod c; use self::b::One; pub struct Up;"),
            ("a/b", "use super::super::top::Top; pub struct One;"),
            ("a/c", "use super::{b::One, Up};"),
        ]);
        let want = ["a/b -> top: Top", "a/c -> a/b: One", "a/c -> a/mod: Up", "a/mod -> a/b: One"];
        assert_eq!(lines, want);
    }

    #[test]
    fn re_exports_lead_to_the_file_that_defines_the_item() {
        let lines = read(&[
            ("lib", "pub mod a; mod user; pub use a::Deep;"),
            (
                "a/mod",
                "mod b; mod consume; pub use b::Deep; pub(crate) use b::*; \
                       pub(crate) use consume::consume;",
            ),
            ("a/b", "pub struct Deep; pub fn shallow() {}"),
            ("a/consume", "pub fn consume() {}"),
            ("user", "use crate::Deep; use crate::a::{consume, shallow};"),
        ]);
        assert_eq!(lines, ["user -> a/b: Deep shallow", "user -> a/consume: consume"]);
    }

    #[test]
    fn re_exports_by_a_macro_are_followed() {
        let lines = read(&[
            ("lib", "mod rows; mod user;"),
            ("rows/mod", "mod tag; mod id; tables! { tag::{Tags, TagRow}; id::{Ids}; }"),
            ("rows/tag", "pub struct TagRow;"),
            ("rows/id", "pub struct Ids;"),
            ("user", "use crate::rows::{Ids, TagRow};"),
        ]);
        assert_eq!(lines, ["user -> rows/id: Ids", "user -> rows/tag: TagRow"]);
    }

    #[test]
    fn re_export_that_the_file_uses_itself_is_an_arrow() {
        let lines = read(&[
            ("lib", "mod a;"),
            ("a/mod", "mod b; pub use b::{Shown, Used}; pub struct Part(Used);"),
            ("a/b", "use super::Part; pub struct Shown; pub struct Used;"),
        ]);
        assert_eq!(lines, ["a/b -> a/mod: Part", "a/mod -> a/b: Used"]);
    }

    #[test]
    fn files_beside_a_folder_and_named_files_are_found() {
        let lines = read(&[
            ("lib", "mod a; #[path = \"other.rs\"] mod b; #[cfg(test)] mod tests;"),
            ("a", "mod part; pub struct Whole;"),
            ("a/part", "use super::Whole;"),
            ("other", "use crate::a::Whole;"),
        ]);
        assert_eq!(lines, ["a/part -> a: Whole", "other -> a: Whole"]);
    }

    #[test]
    fn tests_comments_and_strings_make_no_arrow() {
        let lines = read(&[
            ("lib", "mod a; mod b;"),
            (
                "a",
                "// use crate::b::X;\nconst A: &str = \"crate::b::X\"; \
                   #[cfg(test)] mod tests { use crate::b::X; }",
            ),
            ("b", "pub struct X;"),
        ]);
        assert_eq!(lines, [""; 0]);
    }
}
