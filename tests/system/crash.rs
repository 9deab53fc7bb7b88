//! `kill -9` at random moments, of a job on a random number of workers and of the service that
//! reads its commits: counts end exact, and no reader sees a commit, version or count decrease.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use schemas::tags::{key, limited};
use simulate::rng::Rng;
use simulate::seed::seed;
use sinks::commits::Follower;
use sinks::storage::DiskStorage;

use super::harness::{Job, eventually, export, folder, newest_commit, number, ok};
use super::oracle::{Input, check, count};
use super::reconcile::findings;
use super::serve::{get, serve};

/// Kills that must hit a running process, unless `TAGFLOW_KILLS` sets another number.
const KILLS: u32 = 20;
/// Enough posts that a job is never done before it is killed: that takes two or three seconds, and
/// longer on a busy machine.
const POSTS_PER_KILL: u32 = 100_000;
const RATE: u32 = 20_000;

/// Polls the newest visible commit. Fails if it ever decreases. Returns how many commits it saw.
fn poll(state: PathBuf, end: Arc<AtomicBool>) -> std::thread::JoinHandle<usize> {
    std::thread::spawn(move || {
        let storage = eventually("a state", || DiskStorage::open_existing(&state).ok());
        let (mut last, mut seen) = ((0, 0), 0);
        // A new reader each time, which remembers nothing.
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
    mut random: Rng,
    end: Arc<AtomicBool>,
    kills: Arc<AtomicU32>,
) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
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

/// The first tag of a file of posts. Not every post has one.
fn first_tag(input: &Path) -> String {
    let lines = BufReader::new(File::open(input).unwrap()).lines();
    let tag_of = |line: String| {
        let post: serde_json::Value = serde_json::from_str(&line).unwrap();
        let mut first = None;
        limited(post["caption"].as_str()?, key, |_, key, _| {
            first.get_or_insert_with(|| key.to_string());
        });
        first
    };
    lines.map(Result::unwrap).find_map(tag_of).expect("one of many posts has a tag")
}

/// Restarts the job and kills it until `kills` have hit.
fn kill_often(input: &Path, state: &Path, kills: u32, random: &mut Rng) {
    let mut hits = 0;
    while hits < kills {
        let workers = 1 + random.below(4);
        let before = newest_commit(state);
        let mut job = Job::start(&format!(
            "run --input {} --state {} --workers {workers} --bounded --limit-rate {RATE}",
            input.display(),
            state.display(),
        ));
        // The takeover, then one commit with counts.
        eventually("an own commit", || {
            assert!(job.lives(), "the input ended after {hits} kills: it is too small");
            (newest_commit(state) > before + 1).then_some(())
        });
        std::thread::park_timeout(Duration::from_millis(200 + random.below(1800)));
        hits += u32::from(job.kill());
    }
}

#[test]
fn kills_leave_exact_counts_and_readers_never_go_back() {
    let seed = seed();
    let mut random = Rng(seed);
    let folder = folder();
    let (input, state) = (folder.path().join("posts.ndjson"), folder.path().join("state"));
    let out = input.display();
    let kills = number("TAGFLOW_KILLS", KILLS.into()) as u32;
    let posts = kills * POSTS_PER_KILL;
    ok(&format!("generate --posts {posts} --seed {seed} --zipf 1.05 --out {out}"));
    let end = Arc::new(AtomicBool::new(false));
    let reader = poll(state.clone(), Arc::clone(&end));
    let services = Arc::new(AtomicU32::new(0));
    let client = ask(
        state.clone(),
        first_tag(&input),
        Rng(random.bits()),
        Arc::clone(&end),
        Arc::clone(&services),
    );
    kill_often(&input, &state, kills, &mut random);
    ok(&format!("run --input {out} --state {} --workers 2 --bounded", state.display()));
    // On a slow machine, wait until enough services were killed as well.
    let killed = || services.load(Ordering::Relaxed);
    eventually("services killed", || (killed() >= kills / 2).then_some(()));
    end.store(true, Ordering::Release);
    assert!(reader.join().unwrap() > kills as usize, "the reader saw commits of every start");
    client.join().unwrap();
    println!("{} services were killed as well", killed());
    let (rows, summary) = export(&state, "");
    let counted = count(&Input::file(&input), summary.as_of.unwrap(), None);
    let keys = recount::differing(&counted.rows, &rows).count();
    // Compare every row and id of the last commit with a second count of the log.
    let line = format!("reconcile --input {out} --state {} --workers 2 --json", state.display());
    let (drift, last) = findings(&line);
    println!("{kills} kills, {keys} keys differ, reconcile: {} values differ", last["drift"]);
    check(&Input::file(&input), &rows, &summary);
    assert!(drift.is_empty() && last["checked"].as_u64() > Some(0), "{last} {drift:?}");
}
