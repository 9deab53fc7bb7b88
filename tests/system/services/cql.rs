//! Results in a real Cassandra or ScyllaDB equal the commits, whatever is done to a keyspace.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use recount::{Key, Row};
use tempfile::TempDir;

use super::super::harness::{Job, eventually, export, fails, folder, newest_commit, ok};
use super::super::serve::{get, serve, serve_store};
use super::tables::{Database, Tag, difference_to};
use super::{cql, fresh, shared};

const POSTS: &str = "--posts 20000 --seed 7 --vocabulary 5000 --tags-mean 3";

/// A keyspace with its tables, and an input.
pub(super) struct Fixture {
    folder: TempDir,
    nodes: String,
    keyspace: String,
    database: Database,
}

impl Fixture {
    pub(super) fn new(nodes: &str, posts: &str) -> Self {
        let keyspace = fresh("cql");
        let fixture = Self {
            folder: folder(),
            nodes: nodes.to_owned(),
            database: Database::open(nodes),
            keyspace,
        };
        ok(&format!("generate {posts} --out {}", fixture.path("posts.ndjson").display()));
        fixture.init(&fixture.keyspace);
        fixture
    }

    pub(super) fn keyspace(&self) -> &str {
        &self.keyspace
    }

    /// Another keyspace with its tables.
    pub(super) fn second(&self) -> String {
        let keyspace = fresh("cql");
        self.init(&keyspace);
        keyspace
    }

    pub(super) fn remove(&self, keyspace: &str) {
        self.database.remove(keyspace);
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(super) fn store(&self, keyspace: &str) -> String {
        format!("cql://{}/{keyspace}", self.nodes)
    }

    fn init(&self, keyspace: &str) -> String {
        ok(&format!("store init --store {}", self.store(keyspace)))
    }

    /// The command line of a bounded job.
    pub(super) fn line(&self, state: &str, store: &str) -> String {
        let (input, state) = (self.path("posts.ndjson"), self.path(state));
        let (input, state) = (input.display(), state.display());
        format!("run --input {input} --state {state} --store {store} --bounded")
    }

    fn run(&self, state: &str) -> String {
        ok(&self.line(state, &self.store(&self.keyspace)))
    }

    fn rebuild(&self, state: &str, keyspace: &str) -> String {
        let state = self.path(state);
        ok(&format!("store rebuild --store {} --state {}", self.store(keyspace), state.display()))
    }

    /// The tags of a state, and those of the keyspace.
    pub(super) fn both(&self, state: &str) -> (BTreeMap<Key, Row>, BTreeMap<Key, Tag>) {
        let (want, summary) = export(&self.path(state), "");
        (want, self.database.tags(&self.keyspace, summary.as_of.unwrap()))
    }

    /// Fails unless the keyspace equals the state.
    pub(super) fn check(&self, state: &str, keyspace: &str) {
        let (want, summary) = export(&self.path(state), "");
        let published = self.database.published(keyspace).unwrap().unwrap();
        assert_eq!(published.commit as u64, summary.commit);
        assert_eq!(Some(published.as_of_ms), summary.as_of);
        let got = self.database.tags(keyspace, published.as_of_ms);
        assert_eq!(difference_to(&want, &got), None);
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.database.remove(&self.keyspace);
        }
    }
}

#[test]
fn store_and_state_give_every_reader_the_same_answers() {
    let Some(nodes) = cql() else { return };
    let _servers = shared();
    let fixture = Fixture::new(&nodes, POSTS);
    let again = fixture.init(&fixture.keyspace);
    assert!(again.contains("exists already"), "{again}");
    let printed = fixture.run("state");
    assert!(printed.contains("published rows"), "{printed}");
    fixture.check("state", &fixture.keyspace);
    let (state, store) = (fixture.path("state"), fixture.store(&fixture.keyspace));
    let top = |place: &str| ok(&format!("query top --json {place}"));
    let (by_state, by_store) = (format!("--state {}", state.display()), format!("--store {store}"));
    let boards = top(&by_state);
    assert_eq!(top(&by_store), boards);
    let boards: serde_json::Value = serde_json::from_str(&boards).unwrap();
    let names = boards["boards"][2]["tags"].as_array().unwrap();
    assert!(names.len() > 50);
    let (one, other) = (serve(&state, ""), serve_store(&store));
    for name in names.iter().take(5).map(|entry| entry["tag"].as_str().unwrap()) {
        let tag = |place: &str| ok(&format!("query tag {name} --json {place}"));
        assert_eq!(tag(&by_store), tag(&by_state));
        for path in [format!("/tags/{name}"), format!("/t/{name}"), "/".to_owned()] {
            let answers = [&one, &other].map(|served| get(&served.address, &path));
            assert_eq!(answers[0].body, answers[1].body, "{path}");
            assert_eq!(answers[0].header("etag"), answers[1].header("etag"), "{path}");
        }
    }
    let unknown = fails(&format!("query tag nosuchtag {by_store}"), 1);
    assert!(unknown.contains("no post carries #nosuchtag"), "{unknown}");
    assert_eq!(get(&other.address, "/tags/nosuchtag").status, 404);
    assert_eq!(get(&other.address, "/readyz").status, 200);
    // Running it again sends nothing.
    let again = fixture.run("state");
    assert!(!again.contains("published rows"), "{again}");
}

