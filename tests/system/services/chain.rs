//! From a topic to a table while jobs are killed and servers fail: the table ends equal to a
//! recount of the topic, and no row ever goes back to an older version.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use recount::{Key, Row};
use simulate::rng::Rng;
use simulate::seed::seed;
use tempfile::TempDir;

use super::super::harness::{Job, eventually, export, fails, folder, newest_commit, now, ok};
use super::super::harness::{number, tell, within};
use super::super::oracle::count_records;
use super::tables::{Database, Published, Tag};
use super::topics::{create, records};
use super::{Alone, alone, cql, difference, fresh, kafka, shared};

/// Posts, unless `TAGFLOW_CHAIN_POSTS` sets another number.
const POSTS: u64 = 200_000;
/// The topic is filled in portions that follow each other in event time.
const PORTIONS: u64 = 10;
const PARTITIONS: [&str; 6] = ["0", "1", "2", "3", "4", "5"];
/// How long the database is down.
const OUTAGE: Duration = Duration::from_secs(30);
/// Posts a second while the job is killed, slow enough that it never finishes.
const RATE: u64 = 2000;

/// The topic, keyspace and state of one test.
struct Chain {
    folder: TempDir,
    brokers: String,
    nodes: String,
    topic: String,
    keyspace: String,
    posts: u64,
    seed: u64,
}

impl Chain {
    fn new(brokers: String, nodes: String, posts: u64) -> Self {
        let seed = seed();
        let (topic, keyspace) = (fresh("chain"), fresh("chain"));
        tell(&format!("chain: topic {topic}, keyspace {keyspace}, seed {seed}"));
        create(&brokers, &topic, PARTITIONS.len() as i32, &[]);
        let chain = Self { folder: folder(), brokers, nodes, topic, keyspace, posts, seed };
        chain.init(&chain.keyspace);
        chain
    }

