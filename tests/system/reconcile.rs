//! `reconcile` finds no drift in a sound state, and exactly the planted drift in others.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use dataflow::reconcile::PARTS;
use schemas::hash::KeyHash;
use schemas::manifest::{Manifest, SegmentMeta, checksum};
use schemas::rows::{IdRow, Ids, Table, TableName, TagRow, Tags};
use schemas::segment::{Merge, Rows};
use schemas::windows::Buckets;
use serde_json::{Value, json};
use simulate::rng::Rng;
use simulate::seed::seed;
use sinks::commits::{load, open_table, visible};
use sinks::storage::DiskStorage;

use super::harness::{
    Job, eventually, export, fails, folder, newest_commit, number, ok, run, tell, test_data,
};

/// Makes an input and a finished state. Returns the command line that checks it.
pub(crate) fn state_of(folder: &Path, posts: u32, more: &str) -> String {
    let (input, state) = (folder.join("posts.ndjson"), folder.join("state"));
    let input = input.display();
    ok(&format!("generate --posts {posts} --vocabulary 3000 --late 0.1 --out {input}"));
    let state = state.display();
    ok(&format!("run --input {input} --state {state} --bounded {more}"));
    format!("reconcile --input {input} --state {state} --json")
}

/// The output of a check: the values that differ, and the last line.
pub(crate) fn findings(line: &str) -> (Vec<Value>, Value) {
    let output = run(line);
    let text = String::from_utf8(output.stdout).unwrap();
    let mut values: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let error = String::from_utf8(output.stderr).unwrap();
    let last = values.pop().unwrap_or_else(|| panic!("{line}\n{error}"));
    assert_eq!(output.status.code(), Some(i32::from(!values.is_empty())), "{line}\n{error}");
    assert_eq!(last["drift"], values.len(), "{line}");
    (values, last)
}

pub(crate) fn no_drift(line: &str) -> u64 {
    let (values, last) = findings(line);
    assert!(values.is_empty(), "{line}\n{values:?}");
    last["checked"].as_u64().unwrap()
}

#[test]
fn sound_state_has_no_drift_with_any_options() {
    let folder = folder();
    let line = state_of(folder.path(), 20_000, "--scope region=eu,us --workers 2");
    let all = no_drift(&line);
    for more in ["--workers 2", "--workers 3 --passes 5", "--limit-rate 40000"] {
        assert_eq!(no_drift(&format!("{line} {more}")), all, "{more}");
    }
    let parts = [0..40, 40..41, 41..PARTS]
        .map(|bins| no_drift(&format!("{line} --bins {}..{}", bins.start, bins.end)));
    assert_eq!(parts.iter().sum::<u64>(), all);
    let sample = no_drift(&format!("{line} --sample 1/16"));
    assert!(sample > all / 32 && sample < all / 8, "{sample} of {all}");
}

#[test]
fn recorded_horizon_decisions_are_respected() {
    for (more, same) in [("--horizon 20m", ""), ("--horizon 20m --count-beyond", "--count-beyond")]
    {
        let folder = folder();
        let line = state_of(folder.path(), 20_000, more);
        let checked = no_drift(&format!("{line} --horizon 20m --workers 2 {same}"));
        assert!(checked > 1000, "{checked}");
        let state = folder.path().join("state");
        let shown = ok(&format!("checkpoint show --state {} --json", state.display()));
        let shown: Value = serde_json::from_str(&shown).unwrap();
        assert!(shown["counters"]["beyond_horizon"].as_u64().unwrap() > 100, "{shown}");
    }
}

/// Commits of one run to check, unless `TAGFLOW_RECONCILE_COMMITS` sets another number.
const COMMITS: u64 = 12;

