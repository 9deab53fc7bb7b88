//! `reconcile --repair` finds planted drift, corrects it through the job while events arrive, and
//! lists it. Repeating it changes nothing, and neither does a kill between any two steps.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use schemas::control::{Author, Control};
use schemas::hash::KeyHash;
use schemas::rows::{IdRow, Ids, TagRow, Tags};
use serde_json::{Value, json};
use simulate::rng::Rng;
use simulate::seed::seed;
use sinks::commits::{load, queue, visible};
use sinks::storage::DiskStorage;
use tempfile::TempDir;

use super::harness::{Job, eventually, export, folder, newest_commit, ok, run};
use super::reconcile::{NOBODY, can_shift, change_tag, copy, findings, no_drift, rewrite, shift};

/// A growing file, and the state of a job that follows it.
struct Followed {
    _folder: TempDir,
    input: PathBuf,
    state: PathBuf,
    /// Lines that are not in the file yet.
    rest: Vec<String>,
}

const POSTS: usize = 40_000;
const FIRST: usize = 10_000;
const SCOPES: &str = "--scope region=eu,us";

impl Followed {
    fn new() -> Self {
        let folder = folder();
        let all = folder.path().join("all.ndjson");
        ok(&format!(
            "generate --posts {POSTS} --vocabulary 3000 --late 0.1 --out {}",
            all.display()
        ));
        let text = fs::read_to_string(all).unwrap();
        let mut lines: Vec<String> = text.lines().map(|line| format!("{line}\n")).collect();
        let rest = lines.split_off(FIRST);
        let (input, state) = (folder.path().join("posts.ndjson"), folder.path().join("state"));
        fs::write(&input, lines.concat()).unwrap();
        let followed = Self { _folder: folder, input, state, rest };
        followed.stop(followed.start());
        followed
    }

    fn line(&self, command: &str) -> String {
        let (input, state) = (self.input.display(), self.state.display());
        format!("{command} --input {input} --state {state}")
    }

    /// Starts the job and waits until it has read the whole file.
    fn start(&self) -> Job {
        let before = newest_commit(&self.state);
        let job = Job::start(&self.line(&format!("run {SCOPES} --workers 2")));
        eventually("the job's commits", || {
            (newest_commit(&self.state) >= before + 2).then_some(())
        });
        self.catch_up();
        job
    }

    fn catch_up(&self) {
        let bytes = fs::metadata(&self.input).unwrap().len();
        eventually("the job to catch up", || {
            self.state.join("visible").exists().then_some(())?;
            let shown = run(&format!("checkpoint show --state {} --json", self.state.display()));
            let shown: Value = serde_json::from_slice(&shown.stdout).ok()?;
            let read = &shown["inputs"]["input"]["posts.ndjson"]["position"]["offset"];
            (*read == bytes).then_some(())
        });
    }

    fn stop(&self, job: Job) {
        self.catch_up();
        job.signal("TERM");
        let (code, _, error) = job.end();
        assert_eq!(code, Some(0), "{error}");
    }

    /// Appends lines, a few at a time, until the result is stopped.
    fn grow(&mut self) -> Growing {
        let end = Arc::new(AtomicBool::new(false));
        let (stop, path, lines) = (end.clone(), self.input.clone(), std::mem::take(&mut self.rest));
        let thread = std::thread::spawn(move || {
            let mut file = fs::OpenOptions::new().append(true).open(path).unwrap();
            let mut lines = lines.into_iter();
            while !stop.load(Ordering::Acquire) {
                let some: String = lines.by_ref().take(20).collect();
                file.write_all(some.as_bytes()).unwrap();
                std::thread::park_timeout(Duration::from_millis(20));
            }
            lines.collect()
        });
        Growing { end, thread }
    }

