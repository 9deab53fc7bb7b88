//! Storage failures and power losses at every call of a job. The job waits for what passes, and
//! ends with any other error; the next one finds every acknowledged commit in whole.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::common::{
    Batch, Choices, Content, Hooked, Job, Mode, PowerDisk, Repeat, assert_holds, assert_shows,
    memory, seeds,
};
use sinks::commits::{CommitError, Follower, Housekeeper, Retention, newest, visible};
use sinks::storage::Storage;

/// Two jobs in a row, with this many commits each.
#[derive(Clone, Copy)]
struct Plan {
    commits: u64,
    workers: u64,
    does_housekeeping: bool,
}

impl Plan {
    /// What each commit holds. The first of a job is its takeover.
    fn contents(self) -> BTreeMap<u64, Content> {
        let mut contents = BTreeMap::from([(0, Content::default())]);
        for commit in 1..=2 * (self.commits + 1) {
            let is_takeover = commit % (self.commits + 1) == 1;
            let batch = if is_takeover { Batch::default() } else { batch_of(commit) };
            contents.insert(commit, contents[&(commit - 1)].after(commit, &batch));
        }
        contents
    }

    /// Runs on `storage` and sets `acknowledged` to the last commit that succeeded.
    fn run(self, storage: &Arc<dyn Storage>, acknowledged: &mut u64) -> Result<(), CommitError> {
        for owner in 1..3 {
            let mut job = Job::start(Arc::clone(storage), owner, 0)?;
            job.workers = self.workers;
            let mut keeper = keeper(&job);
            *acknowledged = job.commit_number();
            for _ in 0..self.commits {
                let batch = batch_of(job.commit_number() + 1);
                job.commit(&batch)?;
                *acknowledged = job.commit_number();
                if self.does_housekeeping {
                    keeper.step(&job.last, *acknowledged * 1000)?;
                }
            }
        }
        Ok(())
    }
}

/// Merges, and removes files as soon as allowed.
fn keeper(job: &Job) -> Housekeeper {
    let retention = Retention { keep_ms: 0, bytes: Some(0), grace_ms: 0 };
    let (storage, merges) = (Arc::clone(&job.storage), Arc::clone(&job.merges));
    Housekeeper::new(storage, &job.start, retention, merges, &Arc::default())
}

fn batch_of(commit: u64) -> Batch {
    let number = commit as i64;
    // A commit without changes, which only takes up merges.
    if commit.is_multiple_of(6) {
        return Batch::of_tags(number, &[]);
    }
    let mut batch = Batch::of_tags(number, &[(1, number), (2 + commit as u32 % 3, -number)]);
    batch.ids.insert(commit, 5);
    batch.dead.insert(commit);
    batch.with_board(commit as u32 % 2, commit as u32)
}

/// Checks what a crash has left behind, and that a job can continue from it.
fn check(storage: &Arc<dyn Storage>, contents: &BTreeMap<u64, Content>, acknowledged: u64) {
    let found = newest(&**storage).unwrap();
    let commit = found.as_ref().map_or(0, |manifest| manifest.header.commit);
    assert!(commit == acknowledged || commit == acknowledged + 1, "{commit}, {acknowledged}");
    if let Some(manifest) = &found {
        assert_holds(&**storage, manifest, &contents[&commit]);
    }
    // What was acknowledged is visible, and what is visible exists.
    let shown = visible(&**storage).unwrap().unwrap_or(0);
    assert!((acknowledged..=commit).contains(&shown), "commit {shown} of {commit} is visible");
    let follower = Follower::new(Arc::clone(storage));
    follower.step().unwrap();
    if let Some(snapshot) = follower.current() {
        assert_eq!(snapshot.manifest.header.commit, shown);
        assert_shows(&snapshot, &contents[&shown]);
    }

    let mut job = Job::start(Arc::clone(storage), 9, 0).unwrap();
    assert_eq!(job.commit_number(), commit + 1);
    let mut content = contents[&commit].clone();
    let mut keeper = keeper(&job);
    for _ in 0..2 {
        let batch = batch_of(job.commit_number() + 1);
        content = content.after(job.commit_number() + 1, &batch);
        job.commit(&batch).unwrap();
        keeper.step(&job.last, job.commit_number() * 1000).unwrap();
        assert_holds(&**storage, &job.last, &content);
    }
}

