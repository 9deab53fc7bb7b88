//! Commits that are listed, compared, rolled back or damaged. Damage is reported, never worked
//! around.

use std::fs;
use std::path::{Path, PathBuf};

use super::harness::{Job, eventually, export, fails, folder, newest_commit, ok, run};
use super::oracle::{Input, check};

/// A state with several commits, of a job that was stopped before the end of its input.
fn stopped_state(folder: &Path) -> (PathBuf, PathBuf) {
    stopped_state_of(folder, "")
}

fn stopped_state_of(folder: &Path, more: &str) -> (PathBuf, PathBuf) {
    let (input, state) = (folder.join("posts.ndjson"), folder.join("state"));
    ok(&format!(
        "generate --posts 40000 --tags-mean 3 --vocabulary 4000 --out {}",
        input.display()
    ));
    let line = format!("run --input {} --state {} --bounded", input.display(), state.display());
    let mut job = Job::start(&format!("{line} --limit-rate 2000 {more}"));
    eventually("four commits", || (newest_commit(&state) >= 4).then_some(()));
    job.signal("INT");
    eventually("the job to exit", || (!job.lives()).then_some(()));
    let (code, out, error) = job.end();
    assert_eq!(code, Some(0), "{out}{error}");
    (input, state)
}

fn damage(file: &Path) {
    let mut bytes = fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    // As a new file, since the old one may be mapped.
    fs::remove_file(file).unwrap();
    fs::write(file, bytes).unwrap();
}

#[test]
fn damaged_manifest_is_refused_by_name() {
    let folder = folder();
    let (input, state) = stopped_state(folder.path());
    let line = format!("run --input {} --state {} --bounded", input.display(), state.display());
    let newest = newest_commit(&state);
    let manifest = state.join(format!("commits/{newest:010}.manifest"));
    let whole = fs::read(&manifest).unwrap();
    for cut in [0, 1, whole.len() / 2, whole.len() - 1] {
        fs::remove_file(&manifest).unwrap();
        fs::write(&manifest, &whole[..cut]).unwrap();
        let error = fails(&line, 1);
        assert!(error.contains(&format!("{newest:010}.manifest")), "{error}");
        assert!(error.contains("rollback"), "{error}");
        let error = fails(&format!("query top --state {}", state.display()), 1);
        assert!(error.contains(&format!("{newest:010}.manifest")), "{error}");
    }
    fs::remove_file(&manifest).unwrap();
    fs::write(&manifest, &whole).unwrap();
    ok(&line);
    let (rows, summary) = export(&state, "");
    check(&Input::file(&input), &rows, &summary);
}

#[test]
fn damaged_segment_is_refused_by_name_and_rolled_back() {
    let folder = folder();
    let (input, state) = stopped_state(folder.path());
    let at = state.display();
    let line = format!("run --input {} --state {at} --bounded", input.display());
    let newest = newest_commit(&state);
    let shown = ok(&format!("checkpoint show --state {at} --json"));
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    // The last commit that wrote tags, which need not be the newest.
    let own =
        |s: &&serde_json::Value| s["table"] == "tags" && s["first_commit"] == s["last_commit"];
    let segments = shown["segments"].as_array().unwrap().iter().filter(own);
    let segment = segments.max_by_key(|s| s["last_commit"].as_u64()).unwrap();
    let name = segment["name"].as_str().unwrap();
    damage(&state.join(name));
    for command in [line.as_str(), &format!("checkpoint export --state {at}")] {
        let error = fails(command, 1);
        assert!(error.contains(name) && error.contains("checksum"), "{error}");
    }
    let target = segment["last_commit"].as_u64().unwrap() - 1;
    ok(&format!("checkpoint rollback --state {at} --to {target}"));
    let (_, summary) = export(&state, "");
    assert!(summary.commit > newest, "a rollback is a new commit");
    ok(&line);
    let (rows, summary) = export(&state, "");
    check(&Input::file(&input), &rows, &summary);
}

