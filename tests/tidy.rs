//! Keeps the house: what no compiler checks and every reader relies on.

#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const LINE_MAX: usize = 100;
const FILE_MAX: usize = 500;
const FUNCTION_MAX: usize = 70;
const PACKAGES_MAX: usize = 400;

/// Which crates each folder's code may name: DESIGN 2's arrows go one way.
const ARROWS: [(&str, &[&str]); 5] = [
    ("schemas", &[]),
    ("sinks", &["schemas"]),
    ("dataflow", &["schemas", "sinks"]),
    ("api", &["schemas", "sinks"]),
    ("src", &["schemas", "sinks", "dataflow", "api"]),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every tracked or new file, as git sees the tree.
fn files() -> Vec<PathBuf> {
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .unwrap();
    let names = String::from_utf8(listed.stdout).unwrap();
    let files: Vec<PathBuf> = names.lines().map(PathBuf::from).collect();
    assert!(files.len() > 50, "git lists the tree");
    files.into_iter().filter(|file| root().join(file).is_file()).collect()
}

fn rust_files() -> Vec<(PathBuf, String)> {
    let rust = files().into_iter().filter(|f| f.extension().is_some_and(|e| e == "rs"));
    rust.map(|f| (f.clone(), fs::read_to_string(root().join(f)).unwrap())).collect()
}

/// Fails with all findings at once.
fn none(what: &str, findings: Vec<String>) {
    assert!(findings.is_empty(), "{what}:\n  {}", findings.join("\n  "));
}

/// The part of a file before its unit tests.
fn product(text: &str) -> &str {
    text.split("#[cfg(test)]").next().unwrap()
}

fn is_test(file: &Path) -> bool {
    let test = |part: &str| matches!(part, "tests" | "tests.rs" | "fuzz");
    file.components().any(|part| part.as_os_str().to_str().is_some_and(test))
}

#[test]
fn every_file_says_what_it_is_for() {
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
            // A text in a test may be as long as it has to be.
            if line.chars().count() > LINE_MAX && !line.contains('"') {
                findings.push(format!("{}:{}: a long line", file.display(), number + 1));
            }
        }
    }
    none(&format!("over {LINE_MAX} columns or {FILE_MAX} lines"), findings);
}

/// What everything is held against must be checked by eye.
#[test]
fn the_oracle_is_under_200_lines() {
    let oracle = fs::read_to_string(root().join("tests/recount/src/lib.rs")).unwrap();
    assert!(oracle.lines().count() < 200);
    let crates = ["sinks", "dataflow", "api", "simulate"];
    let named = |name: &&str| oracle.contains(&format!("{name}::"));
    assert_eq!(crates.iter().find(|name| named(name)), None, "it shares no code with the job");
}

#[test]
fn functions_are_short() {
    let mut findings = Vec::new();
    for (file, text) in rust_files() {
        let lines: Vec<&str> = text.lines().collect();
        let mut open: Vec<(usize, usize, &str)> = Vec::new();
        for (number, line) in lines.iter().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let word = line
                .trim_start()
                .trim_start_matches("pub(crate) ")
                .trim_start_matches("pub(super) ");
            let word = word.trim_start_matches("pub ").trim_start_matches("async ");
            if word.starts_with("fn ") || word.starts_with("const fn ") {
                open.push((indent, number, line));
            }
            // rustfmt puts the closing brace at the indent of the function's first line.
            if let Some((start_indent, start, name)) = open.last().copied()
                && line.trim() == "}"
                && indent == start_indent
            {
                open.pop();
                if number - start + 1 > FUNCTION_MAX {
                    let length = number - start + 1;
                    findings.push(format!(
                        "{}:{}: {length} lines: {}",
                        file.display(),
                        start + 1,
                        name.trim()
                    ));
                }
            } else if let Some((start_indent, start, _)) = open.last().copied()
                && start == number
                && (line.trim_end().ends_with(';') || line.trim_end().ends_with('}'))
                && indent == start_indent
            {
                open.pop();
            }
        }
    }
    none(&format!("functions over {FUNCTION_MAX} lines"), findings);
}

#[test]
fn nothing_gives_up_outside_tests() {
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
    for (file, text) in rust_files() {
        if is_test(&file) {
            continue;
        }
        for (number, line) in product(&text).lines().enumerate() {
            for word in words.iter().filter(|word| line.contains(**word)) {
                findings.push(format!("{}:{}: {word}", file.display(), number + 1));
            }
        }
    }
    none("words that give up", findings);
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
fn arrows_between_crates_go_one_way() {
    let mut findings = Vec::new();
    for (file, text) in rust_files() {
        let folder = file.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
        let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == folder) else { continue };
        for (other, _) in ARROWS.iter().filter(|(name, _)| *name != "src" && *name != folder) {
            let named = |line: &str| {
                line.contains(&format!("use {other}::")) || line.contains(&format!(" {other}::"))
            };
            if !allowed.contains(other) && text.lines().any(named) {
                findings.push(format!("{} names {other}", file.display()));
            }
        }
        if folder != "dataflow"
            && text.lines().any(|line| line.contains("timely::"))
            && !file.ends_with("tidy.rs")
        {
            findings.push(format!("{} names timely", file.display()));
        }
    }
    none("arrows that go the wrong way", findings);
}

#[test]
fn the_lockfile_is_small() {
    let lock = fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let packages = lock.matches("[[package]]").count();
    println!("{packages} locked packages");
    assert!(packages <= PACKAGES_MAX, "{packages} locked packages");
}

#[test]
fn nothing_names_one_machine() {
    // Written apart, so that this file does not find itself.
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
    none("paths of one machine, or hosts of registries", findings);
}
