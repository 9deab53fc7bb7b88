//! Input that does not fit into memory: what takes it, and what is kept of it.

use std::collections::BTreeMap;
use std::fs;
use std::process::Stdio;

use super::harness::{command, fails, folder, number, ok, post, run};

/// What a job may take for any input on the default settings, besides the ids and tags of its
/// state.
const MOST_KIB: u64 = 600 * 1024;
const LINE_BYTES: usize = 60_000;

/// The anonymous memory of a process, in KiB. `None` once it has ended.
fn anonymous_kib(id: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

/// Runs a command line that must succeed, and writes its standard input meanwhile. Returns the most
/// memory that it was seen to have.
fn most_kib(line: &str, mut write: impl FnMut(&mut dyn std::io::Write)) -> u64 {
    let mut child = command(line).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let id = child.id();
    let watch = std::thread::spawn(move || {
        let mut most = 0;
        while let Some(kib) = anonymous_kib(id) {
            most = kib.max(most);
            std::thread::park_timeout(std::time::Duration::from_millis(2));
        }
        most
    });
    write(&mut stdin);
    drop(stdin);
    assert!(child.wait().unwrap().success(), "{line}");
    watch.join().unwrap()
}

#[test]
fn refused_records_beyond_the_budget_of_a_commit_keep_their_beginning() {
    let folder = folder();
    let state = folder.path().join("state");
    let lines = number("TAGFLOW_REFUSED_LINES", 6000);
    let line = format!("run --input stdin: --bounded --state {}", state.display());
    let most = most_kib(&line, |out| {
        let rest = "x".repeat(LINE_BYTES - 8);
        (0..lines).for_each(|i| writeln!(out, "{i:08}{rest}").unwrap());
        // A run that accepts nothing fails.
        write!(out, "{}", post(1, 1_700_000_000_000, "x")).unwrap();
    });
    assert!(most < MOST_KIB, "{most} KiB for {lines} refused lines");

    let listed = ok(&format!("dead-letters ls --state {} --json", state.display()));
    let rows: Vec<serde_json::Value> =
        listed.lines().map(|row| serde_json::from_str(row).unwrap()).collect();
    assert_eq!(rows.len() as u64, lines);
    assert!(rows.iter().all(|row| row["bytes"] == LINE_BYTES && row["reason"] == "not_json"));
    let (cut, whole): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row["kept"] == 1024);
    assert!(whole.iter().all(|row| row["kept"].is_null()));
    let mut commits = BTreeMap::<u64, (usize, usize)>::new();
    for row in &rows {
        let (of, whole) = commits.entry(row["commit"].as_u64().unwrap()).or_default();
        *of += 1;
        *whole += usize::from(row["kept"].is_null());
    }
    let budget = (64 << 20) / LINE_BYTES;
    assert!(commits.values().all(|(of, whole)| whole == of.min(&budget)), "{commits:?}");
    assert!(!cut.is_empty(), "{commits:?}");

    // What is kept is what was read; what is not is not delivered.
    let at = |row: &serde_json::Value| {
        let (partition, position) = (row["partition"].as_str().unwrap(), &row["position"]);
        let number = position.as_u64().unwrap() / (LINE_BYTES as u64 + 1);
        (format!("{partition} {position}"), position.as_u64().unwrap(), number)
    };
    for (row, bytes) in [(whole[0], LINE_BYTES), (cut[0], 1024)] {
        let (place, _, number) = at(row);
        let state = state.display();
        let shown = ok(&format!("dead-letters show --state {state} {place}"));
        let raw = shown.lines().last().unwrap();
        assert!(raw.starts_with(&format!("{number:08}x")) && raw.len() == bytes, "{place}");
        let said = shown.contains("the first 1024 of its 60000 bytes are kept");
        assert_eq!(said, bytes == 1024, "{}", &shown[..200]);
    }
    let (_, position, _) = at(cut[0]);
    let line = format!(
        "dead-letters replay --state {} --from {position} --to {}",
        state.display(),
        position + 1
    );
    let error = fails(&line, 1);
    assert!(error.contains("the first 1024 of its 60000 bytes are kept"), "{error}");
    assert!(error.contains("--repaired"), "{error}");
}

#[test]
fn records_with_many_long_tags_are_cut_into_slices_by_bytes() {
    let folder = folder();
    let state = folder.path().join("state");
    // 200 tags in all, 40 a post, each of 400 bytes.
    let tag = |i: u32| format!("#{}{}", "𝒜".repeat(97), 100 + i % 200);
    let line = format!("run --input stdin: --bounded --horizon 1h --state {}", state.display());
    let most = most_kib(&line, |out| {
        for i in 0..20_000_u32 {
            let tags: Vec<String> = (0..40).map(|n| tag(i * 7 + n)).collect();
            let caption = tags.join(" ");
            writeln!(out, "{{\"event_id\":{i},\"ts\":1700000000000,\"caption\":\"{caption}\"}}")
                .unwrap();
        }
    });
    assert!(most < MOST_KIB, "{most} KiB");
    let job = run(&format!("checkpoint export --state {}", state.display()));
    let text = String::from_utf8(job.stdout).unwrap();
    assert_eq!(text.lines().count(), 201, "200 tags and the summary");
    assert!(text.contains("\"events\":20000"), "{}", text.lines().last().unwrap());
}