#[test]
fn rollback_restores_an_older_commit_as_a_new_one() {
    let folder = folder();
    let (input, state) = stopped_state(folder.path());
    let at = state.display();
    let newest = newest_commit(&state);
    let (old_rows, old) = export(&state, &format!("--at {}", newest - 2));
    let (new_rows, new) = export(&state, "");
    assert!(old.events < new.events && old_rows != new_rows);
    ok(&format!("checkpoint rollback --state {at} --to {}", newest - 2));
    let (rows, summary) = export(&state, "");
    assert_eq!((summary.events, summary.commit), (old.events, newest + 1));
    assert!(summary.as_of >= new.as_of, "stream time does not go back");
    let totals = |rows: &std::collections::BTreeMap<_, recount::Row>| {
        rows.values().map(|r| (r.key.clone(), r.total, r.first_seen)).collect::<Vec<_>>()
    };
    assert_eq!(totals(&rows), totals(&old_rows));
    let error = fails(&format!("checkpoint rollback --state {at} --to {}", newest + 1), 1);
    assert!(error.contains("already the newest"), "{error}");
    let error = fails(&format!("checkpoint rollback --state {at} --to 99"), 1);
    assert!(error.contains("no commit 99"), "{error}");
    ok(&format!("run --input {} --state {at} --bounded", input.display()));
    let (rows, summary) = export(&state, "");
    check(&Input::file(&input), &rows, &summary);
}

#[test]
fn running_job_is_not_rolled_back() {
    let folder = folder();
    let (input, state) = (folder.path().join("posts.ndjson"), folder.path().join("state"));
    ok(&format!("generate --posts 30000 --out {}", input.display()));
    let job = Job::start(&format!(
        "run --input {} --state {} --bounded --limit-rate 2000",
        input.display(),
        state.display()
    ));
    eventually("commits", || (newest_commit(&state) >= 3).then_some(()));
    let error = fails(&format!("checkpoint rollback --state {} --to 2", state.display()), 3);
    assert!(error.contains(&format!("process {}", job.id())), "{error}");
}

#[test]
fn commits_are_listed_and_shown() {
    let folder = folder();
    let (_, state) = stopped_state(folder.path());
    let at = state.display();
    let listed = ok(&format!("checkpoint ls --state {at} --json"));
    let rows: Vec<serde_json::Value> =
        listed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows[0]["takeover"], true);
    let numbers: Vec<u64> = rows.iter().map(|r| r["commit"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=newest_commit(&state)).collect::<Vec<_>>(), "without gaps");
    for pair in rows.windows(2) {
        assert!(pair[0]["version"].as_i64() < pair[1]["version"].as_i64());
        assert!(pair[0]["events"].as_u64() <= pair[1]["events"].as_u64());
        assert!(pair[0]["as_of"].as_i64() <= pair[1]["as_of"].as_i64());
    }
    let shown = ok(&format!("checkpoint show --state {at} --at 3"));
    assert!(shown.starts_with("commit 3 of generation 1\n"), "{shown}");
    assert_eq!(ok(&format!("checkpoint ls --state {at}")).lines().count(), rows.len());
}

#[test]
fn damaged_finished_run_is_refused() {
    let folder = folder();
    let (input, state) = (folder.path().join("posts.ndjson"), folder.path().join("state"));
    ok(&format!("generate --posts 3000 --out {}", input.display()));
    let line = format!("run --input {} --state {} --bounded", input.display(), state.display());
    ok(&line);
    // As left by a kill between the last manifest and the pointer to it.
    let pointer = state.join("visible/0000000001");
    fs::write(&pointer, "1\n").unwrap();
    assert_eq!(export(&state, "").1.events, 0);
    ok(&line);
    let (rows, summary) = export(&state, "");
    check(&Input::file(&input), &rows, &summary);
    fs::remove_file(&pointer).unwrap();
    ok(&line);
    assert_eq!(export(&state, "").0, rows);
    let ids = fs::read_dir(state.join("segments")).unwrap().map(|entry| entry.unwrap().path());
    let ids = ids.into_iter().find(|path| path.to_string_lossy().contains("-ids-")).unwrap();
    let mut bytes = fs::read(&ids).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&ids, bytes).unwrap();
    let error = fails(&line, 1);
    assert!(error.contains(ids.file_name().unwrap().to_str().unwrap()), "{error}");
}

