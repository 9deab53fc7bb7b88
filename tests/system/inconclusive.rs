//! When `reconcile` must not report a result: a different log, mapping or horizon, copies that
//! differ, nothing to compare. And its exit code does not depend on who reads its output.

use std::fs;
use std::path::Path;

use schemas::manifest::Manifest;
use schemas::rows::TagRow;
use serde_json::json;
use sinks::commits::{load, visible};
use sinks::storage::DiskStorage;

use super::harness::{Job, command, eventually, fails, folder, newest_commit, ok, run};
use super::reconcile::{change_tag, findings, no_drift, replace, state_of};

#[test]
fn missing_input_is_an_error_not_a_result() {
    let folder = folder();
    let line = state_of(folder.path(), 5000, "");
    let input = folder.path().join("posts.ndjson");
    let text = fs::read(&input).unwrap();
    fs::write(&input, &text[..text.len() / 2]).unwrap();
    let error = fails(&line, 2);
    assert!(error.contains("posts.ndjson") && error.contains("cannot tell"), "{error}");
    fs::remove_file(&input).unwrap();
    // By another name it is the same file; with another content it is not.
    let (other, line_of_other) = ("other.ndjson", line.replace("posts.ndjson", "other.ndjson"));
    fs::write(folder.path().join(other), &text).unwrap();
    no_drift(&line_of_other);
    fs::write(folder.path().join(other), &text[text.len() / 2..]).unwrap();
    let error = fails(&line_of_other, 2);
    assert!(error.contains("posts.ndjson"), "{error}");
    let state = folder.path().join("state");
    let error = fails(&format!("reconcile --input - --state {}", state.display()), 2);
    assert!(error.contains("standard input"), "{error}");
    let error = fails(&format!("{line} --at 9"), 2);
    assert!(error.contains("cannot tell") && error.contains("commit 9"), "{error}");
    fails(&format!("{line} --sample 1/0"), 2);
    fails(&format!("{line} --bins 5..5"), 2);
    fails(&format!("{line} --tags #"), 2);
}

/// Changes the visible manifest of a state.
pub(crate) fn change(state: &Path, change: impl FnOnce(&mut Manifest)) {
    let storage = DiskStorage::open_existing(state).unwrap();
    let mut manifest = load(&storage, visible(&storage).unwrap().unwrap()).unwrap();
    change(&mut manifest);
    replace(state, &manifest);
}

#[test]
fn different_log_is_reported_and_repairs_nothing() {
    let folder = folder();
    let line = state_of(folder.path(), 3000, "");
    let beside = folder.path().join("beside.ndjson");
    ok(&format!("generate --posts 3000 --seed 2 --out {}", beside.display()));
    let error = fails(&line.replace("posts.ndjson", "beside.ndjson"), 2);
    assert!(error.contains("posts.ndjson") && error.contains("is not in"), "{error}");
    // A commit that does not name the mapping it was read with.
    let state = folder.path().join("state");
    change(&state, |manifest| manifest.body.mappings.clear());
    let error = fails(&format!("{line} --map event_id=other --repair --why no"), 2);
    assert!(error.contains("is this the mapping of the job?"), "{error}");
    no_drift(&line);
    assert_eq!(findings(&line).1["commit"], 2, "it made no commit");
}

