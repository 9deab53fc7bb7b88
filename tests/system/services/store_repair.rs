//! `reconcile --store --repair` on a real store whose rows were changed by hand: with and without a
//! running job, and for boards and the job row too.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::Value;
use tempfile::TempDir;

use super::super::harness::{Job, export, folder, newest_commit, ok, run, within};
use super::tables::{Database, difference_to};
use super::{cql, fresh, shared};

/// A published state, and its keyspace.
struct World {
    _folder: TempDir,
    /// The options of the job, except for how it ends.
    job: String,
    state: PathBuf,
    store: String,
    keyspace: String,
    database: Database,
}

impl World {
    /// A finished run.
    fn new(nodes: &str) -> Self {
        Self::of(nodes, "--posts 3000 --vocabulary 300")
    }

    /// The same with other posts.
    fn of(nodes: &str, posts: &str) -> Self {
        let (folder, keyspace) = (folder(), fresh("repaired"));
        let (input, state) = (folder.path().join("posts.ndjson"), folder.path().join("state"));
        let store = format!("cql://{nodes}/{keyspace}");
        ok(&format!("generate {posts} --out {}", input.display()));
        ok(&format!("store init --store {store}"));
        let (input, state_at) = (input.display(), state.display());
        let job = format!(
            "run --input {input} --state {state_at} --store {store} --scope region=eu --horizon 24h"
        );
        ok(&format!("{job} --bounded"));
        let database = Database::open(nodes);
        Self { _folder: folder, job, state, store, keyspace, database }
    }

    /// Compares the store with the state. Returns the exit code, the keys that differ, the repairs,
    /// and the values that still differ.
    fn reconcile(&self, more: &str) -> (Option<i32>, BTreeSet<String>, usize, u64) {
        let (state, store) = (self.state.display(), &self.store);
        let output = run(&format!("reconcile --state {state} --store {store} --json {more}"));
        let error = String::from_utf8(output.stderr).unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let last = lines.last().unwrap_or_else(|| panic!("{error}"));
        let expected = |code: Option<i32>| code == Some(0) || error.contains("store rebuild");
        assert!(!more.contains("--repair") || expected(output.status.code()), "{error}");
        let keys = lines.iter().filter(|line| line.get("recomputed").is_some());
        let keys = keys.map(|value| value["key"].as_str().unwrap().to_owned()).collect();
        let done = lines.iter().filter(|line| line.get("who").is_some()).count();
        (output.status.code(), keys, done, last["drift"].as_u64().unwrap())
    }

    fn is_sound(&self) {
        assert_eq!(self.reconcile(""), (Some(0), BTreeSet::new(), 0, 0));
    }

    /// The most frequent unscoped tags.
    fn top(&self) -> Vec<String> {
        let mut rows: Vec<_> = export(&self.state, "").0.into_values().collect();
        rows.retain(|row| row.scope.is_empty());
        rows.sort_by_key(|row| std::cmp::Reverse(row.total));
        rows.into_iter().map(|row| row.key).collect()
    }

    /// Writes to one table of the keyspace.
    fn write(&self, before: &str, table: &str, after: &str) {
        self.database.execute(&format!("{before} {}.{table} {after}", self.keyspace));
    }

    fn repairs(&self) -> String {
        ok(&format!("repairs ls --state {} --json", self.state.display()))
    }
}

fn set(keys: &[&str]) -> BTreeSet<String> {
    keys.iter().map(|key| (*key).to_owned()).collect()
}

#[test]
fn store_of_a_stopped_job_is_repaired_and_a_second_repair_changes_nothing() {
    let Some(nodes) = cql() else { return };
    let _servers = shared();
    let world = World::new(&nodes);
    world.is_sound();
    let [changed, lost] = [0, 1].map(|place| world.top()[place].clone());
    let at = |tag: &str| format!("WHERE scope = '' AND tag = '{tag}'");
    world.write("UPDATE", "tag", &format!("SET total = 7 {}", at(&changed)));
    world.write("DELETE FROM", "tag", &at(&lost));
    let row = "(scope, tag, display, total, recent, first_seen, last_seen, as_of, version) \
               VALUES ('', 'stranger', 'stranger', 3, 0x, 1, 2, 3, 4)";
    world.write("INSERT INTO", "tag", row);
    let planted = set(&[&changed, &lost, "stranger"]);
    let (code, found, ..) = world.reconcile("");
    assert_eq!((code, &found), (Some(1), &planted));

    let before = newest_commit(&world.state);
    let (code, found, done, left) = world.reconcile("--repair --why planted");
    assert_eq!((code, found, done, left), (Some(0), planted, 3, 0));
    assert!(newest_commit(&world.state) > before, "its first own commit");
    let (rows, repairs) = (world.database.bytes(&world.keyspace), world.repairs());
    let commit = newest_commit(&world.state);
    for more in ["--repair", ""] {
        assert_eq!(world.reconcile(more), (Some(0), BTreeSet::new(), 0, 0), "{more}");
    }
    // The run is still finished.
    ok(&format!("{} --bounded", world.job));
    assert_eq!(newest_commit(&world.state), commit);
    assert_eq!((world.database.bytes(&world.keyspace), world.repairs()), (rows, repairs));
    world.database.remove(&world.keyspace);
}

