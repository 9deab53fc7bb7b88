//! House rules that the compiler does not check: file layout, sizes, imports, banned words.
//!
//! Each test lists every place that breaks its rule, so that one run is enough to fix them all.

#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::unwrap_used)]

#[path = "tidy/docs.rs"]
mod docs;
#[path = "tidy/graph.rs"]
mod graph;
#[path = "tidy/imports.rs"]
mod imports;
#[path = "tidy/tokens.rs"]
mod tokens;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const LINE_MAX: usize = 100;
const FILE_MAX: usize = 500;
const FUNCTION_MAX: usize = 70;
const PACKAGES_MAX: usize = 400;
/// Crates that keep data, and how many asserts they have at least per thousand lines.
const ASSERTING: [&str; 2] = ["sinks", "dataflow"];
const ASSERTS_MIN: f64 = 4.0;

/// Every `unwrap_or_default()` of the product, by file: how many, and why nothing is lost.
const DEFAULTS: [(&str, usize, &str); 8] = [
    ("dataflow/src/operators/boards.rs", 1, "a board may be empty"),
    ("dataflow/src/operators/tags.rs", 1, "a tag that is not in memory has no posts in a window"),
    ("dataflow/src/pool.rs", 1, "an empty pool makes a new batch"),
    ("dataflow/src/reconcile/drift.rs", 1, "only so many keys are looked up in the log"),
    ("kafka/src/record.rs", 3, "a record may have no key, and a tombstone has no payload"),
    ("schemas/src/event/mod.rs", 1, "a post may have no caption"),
    ("src/progress.rs", 1, "a job may have no database"),
    ("src/run.rs", 1, "the option has a default"),
];

