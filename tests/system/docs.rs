//! Every fenced `tagflow` line in the documents works.
//!
//! The lines of a document run in order, in a temporary folder with the examples, and each must
//! succeed. Lines that end with `# not run` are skipped.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::harness::{TAGFLOW, folder};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The documents for users.
fn documents() -> Vec<PathBuf> {
    let entries = |folder: &Path| -> Vec<PathBuf> {
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
    };
    let root = Path::new(ROOT);
    let mut all = [entries(root), entries(&root.join("docs"))].concat();
    all.retain(|path| path.extension().is_some_and(|e| e == "md"));
    all.sort();
    all
}

/// The fenced lines of `text` that call `tagflow`, with their numbers. A backslash at the end
/// continues a line.
fn calls(text: &str) -> Vec<(usize, String)> {
    let mut calls: Vec<(usize, String)> = Vec::new();
    let (mut fenced, mut goes_on) = (false, false);
    for (number, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if goes_on && let Some((_, call)) = calls.last_mut() {
            call.push('\n');
            call.push_str(line);
            goes_on = line.ends_with('\\');
        } else if fenced && line.trim_start().starts_with("tagflow ") {
            calls.push((number + 1, line.to_owned()));
            goes_on = line.ends_with('\\');
        }
    }
    calls.retain(|(_, call)| !call.ends_with("# not run"));
    calls
}

/// A temporary folder with the examples.
fn clone() -> tempfile::TempDir {
    let clone = folder();
    let examples = clone.path().join("examples");
    fs::create_dir(&examples).unwrap();
    for entry in fs::read_dir(Path::new(ROOT).join("examples")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, examples.join(path.file_name().unwrap())).unwrap();
    }
    clone
}

#[test]
fn commands_in_the_docs_work() {
    let bin = Path::new(TAGFLOW).parent().unwrap();
    let path = format!("{}:{}", bin.display(), env::var("PATH").unwrap());
    let mut ran = 0;
    for document in documents() {
        let clone = clone();
        for (number, call) in calls(&fs::read_to_string(&document).unwrap()) {
            let output = Command::new("sh")
                .args(["-c", &call])
                .current_dir(clone.path())
                .env("PATH", &path)
                .output()
                .unwrap();
            let error = String::from_utf8_lossy(&output.stderr);
            let place = format!("{}:{number}", document.display());
            assert!(output.status.success(), "{place}: {call}\n{error}");
            ran += 1;
        }
    }
    assert!(ran >= 10, "only {ran} commands found");
}

#[test]
fn commands_are_found_in_fenced_blocks() {
    let text = "tagflow a\n```sh\ntagflow b\nls\ntagflow c \\\n  --d\ntagflow e # not run\n```\n";
    assert_eq!(calls(text), [(3, "tagflow b".to_owned()), (5, "tagflow c \\\n  --d".to_owned())]);
}