#[test]
fn boards_and_job_row_are_repaired_with_and_without_a_job() {
    let Some(nodes) = cql() else { return };
    let _servers = shared();
    let world = World::new(&nodes);
    let spoil = || {
        world.write("UPDATE", "board", "SET doc = 0x5b5d WHERE scope = '' AND win = 'all'");
        world.write("DELETE FROM", "board", "WHERE scope = 'region=eu' AND win = '24h'");
    };
    spoil();
    world.write("UPDATE", "job", "SET as_of = 5, wall = 6 WHERE name = 'hashtags'");
    let boards = set(&["all", "24h"]);
    let all = set(&["all", "24h", ""]);
    for _ in 0..2 {
        let (code, found, done, drift) = world.reconcile("");
        assert_eq!((code, &found, done, drift), (Some(1), &all, 0, 4));
    }
    assert_eq!(world.reconcile("--repair --why boards"), (Some(0), all, 0, 0));
    let commit = newest_commit(&world.state);
    assert_eq!(world.reconcile("--repair"), (Some(0), BTreeSet::new(), 0, 0));
    assert_eq!(newest_commit(&world.state), commit, "nothing was left to do");

    let mut job = Job::start(&world.job);
    let published = || world.database.published(&world.keyspace).unwrap().unwrap().commit as u64;
    within(60, "commits of the job", || (published() > commit + 2).then_some(()));
    spoil();
    let (code, found, _, left) = world.reconcile("--repair");
    assert_eq!((code, found, left), (Some(0), boards, 0));
    assert!(job.lives());
    job.signal("TERM");
    assert_eq!(job.end().0, Some(0));
    world.is_sound();
    world.database.remove(&world.keyspace);
}

#[test]
fn rows_of_another_keyspace_are_found_and_repaired() {
    let Some(nodes) = cql() else { return };
    let _servers = shared();
    let world = World::new(&nodes);
    // Another job, with other posts and other names.
    let other = World::of(&nodes, "--posts 5000 --seed 9 --vocabulary 600");
    other.is_sound();
    let own: BTreeSet<String> = world.top().into_iter().collect();
    let (shared, foreign): (Vec<_>, Vec<_>) =
        other.top().into_iter().partition(|tag| own.contains(tag));
    let planted = set(&[&shared[0], &shared[1], &foreign[0], &foreign[1]]);
    for tag in &planted {
        world.database.copy_tag(&other.keyspace, &world.keyspace, tag);
    }
    for _ in 0..2 {
        let (code, found, done, _) = world.reconcile("");
        assert_eq!((code, &found, done), (Some(1), &planted, 0));
    }
    let (code, found, done, left) = world.reconcile("--repair --why foreign");
    assert_eq!((code, found, done, left), (Some(0), planted, 4, 0));
    world.is_sound();
    other.is_sound();
    // The state agrees, and every row belongs to this keyspace.
    let (rows, summary) = export(&world.state, "");
    let served = world.database.tags(&world.keyspace, summary.as_of.unwrap());
    assert_eq!(difference_to(&rows, &served), None);
    world.database.remove(&world.keyspace);
    other.database.remove(&other.keyspace);
}

#[test]
fn unknown_board_is_reported_and_removed_by_a_rebuild() {
    let Some(nodes) = cql() else { return };
    let _servers = shared();
    let world = World::new(&nodes);
    let row = "(scope, win, doc, as_of, version) VALUES ('region=mars', 'all', 0x5b31, 1, 2)";
    world.write("INSERT INTO", "board", row);
    let (code, found, _, left) = world.reconcile("--repair");
    assert_eq!((code, found, left), (Some(1), set(&["all"]), 1));
    ok(&format!("store rebuild --state {} --store {}", world.state.display(), world.store));
    world.is_sound();
    world.database.remove(&world.keyspace);
}