/// The crates that the code in each folder may use.
const ARROWS: [(&str, &[&str]); 6] = [
    ("schemas", &[]),
    ("sinks", &["schemas"]),
    ("kafka", &["schemas"]),
    ("dataflow", &["schemas", "sinks", "kafka"]),
    ("api", &["schemas", "sinks"]),
    ("src", &["schemas", "sinks", "kafka", "dataflow", "api"]),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every tracked or new file that git does not ignore.
fn files() -> Vec<PathBuf> {
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .unwrap();
    let names = String::from_utf8(listed.stdout).unwrap();
    let files: Vec<PathBuf> = names.lines().map(PathBuf::from).collect();
    assert!(files.len() > 50, "git listed only {} files", files.len());
    files.into_iter().filter(|file| root().join(file).is_file()).collect()
}

fn rust_files() -> Vec<(PathBuf, String)> {
    let rust = files().into_iter().filter(|f| f.extension().is_some_and(|e| e == "rs"));
    rust.map(|f| (f.clone(), fs::read_to_string(root().join(f)).unwrap())).collect()
}

/// The files that users run, each without its unit tests.
fn product_files() -> impl Iterator<Item = (PathBuf, String)> {
    let files = rust_files().into_iter().filter(|(file, _)| !is_test(file));
    files.map(|(file, text)| (file, product(&text).to_owned()))
}

/// The first folder of a path.
fn folder(file: &Path) -> String {
    file.components().next().unwrap().as_os_str().to_string_lossy().into_owned()
}

/// Fails with all findings at once.
fn none(what: &str, findings: Vec<String>) {
    assert!(findings.is_empty(), "{what}:\n  {}", findings.join("\n  "));
}

/// The part of a file before its unit tests.
fn product(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests {").next().unwrap()
}

fn is_test(file: &Path) -> bool {
    let test = |part: &str| matches!(part, "tests" | "tests.rs" | "fuzz");
    file.components().any(|part| part.as_os_str().to_str().is_some_and(test))
}

#[test]
fn files_open_with_their_purpose() {
    let silent = rust_files().into_iter().filter(|(_, text)| !text.starts_with("//! "));
    none("files that do not open with //!", silent.map(|(f, _)| f.display().to_string()).collect());
}

#[test]
fn lines_and_files_are_short() {
    let mut findings = Vec::new();
    for (file, text) in rust_files() {
        let lines = text.lines().count();
        if lines > FILE_MAX {
            findings.push(format!("{}: {lines} lines", file.display()));
        }
        for (number, line) in text.lines().enumerate() {
            // rustfmt does not break string literals.
            if line.chars().count() > LINE_MAX && !line.contains('"') {
                findings.push(format!("{}:{}: a long line", file.display(), number + 1));
            }
        }
    }
    none(&format!("over {LINE_MAX} columns or {FILE_MAX} lines"), findings);
}

/// Everything is tested against the oracle, so a reader must be able to check it by eye.
#[test]
fn oracle_is_small_and_independent() {
    let oracle = fs::read_to_string(root().join("tests/recount/src/lib.rs")).unwrap();
    assert!(oracle.lines().count() < 200);
    let crates = ["sinks", "kafka", "dataflow", "api", "simulate"];
    let named = |name: &&str| oracle.contains(&format!("{name}::"));
    assert_eq!(crates.iter().find(|name| named(name)), None, "the oracle uses the job's code");
}

#[test]
fn functions_are_short() {
    let mut findings = Vec::new();
    for (file, text) in rust_files() {
        let mut open: Vec<(usize, usize, &str)> = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let code = line.trim_start();
            let indent = line.len() - code.len();
            if is_function(code) && !code.ends_with([';', '}']) {
                open.push((indent, number, code));
            }
            // rustfmt puts the closing brace at the indent of the function's first line.
            if let Some((start_indent, start, name)) = open.last().copied()
                && code == "}"
                && indent == start_indent
            {
                open.pop();
                let length = number - start + 1;
                if length > FUNCTION_MAX {
                    let place = format!("{}:{}", file.display(), start + 1);
                    findings.push(format!("{place}: {length} lines: {name}"));
                }
            }
        }
    }
    none(&format!("functions over {FUNCTION_MAX} lines"), findings);
}

/// Whether a line begins a function.
fn is_function(line: &str) -> bool {
    let mut words = line.split(' ').skip_while(|word| {
        word.starts_with("pub") || matches!(*word, "async" | "const" | "unsafe")
    });
    words.next() == Some("fn")
}

#[test]
fn product_code_does_not_give_up() {
    let words = [
        ".unwrap()",
        ".expect(",
        "todo!(",
        "unimplemented!(",
        "panic!(",
        "TODO",
        "FIXME",
        "#[ignore",
    ];
    let mut findings = Vec::new();
    for (file, text) in product_files() {
        for (number, line) in text.lines().enumerate() {
            for word in words.iter().filter(|word| line.contains(**word)) {
                findings.push(format!("{}:{}: {word}", file.display(), number + 1));
            }
        }
    }
    none("handle the error, or say why it is impossible", findings);
}

/// A default hides what is missing. Make the value one that cannot be missing, return an error, or
/// assert; if nothing is really missing, add it to [`DEFAULTS`].
#[test]
fn defaults_have_a_reason() {
    let mut found: BTreeMap<String, usize> = BTreeMap::new();
    for (file, text) in product_files() {
        let count = text.matches("unwrap_or_default()").count();
        let is_product = ARROWS.iter().any(|(name, _)| *name == folder(&file));
        if is_product && count > 0 {
            found.insert(file.display().to_string(), count);
        }
    }
    let listed = DEFAULTS.map(|(file, count, _)| (file.to_owned(), count));
    assert_eq!(found, BTreeMap::from(listed), "found, and listed in DEFAULTS");
}

/// Nothing can be done about a poisoned lock; those of `parking_lot` do not poison.
#[test]
fn locks_do_not_poison() {
    let mut findings = Vec::new();
    for (file, text) in product_files() {
        for path in imports::paths(&text) {
            let path: Vec<&str> = path.iter().map(String::as_str).collect();
            if let ["std", "sync", .., "Mutex" | "RwLock" | "Condvar" | "PoisonError"] = path[..] {
                findings.push(format!("{}: {}", file.display(), path.join("::")));
            }
        }
    }
    none("use parking_lot", findings);
}

#[test]
fn crates_that_keep_data_assert() {
    let mut crates: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for (file, text) in product_files() {
        let asserts =
            ["assert!(", "assert_eq!(", "assert_ne!("].map(|word| text.matches(word).count());
        let (lines, sum) = crates.entry(folder(&file)).or_default();
        *lines += text.lines().count();
        *sum += asserts.iter().sum::<usize>();
    }
    let mut findings = Vec::new();
    for (name, (lines, asserts)) in crates {
        let share = asserts as f64 * 1000.0 / lines as f64;
        let line = format!("{name}: {share:.1} asserts per thousand lines");
        println!("{line}");
        if share < ASSERTS_MIN && ASSERTING.contains(&name.as_str()) {
            findings.push(line);
        }
    }
    none(&format!("fewer than {ASSERTS_MIN} asserts per thousand lines"), findings);
}

#[test]
fn unsafe_code_is_in_one_file() {
    let with = rust_files().into_iter().filter(|(f, text)| {
        text.lines().any(|l| l.contains("unsafe {"))
            && !f.ends_with("sinks/src/storage/map.rs")
            && !f.ends_with("tests/tidy.rs")
    });
    none("unsafe code", with.map(|(f, _)| f.display().to_string()).collect());
}

#[test]
fn crates_depend_one_way() {
    let mut findings = Vec::new();
    for (file, text) in rust_files() {
        let folder = folder(&file);
        let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == folder) else { continue };
        let uses = |name: &str| {
            let patterns = [format!("use {name}::"), format!(" {name}::")];
            text.lines().any(|line| patterns.iter().any(|pattern| line.contains(pattern)))
        };
        for (other, _) in ARROWS.iter().filter(|(name, _)| *name != "src" && *name != folder) {
            if !allowed.contains(other) && uses(other) {
                findings.push(format!("{} uses {other}", file.display()));
            }
        }
        if folder != "dataflow" && text.contains("timely::") {
            findings.push(format!("{} uses timely", file.display()));
        }
    }
    none("arrows between crates go the wrong way", findings);
}

