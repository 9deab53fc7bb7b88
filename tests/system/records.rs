//! What becomes of odd and of refused records, and what a run says about them.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use super::harness::{export, fails, folder, ok, run};
use super::inconclusive::change;
use super::oracle::{Input, check};
use super::reconcile::no_drift;

struct Files {
    _folder: TempDir,
    input: PathBuf,
    state: PathBuf,
}

fn files(records: impl AsRef<[u8]>) -> Files {
    let folder = folder();
    let (input, state) = (folder.path().join("posts.ndjson"), folder.path().join("state"));
    fs::write(&input, records).unwrap();
    Files { _folder: folder, input, state }
}

impl Files {
    fn line(&self, command: &str) -> String {
        format!("{command} --input {} --state {}", self.input.display(), self.state.display())
    }

    /// Runs to the end. Returns the exit code and what is printed.
    fn bounded(&self, more: &str) -> (Option<i32>, Value, String) {
        let output = run(&format!("{} --bounded --json {more}", self.line("run")));
        let error = String::from_utf8(output.stderr).unwrap();
        let printed = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{error}"));
        (output.status.code(), printed, error)
    }
}

#[test]
fn odd_records_are_counted_as_the_oracle_reads_them() {
    let records: [&[u8]; 16] = [
        br##"{"event_id":"1","ts":1767254400000,"caption":"#a","by":"Ana \ud83d","lang":true}"##,
        br##"{"event_id":"2","ts":1.7672544e12,"caption":"#a","score":[-1e999],"lang":false}"##,
        b"{\"event_id\":\"3\",\"ts\":1767254400000,\"caption\":\"#a\",\"by\":\"Ren\xe9\",\"lang\":1.5}",
        br##"{"event_id":"4","ts":1767254400000,"caption":"#a","lang":["true"]}"##,
        br##"{"event_id":"5","ts":1767254400000,"caption":"#a","lang":{"x\udc00":1}}"##,
        br##"{"event_id":"6","ts":1767254400000,"caption":"#a","lang":null}"##,
        br##"{"event_id":"7","ts":1767254400000,"caption":"#a","lang":"true"}"##,
        br##"{"event_id":null,"event_id":"8","ts":1767254400000,"caption":"#a"}"##,
        br##"{"event_id":"9","ts":1767254400000,"caption":"#a","lang":null,"lang":"true"}"##,
        br##"{"event_id":"10","ts":1767254400000,"caption":"#a","caption":null}"##,
        br#"{"event_id":"11","ts":1767254400000,"caption":"half \ud83d #a"}"#,
        b"{\"event_id\":\"12\",\"ts\":1767254400000,\"caption\":\"caf\xe9 #a\"}",
        br##"{"event_id":123456789012345678901234567890,"ts":1767254400000,"caption":"#b"}"##,
        br##"{"event_id":123456789012345678901234567891,"ts":1767254400000,"caption":"#b"}"##,
        br##"{"event_id":"15","ts":1767254400000,"caption":"#b","x":01}"##,
        b"[1e400]",
    ];
    let files = files([records.join(&b'\n'), vec![b'\n']].concat());
    let (code, printed, error) = files.bounded("--scope lang=true,1.5");
    assert_eq!((code, &printed["scope_overflow"]), (Some(0), &3.into()), "{error}");
    let (rows, summary) = export(&files.state, "");
    let scopes: &[(&str, &[&str])] = &[("lang", &["true", "1.5"])];
    check(&Input { scopes, ..Input::file(&files.input) }, &rows, &summary);
    let total = |scope: &str, key: &str| rows[&(scope.to_owned(), key.to_owned())].total;
    assert_eq!((total("", "a"), total("", "b"), total("lang=true", "a")), (7, 2, 2));
    assert_eq!(total("lang=1.5", "a"), 1);
    let numbers = ok(&format!("dead-letters ls --count --state {}", files.state.display()));
    for number in ["3 duplicate_field", "2 bad_field", "1 not_json", "1 not_an_object"] {
        assert!(numbers.contains(number), "{numbers}");
    }
}

