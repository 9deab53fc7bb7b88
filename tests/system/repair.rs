//! `reconcile --repair`: planted drift is found, corrected through the job while events keep
//! coming, and listed; asking again changes nothing, and a kill between any two steps neither.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use schemas::control::{Asker, Control};
use schemas::hash::KeyHash;
use schemas::rows::{IdRow, Ids, TagRow, Tags};
use serde_json::{Value, json};
use sinks::commits::{load, queue, visible};
use sinks::storage::DiskStorage;
use tempfile::TempDir;

use super::crash::Random;
use super::harness::{Job, eventually, export, folder, ok, run};
use super::reconcile::{change_tag, copy, no_drift, rewrite, shift, told};

/// A state that a job follows a growing file with.
struct Followed {
    _folder: TempDir,
    input: PathBuf,
    state: PathBuf,
    /// The lines that have not come yet.
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

    /// Starts the job and waits until it has read what there is.
    fn start(&self) -> Job {
        let job = Job::start(&self.line(&format!("run {SCOPES} --workers 2")));
        self.catch_up();
        job
    }

    fn catch_up(&self) {
        let bytes = fs::metadata(&self.input).unwrap().len();
        eventually("the job to catch up", || {
            self.state.join("visible").exists().then_some(())?;
            let shown = run(&format!("checkpoint show --state {} --json", self.state.display()));
            let shown: Value = serde_json::from_slice(&shown.stdout).ok()?;
            (shown["inputs"]["input"]["posts.ndjson"]["position"] == bytes
                || shown.to_string().contains(&format!(":{bytes}")))
            .then_some(())
        });
    }

    fn stop(&self, job: Job) {
        self.catch_up();
        job.signal("TERM");
        let (code, _, error) = job.end();
        assert_eq!(code, Some(0), "{error}");
    }

    /// Lets lines come, some at a time, until the end of what this returns.
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

/// What `reconcile --repair` prints: the values that differed, what was done, and its last line.
fn repaired(line: &str) -> (Vec<Value>, Vec<Value>, Value) {
    let text = ok(&format!("{line} --repair --why test --json"));
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |name: &str| lines.iter().filter(|line| line.get(name).is_some()).cloned().collect();
    let last = lines.last().unwrap();
    assert_eq!(last["drift"], 0, "{text}");
    (of("recomputed"), of("who"), last.clone())
}

/// The keys that were changed by planting.
type Plant = fn(&Path) -> String;

fn nobody(state: &Path) -> String {
    let storage = DiskStorage::open_existing(state).unwrap();
    let newest = load(&storage, visible(&storage).unwrap().unwrap()).unwrap();
    let hash = newest.body.hash_key.hasher().tag("nobody");
    rewrite::<Tags>(state, |rows, all| {
        all.for_each(|(hash, row)| rows.push(hash, &row));
        let row = TagRow {
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
        rows.push(hash, &row);
    });
    "nobody".to_owned()
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
    let tiers = schemas::windows::Windows::default().tiers();
    rewrite::<Tags>(state, |rows, all| {
        for (hash, row) in all {
            let list = schemas::windows::Buckets::decode(tiers.slot(row.as_of), row.recent);
            let chosen = key.is_empty() && row.total > 20 && list.unwrap().iter(&tiers).count() > 3;
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
        let left_out = all.iter().find(|(_, row)| row.hour == last).unwrap().0;
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
fn planted_drift_is_repaired_while_events_keep_coming() {
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
            assert_ne!(repair["before"], repair["after"], "{what}");
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