#[test]
fn different_mapping_is_reported() {
    let folder = folder();
    let (input, state) = (folder.path().join("posts.ndjson"), folder.path().join("state"));
    // With another id field every record is another event, with another unit it has another time.
    let post = |i: u64| {
        let (ts, other) = (1_700_000_000_000 + i, 1_600_000_000_000 + i);
        json!({"id": i, "other": i / 2, "at": ts, "then": other, "text": "#tea", "title": "#pot",
               "kind": "post_published", "area": "eu"})
    };
    let lines: Vec<String> = (0..100).map(|i| format!("{}\n", post(i))).collect();
    fs::write(&input, lines.concat()).unwrap();
    let at = format!("--input {} --state {}", input.display(), state.display());
    let map = "event_id=id,ts=at,caption=text,type=kind,region=area";
    ok(&format!("run {at} --map {map} --scope region=eu --bounded"));
    for command in ["reconcile", "reconcile --repair --why no", "explain-count tea"] {
        let line = format!("{command} {at} --map");
        for (other, what) in [
            (map.replace("ts=at", "ts=at:us"), "ts=at, not ts=at:us"),
            (map.replace("ts=at", "ts=then"), "ts=at, not ts=then"),
            (map.replace("id=id", "id=other"), "event_id=id, not event_id=other"),
            (map.replace("text", "title"), "caption=text, not caption=title"),
            (map.replace("kind", ""), "type=kind, not type="),
            (map.replace("area", "kind"), "region=area, not region=kind"),
        ] {
            let error = fails(&format!("{line} {other}"), 2);
            let names = error.contains(what) && error.contains("cannot tell: commit 2");
            assert!(names && error.contains("--map"), "{other}: {error}");
        }
        // Fields that no count depends on may differ, and so may the order.
        let same = "region=area,type=kind,caption=text,ts=at:ms,event_id=id,user_id=whoever";
        ok(&format!("{line} {same}"));
    }
    assert_eq!(newest_commit(&state), 2, "it made no commit");
    // The tag rules must be the same too.
    change(&state, |manifest| manifest.body.rules = 0);
    let error = fails(&format!("reconcile {at} --map {map}"), 2);
    assert!(error.contains("tag rules 0"), "{error}");
}

#[test]
fn counts_of_an_earlier_mapping_stay() {
    let folder = folder();
    let (input, state) = (folder.path().join("posts.ndjson"), folder.path().join("state"));
    let write = |posts: &[(&str, u64)]| {
        let post = |(name, i): &(&str, u64)| {
            let post = json!({*name: i, "ts": 1_700_000_000_000 + i, "caption": "#tea"});
            format!("{post}\n")
        };
        fs::write(&input, posts.iter().map(post).collect::<String>()).unwrap();
    };
    let at = format!("--input {} --state {}", input.display(), state.display());
    let (first, then) = ("--map event_id=id", "--map event_id=name");
    write(&[("id", 1), ("id", 2)]);
    ok(&format!("run {at} {first} --bounded"));
    // A job that continues with another mapping warns, and its commits are checked with that one.
    write(&[("id", 1), ("id", 2), ("name", 3)]);
    let output = run(&format!("run {at} {then} --bounded"));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && error.contains("event_id=id"), "{error}");
    let line = format!("reconcile {at} --json");
    let error = fails(&format!("{line} {first}"), 2);
    assert!(error.contains("event_id=name, not event_id=id"), "{error}");
    no_drift(&format!("{line} {first} --at 2"));
    // Records read differently by the new mapping are no reason to undo earlier counts.
    let (values, last) = findings(&format!("{line} {then}"));
    assert_eq!((values.is_empty(), &last["read_otherwise"]), (false, &json!(3)), "{last}");
    let error = fails(&format!("{line} {then} --repair --why no"), 2);
    assert!(error.contains("up to commit 3") && error.contains("--since 3"), "{error}");
    assert_eq!(newest_commit(&state), 4, "it made no commit");
    no_drift(&format!("{line} {then} --since 3"));
    // A mapping that matches no record changes nothing.
    let mut slip = Job::start(&format!("run {at} --map event_id=slip"));
    eventually("commits", || (newest_commit(&state) > 6).then_some(()));
    assert!(slip.kill());
    no_drift(&format!("{line} {then} --since 3"));
    // Going back to the first mapping does not make it the only one.
    write(&[("id", 1), ("id", 2), ("name", 3), ("id", 4)]);
    ok(&format!("run {at} {first} --bounded --horizon 24h"));
    let error = fails(&format!("{line} {first} --since 2"), 2);
    let start = newest_commit(&state) - 1;
    assert!(error.contains(&format!("another mapping or horizon up to commit {start}")), "{error}");
    no_drift(&format!("{line} {first} --since {start}"));
}

