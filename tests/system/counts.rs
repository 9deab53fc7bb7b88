//! Counts on real and generated posts, on any number of workers and across restarts.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::harness::{Job, eventually, export, folder, newest_commit, ok, test_data};
use super::oracle::{Input, check, last_plausible};

const REAL: &str = "event_id=id,ts=created_at,caption=text,user_id=user";

#[test]
fn real_posts_match_their_known_counts() {
    let Some(data) = test_data("real posts") else { return };
    let sample = data.join("real-sample/maymac-2000.ndjson");
    let truth = fs::read_to_string(data.join("real-sample/maymac-2000.tags.tsv")).unwrap();
    let folder = folder();
    let state = folder.path().join("state");
    let (input, at) = (sample.display(), state.display());
    ok(&format!("run --input {input} --map {REAL} --state {at} --workers 2 --bounded"));
    let (rows, summary) = export(&state, "");
    assert_eq!((summary.events, summary.duplicates, summary.dead_letters), (2000, 0, 0));
    let mut want = BTreeMap::new();
    for line in truth.lines().skip(1) {
        let f: Vec<&str> = line.split('\t').collect();
        let number = |i: usize| f[i].parse::<i64>().unwrap();
        want.insert((String::new(), f[0].to_owned()), (number(1), number(4), number(5)));
    }
    let got: BTreeMap<_, _> =
        rows.into_iter().map(|(k, r)| (k, (r.total, r.first_seen, r.last_seen))).collect();
    assert_eq!(got, want);
}

#[test]
fn real_posts_match_known_counts_at_earlier_instants() {
    let Some(data) = test_data("instants of real posts") else { return };
    let sample = data.join("real-sample/maymac-2000.ndjson");
    let truth = fs::read(data.join("real-sample/maymac-2000.truth.json")).unwrap();
    let truth: serde_json::Value = serde_json::from_slice(&truth).unwrap();
    let windows = truth["windows"].as_array().unwrap();
    assert!(windows.len() >= 3);
    for instant in windows {
        let as_of = instant["as_of"].as_i64().unwrap();
        let folder = folder();
        let state = folder.path().join("state");
        let (input, at) = (sample.display(), state.display());
        ok(&format!("run --input {input} --map {REAL} --state {at} --bounded --until {as_of}"));
        let (rows, summary) = export(&state, "");
        assert_eq!(summary.as_of, Some(as_of));
        for (window, count) in [("1h", 0), ("24h", 1)] {
            let counts = |row: &recount::Row| [row.c1h, row.c24h][count];
            let mut top: Vec<(i64, &str)> =
                rows.values().map(|r| (counts(r), r.key.as_str())).filter(|r| r.0 > 0).collect();
            top.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(b.1)));
            let want = &instant[window];
            assert_eq!(top.len(), want["distinct"].as_u64().unwrap() as usize);
            assert_eq!(top.iter().map(|r| r.0).sum::<i64>(), want["total"].as_i64().unwrap());
            let top20: Vec<(&str, i64)> = top.iter().take(20).map(|(c, k)| (*k, *c)).collect();
            assert_eq!(serde_json::to_value(top20).unwrap(), want["top20"], "{window} at {as_of}");
        }
    }
}

/// Posts over 30 hours, out of order, with duplicates and late events.
fn generate(out: &Path, posts: u64, more: &str) {
    let out = out.display();
    ok(&format!(
        "generate --posts {posts} --seed 11 --tags-mean 4 --vocabulary 3000 --zipf 1.05 \
         --duplicates 0.05 --late 0.1 --span 30h --out {out} {more}"
    ));
}

/// Shuffles lines within a window, so that the whole file is out of order.
fn shuffle(file: &Path) {
    let text = fs::read_to_string(file).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    let mut random = 12345_u64;
    for i in 0..lines.len() {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let j = (i + (random >> 33) as usize % 400).min(lines.len() - 1);
        lines.swap(i, j);
    }
    fs::write(file, lines.join("\n") + "\n").unwrap();
}

#[test]
fn windows_match_the_recount_at_twenty_instants() {
    let folder = folder();
    let input = folder.path().join("posts.ndjson");
    generate(&input, 30_000, "");
    shuffle(&input);
    let (start, hour) = (1_700_000_000_000_i64, 3_600_000_i64);
    for i in 0..20_i64 {
        let until = start + 31 * hour * (i + 1) / 20 + i * 61_007;
        let state = folder.path().join(format!("state-{i}"));
        let workers = 1 + i % 3;
        let (from, at) = (input.display(), state.display());
        ok(&format!(
            "run --input {from} --state {at} --workers {workers} --bounded --until {until}"
        ));
        let (rows, summary) = export(&state, "");
        assert_eq!(summary.as_of, Some(until));
        assert!(summary.events < 30_000 && summary.duplicates > 0);
        check(&Input { until, ..Input::file(&input) }, &rows, &summary);
        fs::remove_dir_all(state).unwrap();
    }
}