    fn init(&self, keyspace: &str) {
        ok(&format!("store init --store cql://{}/{keyspace}", self.nodes));
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// Starts a producer of one portion. A portion always has the same records.
    fn produce(&self, portion: u64) -> Job {
        const MINUTES: u64 = 12;
        let (posts, seed) = (self.posts / PORTIONS, self.seed * PORTIONS + portion);
        let start = 1_700_000_000_000 + portion * MINUTES * 60_000;
        let shape = "--tags-mean 3 --vocabulary 50000 --duplicates 0.05";
        let out = format!("kafka://{}/{}", self.brokers, self.topic);
        Job::start(&format!(
            "generate --posts {posts} --seed {seed} --span {MINUTES}m --start-ms {start} {shape} \
             --out {out}"
        ))
    }

    /// The command line of a job.
    fn line(&self, state: &Path, keyspace: &str, more: &str) -> String {
        let (brokers, topic, nodes) = (&self.brokers, &self.topic, &self.nodes);
        let state = state.display();
        format!(
            "run --input kafka://{brokers}/{topic} --store cql://{nodes}/{keyspace} \
             --state {state} --workers 2 {more}"
        )
    }

    fn job(&self, more: &str) -> Job {
        Job::logged(&self.line(&self.state(), &self.keyspace, more), &self.log())
    }

    /// Waits for `more` commits of `job`.
    fn commits(&self, job: &mut Job, before: u64, more: u64) {
        eventually("commits", || {
            assert!(job.lives(), "it ended:\n{}", std::fs::read_to_string(self.log()).unwrap());
            (newest_commit(&self.state()) >= before + more).then_some(())
        });
    }

    /// Starts the job and kills it, at a random moment or after its first own commit.
    fn killed(&self, random: &mut Rng) {
        let before = newest_commit(&self.state());
        let mut job = self.job(&format!("--limit-rate {RATE}"));
        if random.below(3) > 0 {
            self.commits(&mut job, before, 2);
        }
        pause(Duration::from_millis(200 + random.below(1800)));
        assert!(job.kill(), "it ended:\n{}", std::fs::read_to_string(self.log()).unwrap());
    }

    /// Stops the database while the job keeps counting, is killed and restarted, and later catches
    /// up.
    fn outage(&self, servers: &Alone, random: &mut Rng) {
        let begin = now();
        servers.node("stop", "cassandra");
        self.killed(random);
        self.killed(random);
        let before = newest_commit(&self.state());
        let mut job = self.job(&format!("--limit-rate {RATE}"));
        self.commits(&mut job, before, 3);
        pause(OUTAGE.saturating_sub(begin.elapsed()));
        let (before, database) = (newest_commit(&self.state()), self.nodes.clone());
        self.commits(&mut job, before, 1);
        servers.node("start", "cassandra");
        let database = eventually("the database", || Database::try_open(&database));
        within(120, "the job to catch up", || {
            let published = database.published(&self.keyspace).ok().flatten()?;
            (published.commit as u64 > before).then_some(())
        });
        assert!(job.kill(), "it ended:\n{}", std::fs::read_to_string(self.log()).unwrap());
    }

    /// Compares a keyspace with a recount of the topic. Returns its contents, with windows at its
    /// `as_of`.
    fn check(&self, state: &Path, keyspace: &str) -> (Published, BTreeMap<Key, Tag>) {
        let database = Database::open(&self.nodes);
        let published = database.published(keyspace).unwrap().unwrap();
        let tags = database.tags(keyspace, published.as_of_ms);
        let read = records(&self.brokers, &self.topic);
        let placed = read.map(|r| (PARTITIONS[r.partition as usize], r.offset as u64, r.value));
        let counted = count_records(placed, published.as_of_ms);
        let differ = difference(&counted.rows, &rows(&tags));
        assert_eq!(differ, None, "{published:?}");
        let newest = tags.values().map(|tag| tag.version).max().unwrap();
        assert!(newest <= published.version, "{newest} in {published:?}");
        let (_, summary) = export(state, "");
        let got = (summary.events, summary.duplicates, summary.dead_letters, summary.as_of);
        let want = (counted.events, counted.duplicates, 0, Some(published.as_of_ms));
        assert_eq!(got, want, "events, duplicates, dead letters, as of");
        // One portion was produced twice.
        assert!(counted.events < self.posts && counted.duplicates > self.posts / PORTIONS);
        assert_eq!(counted.events + counted.duplicates, self.posts + self.posts / PORTIONS);
        let (events, tags_seen) = (counted.events, counted.rows.len());
        tell(&format!("chain: {events} events, {tags_seen} tags, 0 differ"));
        (published, tags)
    }
}

/// The counts, without versions and without tags that are in no post.
fn rows(tags: &BTreeMap<Key, Tag>) -> BTreeMap<Key, Row> {
    let counted = tags.iter().filter(|(_, tag)| tag.row.total != 0);
    counted.map(|(key, tag)| (key.clone(), tag.row.clone())).collect()
}

/// Waits for a given time, as part of the test.
fn pause(long: Duration) {
    let end = now() + long;
    within(long.as_secs() + 10, "the end of a pause", || (now() >= end).then_some(()));
}

fn finish(producer: Job) {
    let (code, _, error) = producer.end();
    assert_eq!(code, Some(0), "{error}");
}

/// Polls the keyspace while the database answers. Fails if the job's row or one of some tags goes
/// back. Returns how many versions it saw.
fn watch(nodes: &str, keyspace: &str, end: Arc<AtomicBool>) -> JoinHandle<usize> {
    let (nodes, keyspace) = (nodes.to_owned(), keyspace.to_owned());
    std::thread::spawn(move || {
        let database = Database::open(&nodes);
        let (mut last, mut seen) = (Published::default(), 0);
        let mut tags: BTreeMap<(String, String), (i64, i64)> = BTreeMap::new();
        while !end.load(Ordering::Acquire) {
            if let Ok(Some(now)) = database.published(&keyspace) {
                let newer = now.commit >= last.commit && now.version >= last.version;
                assert!(newer && now.as_of_ms >= last.as_of_ms, "{last:?} went back to {now:?}");
                seen += usize::from(now != last);
                last = now;
            }
            let of =
                |(scope, tag): &(String, String)| format!("scope = '{scope}' AND tag = '{tag}'");
            let mut clauses: Vec<String> =
                tags.keys().map(|key| format!(" WHERE {}", of(key))).collect();
            if clauses.is_empty() {
                clauses.push(" LIMIT 5".to_owned());
            }
            for clause in clauses {
                let columns = "scope, tag, version, total";
                let read = format!("SELECT {columns} FROM {keyspace}.tag{clause}");
                for (scope, tag, version, total) in database.rows(&read).unwrap_or_default() {
                    let now: (i64, i64) = (version, total);
                    let before = tags.insert((scope, tag), now).unwrap_or_default();
                    assert!(now.0 >= before.0 && now.1 >= before.1, "{before:?} back to {now:?}");
                    seen += usize::from(now != before);
                }
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
        seen
    })
}

#[test]
fn table_equals_topic_after_kills_a_restart_and_an_outage() {
    let Some((brokers, nodes)) = kafka().and_then(|brokers| Some((brokers, cql()?))) else {
        return;
    };
    let Some(servers) = alone() else { return };
    let posts = number("TAGFLOW_CHAIN_POSTS", POSTS);
    let chain = Chain::new(brokers, nodes, posts);
    let mut random = Rng(chain.seed);
    (0..PORTIONS / 2).map(|portion| chain.produce(portion)).for_each(finish);
    let end = Arc::new(AtomicBool::new(false));
    let watcher = watch(&chain.nodes, &chain.keyspace, Arc::clone(&end));
    (0..4).for_each(|_| chain.killed(&mut random));
    chain.outage(&servers, &mut random);
    // The rest arrives while the job is killed and while its broker is down.
    let before = newest_commit(&chain.state());
    let mut job = chain.job("");
    // A job cannot start without a broker, so it runs when the broker stops.
    chain.commits(&mut job, before, 2);
    let producers: Vec<Job> = (PORTIONS / 2..PORTIONS).map(|n| chain.produce(n)).collect();
    servers.node("restart", "kafka-1");
    let before = newest_commit(&chain.state());
    chain.commits(&mut job, before, 2);
    assert!(job.kill());
    producers.into_iter().for_each(finish);
    let again = chain.produce(random.below(PORTIONS));
    chain.killed(&mut random);
    chain.killed(&mut random);
    finish(again);
    ok(&chain.line(&chain.state(), &chain.keyspace, "--bounded"));
    end.store(true, Ordering::Release);
    let seen = watcher.join().unwrap();
    assert!(seen > 10, "{seen} versions were seen");
    let (published, tags) = chain.check(&chain.state(), &chain.keyspace);
    // Again from the beginning, into another keyspace.
    let (state, keyspace) = (chain.folder.path().join("second"), fresh("chain"));
    chain.init(&keyspace);
    ok(&chain.line(&state, &keyspace, "--bounded"));
    let (second, again) = chain.check(&state, &keyspace);
    let database = Database::open(&chain.nodes);
    let at = published.as_of_ms.max(second.as_of_ms);
    let both = [&chain.keyspace, &keyspace].map(|keyspace| rows(&database.tags(keyspace, at)));
    assert_eq!(difference(&both[0], &both[1]), None);
    assert_eq!(tags.len(), again.len());
    database.remove(&chain.keyspace);
    database.remove(&keyspace);
}

#[test]
fn second_job_on_a_state_and_keyspace_exits_within_ten_seconds() {
    let Some((brokers, nodes)) = kafka().and_then(|brokers| Some((brokers, cql()?))) else {
        return;
    };
    let _servers = shared();
    let chain = Chain::new(brokers, nodes, POSTS / 10);
    finish(chain.produce(0));
    let end = Arc::new(AtomicBool::new(false));
    let watcher = watch(&chain.nodes, &chain.keyspace, Arc::clone(&end));
    // Both at once.
    let paced = "--limit-rate 100";
    let mut jobs = vec![chain.job(paced), chain.job(paced)];
    let left = within(10, "one of two to leave", || jobs.iter_mut().position(|job| !job.lives()));
    assert_eq!(jobs.remove(left).code(), Some(3));
    let mut job = jobs.remove(0);
    // A later job.
    chain.commits(&mut job, newest_commit(&chain.state()), 2);
    let begin = now();
    fails(&chain.line(&chain.state(), &chain.keyspace, paced), 3);
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    // A job that takes over.
    let mut newcomer = chain.job(&format!("{paced} --take-over"));
    let code = within(10, "the older job to leave", || job.code());
    assert_eq!(code, 3);
    let before = newest_commit(&chain.state());
    chain.commits(&mut newcomer, before, 3);
    // A job with an empty state on a keyspace that has rows.
    let empty = chain.folder.path().join("empty");
    let error = fails(&chain.line(&empty, &chain.keyspace, paced), 1);
    assert!(error.contains("store"), "{error}");
    assert!(newcomer.lives());
    end.store(true, Ordering::Release);
    assert!(watcher.join().unwrap() > 3);
    newcomer.signal("TERM");
    let (code, ..) = newcomer.end();
    assert_eq!(code, Some(0));
    Database::open(&chain.nodes).remove(&chain.keyspace);
}