#[test]
fn any_commit_of_a_killed_job_has_no_drift() {
    let folder = folder();
    let (input, state) = (folder.path().join("posts.ndjson"), folder.path().join("state"));
    ok(&format!("generate --posts 100000 --vocabulary 5000 --out {}", input.display()));
    let config = folder.path().join("dataflow.yaml");
    let (input, state_at, file) = (input.display(), state.display(), config.display());
    let text = format!(
        "apiVersion: tagflow/v1\nmeta: {{name: r, version: 1.0.0}}\n\
         config: {{state: {{path: {state_at}, every: 100ms}}}}\n\
         topics: {{posts: {{source: 'file:{input}'}}}}\n\
         services: {{count: {{sources: [{{type: topic, id: posts}}]}}}}\n"
    );
    fs::write(&config, text).unwrap();
    for workers in [1, 3, 2] {
        let from = newest_commit(&state);
        let run = format!("run {file} --bounded --limit-rate 15000 --workers {workers}");
        let mut job = Job::start(&run);
        // On a busy machine the input may end first.
        eventually("commits", || {
            (newest_commit(&state) >= from + 18 || !job.lives()).then_some(())
        });
        job.kill();
    }
    ok(&format!("run {file} --bounded"));
    let newest = newest_commit(&state);
    let commits = number("TAGFLOW_RECONCILE_COMMITS", COMMITS).min(newest);
    let (mut random, mut checked) = (Rng(seed()), 0);
    tell(&format!("reconcile: {commits} of {newest} commits"));
    let mut some = BTreeSet::from([newest]);
    while (some.len() as u64) < commits {
        some.insert(1 + random.below(newest));
    }
    for commit in some {
        let (values, last) =
            findings(&format!("reconcile {file} --json --workers 2 --at {commit}"));
        assert!(values.is_empty(), "commit {commit}: {values:?}");
        assert_eq!(last["commit"], commit);
        checked += last["checked"].as_u64().unwrap();
    }
    assert!(checked > 100_000, "{checked}");
}

#[test]
fn since_checks_only_later_records() {
    let folder = folder();
    let (input, state) = (folder.path().join("posts.ndjson"), folder.path().join("state"));
    let all = folder.path().join("all.ndjson");
    let shape = "--posts 30000 --vocabulary 3000 --late 0.1 --duplicates 0.05";
    ok(&format!("generate {shape} --out {}", all.display()));
    let text = fs::read_to_string(all).unwrap();
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let at = format!("--input {} --state {}", input.display(), state.display());
    for more in ["", "--horizon 20m"] {
        let _ = fs::remove_dir_all(&state);
        let mut commits = Vec::new();
        for end in [9000, 9100, 21_000, 30_000] {
            fs::write(&input, lines[..end].concat()).unwrap();
            ok(&format!("run {at} --bounded --scope region=eu,us --workers 2 {more}"));
            commits.push(newest_commit(&state));
        }
        let same = if more.is_empty() { "--horizon 24h" } else { more };
        let line = format!("reconcile {at} --json --workers 2 {same}");
        let whole = no_drift(&line);
        for since in [1, commits[0], commits[1], commits[2]] {
            let line = format!("{line} --since {since}");
            assert_eq!(no_drift(&line), whole, "{line}");
            assert_eq!(findings(&format!("{line} --passes 3")).1["since"], since);
            no_drift(&format!("{line} --sample 1/8"));
        }
        no_drift(&format!("{line} --since {} --at {}", commits[0], commits[2]));
        let error = fails(&format!("{line} --since {}", commits[3]), 2);
        assert!(error.contains("that commit is not earlier"), "{error}");
        // Drift of the earlier commit is trusted, later drift is found.
        let key = change_tag(&state, |row| Some(TagRow { total: row.total + 1, ..row }));
        let (values, _) = findings(&format!("{line} --since {}", commits[1]));
        assert_eq!(fields(&values), [(key.as_str(), "total")]);
        ok(&format!("{line} --repair --why planted"));
        let error = fails(&format!("{line} --since {}", commits[1]), 2);
        assert!(error.contains("1 corrections were made in between"), "{error}");
    }
}

