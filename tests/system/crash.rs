//! `kill -9` at any moment, of the job on a random number of workers and of the service that reads
//! its commits: counts end exact, and no reader sees a commit, a version or a count go back.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use schemas::tags::{key, limited};
use sinks::commits::Follower;
use sinks::storage::DiskStorage;

use super::harness::{Job, eventually, export, folder, newest_commit, ok};
use super::reconcile::told;
use super::recount::{Input, check, count};
use super::serve::{get, serve};

/// How many kills must hit a living process, where `TAGFLOW_KILLS` names no other number.
const KILLS: u32 = 20;
/// Posts that last for as many kills: a start reads a second or two at [`RATE`] before it is hit.
const POSTS_PER_KILL: u32 = 100_000;
const RATE: u32 = 30_000;

fn kills() -> u32 {
    std::env::var("TAGFLOW_KILLS").map_or(KILLS, |number| number.parse().unwrap())
}

/// Numbers that a seed gives again.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// One from 0 on, less than `n`.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// Reads the newest visible commit without a pause; fails if one goes back. Returns how many
/// commits it saw.
fn poll(state: PathBuf, end: Arc<AtomicBool>) -> std::thread::JoinHandle<usize> {
    std::thread::spawn(move || {
        let storage = eventually("a state", || DiskStorage::open_existing(&state));
        let (mut last, mut seen) = ((0, 0), 0);
        // A new reader at every turn knows nothing of the turn before.
        while !end.load(Ordering::Acquire) {
            let reader = Follower::new(Arc::new(storage.clone()));
            reader.step().unwrap();
            if let Some(snapshot) = reader.current() {
                let header = &snapshot.manifest.header;
                let now = (header.commit, header.version);
                assert!(now.0 >= last.0 && now.1 >= last.1, "{last:?} went back to {now:?}");
                assert_eq!(now.0 > last.0, now.1 > last.1, "{last:?} and {now:?}");
                seen += usize::from(now != last);
                last = now;
            }
            std::thread::park_timeout(Duration::from_millis(2));
        }
        seen
    })
}

/// What a client of the API has seen last.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    commit: u64,
    version: u64,
    total: u64,
}

/// Asks a service for one tag, and kills the service and starts another one, again and again;
/// fails if an answer is older than one before. `kills` counts the services it killed.
fn ask(
    state: PathBuf,
    tag: String,
    end: Arc<AtomicBool>,
    kills: Arc<AtomicU32>,
) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let mut random = Random(u64::from(std::process::id()) + 1);
        let mut last = Seen::default();
        eventually("a commit", || (newest_commit(&state) > 1).then_some(()));
        while !end.load(Ordering::Acquire) {
            let mut served = serve(&state, "");
            for _ in 0..=random.below(40) {
                let answer = get(&served.address, &format!("/tags/{tag}"));
                // Before the first commit there is nothing to serve, and the tag is unknown.
                if answer.status == 200 {
                    let tag = answer.json();
                    let number = |name: &str| tag[name].as_u64().unwrap();
                    let [commit, version, total] = ["commit", "version", "total"].map(number);
                    let now = Seen { commit, version, total };
                    let newer = commit >= last.commit && version >= last.version;
                    assert!(newer && total >= last.total, "{last:?} went back to {now:?}");
                    last = now;
                } else {
                    assert_eq!(last.commit, 0, "{} after {last:?}", answer.status);
                }
                std::thread::park_timeout(Duration::from_millis(random.below(50)));
            }
            kills.fetch_add(u32::from(served.job.kill()), Ordering::Relaxed);
        }
        assert!(last.total > 0, "{last:?}");
    })
}

/// The first tag of a file of posts: what is common comes early.
fn first_tag(input: &Path) -> String {
    let text = BufReader::new(File::open(input).unwrap()).lines().next().unwrap().unwrap();
    let caption = serde_json::from_str::<serde_json::Value>(&text).unwrap()["caption"].clone();
    let mut first = None;
    let caption = caption.as_str().unwrap();
    limited(caption, key, |_, key, _| first = first.take().or(Some(key.to_string())));
    first.unwrap()
}

/// Starts the job again and again and kills it; true once `kills` have hit.
fn kill_often(input: &Path, state: &Path, kills: u32, random: &mut Random) {
    let mut hits = 0;
    while hits < kills {
        let workers = 1 + random.below(4);
        let before = newest_commit(state);
        let mut job = Job::start(&format!(
            "run --input {} --state {} --workers {workers} --bounded --limit-rate {RATE}",
            input.display(),
            state.display(),
        ));
        // The takeover, then a commit of this start's own.
        eventually("a commit newer than the start's", || {
            assert!(job.lives(), "the input ended after {hits} kills: it is too small");
            (newest_commit(state) > before + 1).then_some(())
        });
        std::thread::park_timeout(Duration::from_millis(200 + random.below(1800)));
        hits += u32::from(job.kill());
    }
}

#[test]
fn kills_leave_exact_counts_and_no_reader_sees_time_go_back() {
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    let mut random = Random(seed);
    let folder = folder();
    let (input, state) = (folder.path().join("posts.ndjson"), folder.path().join("state"));
    let out = input.display();
    let kills = kills();
    let posts = kills * POSTS_PER_KILL;
    ok(&format!("generate --posts {posts} --seed {seed} --zipf 1.05 --out {out}"));
    let end = Arc::new(AtomicBool::new(false));
    let reader = poll(state.clone(), Arc::clone(&end));
    let services = Arc::new(AtomicU32::new(0));
    let client = ask(state.clone(), first_tag(&input), Arc::clone(&end), Arc::clone(&services));
    kill_often(&input, &state, kills, &mut random);
    ok(&format!("run --input {out} --state {} --workers 2 --bounded", state.display()));
    // However slow the machine is, services are killed as well.
    let killed = || services.load(Ordering::Relaxed);
    eventually("services killed", || (killed() >= kills / 2).then_some(()));
    end.store(true, Ordering::Release);
    assert!(reader.join().unwrap() > kills as usize, "the reader saw commits of every start");
    client.join().unwrap();
    println!("{} services were killed as well", killed());
    let (rows, summary) = export(&state, "");
    let counted = count(&Input::file(&input), summary.as_of.unwrap(), None);
    let keys = recount::differing(&counted.rows, &rows).count();
    // Another program over the same log, held against every row and id of the last commit.
    let line = format!("reconcile --input {out} --state {} --workers 2 --json", state.display());
    let (drift, last) = told(&line);
    println!("{kills} kills, {keys} keys differ, reconcile: {} values differ", last["drift"]);
    check(&Input::file(&input), &rows, &summary);
    assert!(drift.is_empty() && last["checked"].as_u64() > Some(0), "{last} {drift:?}");
}