    fn repairs(&self) -> Vec<Value> {
        let text = ok(&format!("repairs ls --state {} --json", self.state.display()));
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

struct Growing {
    end: Arc<AtomicBool>,
    thread: JoinHandle<Vec<String>>,
}

impl Growing {
    fn stop(self) -> Vec<String> {
        self.end.store(true, Ordering::Release);
        self.thread.join().unwrap()
    }
}

/// The output of `reconcile --repair`: the values that differed, the repairs, and the last line.
fn repaired(line: &str) -> (Vec<Value>, Vec<Value>, Value) {
    let text = ok(&format!("{line} --repair --why test --json"));
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |name: &str| lines.iter().filter(|line| line.get(name).is_some()).cloned().collect();
    let last = lines.last().unwrap();
    assert_eq!(last["drift"], 0, "{text}");
    (of("recomputed"), of("who"), last.clone())
}

/// Plants drift in a state. Returns the key that it changed.
type Plant = fn(&Path) -> String;

fn nobody(state: &Path) -> String {
    let storage = DiskStorage::open_existing(state).unwrap();
    let newest = load(&storage, visible(&storage).unwrap().unwrap()).unwrap();
    let hash = newest.body.hash_key.hasher().tag(NOBODY.tag);
    rewrite::<Tags>(state, |rows, all| {
        all.for_each(|(hash, row)| rows.push(hash, &row));
        rows.push(hash, &NOBODY);
    });
    NOBODY.tag.to_owned()
}

fn wrong_scope(state: &Path) -> String {
    let mut changed = String::new();
    rewrite::<Tags>(state, |rows, all| {
        for (hash, row) in all {
            let chosen = changed.is_empty() && row.scope == "region=eu" && row.total > 20;
            if chosen {
                row.tag.clone_into(&mut changed);
            }
            let scope = if chosen { "region=us" } else { row.scope };
            rows.push(hash, &TagRow { scope, ..row });
        }
    });
    changed
}

fn shifted(state: &Path) -> String {
    let mut key = String::new();
    let storage = DiskStorage::open_existing(state).unwrap();
    let newest = load(&storage, visible(&storage).unwrap().unwrap()).unwrap();
    let as_of_ms = newest.body.as_of_ms.unwrap();
    rewrite::<Tags>(state, |rows, all| {
        for (hash, row) in all {
            let chosen = key.is_empty() && can_shift(&row, as_of_ms);
            let recent = if chosen { shift(row.recent) } else { row.recent.to_vec() };
            if chosen {
                row.tag.clone_into(&mut key);
            }
            rows.push(hash, &TagRow { recent: &recent, ..row });
        }
    });
    key
}

fn id_too_many(state: &Path) -> String {
    let hash = KeyHash { hi: 77, lo: 7 };
    rewrite::<Ids>(state, |rows, all| {
        let mut last = 0;
        for (hash, row) in all {
            last = row.hour.max(last);
            rows.push(hash, &row);
        }
        rows.push(hash, &IdRow { hash, hour: last, forgotten: false });
    });
    hash.to_string()
}

fn id_missing(state: &Path) -> String {
    rewrite::<Ids>(state, |rows, all| {
        let all: Vec<_> = all.collect();
        let last = all.iter().map(|(_, row)| row.hour).max().unwrap();
        let left_out = all.iter().find(|(_, row)| row.hour == last && !row.forgotten).unwrap().0;
        let left = all.iter().filter(|(hash, _)| *hash != left_out);
        left.for_each(|(hash, row)| rows.push(*hash, row));
    });
    String::new()
}

const PLANTS: [(&str, Plant); 8] = [
    ("one too many", |state| change_tag(state, |row| Some(TagRow { total: row.total + 1, ..row }))),
    ("a row missing", |state| change_tag(state, |_| None)),
    ("a spelling", |state| change_tag(state, |row| Some(TagRow { display: "Nobody", ..row }))),
    ("a row too many", nobody),
    ("a bucket shifted", shifted),
    ("a wrong scope", wrong_scope),
    ("an id too many", id_too_many),
    ("an id missing", id_missing),
];

#[test]
fn drift_is_repaired_while_events_arrive() {
    let mut followed = Followed::new();
    let line = followed.line("reconcile --workers 2");
    let mut done = 0;
    for (what, plant) in PLANTS {
        let key = plant(&followed.state);
        let job = followed.start();
        let growing = followed.grow();
        let (values, repairs, _) = repaired(&line);
        assert!(!values.is_empty() && !repairs.is_empty(), "{what}");
        let keys: BTreeSet<_> = values.iter().map(|v| v["key"].as_str().unwrap()).collect();
        assert!(keys.len() == 1 && (key.is_empty() || keys.contains(&*key)), "{what}: {values:?}");
        for repair in &repairs {
            assert_eq!((&repair["why"], repair["who"].is_string()), (&json!("test"), true));
            // If stream time has advanced meanwhile, two minutes may have become one bucket.
            let same = repair["before"] == repair["after"];
            assert!(!same || what == "a bucket shifted", "{what}: {repair}");
        }
        done += repairs.len();
        assert_eq!(followed.repairs().len(), done, "{what}");
        let (values, repairs, _) = repaired(&line);
        assert!(values.is_empty() && repairs.is_empty(), "{what}: {values:?}, {repairs:?}");
        followed.rest = growing.stop();
        followed.stop(job);
        no_drift(&format!("{line} --json"));
        assert_eq!(followed.repairs().len(), done, "{what}");
    }
    assert!(followed.rest.len() < POSTS - FIRST - 1000, "events came meanwhile");
    let lines = fs::read_to_string(&followed.input).unwrap().lines().count() as u64;
    let summary = export(&followed.state, "").1;
    let records = summary.events + summary.duplicates + summary.beyond_horizon;
    assert_eq!(records, lines, "control records are no records of the input");
}

/// How many repairs are interrupted.
const KILLS: u64 = 10;

#[test]
fn killed_repair_completes_when_run_again() {
    let followed = Followed::new();
    let line = followed.line("reconcile");
    let sound = followed.state.with_extension("sound");
    copy(&followed.state, &sound);
    let mut random = Rng(seed());
    let mut taken = 0;
    for round in 0..KILLS {
        fs::remove_dir_all(&followed.state).unwrap();
        copy(&sound, &followed.state);
        let key = change_tag(&followed.state, |row| Some(TagRow { total: row.total + 1, ..row }));
        id_too_many(&followed.state);
        // With a running job that applies the corrections, and without one.
        let mut job = (round % 2 == 0).then(|| followed.start());
        let mut command = Job::start(&format!("{line} --repair"));
        let asked = || fs::read_dir(followed.state.join("control")).unwrap().count();
        eventually("the request", || (asked() > 0 || !command.lives()).then_some(()));
        let wait_ms = random.below(400);
        std::thread::park_timeout(Duration::from_millis(wait_ms));
        if let Some(job) = job.as_mut().filter(|_| round % 4 == 0) {
            assert!(job.kill());
        }
        command.kill();
        taken += usize::from(!followed.repairs().is_empty());
        let (_, _, last) = repaired(&line);
        assert_eq!(last["drift"], 0);
        let repairs = followed.repairs();
        let keys: Vec<_> = repairs.iter().map(|r| r["key"].as_str().unwrap()).collect();
        let mut want = [key.clone(), KeyHash { hi: 77, lo: 7 }.to_string()];
        want.sort();
        assert_eq!(keys, want, "each was corrected once, after {wait_ms} ms of round {round}");
        drop(job);
        no_drift(&format!("{line} --json"));
    }
    println!("{taken} of {KILLS} had been applied when they were killed");
}

#[test]
fn repairing_a_finished_run_twice_changes_nothing() {
    let folder = folder();
    let (input, state) = (folder.path().join("posts.ndjson"), folder.path().join("state"));
    ok(&format!("generate --posts 5000 --vocabulary 500 --out {}", input.display()));
    let line =
        format!("run --input {} --state {} --bounded --json", input.display(), state.display());
    ok(&line);
    let (before, _) = export(&state, "");
    let key = change_tag(&state, |row| Some(TagRow { total: row.total - 2, ..row }));
    let storage = DiskStorage::open_existing(&state).unwrap();
    let base = visible(&storage).unwrap().unwrap();
    let check = line.replace("run", "reconcile").replace(" --bounded --json", "");
    let text = ok(&format!("{check} --repair --why because"));
    assert!(text.contains("commit") && text.contains(": because"), "{text}");
    assert_eq!(export(&state, "").0, before);
    let shown = |at: &str| ok(&format!("checkpoint show --state {} --json {at}", state.display()));
    let finished: Value = serde_json::from_str(&shown("")).unwrap();
    assert_eq!(finished["counters"]["corrected"], 1, "{finished}");
    // A correction based on the commit before: a later correction has made it void.
    let (values, _) = findings(&format!("{check} --json --at {base}"));
    assert_eq!(values[0]["key"], key);
    let text = ok(&format!("{check} --repair --at {base}"));
    assert!(!text.contains("because"), "{text}");
    assert_eq!(export(&state, "").0, before);
    // The run is still finished.
    let newest = visible(&storage).unwrap();
    ok(&line);
    assert_eq!(visible(&storage).unwrap(), newest, "a finished run stays finished");
}

#[test]
fn running_job_republishes_existing_and_unknown_rows() {
    let followed = Followed::new();
    let job = followed.start();
    let storage = DiskStorage::open_existing(&followed.state).unwrap();
    let newest = || load(&storage, visible(&storage).unwrap().unwrap()).unwrap();
    let before = newest();
    let (rows, _) = export(&followed.state, "");
    let (scope, key) = rows.keys().next().unwrap().clone();
    let again = |scope: &str, key: &str| Control::Republish {
        scope: scope.to_owned(),
        key: key.to_owned(),
        display: key.to_owned(),
    };
    let controls = [again(&scope, &key), again("", "nobody")];
    let number = queue(&storage, "test", &Author::default(), &controls).unwrap();
    let taken = eventually("a commit", || Some(newest()).filter(|m| m.body.control > number));
    assert_eq!(taken.body.counters.republished - before.body.counters.republished, 2);
    let snapshot = sinks::commits::Snapshot::open(&storage, taken, None).unwrap();
    let hasher = before.body.hash_key.hasher();
    for (scope, key, total) in [(&*scope, &*key, None), ("", "nobody", Some(0))] {
        let row = snapshot.tag(hasher.scoped(scope, hasher.tag(key))).unwrap();
        assert!(row.commit > before.header.commit, "{key}");
        assert_eq!(row.tag, key);
        assert!(total.is_none_or(|total| row.total == total));
    }
    followed.stop(job);
    assert_eq!(export(&followed.state, "").0, rows);
    assert_eq!(followed.repairs().len(), 2);
}

/// Runs `dead-letters replay --json`. Returns its exit code and output.
fn replay(state: &Path, more: &str) -> (Option<i32>, Value) {
    let output = run(&format!("dead-letters replay --state {} --json {more}", state.display()));
    let text = String::from_utf8(output.stdout).unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    let answer = serde_json::from_str(text.trim()).unwrap_or_else(|_| panic!("{text}\n{error}"));
    (output.status.code(), answer)
}

#[test]
fn replayed_dead_letters_count_once() {
    let folder = folder();
    let (input, state) = (folder.path().join("posts.ndjson"), folder.path().join("state"));
    let hour = 3_600_000_i64;
    let now = 1_700_000_000_000_i64;
    let post = |id: &str, name: &str, ts: i64| {
        format!("{{\"{name}\":\"{id}\",\"ts\":{ts},\"caption\":\"#tea\"}}\n")
    };
    let mut lines: Vec<String> =
        (0..200).map(|i| post(&format!("e{i}"), "event_id", now + i * 1000)).collect();
    // Records with a wrong field name, broken, repeated, and far beyond the horizon.
    lines.push(post("x1", "id", now));
    lines.push(post("x2", "id", now));
    lines.push("{\"event_id\":\"x3\",\"ts\":\n".to_owned());
    lines.push("nothing of use\n".to_owned());
    lines.push(post("e5", "id", now));
    lines.push(post("x4", "event_id", now - 30 * hour));
    fs::write(&input, lines.concat()).unwrap();
    let line = format!("--input {} --state {}", input.display(), state.display());
    let run_it = format!("run {line} --bounded --horizon 24h --json");
    ok(&run_it);
    let check = format!("reconcile {line} --json");
    let total = || export(&state, "").0[&(String::new(), "tea".to_owned())].total;
    assert_eq!((total(), no_drift(&check) > 0), (200, true));
    // Mapped by their own field name, two count and one is a duplicate.
    let (code, answer) = replay(&state, "--reason missing_field --map event_id=id");
    assert_eq!((code, &answer["counted"], &answer["duplicates"]), (Some(0), &json!(2), &json!(1)));
    assert_eq!(total(), 202);
    no_drift(&check);
    let (code, answer) = replay(&state, "--reason missing_field --map event_id=id");
    assert_eq!((code, &answer["counted"], &answer["refused"]), (Some(0), &json!(0), &json!(0)));
    // A broken record is refused again, and counts once it is repaired.
    let (code, answer) = replay(&state, "--reason not_json");
    assert_eq!((code, &answer["refused"]), (Some(1), &json!(2)));
    let listed =
        ok(&format!("dead-letters ls --state {} --json --reason not_json", state.display()));
    let broken: Value = serde_json::from_str(listed.lines().next().unwrap()).unwrap();
    let repaired = folder.path().join("repaired.ndjson");
    let record = json!({"event_id": "x3", "ts": now, "caption": "#Tea"});
    let one =
        json!({"partition": "posts.ndjson", "position": broken["position"], "record": record});
    fs::write(&repaired, one.to_string()).unwrap();
    let (code, answer) =
        replay(&state, &format!("--repaired {} --why producer-fixed", repaired.display()));
    assert_eq!((code, &answer["counted"]), (Some(0), &json!(1)));
    // A record beyond the horizon counts unchanged.
    let (code, answer) = replay(&state, "--reason beyond_horizon");
    assert_eq!((code, &answer["counted"]), (Some(0), &json!(1)));
    assert_eq!(total(), 204);
    no_drift(&check);
    let listed = ok(&format!("dead-letters ls --state {}", state.display()));
    assert_eq!(listed.matches("replayed in commit").count(), 5, "{listed}");
    let audit = ok(&format!("repairs ls --state {}", state.display()));
    assert!(audit.contains("producer-fixed") && audit.contains("counted_as_it_is"), "{audit}");
    // The record counters still describe the log, and the run is still finished.
    let summary = export(&state, "").1;
    assert_eq!((summary.events, summary.dead_letters, summary.beyond_horizon), (200, 5, 1));
    let commit = summary.commit;
    ok(&run_it);
    assert_eq!(export(&state, "").1.commit, commit);
}