#[test]
fn repaired_record_is_delivered_as_it_is_written() {
    let files = files("one\ntwo\nthree\nfour\n");
    let state = files.state.display();
    fails(&format!("{} --bounded", files.line("run")), 1);
    let repaired = files.input.with_file_name("repaired.ndjson");
    let line = |position: u32, record: &str| {
        format!(r#"{{"partition":"posts.ndjson","position":{position},"record":{record}}}"#)
    };
    let post = |id: &str, more: &str| {
        format!(r##"{{"event_id":{id},"ts":1767254400000,"caption":"#tea"{more}}}"##)
    };
    let big = ["123456789012345678901234567890", "123456789012345678901234567891"];
    let replay = format!("dead-letters replay --state {state} --repaired {}", repaired.display());
    // One position, two records: neither is delivered.
    let twice = [line(0, &post(big[0], "")), line(4, &post("1", "")), line(0, &post(big[1], ""))];
    fs::write(&repaired, twice.join("\n")).unwrap();
    let error = fails(&replay, 1);
    let told = "line 3: position 0 of posts.ndjson (input input) has a record on line 1 already";
    assert!(error.contains(told), "{error}");
    assert!(export(&files.state, "").0.is_empty());
    let as_text = serde_json::to_string(&post("\"x\"", r#","score":1e400"#)).unwrap();
    let lines = [
        line(0, &post(big[0], r#","by":"\ud83d""#)),
        line(4, &post(big[1], r#","score":1e400"#)),
        line(8, &as_text),
        line(14, &post("\"y\"", r##","caption":"#tea""##)),
    ];
    fs::write(&repaired, lines.join("\n")).unwrap();
    let output = run(&format!("{replay} --json"));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    // A caption that is there twice is refused again; the generic value would have hidden it.
    assert_eq!((&answer["counted"], &answer["refused"]), (&3.into(), &1.into()), "{answer}");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(export(&files.state, "").0[&(String::new(), "tea".to_owned())].total, 3);
}

#[test]
fn run_that_accepts_nothing_fails_and_says_what_would_mend_it() {
    let foreign = |i: u64| {
        format!("{{\"id\":{i},\"created_at\":\"2026-01-01T08:00:0{i}Z\",\"text\":\"#tea {i}\"}}\n")
    };
    let files = files((0..4).map(foreign).collect::<String>());
    let (code, printed, error) = files.bounded("");
    assert_eq!(code, Some(1), "{error}");
    assert!(error.contains("no record was accepted, 4 were refused"), "{error}");
    let refused = &printed["refused"];
    let map = "event_id=id,ts=created_at:rfc3339,caption=text";
    assert_eq!((&refused["records"], &refused["of_this_reason"]), (&4.into(), &4.into()));
    assert_eq!((&refused["reason"], &refused["map"]), (&"missing_field".into(), &map.into()));
    assert_eq!((&refused["partition"], &refused["position"]), (&"posts.ndjson".into(), &0.into()));
    assert_eq!(refused["detail"], "\"event_id\" is missing");
    let doctor = run(&files.line("doctor"));
    let told = String::from_utf8(doctor.stdout).unwrap();
    assert!(told.contains(&format!("--map {map} reads it")), "{told}");
    // The same command again reads nothing, and is no success either.
    let (code, _, again) = files.bounded("");
    assert_eq!(code, Some(1), "{again}");
    assert!(again.contains("no record was accepted, 4 were refused"), "{again}");
    // With that mapping all of them count.
    fs::remove_dir_all(&files.state).unwrap();
    let (code, printed, error) = files.bounded(&format!("--map {map}"));
    assert_eq!((code, &printed["events"]), (Some(0), &4.into()), "{error}");
    assert_eq!((&printed["refused"], &printed["remarks"]), (&Value::Null, &Value::Null));
    assert_eq!(export(&files.state, "").0[&(String::new(), "tea".to_owned())].total, 4);
}

#[test]
fn run_that_accepts_some_says_what_it_refused() {
    let good = r##"{"event_id":1,"ts":1767254400000,"caption":"#a"}"##;
    let lines = [good, "broken", "{\"event_id\":2}", "broken too", ""].join("\n");
    let files = files(&lines);
    let text = ok(&format!("{} --bounded", files.line("run")));
    let told =
        "refused in this run: 3, most often for not_json (2)\n  posts.ndjson at 49: not JSON: ";
    assert!(text.contains(told), "{text}");
    // The next run refused nothing, though the state has dead letters.
    let lines = lines + &good.replacen('1', "3", 1) + "\n";
    fs::write(&files.input, &lines).unwrap();
    let text = ok(&format!("{} --bounded", files.line("run")));
    assert!(!text.contains("refused in this run") && text.contains("dead_letters"), "{text}");
    // All that comes then is refused.
    fs::write(&files.input, lines + "broken again\n").unwrap();
    let error = fails(&format!("{} --bounded", files.line("run")), 1);
    assert!(error.contains("no record was accepted, 1 was refused"), "{error}");
}

fn remarks(directory: &Path, records: &str, more: &str) -> Vec<String> {
    let input = directory.join("posts.ndjson");
    fs::write(&input, records).unwrap();
    let state = directory.join("state");
    let line = format!("--input {} --state {} {more}", input.display(), state.display());
    let text = ok(&format!("doctor {line}"));
    let doctor: Vec<&str> = text.lines().filter(|line| line.starts_with("warning")).collect();
    let printed: Value =
        serde_json::from_str(&ok(&format!("run {line} --bounded --json"))).unwrap();
    fs::remove_dir_all(state).unwrap();
    let run = printed["remarks"].as_array().cloned().unwrap_or_default();
    let run: Vec<String> = run.iter().map(|r| r.as_str().unwrap().to_owned()).collect();
    assert_eq!(doctor.len(), run.len(), "{doctor:?} {run:?}");
    run
}

#[test]
fn seconds_and_fields_that_no_record_has_are_told() {
    let folder = folder();
    let of = |ts: &str| {
        format!("{{\"event_id\":\"{ts}\",\"at\":{ts},\"text\":\"#a\",\"area\":\"eu\"}}\n")
    };
    let seconds: String = (0..40).map(|i| of(&format!("17672544{i:02}"))).collect();
    let told = remarks(folder.path(), &seconds, "--map ts=at,caption=text");
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("looks like seconds (ts=at:s)"), "{told:?}");
    assert!(remarks(folder.path(), &seconds, "--map ts=at:s,caption=text").is_empty());
    let told = remarks(folder.path(), &seconds, "--map ts=at:s,caption=txt --scope region=eu");
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].contains("no field") || told[0].contains("has a field \"txt\""), "{told:?}");
    assert!(
        told[0].contains("did you mean \"text\"?") && told[1].contains("\"region\""),
        "{told:?}"
    );
}

#[test]
fn bounded_run_ends_at_its_last_plausible_post_and_says_so() {
    let post =
        |id: u32, ts: i64| format!("{{\"event_id\":{id},\"ts\":{ts},\"caption\":\"#tea\"}}\n");
    let first = 1_767_254_400_000_i64;
    let minutes = |i: u32| first + i64::from(i) * 60_000;
    let twenty: String = (0..20).map(|i| post(i, minutes(i))).collect();
    let years = 3 * 365 * 86_400_000_i64;
    let wrong: String = (20..23).map(|i| post(i, minutes(i) + years)).collect();
    let files = files(wrong + &twenty);
    let (code, printed, _) = files.bounded("");
    assert_eq!((code, &printed["as_of"]), (Some(0), &minutes(19).into()));
    assert_eq!(printed["dated_later"], 3);
    let row = export(&files.state, "").0.remove(&(String::new(), "tea".to_owned())).unwrap();
    assert_eq!((row.c1h, row.c24h, row.total), (20, 20, 23));
    fs::remove_dir_all(&files.state).unwrap();
    let text = ok(&format!("{} --bounded", files.line("run")));
    let told = "windows end at 2026-01-01T08:19:00Z; 3 records are dated later";
    assert!(text.contains(told), "{text}");
}

#[test]
fn invisible_twins_are_one_tag_and_an_older_state_keeps_its_rules() {
    let captions =
        ["#foo", "#foo\u{200c}", "#foo\u{200d}", "#foo\u{fe0f}", "#\u{3164}", "#\u{34f}"];
    let line = |(i, caption): (usize, &&str)| {
        format!("{{\"event_id\":{i},\"ts\":1767254400000,\"caption\":\"{caption}\"}}\n")
    };
    let lines: Vec<String> = captions.iter().enumerate().map(line).collect();
    let files = files(lines.concat());
    ok(&format!("{} --bounded", files.line("run")));
    let totals = || {
        let rows = export(&files.state, "").0;
        rows.into_values().map(|row| (row.key, row.total)).collect::<Vec<_>>()
    };
    assert_eq!(totals(), [("foo".to_owned(), 4)]);
    no_drift(&format!("{} --json", files.line("reconcile")));
    // A state of the first rules counts on by those.
    fs::remove_dir_all(&files.state).unwrap();
    fs::write(&files.input, "").unwrap();
    ok(&format!("{} --bounded", files.line("run")));
    change(&files.state, |manifest| manifest.body.rules = 1);
    fs::write(&files.input, lines.concat()).unwrap();
    ok(&format!("{} --bounded", files.line("run")));
    assert_eq!(totals().len(), 6, "{:?}", totals());
    no_drift(&format!("{} --json", files.line("reconcile")));
    // One of rules that this build does not know is refused.
    change(&files.state, |manifest| manifest.body.rules = 9);
    fs::write(&files.input, lines.concat() + &lines[0].replace(":0,", ":99,")).unwrap();
    let error = fails(&format!("{} --bounded", files.line("run")), 1);
    assert!(error.contains("tag rules 9"), "{error}");
}
