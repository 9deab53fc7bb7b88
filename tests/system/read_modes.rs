//! One state and one input, read in one way after another: every record counts exactly once.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use super::harness::{
    Job, append, command, eventually, export, fails, fed, folder, newest_commit, ok,
};

fn generate(path: &Path, posts: u32, more: &str) {
    let out = path.display();
    ok(&format!("generate --posts {posts} --duplicates 0 --span 10m --out {out} {more}"));
}

fn run(input: &Path, state: &Path, more: &str) -> String {
    format!("run --input {} --state {} {more}", input.display(), state.display())
}

/// Reads part of the input and stops.
fn begin(line: &str, state: &Path) {
    let before = newest_commit(state);
    let job = Job::start(line);
    eventually("two commits", || (newest_commit(state) > before + 2).then_some(()));
    job.signal("INT");
    let (code, _, error) = job.end();
    assert_eq!(code, Some(0), "{error}");
}

/// Follows the input until `events` are counted.
fn follow(line: &str, state: &Path, events: u64) {
    let mut job = Job::start(line);
    eventually("all events", || {
        assert!(job.lives());
        (export(state, "").1.events >= events).then_some(())
    });
    job.signal("INT");
    assert_eq!(job.end().0, Some(0));
}

#[test]
fn half_read_bounded_run_must_finish_before_following() {
    let folder = folder();
    let (posts, state) = (folder.path().join("posts.ndjson"), folder.path().join("state"));
    generate(&posts, 60_000, "");
    begin(&run(&posts, &state, "--bounded --limit-rate 3000"), &state);
    let before = export(&state, "").1;
    assert!(before.events < 60_000, "it was stopped before the end");
    for more in ["", "--bounded --horizon 48h"] {
        let error = fails(&run(&posts, &state, more), 1);
        assert!(error.contains("posts.ndjson") && error.contains("finish that run"), "{error}");
    }
    assert_eq!(export(&state, "").1, before, "a refused start leaves no trace");
    ok(&run(&posts, &state, "--bounded"));
    let more = folder.path().join("more.ndjson");
    generate(&more, 500, "--seed 9");
    append(&posts, fs::read(&more).unwrap());
    follow(&run(&posts, &state, ""), &state, 60_500);
    let summary = export(&state, "").1;
    assert_eq!((summary.events, summary.duplicates, summary.dead_letters), (60_500, 0, 0));
}

#[test]
fn bounded_run_continues_a_followed_file() {
    let folder = folder();
    let (posts, state) = (folder.path().join("posts.ndjson"), folder.path().join("state"));
    generate(&posts, 30_000, "");
    begin(&run(&posts, &state, "--limit-rate 1500"), &state);
    let begun = export(&state, "").1.events;
    assert!((1..30_000).contains(&begun), "{begun}");
    ok(&run(&posts, &state, "--bounded --workers 2"));
    let (rows, summary) = export(&state, "");
    assert_eq!((summary.events, summary.duplicates, summary.dead_letters), (30_000, 0, 0));
    let other = folder.path().join("other");
    ok(&run(&posts, &other, "--bounded"));
    assert_eq!(rows, export(&other, "").0);
}

#[test]
fn wrong_input_leaves_no_trace() {
    let folder = folder();
    let state = folder.path().join("state");
    assert!(fails(&run(&folder.path().join("no"), &state, "--bounded"), 1).contains("no"));
    assert!(!state.exists());
    let posts = folder.path().join("posts.ndjson");
    generate(&posts, 100, "");
    ok(&run(&posts, &state, "--bounded"));
    let commits = newest_commit(&state);
    fails(&run(&folder.path().join("no"), &state, "--bounded --take-over"), 1);
    fs::write(&posts, "something else\n").unwrap();
    fails(&run(&posts, &state, "--bounded --take-over"), 1);
    assert_eq!(newest_commit(&state), commits);
}

#[test]
fn events_after_until_are_counted_later() {
    let folder = folder();
    let (posts, state) = (folder.path().join("posts.ndjson"), folder.path().join("state"));
    generate(&posts, 1000, "");
    let until = "--bounded --until 1700000300000";
    ok(&run(&posts, &state, until));
    append(&posts, b"{\"event_id\":\"new\",\"ts\":1700000000000,\"caption\":\"#new\"}\n");
    for more in ["", "--bounded", "--bounded --until 1700000400000"] {
        assert!(fails(&run(&posts, &state, more), 1).contains("--until"), "{more}");
    }
    ok(&run(&posts, &state, until));
    assert!(export(&state, "").0.contains_key(&(String::new(), "new".to_owned())));
}

#[test]
fn end_of_standard_input_ends_the_job() {
    let folder = folder();
    let state = folder.path().join("state");
    let posts: String = (0..2000)
        .map(|i| {
            format!(
                "{{\"event_id\":{i},\"ts\":{},\"caption\":\"#a\"}}\n",
                1_700_000_000_000_i64 + i
            )
        })
        .collect();
    let line = run(Path::new("stdin:"), &state, "--horizon 90d");
    let mut child = command(&line).stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    child.stdin.as_mut().unwrap().write_all(&posts.as_bytes()[..50_000]).unwrap();
    eventually("a commit with events", || {
        (newest_commit(&state) > 1 && export(&state, "").1.events > 0).then_some(())
    });
    child.kill().unwrap();
    child.wait().unwrap();
    fed(&format!("{line} --bounded"), posts.as_bytes());
    fed(&line, posts.as_bytes());
    let summary = export(&state, "").1;
    assert_eq!(summary.events, 2000);
    assert!(summary.duplicates > 2000);
}

#[test]
fn changed_scopes_need_a_new_state() {
    let folder = folder();
    let (input, state) = (folder.path().join("posts.ndjson"), folder.path().join("state"));
    generate(&input, 60_000, "");
    begin(&run(&input, &state, "--bounded --scope region=eu,us --limit-rate 5000"), &state);
    for other in ["", "--scope region=eu", "--scope region=eu,us,asia"] {
        let error = fails(&run(&input, &state, &format!("--bounded {other}")), 1);
        assert!(error.contains("made with scopes region=eu, region=us; this job has "), "{error}");
    }
    // Their order does not matter.
    ok(&run(&input, &state, "--bounded --scope region=us,eu"));
    assert_eq!(export(&state, "").1.events, 60_000);
    fails(&run(&input, &state, "--bounded --scope region=eu"), 1);
}

#[test]
fn special_files_are_refused_by_name() {
    let folder = folder();
    let (pipe, state) = (folder.path().join("pipe.ndjson"), folder.path().join("state"));
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for input in [&*pipe, folder.path()] {
        let error = fails(&run(input, &state, "--bounded"), 1);
        assert!(error.contains("pipe.ndjson"), "{error}");
        assert!(error.contains("is not a regular file"), "{error}");
    }
}
