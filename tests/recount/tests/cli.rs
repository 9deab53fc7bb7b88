//! What the program prints for a small input, and for a wrong export.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::Command;

const POSTS: &str = r##"{"event_id":"1","ts":1700000000000,"caption":"#Sun and #rain","region":"eu"}
{"event_id":"2","ts":1700000060000,"caption":"#sun","region":"us"}
{"event_id":"1","ts":1700000000000,"caption":"#Sun and #rain","region":"eu"}

no record
{"event_id":"3","ts":1700007200000,"caption":"#SUN"}
"##;

const EXPORT: &str = r#"{"scope":"","key":"rain","display":"rain","total":1,"first_seen":1700000000000,"last_seen":1700000000000,"c1h":0,"c24h":1}
{"scope":"","key":"sun","display":"Sun","total":3,"first_seen":1700000000000,"last_seen":1700007200000,"c1h":1,"c24h":3}
{"scope":"region=eu","key":"rain","display":"rain","total":1,"first_seen":1700000000000,"last_seen":1700000000000,"c1h":0,"c24h":1}
{"scope":"region=eu","key":"sun","display":"Sun","total":1,"first_seen":1700000000000,"last_seen":1700000000000,"c1h":0,"c24h":1}
"#;

const COUNTERS: &str =
    r#""events":3,"duplicates":1,"beyond_horizon":0,"unsupported":0,"dead_letters":1"#;

/// Runs the program in `folder`. Returns its exit code and standard output.
fn recount(folder: &Path, args: &str) -> (Option<i32>, String) {
    let out = Command::new(env!("CARGO_BIN_EXE_recount"))
        .args(args.split_whitespace())
        .current_dir(folder)
        .output()
        .unwrap();
    let text = [out.stdout, out.stderr].concat();
    (out.status.code(), String::from_utf8(text).unwrap())
}

#[test]
fn recount_prints_the_lines_of_an_export() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("posts.ndjson"), POSTS).unwrap();
    let args = "--input posts.ndjson --scope region=eu --as-of 1700007200000";
    let (code, out) = recount(folder.path(), args);
    assert_eq!(code, Some(0), "{out}");
    let (rows, counters) = out.trim_end().rsplit_once('\n').unwrap();
    assert_eq!(rows, EXPORT.trim_end());
    let counters: serde_json::Value = serde_json::from_str(counters).unwrap();
    let want: serde_json::Value = serde_json::from_str(&format!("{{{COUNTERS}}}")).unwrap();
    assert_eq!(counters, want);
}

#[test]
fn first_difference_is_shown_with_its_events() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("posts.ndjson", POSTS);
    let last = format!(r#"{{"as_of":1700007200000,"commit":9,{COUNTERS}}}"#);
    write("right", &format!("{EXPORT}{last}\n"));
    write("wrong", &format!("{}{last}\n", EXPORT.replace(r#""total":3"#, r#""total":4"#)));
    let args = "--input posts.ndjson --scope region=eu --against";
    let (code, out) = recount(folder.path(), &format!("{args} right"));
    assert_eq!((code, out.as_str()), (Some(0), "4 keys, 0 differ\n"));
    let (code, out) = recount(folder.path(), &format!("{args} wrong"));
    assert_eq!(code, Some(1));
    let events: Vec<&str> = out.lines().filter(|line| line.contains("event ")).collect();
    let second = POSTS.find('\n').unwrap() + 1;
    assert_eq!(events[0], "  posts.ndjson@0: event 1 at 1700000000000");
    assert_eq!(events[1], format!("  posts.ndjson@{second}: event 2 at 1700000060000"));
    assert!(events[2].ends_with("event 3 at 1700007200000") && events.len() == 3, "{out}");
    assert!(out.starts_with(r#"("", "sun")"#) && out.ends_with("4 keys, 1 differ\n"), "{out}");
}