#[test]
fn missing_visible_commit_is_refused() {
    let folder = folder();
    let (input, state) = stopped_state(folder.path());
    let newest = newest_commit(&state);
    let name = format!("{newest:010}.manifest");
    fs::remove_file(state.join("commits").join(&name)).unwrap();
    let line = format!("run --input {} --state {} --bounded", input.display(), state.display());
    let error = fails(&line, 1);
    assert!(error.contains(&name) && error.contains("is missing"), "{error}");
    ok(&format!("checkpoint rollback --state {} --to {}", state.display(), newest - 1));
    assert_eq!(newest_commit(&state), newest + 1, "its number is not used again");
    ok(&line);
    let (rows, summary) = export(&state, "");
    check(&Input::file(&input), &rows, &summary);
}

#[test]
fn time_selects_the_last_commit_at_or_before_it() {
    let folder = folder();
    // A horizon makes the job read in order, so that stream time advances with every commit.
    let (_, state) = stopped_state_of(folder.path(), "--horizon 48h");
    let at = state.display();
    let commits: Vec<serde_json::Value> = ok(&format!("checkpoint ls --state {at} --json"))
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let timed: Vec<_> = commits
        .iter()
        .filter_map(|c| Some((c["as_of"].as_i64()?, c["commit"].as_u64()?)))
        .collect();
    assert!(timed.len() > 2, "{commits:?}");
    for (as_of, _) in &timed {
        let want = timed.iter().rfind(|(other, _)| other <= as_of).unwrap().1;
        let (_, summary) = export(&state, &format!("--at {as_of}"));
        assert_eq!(summary.commit, want, "at {as_of}");
    }
    let error = fails(&format!("query top --state {at} --at 2001-01-01T00:00:00Z"), 1);
    assert!(error.contains("2001-01-01") && error.contains("the oldest is at"), "{error}");
    let error = fails(&format!("checkpoint export --state {at} --at noon"), 2);
    assert!(error.contains("2026-05-01T12:00:00Z"), "{error}");
}

#[test]
fn states_are_compared_tag_by_tag() {
    let folder = folder();
    let (input, first) = stopped_state(folder.path());
    let second = folder.path().join("again");
    let (a, b) = (first.display(), second.display());
    let line = format!("run --input {} --bounded --workers 2 --state", input.display());
    ok(&format!("{line} {b}"));
    let line_of =
        |a: &dyn std::fmt::Display, b: &dyn std::fmt::Display| format!("compare {a} {b} --json");
    let output = run(&line_of(&a, &b));
    assert_eq!(output.status.code(), Some(1), "the first is half-way");
    let text = String::from_utf8(output.stdout).unwrap();
    let differing: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (summary, tags) = differing.split_first().unwrap();
    let number = |name: &str| summary[name].as_u64().unwrap();
    assert_eq!(tags.len() as u64, number("differ"));
    assert_eq!(number("differ"), number("changed") + number("only_a") + number("only_b"));
    assert_eq!(number("compared"), number("differ") + number("same"));
    assert!(number("changed") > 0 && number("only_b") > 100 && number("only_a") == 0, "{summary}");
    let place = |tag: &serde_json::Value| (tag["scope"].to_string(), tag["key"].to_string());
    assert!(tags.is_sorted_by_key(place), "by scope and key");
    let largest = run(&(line_of(&a, &b) + " --limit 50 --field total"));
    let largest = String::from_utf8(largest.stdout).unwrap();
    let size = |line: &str| {
        let tag: serde_json::Value = serde_json::from_str(line).unwrap();
        let total = |side: &str| tag[side]["total"].as_i64().unwrap_or(0);
        total("b") - total("a")
    };
    let sizes: Vec<i64> = largest.lines().skip(1).map(size).collect();
    assert!(sizes.len() == 50 && sizes.is_sorted_by(|a, b| a >= b), "{sizes:?}");
    let key = tags[0]["key"].as_str().unwrap();
    let one = run(&format!("compare {a} {b} --tags {key} --scope= --field total"));
    let one = String::from_utf8(one.stdout).unwrap();
    assert_eq!(one.lines().count(), 2, "{one}");
    assert!(one.contains("0 tags are the same") && one.contains(&format!("\n{key}: ")), "{one}");
    let error = fails(&format!("compare {a} {b} --field totals"), 2);
    assert!(error.contains("last_seen, total"), "{error}");
    ok(&format!("{line} {a}"));
    let same = ok(&line_of(&a, &b));
    let same: serde_json::Value = serde_json::from_str(&same).unwrap();
    assert_eq!(same["differ"], 0);
    assert!(same["compared"].as_u64() > Some(1000), "{same}");
}
