//! The documents: their commands run and print what is shown under them, and the table of metrics
//! is complete. (Tidy checks their links.)
//!
//! The commands of one document run in order, in a folder of their own that holds the examples;
//! each must succeed. They are the lines of fenced blocks that begin with `tagflow`, and in
//! `console` blocks the lines that begin with `$`. The other lines of a `console` block are the
//! output of the command above them, where `…` stands for any text: within a line for a part of
//! it, alone on a line for any number of lines. A command that ends with `# not run` is left out.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::harness::{Job, TAGFLOW, eventually, folder};
use super::serve::get;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Stands for any text in the output that a document shows.
const ANY: &str = "…";

/// The Markdown files of one folder, sorted.
fn pages(folder: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(Path::new(ROOT).join(folder)).unwrap();
    let mut pages: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    pages.retain(|path| path.extension().is_some_and(|e| e == "md"));
    pages.sort();
    pages
}

fn documents() -> Vec<PathBuf> {
    ["", "docs", "docs/dev"].map(pages).concat()
}

/// A command of a document, and the output shown under it.
#[derive(Debug, Default, PartialEq)]
struct Call {
    line: usize,
    command: String,
    output: Vec<String>,
}

/// The commands of a document; one that ends with a backslash continues on the next line.
fn calls(text: &str) -> Vec<Call> {
    let mut calls: Vec<Call> = Vec::new();
    let (mut fence, mut continued) = (None, false);
    for (number, line) in text.lines().enumerate() {
        if let Some(language) = line.trim_start().strip_prefix("```") {
            fence = if fence.is_none() { Some(language) } else { None };
            continue;
        }
        let Some(language) = fence else { continue };
        let console = language == "console";
        let begins = if console { line.strip_prefix("$ ") } else { Some(line.trim_start()) };
        match (begins, calls.last_mut()) {
            (_, Some(call)) if continued => {
                call.command.push('\n');
                call.command.push_str(line);
            }
            (Some(command), _) if console || command.starts_with("tagflow ") => {
                let command = command.to_owned();
                calls.push(Call { line: number + 1, command, ..Call::default() });
            }
            (None, Some(call)) => {
                call.output.push(line.to_owned());
                continue;
            }
            _ => continue,
        }
        continued = line.ends_with('\\');
    }
    calls.retain(|call| !call.command.ends_with("# not run"));
    calls
}

/// Whether `line` is what `shown` says, with its `…` standing for any text.
fn same_line(shown: &str, line: &str) -> bool {
    let mut parts = shown.split(ANY);
    let Some(mut rest) = parts.next().and_then(|first| line.strip_prefix(first)) else {
        return false;
    };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

/// Whether `lines` are what `shown` says; a line that is `…` stands for any number of lines.
fn same(shown: &[String], lines: &[&str]) -> bool {
    match shown.split_first() {
        None => lines.is_empty(),
        Some((first, rest)) if first == ANY => {
            (0..=lines.len()).any(|skipped| same(rest, &lines[skipped..]))
        }
        Some((first, rest)) => {
            !lines.is_empty() && same_line(first, lines[0]) && same(rest, &lines[1..])
        }
    }
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
fn commands_in_documents_run_and_print_what_is_shown() {
    let bin = Path::new(TAGFLOW).parent().unwrap();
    let path = format!("{}:{}", bin.display(), env::var("PATH").unwrap());
    let (mut ran, mut compared, mut wrong) = (0, 0, Vec::new());
    for document in documents() {
        let clone = clone();
        for call in calls(&fs::read_to_string(&document).unwrap()) {
            let mut shell = Command::new("sh");
            shell.args(["-c", &call.command]).current_dir(clone.path()).env("PATH", &path);
            let output = shell.output().unwrap();
            let error = String::from_utf8_lossy(&output.stderr);
            let place = format!("{}:{}: {}", document.display(), call.line, call.command);
            assert!(output.status.success(), "{place}\n{error}");
            let printed = String::from_utf8(output.stdout).unwrap();
            let lines: Vec<&str> = printed.lines().collect();
            if !call.output.is_empty() && !same(&call.output, &lines) {
                wrong.push(format!("{place}\n{printed}"));
            }
            ran += 1;
            compared += usize::from(!call.output.is_empty());
        }
    }
    assert!(wrong.is_empty(), "these print something else:\n{}", wrong.join("\n"));
    assert!(ran >= 50 && compared >= 20, "only {ran} commands found, {compared} with output");
}

#[test]
fn commands_and_their_output_are_found_in_fences() {
    let text = "tagflow a\n```sh\ntagflow b\nls\ntagflow c \\\n  --d\ntagflow e # not run\n```\n\
                ```console\n$ ls\nf\n\n$ tagflow g\n```\n";
    let call = |line, command: &str, output: &[&str]| Call {
        line,
        command: command.to_owned(),
        output: output.iter().map(|&line| line.to_owned()).collect(),
    };
    let expected = [
        call(3, "tagflow b", &[]),
        call(5, "tagflow c \\\n  --d", &[]),
        call(10, "ls", &["f", ""]),
        call(13, "tagflow g", &[]),
    ];
    assert_eq!(calls(text), expected);
}

#[test]
fn ellipsis_stands_for_any_text() {
    assert!(same_line("a", "a") && !same_line("a", "ab") && !same_line("a", "b"));
    assert!(same_line("a … c", "a b c") && !same_line("a … c", "a b d"));
    assert!(same_line("…c…", "abcd") && same_line("a…", "a") && !same_line("a…", "b"));
    let shown = ["a", ANY, "z"].map(str::to_owned);
    assert!(same(&shown, &["a", "z"]) && same(&shown, &["a", "b", "c", "z"]));
    assert!(!same(&shown, &["a", "b"]) && !same(&shown, &["z"]) && !same(&shown, &[]));
}

/// The names that a job's `/metrics` has, as they are queried: counters end with `_total`.
fn served_metrics(text: &str) -> BTreeSet<String> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types
        .map(|line| match line.split_once(' ').unwrap() {
            (name, "counter") => format!("{name}_total"),
            (name, _) => name.to_owned(),
        })
        .collect()
}

#[test]
fn operations_page_lists_every_metric() {
    let clone = clone();
    let (input, state) = (clone.path().join("examples/posts.ndjson"), clone.path().join("state"));
    let log = clone.path().join("log");
    let line = format!("run --input {} --state {}", input.display(), state.display());
    let _job = Job::logged(&format!("{line} --listen 127.0.0.1:0 --metrics 127.0.0.1:0"), &log);
    let address = |name| {
        let text = fs::read_to_string(&log).ok()?;
        let url = text.lines().find_map(|line| line.strip_prefix(name))?;
        Some(url.strip_prefix(" http://")?.trim_end_matches("/metrics").to_owned())
    };
    let metrics = eventually("the address of the metrics", || address("metrics"));
    // A counter with labels appears once it has counted.
    get(&address("serving").unwrap(), "/livez");
    let served = eventually("metrics of requests", || {
        let served = served_metrics(&get(&metrics, "/metrics").body);
        served.contains("tagflow_http_requests_total").then_some(served)
    });
    let page = fs::read_to_string(Path::new(ROOT).join("docs/operations.md")).unwrap();
    let rows = page.lines().filter(|line| line.starts_with("| `tagflow_"));
    let names = rows.flat_map(|row| row.split('|').nth(1).unwrap().split('`'));
    let listed = names.filter(|name| name.starts_with("tagflow_")).map(str::to_owned).collect();
    assert_eq!(served, listed, "served, and listed in docs/operations.md");
}