#[test]
fn rebuilds_of_one_commit_are_byte_equal() {
    let Some(nodes) = cql() else { return };
    let _servers = shared();
    let fixture = Fixture::new(&nodes, POSTS);
    fixture.run("state");
    let commit = newest_commit(&fixture.path("state"));
    let (blue, green) = (fresh("blue"), fresh("green"));
    for keyspace in [&blue, &green] {
        fixture.init(keyspace);
        fixture.rebuild("state", keyspace);
        fixture.check("state", keyspace);
    }
    assert_eq!(newest_commit(&fixture.path("state")), commit, "the state is as it was");
    let all = |keyspace: &str| fixture.database.bytes(keyspace);
    assert!(all(&blue) == all(&green), "{blue} and {green} differ");
    assert!(all(&blue).len() > 1000);
    // The keyspace that the job filled has other versions and the same contents.
    fixture.check("state", &fixture.keyspace);
    for keyspace in [&blue, &green] {
        fixture.remove(keyspace);
    }
}

#[test]
fn rebuild_restores_rows_changed_by_hand() {
    let Some(nodes) = cql() else { return };
    let _servers = shared();
    let fixture = Fixture::new(&nodes, POSTS);
    fixture.run("state");
    let keyspace = &fixture.keyspace;
    let (rows, _) = export(&fixture.path("state"), "");
    let spoil = || {
        for (i, (_, tag)) in rows.keys().enumerate().filter(|(i, _)| i % 100 == 0) {
            let of = format!("WHERE scope = '' AND tag = '{tag}'");
            fixture.database.execute(&match i % 200 {
                0 => format!("UPDATE {keyspace}.tag SET total = 1000000, recent = 0xff {of}"),
                _ => format!("DELETE FROM {keyspace}.tag {of}"),
            });
        }
        let left = fixture.database.rows::<(String,)>(&format!("SELECT tag FROM {keyspace}.tag"));
        assert!(left.unwrap().len() < rows.len());
    };
    // Without a running job, the rebuild makes its own commit.
    spoil();
    let before = newest_commit(&fixture.path("state"));
    fixture.rebuild("state", keyspace);
    fixture.check("state", keyspace);
    assert_eq!(newest_commit(&fixture.path("state")), before + 1);
    // A finished run stays finished.
    let again = fixture.run("state");
    assert!(!again.contains("published rows"), "{again}");
    // With a running job, one of its commits is sent.
    let line = fixture.line("state", &fixture.store(keyspace)).replace(" --bounded", "");
    let job = Job::start(&line);
    let state = fixture.path("state");
    eventually("a commit", || (newest_commit(&state) > before + 2).then_some(()));
    spoil();
    fixture.rebuild("state", keyspace);
    job.signal("TERM");
    let (code, _, error) = job.end();
    assert_eq!(code, Some(0), "{error}");
    fixture.check("state", keyspace);
}

#[test]
fn keyspace_of_another_state_is_refused() {
    let Some(nodes) = cql() else { return };
    let _servers = shared();
    let fixture = Fixture::new(&nodes, POSTS);
    fixture.run("state");
    let store = fixture.store(&fixture.keyspace);
    // An empty state, which is not even created.
    let error = fails(&fixture.line("empty", &store), 1);
    assert!(error.contains("which is empty") && error.contains("bring back the state"), "{error}");
    assert!(!fixture.path("empty").exists());
    // Another state that has come as far.
    let none = format!("run --input {} --bounded", fixture.path("posts.ndjson").display());
    let other = fixture.path("other");
    ok(&format!("{none} --state {}", other.display()));
    let commit = newest_commit(&other);
    let error = fails(&fixture.line("other", &store), 1);
    assert!(error.contains("tagflow store rebuild"), "{error}");
    assert_eq!(newest_commit(&other), commit, "nothing was committed");
    // A job with another name.
    let config = fixture.path("dataflow.yaml");
    let (input, state) = (fixture.path("posts.ndjson"), fixture.path("third"));
    let text = format!(
        "apiVersion: tagflow/v1\nmeta: {{name: cats}}\nconfig: {{state: {{path: {}}}}}\n\
         topics: {{posts: {{source: \"{}\"}}}}\n\
         services: {{count: {{sources: [{{type: topic, id: posts}}],\n  sinks: [{{type: cql, \
         nodes: [\"{}\"], keyspace: {}}}]}}}}\n",
        state.display(),
        input.display(),
        nodes.split(',').next().unwrap(),
        fixture.keyspace,
    );
    fs::write(&config, text).unwrap();
    let error = fails(&format!("run {} --bounded", config.display()), 1);
    assert!(error.contains("\"hashtags\", not \"cats\""), "{error}");
    assert!(!state.exists());
    ok(&format!("store check {}", config.display()));
    // An explicit option overrides that.
    fixture.rebuild("other", &fixture.keyspace);
    fixture.check("other", &fixture.keyspace);
    fails(&fixture.line("state", &store), 1);
}