#[test]
fn real_posts_have_no_drift() {
    let Some(data) = test_data("reconcile of real posts") else { return };
    let folder = folder();
    let (input, state) = (data.join("real-sample/maymac-2000.ndjson"), folder.path().join("state"));
    let (input, state) = (input.display(), state.display());
    let map = "--map event_id=id,ts=created_at,caption=text,user_id=user";
    ok(&format!("run --input {input} {map} --state {state} --bounded"));
    no_drift(&format!("reconcile --input {input} {map} --state {state} --json"));
}

/// Rewrites a table of the visible commit with `change`, and with a valid checksum.
pub(crate) fn rewrite<T: Table>(state: &Path, change: impl FnOnce(&mut Rows<T>, Merge<'_, T>)) {
    let storage = DiskStorage::open_existing(state).unwrap();
    let commit = visible(&storage).unwrap().unwrap();
    let mut manifest: Manifest = load(&storage, commit).unwrap();
    let open = open_table::<T>(&storage, &manifest).unwrap();
    let mut rows = Rows::<T>::default();
    change(&mut rows, Merge::new(open.iter().map(|segment| &segment.rows).collect()));
    let (number, last_hour, mut bytes) = (rows.len() as u64, rows.last_hour(), Vec::new());
    rows.encode(&mut bytes).unwrap();
    let meta = SegmentMeta {
        name: format!("segments/planted-{}.arrow", T::NAME.as_str()),
        table: T::NAME,
        first_commit: 1,
        last_commit: commit,
        rows: number,
        bytes: bytes.len() as u64,
        xxh3: checksum(&bytes),
        last_hour,
    };
    fs::write(state.join(&meta.name), bytes).unwrap();
    manifest.body.segments.retain(|meta| meta.table != T::NAME);
    manifest.body.segments.push(meta);
    replace(state, &manifest);
}

/// Replaces the manifest of a commit, with a valid checksum.
pub(crate) fn replace(state: &Path, manifest: &Manifest) {
    let file = state.join(format!("commits/{:010}.manifest", manifest.header.commit));
    fs::remove_file(&file).unwrap();
    fs::write(&file, manifest.encode().unwrap()).unwrap();
}

/// Changes the row of one unscoped tag, or removes it if `change` returns `None`. Returns the tag.
pub(crate) fn change_tag(
    state: &Path,
    change: impl Fn(TagRow<'_>) -> Option<TagRow<'_>>,
) -> String {
    let mut changed = String::new();
    rewrite::<Tags>(state, |rows, all| {
        for (hash, row) in all {
            let chosen = changed.is_empty() && row.scope.is_empty() && row.total > 20;
            if chosen {
                row.tag.clone_into(&mut changed);
            }
            if let Some(row) = if chosen { change(row) } else { Some(row) } {
                rows.push(hash, &row);
            }
        }
    });
    changed
}

/// The row of a tag that is in no post.
pub(crate) const NOBODY: TagRow<'_> = TagRow {
    scope: "",
    tag: "nobody",
    display: "Nobody",
    total: 7,
    recent: &[],
    first_seen: 1,
    last_seen: 2,
    as_of: 3,
    commit: 1,
};

/// The key and field of each difference.
fn fields(values: &[Value]) -> Vec<(&str, &str)> {
    values.iter().map(|v| (v["key"].as_str().unwrap(), v["field"].as_str().unwrap())).collect()
}

#[test]
fn planted_tag_drift_is_found_exactly() {
    let folder = folder();
    let line = state_of(folder.path(), 20_000, "--scope region=eu,us");
    let state = folder.path().join("state");
    let sound = folder.path().join("sound");
    copy(&state, &sound);
    let planted = |change: fn(TagRow<'_>) -> Option<TagRow<'_>>| {
        fs::remove_dir_all(&state).unwrap();
        copy(&sound, &state);
        let key = change_tag(&state, change);
        let (values, _) = findings(&line);
        assert!(values.iter().all(|v| v["key"] == key && v["scope"] == ""), "{values:?}");
        for value in &values {
            let events = value["events"].as_array().unwrap();
            assert_eq!(events.len(), 5, "{value}");
            assert_eq!(events[0]["partition"], "posts.ndjson");
        }
        (key, values)
    };
    let (key, values) = planted(|row| Some(TagRow { total: row.total + 1, ..row }));
    assert_eq!(fields(&values), [(key.as_str(), "total")]);
    let total = |side: &str| values[0][side].as_i64().unwrap();
    assert_eq!(total("stored"), total("recomputed") + 1);
    let (key, values) = planted(|row| Some(TagRow { display: "Nobody", ..row }));
    assert_eq!(fields(&values), [(key.as_str(), "display")]);
    assert_eq!(values[0]["stored"], "Nobody");
    let (key, values) = planted(|row| Some(TagRow { last_seen: row.last_seen + 1, ..row }));
    assert_eq!(fields(&values), [(key.as_str(), "last_seen")]);
    // Without buckets all windows are 0.
    let (key, values) = planted(|row| Some(TagRow { recent: &[], ..row }));
    assert!(fields(&values).contains(&(key.as_str(), "c24h")), "{values:?}");
    let (_, values) = planted(|_| None);
    assert!(values.iter().all(|v| v["stored"] == json!(null)), "{values:?}");
    let all = ["display", "total", "first_seen", "last_seen", "c1h", "c24h"];
    assert_eq!(values.iter().map(|v| v["field"].as_str().unwrap()).collect::<Vec<_>>(), all);
    let (_, values) = planted(|row| Some(TagRow { total: 0, ..row }));
    assert_eq!(values.len(), all.len(), "a tag that is gone is a row that is missing");
}

#[test]
fn unknown_rows_wrong_scopes_and_shifted_buckets_are_found() {
    let folder = folder();
    let line = state_of(folder.path(), 20_000, "--scope region=eu,us");
    let state = folder.path().join("state");
    let storage = DiskStorage::open_existing(&state).unwrap();
    let newest = load(&storage, visible(&storage).unwrap().unwrap()).unwrap();
    let hash = newest.body.hash_key.hasher().tag(NOBODY.tag);
    let as_of_ms = newest.body.as_of_ms.unwrap();
    rewrite::<Tags>(&state, |rows, all| {
        let mut shifted = false;
        for (hash, row) in all {
            if row.scope == "region=eu" && row.total == 21 {
                rows.push(hash, &TagRow { scope: "region=us", ..row });
                continue;
            }
            if !shifted && row.scope.is_empty() && can_shift(&row, as_of_ms) {
                shifted = true;
                rows.push(hash, &TagRow { recent: &shift(row.recent), ..row });
                continue;
            }
            rows.push(hash, &row);
        }
        rows.push(hash, &NOBODY);
    });
    let (values, _) = findings(&line);
    let of = |key: &str| values.iter().filter(|v| v["key"] == key).collect::<Vec<_>>();
    let nobody = of("nobody");
    assert_eq!(nobody.len(), 6, "{values:?}");
    assert!(nobody.iter().all(|v| v["recomputed"] == json!(null)), "{nobody:?}");
    let scope = |v: &&Value| v["field"] == "scope";
    assert!(values.iter().filter(scope).all(|v| v["recomputed"] == "region=eu"), "{values:?}");
    assert!(values.iter().any(|v| scope(&v)), "{values:?}");
    let shifted: Vec<_> = values.iter().filter(|v| v["field"] != "scope").collect();
    let shifted: Vec<_> = shifted.into_iter().filter(|v| v["key"] != "nobody").collect();
    assert!(!shifted.is_empty() && shifted.len() <= 2, "{shifted:?}");
}

/// Whether a row has several buckets, the first of which is inside a window at `as_of_ms`, even
/// after a shift.
pub(crate) fn can_shift(row: &TagRow<'_>, as_of_ms: i64) -> bool {
    let tiers = schemas::windows::Windows::default().tiers();
    let list = Buckets::decode(tiers.slot(row.as_of), row.recent).unwrap();
    let first_ms = list.iter(&tiers).next().map(|(start_ms, _)| start_ms);
    list.iter(&tiers).count() > 3 && first_ms > Some(as_of_ms - 23 * 3_600_000)
}

/// Moves the first bucket of a list back by ten minutes, more than any bucket's width. The list is
/// made of varints: twice the distance back to the first bucket, less one; its count; the distance
/// to the next bucket; and so on.
pub(crate) fn shift(recent: &[u8]) -> Vec<u8> {
    let mut values = vec![0_u64];
    let mut bits = 0;
    for byte in recent {
        *values.last_mut().unwrap() |= u64::from(byte & 0x7f) << bits;
        bits += 7;
        if byte & 0x80 == 0 {
            values.push(0);
            bits = 0;
        }
    }
    values.pop();
    assert_eq!(values[0] % 2, 1, "a bucket ahead of its time");
    values[0] += 20;
    values[2] += 10;
    let mut bytes = Vec::new();
    for mut value in values {
        while value >= 0x80 {
            bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        bytes.push(value as u8);
    }
    bytes
}

#[test]
fn missing_and_surplus_ids_are_found() {
    let folder = folder();
    let line = state_of(folder.path(), 5000, "");
    let state = folder.path().join("state");
    rewrite::<Ids>(&state, |rows, all| {
        for (hash, row) in all.skip(1) {
            rows.push(hash, &row);
        }
        let hash = KeyHash { hi: 77, lo: 7 };
        rows.push(hash, &IdRow { hash, hour: 472_222, forgotten: false });
    });
    let (values, _) = findings(&line);
    assert_eq!(values.len(), 2, "{values:?}");
    assert!(values.iter().all(|v| v["field"] == "remembered"), "{values:?}");
    let many = values.iter().find(|v| v["stored"] == true).unwrap();
    assert_eq!(
        (&many["key"], &many["events"]),
        (&json!(format!("{:016x}{:016x}", 77, 7)), &json!([]))
    );
    let missing = values.iter().find(|v| v["stored"] == false).unwrap();
    assert!(!missing["events"].as_array().unwrap().is_empty(), "{missing}");
}

/// Copies a folder and everything in it.
pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &to);
        } else {
            fs::copy(path, to).map(drop).unwrap();
        }
    }
}