#[test]
fn different_horizon_is_reported() {
    let folder = folder();
    let line = state_of(folder.path(), 3000, "--horizon 20m --count-beyond");
    for command in
        [line.clone(), line.clone() + " --repair", line.replace("reconcile", "explain-count a")]
    {
        let error = fails(&format!("{command} --count-beyond"), 2);
        assert!(error.contains("--horizon=20m, not --horizon=24h"), "{error}");
        let error = fails(&format!("{command} --horizon 20m"), 2);
        assert!(error.contains("--count-beyond=yes, not --count-beyond=no"), "{error}");
    }
    no_drift(&format!("{line} --horizon 20m --count-beyond"));
    // A job that keeps every id has no horizon, whatever the option says.
    let other = self::folder();
    no_drift(&format!("{} --horizon 20m", state_of(other.path(), 3000, "")));
}

#[test]
fn differing_copies_are_ambiguous_and_never_corrected() {
    let folder = folder();
    let (input, state) = (folder.path().join("posts.ndjson"), folder.path().join("state"));
    let ts = 1_700_000_000_000_i64;
    let post = |id: u32, text: &str| json!({"event_id": id.to_string(), "ts": ts, "caption": text});
    let copies = [(1, "#b"), (1, "#a"), (2, "#c"), (2, "none"), (3, "none"), (3, "#d"), (4, "#e")];
    let text: String = copies.iter().map(|(id, text)| format!("{}\n", post(*id, text))).collect();
    fs::write(&input, text).unwrap();
    let at = format!("--input {} --state {}", input.display(), state.display());
    ok(&format!("run {at} --bounded --workers 1"));
    let line = format!("reconcile {at} --json");
    let whole = findings(&line);
    assert_eq!(whole.1["ambiguous"], 3, "{whole:?}");
    assert!(!whole.0.is_empty());
    assert_eq!(findings(&format!("{line} --passes 128")).1["ambiguous"], 3);
    let error = fails(&format!("{line} --repair --why no"), 2);
    assert!(error.contains("3 events came in copies that differ"), "{error}");
    // A check of some tags sees only the copies that have one of them.
    for (tag, differ) in [("a", 1), ("b", 0), ("c", 0), ("d", 1), ("e", 0)] {
        let line = format!("{line} --tags {tag}");
        let (values, last) = findings(&line);
        assert_eq!(values.is_empty(), differ == 0, "{tag}: {values:?}");
        assert_eq!(last["ambiguous"].as_u64().unwrap_or_default(), differ, "{tag}: {last}");
        if differ > 0 {
            let error = fails(&format!("{line} --repair --why no"), 2);
            assert!(error.contains("1 event came in copies that differ"), "{error}");
        }
    }
    // The same for one number. Which copies of 1 and 3 counted is random.
    for (tag, differ) in [("a", 1), ("b", 0), ("d", 1), ("e", 0)] {
        let output = run(&format!("explain-count {tag} {at} --json"));
        let text = String::from_utf8(output.stdout).unwrap();
        let last: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        assert_eq!(last["ambiguous"].as_u64().unwrap_or_default(), differ, "{tag}: {last}");
    }
    let error = fails(&format!("explain-count a {at} --scope region=eu"), 2);
    assert!(error.contains("there is no scope \"region=eu\"; "), "{error}");
    assert!(!error.contains('['), "{error}");
    let state = state.display();
    let error = fails(&format!("compare {state} {state} --scope region=eu"), 2);
    assert!(error.contains("in A, there is no scope \"region=eu\"; "), "{error}");
    let parts = (0..128).step_by(8).map(|bin| format!("--bins {bin}..{}", bin + 8));
    for part in parts.chain((1..9).map(|n| format!("--sample 1/{n}"))) {
        let output = run(&format!("{line} {part}"));
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(!text.contains("recomputed") || text.contains("ambiguous"), "{part}: {text}");
    }
    assert_eq!(findings(&line), whole, "it made no commit");
}