#[test]
fn worker_count_and_restarts_do_not_change_the_export() {
    let folder = folder();
    let input = folder.path().join("posts.ndjson");
    // Several blocks, so that workers share the file.
    generate(&input, 120_000, "");
    let bytes = fs::metadata(&input).unwrap().len();
    assert!(bytes > 2 * (8 << 20), "{bytes} bytes are two blocks at most");
    let scopes = "--scope region=eu,us";
    let from = input.display();
    let all = Input { scopes: &[("region", &["eu", "us"])], ..Input::file(&input) };
    let mut events = 0;
    let mut first: Option<BTreeMap<_, _>> = None;
    for workers in 1..=4 {
        let state = folder.path().join(format!("state-{workers}"));
        let at = state.display();
        ok(&format!("run --input {from} {scopes} --state {at} --workers {workers} --bounded"));
        let (rows, summary) = export(&state, "");
        let recount = check(&all, &rows, &summary);
        assert_eq!(summary.as_of, Some(last_plausible(&recount, 64)));
        events = recount.events;
        assert!(rows.keys().any(|(scope, _)| scope == "region=eu"));
        assert_eq!(*first.get_or_insert_with(|| rows.clone()), rows);
    }
    for (before, after) in [(1, 3), (3, 2), (4, 1)] {
        let state = folder.path().join(format!("state-{before}-{after}"));
        let line = |workers: u32, more: &str| {
            let at = state.display();
            format!("run --input {from} {scopes} --state {at} --workers {workers} --bounded {more}")
        };
        let mut job = Job::start(&line(before, "--limit-rate 8000"));
        eventually("a third commit", || (newest_commit(&state) >= 3).then_some(()));
        job.signal("TERM");
        eventually("the job to exit", || (!job.lives()).then_some(()));
        let (code, _, error) = job.end();
        assert_eq!(code, Some(0), "{error}");
        let (half, summary) = export(&state, "");
        assert!(summary.events > 0 && summary.events < events, "stopped before the end");
        assert!(!half.is_empty());
        ok(&line(after, ""));
        let (rows, summary) = export(&state, "");
        check(&all, &rows, &summary);
        assert_eq!(Some(rows), first);
    }
}

#[test]
fn plain_and_compressed_files_count_once() {
    let folder = folder();
    let posts = folder.path().join("posts");
    generate(&posts, 6000, "--partitions 3");
    let mut files: Vec<_> = (0..3).map(|p| posts.join(format!("posts-{p:03}.ndjson"))).collect();
    let plain = folder.path().join("plain");
    fs::create_dir(&plain).unwrap();
    let copy = |file: &std::path::PathBuf| {
        let copy = plain.join(file.file_name().unwrap());
        fs::copy(file, &copy).unwrap();
        copy
    };
    let all = Input { paths: files.iter().map(copy).collect(), ..Input::file(&plain) };
    for (tool, file) in [("gzip", files.remove(0)), ("zstd", files.remove(0))] {
        let done = std::process::Command::new(tool).arg("-q").arg(&file).status();
        if !done.is_ok_and(|status| status.success()) {
            super::harness::skip(1, &format!("{tool} is not installed: one file stays plain"));
        } else if file.exists() {
            fs::remove_file(file).unwrap();
        }
    }
    let state = folder.path().join("state");
    let line = format!(
        "run --input {} --state {} --workers 2 --bounded",
        posts.display(),
        state.display()
    );
    ok(&line);
    let (rows, summary) = export(&state, "");
    check(&all, &rows, &summary);
    // Running it again changes nothing.
    ok(&line);
    assert_eq!(export(&state, "").1, summary);
}

#[test]
fn bounded_run_refuses_events_beyond_the_horizon() {
    let folder = folder();
    let input = folder.path().join("posts.ndjson");
    let mut lines = String::new();
    for i in 0..200_i64 {
        let ts = 1_700_000_000_000 + i * 60_000;
        lines += &format!("{{\"event_id\":{i},\"ts\":{ts},\"caption\":\"#a\"}}\n");
    }
    // One event two hours and a minute before the log time, and one just within the horizon.
    for (i, back) in [(1000, 7_260_000), (1001, 7_000_000_i64)] {
        // The log time of 200 events is their 64th largest time.
        let ts = 1_700_000_000_000_i64 + 136 * 60_000 - back;
        lines += &format!("{{\"event_id\":{i},\"ts\":{ts},\"caption\":\"#late\"}}\n");
    }
    fs::write(&input, lines).unwrap();
    let state = folder.path().join("state");
    let (from, at) = (input.display(), state.display());
    ok(&format!("run --input {from} --state {at} --bounded --horizon 2h"));
    let (rows, summary) = export(&state, "");
    assert_eq!((summary.beyond_horizon, summary.events, summary.dead_letters), (1, 201, 0));
    assert_eq!(rows[&(String::new(), "late".to_owned())].total, 1);
    let listed = ok(&format!("dead-letters ls --state {at} --json"));
    let row: serde_json::Value = serde_json::from_str(listed.trim()).unwrap();
    assert_eq!(
        (&row["reason"], &row["partition"]),
        (&"beyond_horizon".into(), &"posts.ndjson".into())
    );

    let state = folder.path().join("counted");
    let at = state.display();
    ok(&format!("run --input {from} --state {at} --bounded --horizon 2h --count-beyond"));
    let (rows, summary) = export(&state, "");
    assert_eq!((summary.beyond_horizon, summary.events), (1, 201));
    assert_eq!(rows[&(String::new(), "late".to_owned())].total, 2);
}
