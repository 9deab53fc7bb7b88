//! While a job runs on a real topic and keyspace, the store is checked, damaged and repaired, the
//! topic is replayed into a second keyspace, and readers are switched to that one and back. A
//! reader polls throughout, and never sees an error, an unknown tag, or an older commit of one
//! store.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use schemas::time::format_ms;
use serde_json::Value;
use tempfile::TempDir;

use super::super::harness::{
    Job, export, fails, folder, newest_commit, now, ok, run, tell, within,
};
use super::super::oracle::{Input, check};
use super::super::runbooks::ends;
use super::super::serve::{get, serve_store};
use super::produce::{post, produce};
use super::tables::Database;
use super::topics::{create, records};
use super::{cql, fresh, kafka, shared};

/// Posts a second of the running job.
const RATE: u64 = 2000;
/// Tags that the reader polls.
const TAGS: usize = 5;
/// How often readers are switched to the other keyspace.
const PROMOTIONS: usize = 20;
/// Enough posts that the job outlasts the test.
const POSTS: u64 = RATE * 240;

/// A running job, its topic and keyspace, and a second keyspace.
struct World {
    folder: TempDir,
    brokers: String,
    nodes: String,
    topic: String,
    live: String,
    new: String,
    database: Database,
}

impl World {
    fn new(brokers: String, nodes: String) -> Self {
        let (topic, live, new) = (fresh("replay"), fresh("live"), fresh("new"));
        tell(&format!("replay: topic {topic}, keyspaces {live} and {new}"));
        create(&brokers, &topic, 3, &[]);
        let database = Database::open(&nodes);
        let world = Self { folder: folder(), brokers, nodes, topic, live, new, database };
        for keyspace in [&world.live, &world.new] {
            ok(&format!("store init --store {}", world.store(keyspace)));
        }
        world
    }

    fn store(&self, keyspace: &str) -> String {
        format!("cql://{}/{keyspace}", self.nodes)
    }