#[test]
fn every_table_has_a_check_or_a_reason() {
    // Boards follow from tags and are checked by the simulations; dead letters hold the decisions
    // that a check relies on; repairs are an audit log.
    assert_eq!(TableName::ALL.len(), 5, "a new table needs a check in reconcile");
}

#[test]
fn explain_count_lists_the_events_behind_a_number() {
    let folder = folder();
    let line = state_of(folder.path(), 20_000, "--scope region=eu,us");
    let state = folder.path().join("state");
    let (rows, summary) = export(&state, "");
    let input = fs::read_to_string(folder.path().join("posts.ndjson")).unwrap();
    let some = rows.values().filter(|row| row.total > 3).step_by(300);
    for row in some.chain(rows.values().max_by_key(|row| row.total)) {
        let (scope, key) = (&row.scope, &row.key);
        let line = line.replace("reconcile", &format!("explain-count {key} --scope {scope}"));
        let line = if scope.is_empty() { line.replace("--scope  ", "") } else { line };
        let text = ok(&line);
        let mut events: Vec<Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let last = events.pop().unwrap();
        assert_eq!((&last["stored"], &last["recomputed"]), (&json!(row.total), &json!(row.total)));
        assert_eq!(last["commit"], summary.commit);
        let counting = |window: &str| {
            let inside = |e: &&Value| e["windows"].as_array().unwrap().contains(&json!(window));
            events.iter().filter(inside).count() as i64
        };
        assert_eq!((counting("1h"), counting("24h")), (row.c1h, row.c24h), "{key} {scope}");
        for event in &events {
            let position = event["position"].as_u64().unwrap() as usize;
            let record = input[position..].lines().next().unwrap();
            let (id, spelling) = (event["event_id"].as_str(), event["spelling"].as_str());
            assert!(record.contains(id.unwrap()) && record.contains(spelling.unwrap()), "{event}");
        }
    }
}