#[test]
fn newer_state_of_other_posts_is_refused_and_rebuild_removes_its_rows() {
    let Some(nodes) = cql() else { return };
    let _servers = shared();
    let fixture = Fixture::new(&nodes, POSTS);
    fixture.run("state");
    let posts = fixture.path("posts.ndjson");
    ok(&format!(
        "generate --force --posts 300 --seed 99 --vocabulary 90 --out {}",
        posts.display()
    ));
    let store = fixture.store(&fixture.keyspace);
    let other = fixture.path("other");
    let line = format!("run --input {} --state {}", posts.display(), other.display());
    let job = Job::start(&line);
    eventually("more commits", || (newest_commit(&other) > 5).then_some(()));
    job.signal("TERM");
    assert_eq!(job.end().0, Some(0));
    let error = fails(&fixture.line("other", &store), 1);
    assert!(error.contains("not one of this state"), "{error}");
    fixture.rebuild("other", &fixture.keyspace);
    fixture.check("other", &fixture.keyspace);
    // A damaged job row does not prevent a rebuild.
    let keyspace = &fixture.keyspace;
    fixture.database.execute(&format!(
        "UPDATE {keyspace}.job SET windows = 'nonsense' WHERE name = 'hashtags'"
    ));
    let error = fails(&format!("query top --store {store}"), 1);
    assert!(error.contains("`tagflow store rebuild` writes it again"), "{error}");
    fixture.rebuild("other", keyspace);
    fixture.check("other", keyspace);
}

#[test]
fn keyspace_errors_name_the_problem() {
    let Some(nodes) = cql() else { return };
    let _servers = shared();
    let fixture = Fixture::new(&nodes, "--posts 100");
    let store = |keyspace: &str| fixture.store(keyspace);
    let init = "`tagflow store init` creates";
    let nowhere = fresh("nowhere");
    let error = fails(&fixture.line("state", &store(&nowhere)), 1);
    assert!(error.contains(&nowhere) && error.contains(init), "{error}");
    assert!(!fixture.path("state").exists());
    let error = fails(&format!("serve --listen 127.0.0.1:0 --store {}", store(&nowhere)), 1);
    assert!(error.contains(init), "{error}");
    let keyspace = &fixture.keyspace;
    let checked = ok(&format!("store check --store {}", store(keyspace)));
    assert!(checked.contains("a row keeps the time it is written at"), "{checked}");
    let change = |what: &str| fixture.database.execute(&what.replace("KS", keyspace));
    // Extra columns are left alone.
    change("CREATE TABLE KS.cats (name text PRIMARY KEY)");
    change("ALTER TABLE KS.tag ADD mood text");
    let checked = ok(&format!("store check --store {}", store(keyspace)));
    assert!(checked.contains("warning an additional table cats"), "{checked}");
    let error = fails(&format!("store init --store {}", store(keyspace)), 1);
    assert!(error.contains("additional table cats") && error.contains("mood text"), "{error}");
    ok(&fixture.line("state", &store(keyspace)));
    // A missing column is an error.
    change("ALTER TABLE KS.tag DROP total");
    let error = fails(&fixture.line("state", &store(keyspace)), 1);
    assert!(error.contains("tag has no column total bigint"), "{error}");
    change("DROP TABLE KS.board");
    let error = fails(&format!("query top --store {}", store(keyspace)), 1);
    assert!(error.contains("no column total"), "{error}");
    let output = super::super::harness::run(&format!("store check --store {}", store(keyspace)));
    let printed = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(printed.contains("error   there is no table board"), "{printed}");
}

#[test]
fn silent_store_times_out_and_catches_up_later() {
    let Some(nodes) = cql() else { return };
    let _servers = shared();
    let fixture = Fixture::new(&nodes, POSTS);
    let closed = format!("cql://127.0.0.1:1/{}", fixture.keyspace);
    let error = fails(&format!("{} --store-wait 1s", fixture.line("state", &closed)), 1);
    let why = format!("the store has no commit in full ({closed}: the database does not answer: ");
    assert!(error.contains(&why), "{error}");
    assert!(error.contains("waiting for the store"), "{error}");
    assert!(error.contains("Run it again"), "{error}");
    let (_, counted) = export(&fixture.path("state"), "");
    assert!(counted.events > 19_000, "counting went on");
    // Running it again only publishes.
    let printed = fixture.run("state");
    assert!(printed.contains("published rows"), "{printed}");
    fixture.check("state", &fixture.keyspace);
    // Readers start without the store, and answer that it is not ready.
    let served = serve_store(&closed);
    let answer = get(&served.address, "/tags/cat");
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
    for command in ["query top", "store check"] {
        let error = fails(&format!("{command} --store {closed}"), 1);
        let said = |line: &str| line.matches("does not answer").count();
        assert!(error.lines().all(|line| said(line) <= 1) && said(&error) > 0, "{error}");
    }
}