#[test]
fn broken_pipe_keeps_exit_code() {
    let folder = folder();
    let line = state_of(folder.path(), 3000, "");
    let (state, sound) = (folder.path().join("state"), folder.path().join("sound"));
    super::reconcile::copy(&state, &sound);
    let unread = |line: &str| {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = command(line).stdout(writer).stderr(std::process::Stdio::piped()).output();
        let output = output.unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let compare = format!("compare {} {}", state.display(), sound.display());
    let of = |key: &str| line.replace("reconcile", &format!("explain-count {key}"));
    let plain = |line: &str| line.replace("--json", "");
    for line in [&line, &of("nobody"), &compare] {
        assert_eq!(unread(line), (Some(0), String::new()), "{line}");
        assert_eq!(unread(&plain(line)), (Some(0), String::new()), "{line}");
    }
    let key = change_tag(&state, |row| Some(TagRow { total: row.total + 1, ..row }));
    for line in [&line, &of(&key), &compare] {
        for line in [line.clone(), plain(line)] {
            let (code, error) = unread(&line);
            assert_eq!((code, error.contains("differ")), (Some(1), true), "{line}\n{error}");
        }
    }
    let other = self::folder();
    let [input, state] = ["posts.ndjson", "state"].map(|name| other.path().join(name));
    ok(&format!("generate --posts 20 --out {}", input.display()));
    let refused = format!("run --input {} --state {}", input.display(), state.display());
    let error = fails(&format!("{refused} --bounded --map ts=nothing"), 1);
    assert!(error.contains("no record was accepted"), "{error}");
    let (code, error) =
        unread(&format!("dead-letters replay --state {} --map ts=no", state.display()));
    assert_eq!((code, error.contains("20 records are refused again")), (Some(1), true), "{error}");
    // A repair is made even if nobody reads the output.
    let (code, error) = unread(&format!("{line} --repair --why unread"));
    assert_eq!(code, Some(0), "{error}");
    no_drift(&line);
}

#[test]
fn checking_nothing_is_an_error() {
    let folder = folder();
    let line = state_of(folder.path(), 200, "");
    // The first commit counts nothing, and there is nothing to count.
    assert_eq!(no_drift(&format!("{line} --at 1")), 0);
    let text = ok(&format!("{line} --at 1").replace("--json", ""));
    assert!(text.contains("commit 1 counts no events: there is nothing to check"), "{text}");
    let part = format!("{line} --sample 1/1000000007");
    let error = fails(&part, 2);
    assert!(error.contains("has no key of commit 2 or of the log"), "{error}");
    no_drift(&format!("{part} --at 1"));
    // A tag that occurs nowhere is a valid result.
    let tag = format!("{line} --tags nobodywritesthis");
    assert_eq!(no_drift(&tag), 0);
    let text = ok(&tag.replace("--json", ""));
    assert!(text.contains("commit 2: neither side has the selected keys"), "{text}");
}

#[test]
fn unknown_reason_lists_the_known_ones() {
    let folder = folder();
    state_of(folder.path(), 20, "");
    let state = folder.path().join("state");
    for command in ["ls", "replay"] {
        let line = format!("dead-letters {command} --state {} --reason", state.display());
        let error = fails(&format!("{line} not-json"), 2);
        for known in ["not_json", "missing_field", "future", "beyond_horizon", "too_large"] {
            ok(&format!("{line} {known}"));
            assert!(error.contains(known), "{error}");
        }
    }
}

#[test]
fn copies_of_earlier_events_explain_no_later_drift() {
    let folder = folder();
    let (input, state) = (folder.path().join("posts.ndjson"), folder.path().join("state"));
    let at = format!("--input {} --state {}", input.display(), state.display());
    let post = |id: u32, text: &str| {
        let post = json!({"event_id": id, "ts": 1_700_000_000_000_u64, "caption": text});
        format!("{post}\n")
    };
    let mut text = post(0, "#a");
    fs::write(&input, &text).unwrap();
    ok(&format!("run {at} --bounded"));
    let copies = text.len() as u64;
    text += &(post(0, "#b #c") + &post(0, "#b"));
    let first = text.len() as u64;
    (1..30).for_each(|id| text += &post(id, "#b"));
    fs::write(&input, &text).unwrap();
    ok(&format!("run {at} --bounded"));
    let line = format!("reconcile {at} --json --since 2 --tags b");
    no_drift(&line);
    change_tag(&state, |row| Some(TagRow { total: row.total + 1, ..row }));
    let (values, last) = findings(&line);
    let position = values[0]["events"][0]["position"].as_u64();
    assert_eq!((position, last.get("ambiguous")), (Some(first), None), "not {copies}: {last}");
}