/// `lib.rs` and `main.rs` of one package are two crates, and so is each test program.
#[test]
fn no_file_imports_in_a_circle() {
    let texts = rust_files().into_iter().map(|(file, text)| (file.display().to_string(), text));
    let texts: BTreeMap<String, String> = texts.collect();
    let is_root = |file: &&String| {
        let (folder, name) = file.rsplit_once('/').unwrap_or(("", file));
        let is_program = folder == "tests" || folder.ends_with("/tests");
        is_program || matches!(name, "lib.rs" | "main.rs")
    };
    let mut findings = Vec::new();
    for root in texts.keys().filter(is_root) {
        let arrows = imports::arrows(&texts, root);
        for knot in graph::knots(&arrows) {
            let circles = graph::circles(&arrows, &knot);
            findings.push(format!("{root}: a knot of {} files:", knot.len()));
            let lines = circles.iter().map(|circle| graph::describe(&arrows, circle));
            findings.extend(lines.map(|circle| format!("  - {circle}")));
        }
    }
    none("move what both files need to a file that imports neither", findings);
}

#[test]
fn lockfile_is_small() {
    let lock = fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let packages = lock.matches("[[package]]").count();
    println!("{packages} locked packages");
    assert!(packages <= PACKAGES_MAX, "{packages} locked packages, more than {PACKAGES_MAX}");
}

#[test]
fn no_file_names_one_machine() {
    // Assembled here, so that this file does not match.
    let folders = ["home", "root", "work", "tmp"].map(|name| format!("/{name}/"));
    let hosts = ["crates", "npmjs", "pypi", "maven"].map(|name| format!("{name}.{}", "io"));
    let registries = ["index.crates", "registry.npmjs", "files.pythonhosted", "repo1.maven"];
    let mut findings = Vec::new();
    for file in files().into_iter().filter(|f| !f.ends_with("Cargo.lock")) {
        let Ok(text) = fs::read_to_string(root().join(&file)) else { continue };
        for (number, line) in text.lines().enumerate() {
            let folder = folders.iter().any(|folder| {
                let mut starts = line.match_indices(folder.as_str()).map(|(at, _)| at);
                let begins = |at: usize| {
                    at == 0
                        || !line.as_bytes()[at - 1].is_ascii_alphanumeric()
                            && !b"._-/$}".contains(&line.as_bytes()[at - 1])
                };
                starts.any(begins)
            });
            let host = hosts.iter().any(|h| line.contains(h.as_str()))
                || registries.iter().any(|r| line.contains(r) && !file.ends_with("tidy.rs"));
            if folder || host {
                findings.push(format!("{}:{}: {}", file.display(), number + 1, line.trim()));
            }
        }
    }
    none("paths of one machine, or hosts of package registries", findings);
}
