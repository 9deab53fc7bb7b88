//! The runbooks, each run from beginning to end. Those that need a database are in
//! `services/promotion.rs`.

use std::env;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use super::harness::{TAGFLOW, folder, ok};

/// Runs a runbook with the binary under test on the path.
pub(crate) fn runbook(name: &str, arguments: &str) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/runbooks").join(name);
    let bin = Path::new(TAGFLOW).parent().unwrap();
    let path = format!("{}:{}", bin.display(), env::var("PATH").unwrap());
    let arguments = arguments.split_whitespace();
    Command::new(script).args(arguments).env("PATH", path).output().unwrap()
}

/// Runs a runbook that must exit with `code`. Returns its output.
pub(crate) fn ends(name: &str, arguments: &str, code: i32) -> String {
    let output = runbook(name, arguments);
    let text = String::from_utf8(output.stdout).unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{name} {arguments}\n{text}\n{error}");
    text
}

#[test]
fn runbook_for_a_wrong_number_says_which_is_right() {
    let folder = folder();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (input, state) = (path("posts.ndjson"), path("state"));
    fs::copy("examples/posts.ndjson", &input).unwrap();
    ok(&format!("run --input {input} --state {state} --bounded"));
    let printed = ends("number-looks-wrong", &format!("#HARBOUR {input} {state}"), 0);
    assert!(printed.contains("4 posts; commit 2 says 4"), "{printed}");
    assert!(
        printed.contains("0 values differ") && printed.contains("the log gives the same number"),
        "{printed}"
    );
    let printed = ends("number-looks-wrong", &format!("nosuchtag {input} {state}"), 0);
    assert!(printed.contains("0 posts; commit 2 says 0"), "{printed}");
    // A log without the records that the commit counts is inconclusive.
    let text = fs::read_to_string(&input).unwrap();
    fs::write(&input, &text[..text.len() / 2]).unwrap();
    let printed = runbook("number-looks-wrong", &format!("harbour {input} {state}"));
    assert_eq!(printed.status.code(), Some(2));
    assert!(!String::from_utf8(printed.stdout).unwrap().contains("the log gives the same number"));
}

#[test]
fn runbook_for_changed_rules_shows_the_difference() {
    let folder = folder();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (input, state, new) = (path("posts.ndjson"), path("state"), path("new"));
    fs::copy("examples/posts.ndjson", &input).unwrap();
    ok(&format!("run --input {input} --state {state} --bounded"));
    let arguments = format!("{input} {state} {new} -- --scope region=eu");
    let printed = ends("tag-rules-changed", &arguments, 0);
    assert!(printed.contains("in region=eu: only in B, total "), "{printed}");
    let eu = ok(&format!("query tag harbour --scope region=eu --state {new}"));
    assert!(eu.starts_with("#Harbour in region=eu"), "{eu}");
    // The new job continues after the replay and finds nothing to read.
    let line = format!("run --input {input} --state {new} --bounded --scope region=eu");
    let ended = ok(&line);
    assert!(ended.contains("events                     17"), "{ended}");
}

#[test]
fn runbook_for_a_poison_producer_counts_its_records() {
    let folder = folder();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (input, state) = (path("posts"), path("state"));
    fs::create_dir(&input).unwrap();
    let mut text = String::new();
    for i in 0..20 {
        let id = if i % 4 == 3 { "id" } else { "event_id" };
        text += &format!("{{\"{id}\":{i},\"ts\":1700000000000,\"caption\":\"#a\"}}\n");
    }
    // A name that needs escapes wherever it is written.
    fs::write(folder.path().join("posts/a \"b\"\n\\c.ndjson"), text).unwrap();
    ok(&format!("run --input {input} --state {state} --bounded"));
    let total = || ok(&format!("query tag a --state {state}"));
    assert!(total().starts_with("#a: 15 posts"), "{}", total());
    let arguments = format!("{input} {state} missing_field s/\"id\":/\"event_id\":/");
    let printed = ends("poison-producer", &arguments, 0);
    assert!(
        printed.contains("missing_field") && printed.contains("each exactly once"),
        "{printed}"
    );
    assert!(total().starts_with("#a: 20 posts"), "{}", total());
    // Running it again changes nothing.
    ends("poison-producer", &arguments, 0);
    assert!(total().starts_with("#a: 20 posts"), "{}", total());
}
