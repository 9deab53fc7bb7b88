//! Unbounded jobs: growing files, new files, the demo, and clean shutdown.

use std::fs;

use super::harness::{
    Job, append, eventually, export, folder, newest_commit, now_ms, ok, post, run,
};
use super::serve::get;

#[test]
fn growing_and_new_files_are_followed_across_restarts() {
    let folder = folder();
    let (posts, state) = (folder.path().join("posts"), folder.path().join("state"));
    fs::create_dir(&posts).unwrap();
    let now = now_ms();
    let append = |file: &str, text: &str| append(&posts.join(file), text);
    let total = |tag: &str| {
        if !state.join("visible").exists() {
            return 0;
        }
        let output = run(&format!("query tag {tag} --state {} --json", state.display()));
        let object: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        object["total"].as_i64().unwrap_or(0)
    };
    append("a.ndjson", &(post(1, now, "x") + &post(2, now, "x")));
    let line = format!("run --input {} --state {} --workers 2", posts.display(), state.display());
    let job = Job::start(&line);
    eventually("two posts", || (total("x") == 2).then_some(()));
    // A partial line counts once it is complete.
    let whole = post(3, now, "x");
    append("a.ndjson", &whole[..10]);
    append("b.ndjson", &post(4, now, "y"));
    eventually("the new file", || (total("y") == 1).then_some(()));
    assert_eq!(total("x"), 2);
    append("a.ndjson", &whole[10..]);
    eventually("the whole line", || (total("x") == 3).then_some(()));
    job.signal("TERM");
    let (code, _, error) = job.end();
    assert_eq!(code, Some(0), "{error}");
    append("b.ndjson", &(post(4, now, "y") + &post(5, now, "y")));
    let mut job = Job::start(&line);
    eventually("the records written meanwhile", || (total("y") == 2).then_some(()));
    assert_eq!(total("x"), 3);
    // An event from the far future is refused and does not advance stream time.
    append("b.ndjson", &post(6, now + 4_000_000, "z"));
    eventually("the refusal", || {
        ok(&format!("dead-letters ls --state {}", state.display())).contains("future").then_some(())
    });
    // Stream time follows the clock, so windows expire even if no event arrives.
    let as_of = || export(&state, "").1.as_of.unwrap();
    let before = as_of();
    assert!((now..=now_ms()).contains(&before), "{before} is not in {now}..={}", now_ms());
    eventually("a heartbeat", || (as_of() > before).then_some(()));
    assert!(job.lives());
}

#[test]
fn old_events_in_a_followed_file_set_stream_time() {
    let folder = folder();
    let (input, state) = (folder.path().join("a.ndjson"), folder.path().join("state"));
    let start = 1_600_000_000_000_i64;
    // An hour apart, but read at once: stream time can only come from the events.
    let text: String = (0..20).map(|i| post(i, start + i64::from(i) * 3_600_000, "old")).collect();
    fs::write(&input, text).unwrap();
    let _job = Job::start(&format!("run --input {} --state {}", input.display(), state.display()));
    let summary = eventually("all events", || {
        state.join("visible").exists().then_some(())?;
        let output = run(&format!("checkpoint export --state {}", state.display()));
        output.status.success().then_some(())?;
        Some(export(&state, "").1).filter(|s| s.events == 20)
    });
    assert_eq!((summary.dead_letters, summary.beyond_horizon), (0, 0));
    let last = start + 19 * 3_600_000;
    eventually("stream time beside the last event", || {
        let as_of = export(&state, "").1.as_of?;
        (last..last + 3_600_000).contains(&as_of).then_some(())
    });
}

#[test]
fn demo_counts_and_serves() {
    let job = Job::start("demo --seconds 4 --listen 127.0.0.1:0 --rate 3000");
    let (code, out, error) = job.end();
    assert_eq!(code, Some(0), "{error}");
    assert!(out.starts_with("http://127.0.0.1:"), "{out}");
    assert!(error.contains("records/s") && error.contains('#'), "{error}");
    let events: u64 = error.lines().last().unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!(events > 3000, "{error}");
}

#[test]
fn demo_on_a_kept_state_continues_its_posts() {
    let folder = folder();
    let state = folder.path().join("state");
    let line = format!("demo --seconds 2 --listen 127.0.0.1:0 --state {}", state.display());
    ok(&line);
    let first = export(&state, "").1;
    ok(&line);
    let second = export(&state, "").1;
    assert!(first.events > 0 && second.events > first.events);
    // Every record is read once. The share of duplicates is that of the generator.
    let share = second.duplicates as f64 / second.events as f64;
    assert!((0.01..0.04).contains(&share), "{second:?}");
}

#[test]
fn more_followed_files_than_handles_keep_neither_the_job_nor_its_pages_from_going_on() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name);
    let (posts, state, log) = (at("posts"), at("state"), at("log"));
    fs::create_dir(&posts).unwrap();
    for number in 0..300 {
        append(&posts.join(format!("{number}.ndjson")), post(number, now_ms(), "x"));
    }
    let (input, at) = (posts.display(), state.display());
    let line = format!("run --input {input} --state {at} --workers 1 --listen 127.0.0.1:0");
    let job = Job::with_files(100, &line, &log);
    let logged = || fs::read_to_string(&log).unwrap();
    let address = eventually("its address", || {
        let text = logged();
        let (_, rest) = text.split_once("serving http://")?;
        Some(rest.split_once('\n')?.0.to_owned())
    });
    let has_files = || (export(&state, "").1.events >= 40).then_some(());
    eventually("the state", || state.join("visible").exists().then_some(()));
    eventually("counts", has_files);
    let commit = newest_commit(&state);
    eventually("more commits", || (newest_commit(&state) > commit + 3).then_some(()));
    assert_eq!(get(&address, "/readyz").status, 200);
    assert_eq!(logged().matches("wait to be read").count(), 1, "{}", logged());
    assert!(!logged().contains("Too many open files"), "{}", logged());
    job.signal("TERM");
    assert_eq!(job.end().0, Some(0), "{}", logged());
}