#[test]
fn storage_failure_ends_the_job_and_loses_nothing() {
    let plan = Plan { commits: 4, workers: 2, does_housekeeping: true };
    let contents = plan.contents();
    for (mode, for_ever) in [
        (Mode::Before, false),
        (Mode::Torn, false),
        (Mode::After, false),
        (Mode::Before, true),
        (Mode::Torn, true),
    ] {
        for n in 0.. {
            let inner: Arc<dyn Storage> = memory();
            let calls = Arc::new(AtomicUsize::new(0));
            let count = Arc::clone(&calls);
            let failing: Arc<dyn Storage> = Hooked::new(Arc::clone(&inner), move |_| {
                let call = count.fetch_add(1, Ordering::SeqCst);
                (call == n || for_ever && call > n).then_some(mode)
            });
            let mut acknowledged = 0;
            let ended = plan.run(&failing, &mut acknowledged);
            if let Err(error) = ended {
                assert!(error.to_string().contains("injected"), "call {n}, {mode:?}: {error}");
            }
            // If the failing call removed a file that did not exist, the job succeeded.
            check(&inner, &contents, acknowledged);
            if n >= calls.load(Ordering::SeqCst) {
                assert!(n > 300, "{n} calls");
                break;
            }
        }
    }
}

#[test]
fn what_passes_delays_the_job_and_loses_nothing() {
    let plan = Plan { commits: 4, workers: 2, does_housekeeping: true };
    let contents = plan.contents();
    let last = *contents.keys().max().unwrap();
    let full: fn() -> io::Error = || io::ErrorKind::StorageFull.into();
    let quota = || io::ErrorKind::QuotaExceeded.into();
    let handles = || io::Error::from_raw_os_error(24);
    let device = || io::Error::from_raw_os_error(5);
    for (error, mode, times) in [
        (full, Mode::Before, 1),
        (full, Mode::Torn, 7),
        (quota, Mode::Torn, 1),
        (handles, Mode::Before, 3),
        (device, Mode::Before, 1),
        (device, Mode::After, 2),
    ] {
        for n in 0.. {
            let inner: Arc<dyn Storage> = memory();
            let calls = Arc::new(AtomicUsize::new(0));
            let count = Arc::clone(&calls);
            let failing: Arc<dyn Storage> =
                Hooked::answering(error, Arc::clone(&inner), move |_| {
                    let call = count.fetch_add(1, Ordering::SeqCst);
                    (n..n + times).contains(&call).then_some(mode)
                });
            let mut acknowledged = 0;
            let ended = plan.run(&failing, &mut acknowledged);
            assert!(ended.is_ok(), "call {n}, {mode:?}: {ended:?}");
            assert_eq!(acknowledged, last, "call {n}, {mode:?}");
            check(&inner, &contents, acknowledged);
            let left = |folder| inner.list(folder).unwrap().into_iter();
            let mut left = left("segments").chain(left("visible"));
            assert!(left.all(|name| !name.starts_with("tmp-")), "call {n}, {mode:?}");
            if n >= calls.load(Ordering::SeqCst) {
                assert!(n > 300, "{n} calls");
                break;
            }
        }
    }
}

#[test]
fn power_loss_leaves_whole_commits() {
    let plan = Plan { commits: 3, workers: 3, does_housekeeping: false };
    let contents = plan.contents();
    let mut states = 0;
    for n in 0.. {
        let disk = PowerDisk::dying_at(n);
        let storage: Arc<dyn Storage> = disk.clone();
        let mut acknowledged = 0;
        let ended = plan.run(&storage, &mut acknowledged);
        let mut choices = Choices::default();
        loop {
            let after: Arc<dyn Storage> = disk.after_loss(&mut choices);
            check(&after, &contents, acknowledged);
            states += 1;
            if !choices.move_on() {
                break;
            }
        }
        if ended.is_ok() {
            assert!(n > 100 && states > 400, "{n} effects, {states} states");
            break;
        }
    }
}

