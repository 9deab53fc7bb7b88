//! Inputs that are not whole: half a line, an archive that is still being copied, links and names
//! that lead elsewhere. What is there counts once, and what is not is said.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Output;

use super::harness::{Job, append, command, eventually, export, folder, now_ms, ok, post};

const NOON: i64 = 1_750_000_000_000;

/// A bounded run on `input`. Returns its exit code, result and messages.
fn bounded(input: &Path, state: &Path, more: &str) -> (Option<i32>, serde_json::Value, String) {
    let line = format!("run --bounded --json --state {} {more} --input", state.display());
    let Output { status, stdout, stderr } = command(&line).arg(input).output().unwrap();
    let result = serde_json::from_slice(&stdout).unwrap_or_default();
    (status.code(), result, String::from_utf8_lossy(&stderr).into_owned())
}

fn total(state: &Path, tag: &str) -> i64 {
    let Ok(mut pointers) = fs::read_dir(state.join("visible")) else { return 0 };
    let is_pointer = |name: &OsStr| name.to_str().is_some_and(|name| name.parse::<u64>().is_ok());
    if !pointers.any(|entry| is_pointer(&entry.unwrap().file_name())) {
        return 0;
    }
    export(state, "").0.get(&(String::new(), tag.to_owned())).map_or(0, |row| row.total)
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn half_a_line_is_left_for_the_next_run_and_counts_once() {
    for more in ["", "--horizon 24h"] {
        let folder = folder();
        let [input, state] = ["in.ndjson", "state"].map(|name| folder.path().join(name));
        let last = post(3, NOON, "quay");
        let (half, rest) = last.split_at(20);
        append(&input, post(1, NOON, "quay") + &post(2, NOON, "quay") + half);
        let (code, result, said) = bounded(&input, &state, more);
        assert_eq!(code, Some(0), "{said}");
        assert_eq!((&result["events"], &result["dead_letters"]), (&2.into(), &0.into()));
        assert_eq!(result["unfinished_lines"], 1);
        assert!(said.contains("left for the next run") && said.contains("in.ndjson"), "{said}");
        let check = format!("reconcile --input {} --state {}", input.display(), state.display());
        ok(&check);
        // A run that finds nothing new changes nothing.
        let (_, again, said) = bounded(&input, &state, more);
        assert_eq!(again["commit"], result["commit"], "{said}");
        // Whole without its newline, it counts. The newline adds nothing.
        append(&input, rest.trim_end());
        let (_, result, said) = bounded(&input, &state, more);
        assert_eq!((&result["events"], &result["dead_letters"]), (&3.into(), &0.into()), "{said}");
        assert_eq!(result["unfinished_lines"], serde_json::Value::Null);
        ok(&check);
        append(&input, "\n".to_owned() + &post(4, NOON, "quay"));
        let (_, result, said) = bounded(&input, &state, more);
        assert_eq!((&result["events"], &result["dead_letters"]), (&4.into(), &0.into()), "{said}");
        assert_eq!(total(&state, "quay"), 4);
        ok(&check);
    }
}

#[test]
fn archive_that_is_still_being_copied_ends_no_other_file() {
    let folder = folder();
    let [input, state, log] = ["in", "state", "log"].map(|name| folder.path().join(name));
    fs::create_dir(&input).unwrap();
    let now = now_ms();
    append(&input.join("a.ndjson"), post(0, now, "quay"));
    let line = format!("run --input {} --state {}", input.display(), state.display());
    let mut job = Job::logged(&line, &log);
    let counts = |posts: i64| {
        eventually(&format!("{posts} posts"), || (total(&state, "quay") == posts).then_some(()));
    };
    counts(1);
    let texts: Vec<String> = (1..1000).map(|id| post(id, now, "quay")).collect();
    let gz = gzip(&texts[..499].concat());
    let zst = zstd::encode_all(texts[499..].concat().as_bytes(), 1).unwrap();
    for (name, whole) in [("b.ndjson.gz", &gz), ("c.NDJSON.ZST", &zst)] {
        File::create(input.join(name)).unwrap().write_all(&whole[..whole.len() / 2]).unwrap();
    }
    File::create(input.join("d.ndjson.gz")).unwrap();
    let before = total(&state, "quay");
    append(&input.join("a.ndjson"), post(1000, now, "bell"));
    eventually("a post of another file", || (total(&state, "bell") == 1).then_some(()));
    assert!(job.lives() && before < 1000);
    for (name, whole) in [("b.ndjson.gz", &gz), ("c.NDJSON.ZST", &zst)] {
        append(&input.join(name), &whole[whole.len() / 2..]);
    }
    append(&input.join("d.ndjson.gz"), gzip(&post(2000, now, "quay")));
    counts(1001);
    job.signal("TERM");
    assert_eq!(job.end().0, Some(0), "{}", fs::read_to_string(&log).unwrap());
    assert_eq!(export(&state, "").1.dead_letters, 0);
}

#[test]
fn links_out_of_a_folder_are_followed_only_if_asked_for() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("in")).unwrap();
    append(&at("in/a.ndjson"), post(1, NOON, "quay"));
    append(&at("secret"), "root:x:0:0\n");
    append(&at("more.ndjson"), post(2, NOON, "quay"));
    symlink(at("secret"), at("in/b.ndjson")).unwrap();
    symlink("../more.ndjson", at("in/c.ndjson")).unwrap();
    symlink("nowhere", at("in/d.ndjson")).unwrap();
    symlink(".", at("in/loop")).unwrap();
    let (code, result, said) = bounded(&at("in"), &at("s1"), "");
    assert_eq!(code, Some(0), "{said}");
    assert_eq!((&result["events"], &result["dead_letters"]), (&1.into(), &0.into()), "{said}");
    for told in ["in/b.ndjson", "in/c.ndjson", "in/d.ndjson", "in/loop", "--follow-links"] {
        assert!(said.contains(told), "{told}: {said}");
    }
    let (_, result, said) = bounded(&at("in"), &at("s2"), "--follow-links");
    assert_eq!((&result["events"], &result["dead_letters"]), (&2.into(), &1.into()), "{said}");
    // What the user names may be a link itself.
    symlink("in", at("input")).unwrap();
    symlink("more.ndjson", at("one.ndjson")).unwrap();
    for (input, state) in [("input", "s3"), ("one.ndjson", "s4")] {
        let (code, result, said) = bounded(&at(input), &at(state), "");
        assert_eq!((code, &result["events"]), (Some(0), &1.into()), "{said}");
    }
}

