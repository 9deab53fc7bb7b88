//! `doctor` on files, states and ports: it names what would fail, and changes nothing.

use std::fs;
use std::net::TcpListener;

use super::harness::{fails, folder, ok, run};

#[test]
fn doctor_accepts_a_good_job_and_creates_nothing() {
    let folder = folder();
    let (input, state) = (folder.path().join("posts.ndjson"), folder.path().join("state"));
    ok(&format!("generate --posts 500 --out {}", input.display()));
    let line = format!("doctor --input {} --state {}", input.display(), state.display());
    let report = ok(&line);
    assert!(report.contains("100 records were read as a sample, all of them events"), "{report}");
    assert!(report.contains("does not exist yet, and can be created"), "{report}");
    assert!(!state.exists());
    let names = fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(names, 1, "only the input is there");
    ok(&format!("run --input {} --state {} --bounded", input.display(), state.display()));
    let report = ok(&format!("{line} --json"));
    let lines: Vec<serde_json::Value> =
        report.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.iter().all(|line| line["level"] == "ok"), "{report}");
    assert!(report.contains("are intact"), "{report}");
}

#[test]
fn doctor_names_what_would_fail() {
    let folder = folder();
    let (input, state) = (folder.path().join("posts.ndjson"), folder.path().join("state"));
    ok(&format!("generate --posts 500 --out {}", input.display()));
    let line = format!("--input {} --state {}", input.display(), state.display());
    let report = |more: &str| {
        let output = run(&format!("doctor {line} {more}"));
        assert_eq!(output.status.code(), Some(1), "{more}");
        String::from_utf8(output.stdout).unwrap()
    };
    let names = report("--map event_id=id");
    assert!(names.contains("no event among the 100 records"), "{names}");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = report(&format!("--listen {}", listener.local_addr().unwrap()));
    assert!(port.contains("error   serve"), "{port}");
    ok(&format!("run {line} --bounded"));
    let scopes = report("--scope region=eu");
    assert!(scopes.contains("other scopes"), "{scopes}");
    let text = fs::read(&input).unwrap();
    fs::write(&input, &text[1000..]).unwrap();
    let replaced = report("");
    assert!(replaced.contains("posts.ndjson") && replaced.contains("replaced"), "{replaced}");
    let gone = fails("doctor --input nowhere.ndjson --state nowhere", 1);
    assert!(gone.contains("1 finding"), "{gone}");
}