    fn input(&self) -> String {
        format!("kafka://{}/{}", self.brokers, self.topic)
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// The last commit that is complete in the first keyspace.
    fn published(&self) -> u64 {
        self.database.published(&self.live).unwrap().map_or(0, |row| row.commit as u64)
    }

    /// Waits for `more` published commits.
    fn commits(&self, job: &mut Job, more: u64) {
        let before = self.published();
        within(120, "commits to be published", || {
            assert!(job.lives());
            (self.published() >= before + more).then_some(())
        });
    }

    /// Checks the first keyspace. Returns the exit code and the tags that differ.
    fn reconcile(&self, more: &str) -> (Option<i32>, BTreeSet<String>) {
        let (state, store) = (self.state(), self.store(&self.live));
        let line = format!("reconcile --state {} --store {store} --json {more}", state.display());
        let output = run(&line);
        let text = String::from_utf8(output.stdout).unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        let mut values: Vec<Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let last = values.pop().unwrap_or_else(|| panic!("{line}\n{error}"));
        assert_eq!(last["drift"], values.len(), "{text}");
        assert!(last["checked"].as_u64().unwrap() > 0, "{text}");
        let keys = values.iter().map(|value| value["key"].as_str().unwrap().to_owned());
        (output.status.code(), keys.collect())
    }

    fn promote(&self, keyspace: &str) {
        ok(&format!("store promote {keyspace} --store {}", self.store(&self.live)));
    }
}

/// The commit and version of an answer.
type Seen = (u64, i64);

/// A client that keeps requesting some tags.
struct Poller {
    end: Arc<AtomicBool>,
    /// The requested tag, and the answer.
    seen: Arc<Mutex<Vec<(usize, Seen)>>>,
    thread: JoinHandle<()>,
}

impl Poller {
    fn start(address: &str, tags: Vec<String>) -> Self {
        let (end, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (ended, answers, address) = (Arc::clone(&end), Arc::clone(&seen), address.to_owned());
        let thread = std::thread::spawn(move || {
            while !ended.load(Ordering::Acquire) {
                for (i, tag) in tags.iter().enumerate() {
                    let answer = get(&address, &format!("/tags/{tag}"));
                    assert_eq!(answer.status, 200, "{tag}: {}", answer.body);
                    let body = answer.json();
                    assert!(body["total"].as_i64().unwrap() > 0, "{body}");
                    let seen =
                        (body["commit"].as_u64().unwrap(), body["version"].as_i64().unwrap());
                    answers.lock().push((i, seen));
                }
                std::thread::park_timeout(Duration::from_millis(5));
            }
        });
        Self { end, seen, thread }
    }

    /// Waits for an answer that satisfies `is`. Returns how long it took.
    fn await_answer(&self, what: &str, is: impl Fn(&Seen) -> bool) -> Duration {
        let (begin, from) = (now(), self.seen.lock().len());
        within(20, what, || {
            self.seen.lock()[from..].iter().any(|(_, seen)| is(seen)).then_some(())
        });
        begin.elapsed()
    }

    fn end(self) -> Vec<(usize, Seen)> {
        self.end.store(true, Ordering::Release);
        self.thread.join().unwrap();
        std::mem::take(&mut *self.seen.lock())
    }
}

/// The names of the top tags of a store.
fn top(store: &str) -> Vec<String> {
    let boards: Value =
        serde_json::from_str(&ok(&format!("query top --json --store {store}"))).unwrap();
    let entries = boards["boards"][2]["tags"].as_array().unwrap().iter().take(TAGS);
    entries.map(|entry| entry["tag"].as_str().unwrap().to_owned()).collect()
}

/// Tags that are posted only once.
const PLANTED: [&str; 8] =
    ["hand", "deleted", "older", "foreign", "page1", "page2", "page3", "sound"];

/// Damages the store in every way.
fn plant(world: &World, old: &str) -> BTreeSet<String> {
    let table = |keyspace: &str| format!("{keyspace}.tag");
    let (live, row) =
        (table(&world.live), |tag: &str| format!("WHERE scope = '' AND tag = '{tag}'"));
    world.database.execute(&format!("UPDATE {live} SET total = 7 {}", row("hand")));
    for tag in ["deleted", "page1", "page2", "page3"] {
        world.database.execute(&format!("DELETE FROM {live} {}", row(tag)));
    }
    world.database.execute(old);
    for tag in ["foreign", "stranger"] {
        world.database.execute(&format!(
            "INSERT INTO {live} (scope, tag, display, total, recent, first_seen, last_seen, as_of, \
             version) VALUES ('', '{tag}', '{tag}', 3, 0x, 1, 2, 3, 4)"
        ));
    }
    let damaged = PLANTED.into_iter().filter(|tag| *tag != "sound").chain(["stranger"]);
    damaged.map(str::to_owned).collect()
}

type Old = (String, i64, Vec<u8>, i64, i64, i64, i64);

/// A statement that restores a row as it is now.
fn as_it_is(world: &World, tag: &str) -> String {
    let columns = "display, total, recent, toUnixTimestamp(first_seen), \
                   toUnixTimestamp(last_seen), toUnixTimestamp(as_of), version";
    let live = &world.live;
    let select = format!("SELECT {columns} FROM {live}.tag WHERE scope = '' AND tag = '{tag}'");
    let rows = world.database.rows::<Old>(&select).unwrap();
    let (display, total, recent, first, last, as_of, version) = rows.into_iter().next().unwrap();
    let recent: String = recent.iter().map(|byte| format!("{byte:02x}")).collect();
    format!(
        "INSERT INTO {live}.tag (scope, tag, display, total, recent, first_seen, last_seen, as_of, \
         version) VALUES ('', '{tag}', '{display}', {total}, 0x{recent}, {first}, {last}, {as_of}, \
         {version})"
    )
}

/// Checks the store, damages it and repairs it, while the job keeps publishing.
fn check_and_mend(world: &World, old: &str) {
    let input = world.input();
    // Neither the store nor the log has drift while both advance.
    assert_eq!(world.reconcile(""), (Some(0), BTreeSet::new()));
    assert_eq!(world.reconcile(&format!("--input {input}")), (Some(0), BTreeSet::new()));
    // Planted drift is found exactly, every time.
    let planted = plant(world, old);
    for _ in 0..2 {
        assert_eq!(world.reconcile(""), (Some(1), planted.clone()));
    }
    let one = world.reconcile("--tags hand");
    assert_eq!(one, (Some(1), ["hand".to_owned()].into()));
    // The job publishes those rows again. Repeating the repair changes nothing.
    let (state, store) = (world.state(), world.store(&world.live));
    let line = format!("reconcile --state {} --store {store}", state.display());
    let repaired = ok(&format!("{line} --repair --why planted"));
    assert!(repaired.contains("0 values differ"), "{repaired}");
    for more in ["", "--repair"] {
        assert_eq!(world.reconcile(more), (Some(0), BTreeSet::new()));
    }
}

/// Replays the topic up to a commit, into the second keyspace, which then equals that commit.
/// Returns its commit and version.
fn replay(world: &World) -> Seen {
    let (input, state, new) = (world.input(), world.state(), world.store(&world.new));
    let (store, commit) = (world.store(&world.live), newest_commit(&state) - 1);
    let again = world.folder.path().join("again");
    let (live, again) = (state.display(), again.display());
    let refused = fails(&format!("store promote {} --store {store}", world.new), 1);
    assert!(refused.contains("no published commit"), "{refused}");
    ok(&format!(
        "replay --input {input} --state {again} --store {new} --until-commit {live}@{commit} \
         --decisions-from {live}"
    ));
    ok(&format!("compare {live} {new} --at-a {commit}"));
    ok(&format!("compare {again} {new}"));
    ok(&format!("reconcile --state {again} --store {new}"));
    let shown = world.database.published(&world.new).unwrap().unwrap();
    (shown.commit as u64, shown.version)
}

/// Switches readers between the keyspaces, and prints how soon they follow.
fn there_and_back(world: &World, poller: Poller, new: Seen) {
    let store = world.store(&world.live);
    let is_new = |seen: &Seen| *seen == new;
    world.promote(&world.new);
    let mut took = vec![poller.await_answer("the promoted store", is_new)];
    let checked = ok(&format!("store check --store {store}"));
    assert!(checked.contains(&format!("see {:?}, which was promoted", world.new)), "{checked}");
    world.promote(&world.live);
    took.push(poller.await_answer("the first store again", |seen| !is_new(seen)));
    while took.len() < PROMOTIONS {
        world.promote(&world.store(&world.new));
        took.push(poller.await_answer("the promoted store once more", is_new));
        world.promote(&world.live);
        took.push(poller.await_answer("the first store once more", |seen| !is_new(seen)));
    }
    took.sort_unstable();
    let (median, most) = (took[took.len() / 2], took[took.len() - 1]);
    let number = took.len();
    tell(&format!("replay: readers followed {number} promotions in {median:?}, at most {most:?}"));
    let seen = poller.end();
    let of_live: Vec<_> = seen.iter().filter(|(_, seen)| !is_new(seen)).collect();
    assert!(of_live.len() > 100 && of_live.len() < seen.len(), "{} answers", of_live.len());
    let commits = of_live.iter().map(|(_, (commit, _))| commit);
    assert!(commits.is_sorted(), "a commit of one store came after a later one");
    for i in 0..TAGS {
        // A row may be from the next commit before that is complete.
        let of_tag = of_live.iter().filter(|(tag, _)| *tag == i).map(|(_, seen)| seen);
        assert!(of_tag.is_sorted(), "a version of a tag came after a later one");
    }
}

#[test]
fn store_is_repaired_and_promoted_under_a_running_job_and_a_reader() {
    let Some((brokers, nodes)) = kafka().and_then(|brokers| Some((brokers, cql()?))) else {
        return;
    };
    let _servers = shared();
    let world = World::new(brokers, nodes);
    let input = world.input();
    let shape = "--tags-mean 3 --vocabulary 3000 --duplicates 0.02";
    let mut producer =
        Job::start(&format!("generate --posts {POSTS} --rate {RATE} {shape} --out {input}"));
    let (state, store) = (world.state(), world.store(&world.live));
    let line = format!("run --input {input} --store {store} --state {}", state.display());
    let mut job = Job::logged(&line, &world.folder.path().join("log"));
    world.commits(&mut job, 2);
    let as_of = within(60, "a stream time", || {
        let printed = ok(&format!("query top --json --store {store}"));
        serde_json::from_str::<Value>(&printed).unwrap()["as_of"].as_i64()
    });
    let once = |id: usize, tag: &str| {
        produce(&world.brokers, &world.topic, 0, &[post(id, as_of, tag)]);
    };
    PLANTED.iter().enumerate().for_each(|(i, tag)| once(900_000_000 + i, tag));
    world.commits(&mut job, 3);
    let old = as_it_is(&world, "older");
    once(900_000_100, "older");
    world.commits(&mut job, 3);

    let served = serve_store(&store);
    let poller = Poller::start(&served.address, top(&store));
    check_and_mend(&world, &old);
    let new = replay(&world);
    there_and_back(&world, poller, new);
    assert!(producer.lives() && job.lives(), "everything happened beside a live job");
    drop(producer);
    job.signal("TERM");
    let (code, ..) = job.end();
    assert_eq!(code, Some(0));
    world.database.remove(&world.live);
    world.database.remove(&world.new);
}

#[test]
fn runbooks_refill_a_lost_database_and_promote_changed_rules() {
    let Some(nodes) = cql() else { return };
    let _servers = shared();
    let folder = folder();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (database, live, new) = (Database::open(&nodes), fresh("lost"), fresh("rules"));
    let (store, new_store) = (format!("cql://{nodes}/{live}"), format!("cql://{nodes}/{new}"));
    let (input, state) = (path("posts.ndjson"), path("state"));
    std::fs::copy("examples/posts.ndjson", &input).unwrap();
    ok(&format!("store init --store {store}"));
    ok(&format!("run --input {input} --state {state} --store {store} --bounded"));
    let before = ok(&format!("query tag harbour --json --store {store}"));
    database.remove(&live);
    fails(&format!("query tag harbour --store {store}"), 1);
    let printed = ends("lost-the-database", &format!("{state} {store}"), 0);
    assert!(printed.contains("0 values differ"), "{printed}");
    assert_eq!(ok(&format!("query tag harbour --json --store {store}")), before);

    let served = serve_store(&store);
    let scoped = "/tags/harbour?scope=region=eu";
    assert_ne!(get(&served.address, scoped).status, 200);
    let arguments =
        format!("{input} {state} {} {store} {new_store} -- --scope region=eu", path("new"));
    let printed = ends("tag-rules-changed", &arguments, 0);
    assert!(printed.contains("readers see the new counts"), "{printed}");
    within(5, "the new counts", || (get(&served.address, scoped).status == 200).then_some(()));
    ok(&format!("store promote {live} --store {store}"));
    within(5, "the old counts", || (get(&served.address, scoped).status != 200).then_some(()));
    for keyspace in [live, new] {
        database.remove(&keyspace);
    }
}

/// When the brokers appended the last record of a topic.
fn latest(brokers: &str, topic: &str) -> i64 {
    records(brokers, topic).map(|record| record.stamp_ms).max().unwrap()
}

#[test]
fn replay_from_a_time_counts_records_appended_since() {
    let Some(brokers) = kafka() else { return };
    let _servers = shared();
    let (topic, folder) = (fresh("since"), folder());
    create(&brokers, &topic, 3, &[("message.timestamp.type", "LogAppendTime")]);
    // Later records have earlier event times: the brokers' time counts.
    let posts = |partition, ids: std::ops::Range<usize>, tag: &str, ts: i64| {
        let all: Vec<String> = ids.map(|id| post(id, ts - id as i64, tag)).collect();
        produce(&brokers, &topic, partition, &all);
    };
    let event_ms = 1_700_000_000_000;
    posts(0, 0..70, "goes_on", event_ms);
    posts(1, 100..150, "ended", event_ms);
    let before = latest(&brokers, &topic);
    within(30, "a later time of the brokers", || {
        posts(0, 60..63, "again", event_ms - 7_000_000);
        (latest(&brokers, &topic) > before).then_some(())
    });
    posts(0, 200..280, "goes_on", event_ms - 7_000_000);
    posts(2, 300..340, "began", event_ms - 7_000_000);
    let all: Vec<_> = records(&brokers, &topic).collect();
    let from = all.iter().map(|record| record.stamp_ms).filter(|ms| *ms > before).min().unwrap();

    let file = folder.path().join("since.ndjson");
    let since = all.iter().filter(|record| record.stamp_ms >= from);
    let lines = since.map(|record| [&record.value[..], b"\n"].concat());
    fs::write(&file, lines.collect::<Vec<_>>().concat()).unwrap();
    let line = |name: &str, from: &str| {
        let state = folder.path().join(name);
        let input = format!("--input kafka://{brokers}/{topic} --state {}", state.display());
        ok(&format!("replay {input} --from {from} --bounded --horizon 100000h"));
        export(&state, "")
    };
    for (name, from) in [("ms", from.to_string()), ("rfc3339", format_ms(from))] {
        let (rows, summary) = line(name, &from);
        let counted = check(&Input::file(&file), &rows, &summary);
        assert!(counted.events >= 120 && counted.events < all.len() as u64 - 115, "{summary:?}");
    }
    let (rows, summary) = line("later", &(latest(&brokers, &topic) + 1).to_string());
    assert_eq!((rows.len(), summary.events), (0, 0), "nothing came later");
    let (_, summary) = line("all", "beginning");
    assert_eq!(summary.events + summary.duplicates, all.len() as u64);
}