/// All permutations of `n` indices.
fn orders(n: usize) -> Vec<Vec<usize>> {
    let Some(last) = n.checked_sub(1) else { return vec![Vec::new()] };
    let insert = |order: Vec<usize>| {
        (0..n).map(move |at| {
            let mut order = order.clone();
            order.insert(at, last);
            order
        })
    };
    orders(last).into_iter().flat_map(insert).collect()
}

/// States that power losses left behind: how many were checked, and which distinct ones.
#[derive(Default)]
struct States {
    visits: u64,
    distinct: BTreeSet<u64>,
}

#[test]
fn power_loss_within_one_commit_leaves_whole_commits() {
    let before = Batch::of_tags(1, &[(1, 1), (2, 2)]);
    let mut batch = Batch::of_tags(2, &[(1, 5)]).with_board(0, 1);
    batch.ids.insert(7, 5);
    batch.dead.insert(7);
    let mut states = States::default();
    // Few files in every order, and many files in two orders.
    for order in orders(4) {
        for first in 1..=order.len() {
            states.visit(1, [&before, &batch], &(order.clone(), first));
        }
    }
    let tags: Vec<_> = (1..30).map(|tag| (tag, 5)).collect();
    let wide = Batch { tags: tags.into_iter().collect(), ..batch };
    for (order, first) in [((0..9).collect(), 9), ((0..9).rev().collect(), 4)] {
        states.visit(6, [&before, &wide], &(order, first));
    }
    let States { visits, distinct } = states;
    println!("{visits} states of one commit, {} of them distinct", distinct.len());
    assert!(distinct.len() >= 1000, "{} states", distinct.len());
}

impl States {
    /// Loses power before each effect of the second of two commits, whose files are written in
    /// `order`, and checks every state that can result.
    fn visit(&mut self, workers: u64, batches: [&Batch; 2], order: &(Vec<usize>, usize)) {
        let mut contents = BTreeMap::from([(1, Content::default())]);
        contents.insert(2, contents[&1].after(2, batches[0]));
        contents.insert(3, contents[&2].after(3, batches[1]));
        let mut from = None;
        for n in 0.. {
            let at = from.map_or(usize::MAX, |from: usize| from + n);
            let disk = PowerDisk::dying_at(at);
            let storage: Arc<dyn Storage> = disk.clone();
            let mut job = Job::start(storage, 1, 0).unwrap();
            job.workers = workers;
            job.commit(batches[0]).unwrap();
            if from.is_none() {
                // The first run only finds out where the second commit begins.
                from = Some(disk.effects() - 1);
                continue;
            }
            job.order = Some(order.clone());
            let ended = job.commit(batches[1]).map(drop);
            let acknowledged = 2 + u64::from(ended.is_ok());
            let mut choices = Choices::default();
            loop {
                let after = disk.after_loss(&mut choices);
                let mut hasher = DefaultHasher::new();
                after.content().hash(&mut hasher);
                self.distinct.insert(hasher.finish());
                let after: Arc<dyn Storage> = after;
                check(&after, &contents, acknowledged);
                self.visits += 1;
                if !choices.move_on() {
                    break;
                }
            }
            if ended.is_ok() {
                return;
            }
        }
    }
}

#[test]
fn power_loss_during_housekeeping_leaves_whole_commits() {
    let plan = Plan { commits: 5, workers: 1, does_housekeeping: true };
    let contents = plan.contents();
    for n in 0.. {
        let disk = PowerDisk::dying_at(n);
        let storage: Arc<dyn Storage> = disk.clone();
        let mut acknowledged = 0;
        let ended = plan.run(&storage, &mut acknowledged);
        // There are too many states to try them all.
        for seed in seeds(8) {
            let _repeat = Repeat(seed);
            let after: Arc<dyn Storage> = disk.after_loss(&mut Choices::random(seed));
            check(&after, &contents, acknowledged);
        }
        if ended.is_ok() {
            assert!(n > 200, "{n} effects");
            break;
        }
    }
}