#[test]
fn file_whose_name_is_no_text_is_read_by_its_true_name() {
    let folder = folder();
    let at = |name: &[u8]| folder.path().join(OsStr::from_bytes(name));
    fs::create_dir(at(b"in\xff")).unwrap();
    append(&at(b"in\xff/caf\xe9.ndjson"), post(1, NOON, "quay"));
    append(&at(b"in\xff/\xe2\x80\xaeb.ndjson"), post(2, NOON, "quay"));
    for (input, state, events) in
        [(&b"in\xff"[..], &b"s1"[..], 2), (b"in\xff/caf\xe9.ndjson", b"s2", 1)]
    {
        let (code, result, said) = bounded(&at(input), &at(state), "");
        assert_eq!((code, &result["events"]), (Some(0), &events.into()), "{said}");
        let (code, again, said) = bounded(&at(input), &at(state), "");
        assert_eq!((code, &again["commit"]), (Some(0), &result["commit"]), "{said}");
    }
}

#[test]
fn windows_of_zstd_are_read_up_to_the_size_that_is_allowed() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name);
    let text = post(1, NOON, "quay");
    for (log, descriptor) in [(28, 18 << 3), (31_u32, 21_u8 << 3)] {
        let input = at(&format!("{log}.ndjson.zst"));
        let head = [0x28, 0xb5, 0x2f, 0xfd, 0, descriptor];
        let block = (((text.len() as u32) << 3) | 1).to_le_bytes();
        append(&input, [&head, &block[..3], text.as_bytes()].concat());
        let (code, _, said) = bounded(&input, &at(&format!("a{log}")), "");
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(&format!("--zstd-window-log {log}")), "{said}");
        let state = at(&format!("b{log}"));
        let (code, result, said) = bounded(&input, &state, &format!("--zstd-window-log {log}"));
        assert_eq!((code, &result["events"]), (Some(0), &1.into()), "{said}");
        let check = format!("--input {} --state {}", input.display(), state.display());
        ok(&format!("reconcile {check} --zstd-window-log {log}"));
    }
}
