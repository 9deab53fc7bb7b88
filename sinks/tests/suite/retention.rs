//! Retention: which files are kept by age and by size, and that only the owner removes files, after
//! a grace period.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::common::{Batch, Hooked, Job, Mode, all_files, countdown, key_of, memory};
use schemas::manifest::Manifest;
use schemas::rows::{DeadLetters, Ids, Table, Tags};
use sinks::commits::{
    CommitError, Housekeeper, Retention, RetentionTask, Snapshot, create, list_commits, load,
    make_visible, manifest_name, newest, open_table, segment_name, visible,
};
use sinks::storage::{MemoryStorage, Storage};
use sinks::store::ServedTag;
use sinks::store_check::StoreCheck;

const ALL: Retention = Retention { keep_ms: i64::MAX / 2, bytes: Some(u64::MAX), grace_ms: 0 };
const NONE: Retention = Retention { keep_ms: 0, bytes: Some(0), grace_ms: 0 };

/// The retention task of a job.
fn task_of(job: &Job, retention: Retention) -> RetentionTask {
    RetentionTask::new(Arc::clone(&job.storage), job.start.generation, retention)
}

/// A job that has made commits up to `last`, each of which names just one file of its own.
fn unrelated_commits(storage: Arc<dyn Storage>, last: u64) -> Job {
    let mut job = Job::start(storage, 1, 1_000_000).unwrap();
    commit_unrelated(&mut job, last);
    job
}

fn commit_unrelated(job: &mut Job, last: u64) {
    while job.commit_number() < last {
        let commit = job.commit_number() as i64 + 1;
        let mut next = job.prepare(&Batch::of_tags(commit, &[(1, commit)])).unwrap();
        let segments = &mut next.body.segments;
        *segments = segments.split_off(segments.len() - 1);
        job.create(next).unwrap();
    }
}

/// The commits that can still be opened, after checking that each opens completely.
fn open_commits(storage: &dyn Storage) -> Vec<u64> {
    let whole = |commit: &u64| match load(storage, *commit) {
        Ok(manifest) => {
            Snapshot::open(storage, manifest, None).unwrap();
            true
        }
        Err(CommitError::Missing(_)) => false,
        Err(error) => panic!("{error}"),
    };
    list_commits(storage).unwrap().into_iter().filter(whole).collect()
}

#[test]
fn commits_are_kept_for_their_time() {
    let job = unrelated_commits(memory(), 10);
    let mut task = task_of(&job, Retention { keep_ms: 3000, ..ALL });
    task.step(&job.last, 0).unwrap();
    assert_eq!(open_commits(&*job.storage), [7, 8, 9, 10], "they are a second apart");
    assert_eq!(list_commits(&*job.storage).unwrap(), [1, 7, 8, 9, 10], "and the takeover");
    assert_eq!(job.storage.list("segments").unwrap().len(), 4);
}

#[test]
fn commits_are_kept_within_the_byte_budget() {
    for (times, kept) in [(0, 2), (1, 2), (2, 3), (3, 4), (5, 6)] {
        let job = unrelated_commits(memory(), 9);
        let bytes = Some(job.last.body.segments[0].bytes * times);
        task_of(&job, Retention { bytes, ..ALL }).step(&job.last, 0).unwrap();
        assert_eq!(open_commits(&*job.storage).len(), kept, "{times} times the live bytes");
    }
    // By default the budget is the size of the newest commit: the newest, and one like it.
    let job = unrelated_commits(memory(), 9);
    task_of(&job, Retention { bytes: None, ..ALL }).step(&job.last, 0).unwrap();
    assert_eq!(open_commits(&*job.storage), [8, 9]);
}

#[test]
fn files_shared_with_the_newest_commit_cost_nothing() {
    let mut job = Job::start(memory(), 1, 1_000_000).unwrap();
    for commit in 2..10 {
        job.commit(&Batch::of_tags(commit, &[(1, commit)])).unwrap();
    }
    task_of(&job, Retention { bytes: Some(0), ..ALL }).step(&job.last, 0).unwrap();
    assert_eq!(open_commits(&*job.storage), (1..10).collect::<Vec<_>>());
}

#[test]
fn newest_two_are_always_kept() {
    let storage = memory();
    let mut job = unrelated_commits(storage.clone(), 2);
    let mut task = task_of(&job, NONE);
    for last in 3..20 {
        task.step(&job.last, last).unwrap();
        commit_unrelated(&mut job, last);
        task.step(&job.last, last).unwrap();
        assert_eq!(open_commits(&*storage), [last - 1, last]);
    }
    // After a restart: the takeover, and the last commit of the job before.
    let next = Job::start(storage.clone(), 2, 0).unwrap();
    let mut task = task_of(&next, NONE);
    task.step(&next.last, 0).unwrap();
    assert_eq!(open_commits(&*storage), [19, 20]);
}

#[test]
fn grace_is_short_when_unneeded_files_exceed_the_budget() {
    let storage = memory();
    let mut job = unrelated_commits(storage.clone(), 5);
    let each = job.last.body.segments[0].bytes;
    let budget = 3 * each + each / 2;
    let retention = Retention { keep_ms: 0, bytes: Some(budget), grace_ms: 600_000 };
    let mut task = task_of(&job, retention);
    let segments = || storage.list("segments").unwrap().len();
    for (now_ms, last) in [(0, 6), (1000, 7), (2000, 8)] {
        commit_unrelated(&mut job, last);
        assert_eq!(task.step(&job.last, now_ms).unwrap(), 0);
    }
    // Of seven files the newest two are kept. Five wait, and the budget has room for 3.5 of them.
    assert_eq!((segments(), task.step(&job.last, 9_999).unwrap()), (7, 0));
    assert!(task.step(&job.last, 10_000).unwrap() > 0, "files unneeded since 0 are removed");
    assert_eq!((segments(), open_commits(&*storage)), (4, vec![5, 6, 7, 8]));
    assert_eq!(
        task.step(&job.last, 599_999).unwrap(),
        0,
        "the rest fits the budget and has its grace"
    );
    assert!(task.step(&job.last, 601_000).unwrap() > 0);
    assert_eq!((segments(), open_commits(&*storage)), (3, vec![6, 7, 8]));
}

#[test]
fn nothing_is_removed_within_its_grace() {
    let storage = memory();
    let mut job = unrelated_commits(storage.clone(), 5);
    let mut task = task_of(&job, Retention { grace_ms: 600, ..NONE });
    let before = all_files(&*storage);
    let manifests: Vec<Manifest> = (1..=5).map(|commit| load(&*storage, commit).unwrap()).collect();
    for now_ms in [1000, 1300, 1599] {
        assert_eq!(task.step(&job.last, now_ms).unwrap(), 0);
        assert_eq!(all_files(&*storage), before, "at {now_ms}");
        let same = |m: &Manifest| load(&*storage, m.header.commit).unwrap() == *m;
        assert!(manifests.iter().all(same), "the content of a takeover has its grace as well");
    }
    // Files that become unneeded later are removed later.
    commit_unrelated(&mut job, 6);
    assert_eq!(task.step(&job.last, 1599).unwrap(), 0);
    assert!(task.step(&job.last, 1600).unwrap() > 0);
    assert_eq!(open_commits(&*storage), [4, 5, 6]);
    task.step(&job.last, 2198).unwrap();
    assert_eq!(open_commits(&*storage), [4, 5, 6]);
    task.step(&job.last, 2199).unwrap();
    assert_eq!(open_commits(&*storage), [5, 6]);
}

#[test]
fn takeover_is_stripped_and_never_removed() {
    let storage = memory();
    let mut zombie = unrelated_commits(storage.clone(), 1);
    let stale = zombie.prepare(&Batch::of_tags(1, &[(1, 1)])).unwrap();
    let mut job = Job::start(storage.clone(), 2, 0).unwrap();
    commit_unrelated(&mut job, 8);
    let size = storage.open(&manifest_name(2)).unwrap().len();
    let mut task = task_of(&job, NONE);
    task.step(&job.last, 0).unwrap();
    assert_eq!(list_commits(&*storage).unwrap(), [1, 2, 7, 8]);
    assert!(storage.open(&manifest_name(2)).unwrap().len() < size / 2);
    for takeover in [1, 2] {
        let missing = load(&*storage, takeover);
        assert!(matches!(missing, Err(CommitError::Missing(c)) if c == takeover), "{missing:?}");
    }
    let fenced = zombie.create(stale).err();
    assert!(matches!(fenced, Some(CommitError::Fenced { commit: 2 })), "{fenced:?}");
    // Neither another step nor another job's step changes them again.
    assert_eq!(task.step(&job.last, 1).unwrap(), 0);
    let next = Job::start(storage.clone(), 3, 0).unwrap();
    task_of(&next, NONE).step(&next.last, 0).unwrap();
    assert_eq!(list_commits(&*storage).unwrap(), [1, 2, 8, 9]);
}

#[test]
fn leftovers_of_older_jobs_are_removed() {
    let storage = memory();
    let mut old = unrelated_commits(storage.clone(), 4);
    old.prepare(&Batch::of_tags(9, &[(1, 9)])).unwrap();
    let orphan = segment_name(&old.start, 5, Tags::NAME, "t0");
    assert!(storage.open(&orphan).is_ok());
    let mut job = Job::start(storage.clone(), 2, 0).unwrap();
    let rubbish = [
        orphan,
        "segments/tmp-0000000001-00000000-0000000005-tags-t7.arrow".to_owned(),
        format!("commits/tmp-0000000004.manifest-{}", old.start.owner),
        "commits/tmp-0000000001.manifest".to_owned(),
        "visible/tmp-0000000001".to_owned(),
        "visible/0000000001".to_owned(),
    ];
    let ours = segment_name(&job.start, 6, Tags::NAME, "t0");
    job.prepare(&Batch::of_tags(9, &[(1, 9)])).unwrap();
    let others = [
        ours,
        "segments/tmp-0000000005-00000000-0000000006-tags-m1.arrow".to_owned(),
        format!("commits/tmp-0000000006.manifest-{}", job.start.owner),
        "visible/0000000005".to_owned(),
        "segments/notes.txt".to_owned(),
        "commits/README".to_owned(),
        "visible/x".to_owned(),
    ];
    for name in rubbish.iter().chain(&others) {
        storage.append(name, b"").unwrap();
    }
    let mut task = task_of(&job, Retention { grace_ms: 50, ..NONE });
    task.step(&job.last, 100).unwrap();
    assert!(rubbish.iter().all(|name| storage.open(name).is_ok()), "they have a grace");
    task.step(&job.last, 150).unwrap();
    for name in &rubbish {
        assert!(storage.open(name).is_err(), "{name} should be removed");
    }
    for name in &others {
        assert!(storage.open(name).is_ok(), "{name} should stay");
    }
}

#[test]
fn orphans_have_a_short_grace() {
    let storage = memory();
    let mut old = unrelated_commits(storage.clone(), 4);
    old.prepare(&Batch::of_tags(9, &[(1, 9)])).unwrap();
    let orphan = segment_name(&old.start, 5, Tags::NAME, "t0");
    let job = Job::start(storage.clone(), 2, 0).unwrap();
    let retention = Retention { keep_ms: 0, bytes: Some(u64::MAX), grace_ms: 600_000 };
    let mut task = task_of(&job, retention);
    let named = storage.list("segments").unwrap().len() - 1;
    for (now_ms, removed) in [(0, 0), (9_999, 0), (10_000, 1), (599_999, 0)] {
        assert_eq!(task.step(&job.last, now_ms).unwrap(), removed, "at {now_ms}");
    }
    assert!(storage.open(&orphan).is_err());
    assert_eq!(storage.list("segments").unwrap().len(), named, "a killed job left no other file");
}

#[test]
fn last_pointer_is_kept_until_this_job_has_one() {
    let storage = memory();
    let job = unrelated_commits(storage.clone(), 4);
    let (start, wall_ms) = (crate::common::start(2, 0), 0);
    assert_eq!(start.wall_ms, wall_ms);
    let takeover = sinks::commits::take_over(&*storage, &start, |_| None).unwrap();
    let mut task = RetentionTask::new(storage.clone(), takeover.header.generation, NONE);
    task.step(&takeover, 0).unwrap();
    assert_eq!(visible(&*storage).unwrap(), Some(job.commit_number()));
    make_visible(&*storage, &takeover.header).unwrap();
    task.step(&takeover, 0).unwrap();
    assert_eq!(storage.list("visible").unwrap(), ["0000000005"]);
}

#[test]
fn superseded_owner_removes_nothing() {
    let storage = memory();
    let old = unrelated_commits(storage.clone(), 6);
    let mut task = task_of(&old, Retention { grace_ms: 10, ..NONE });
    task.step(&old.last, 0).unwrap();
    let mut job = Job::start(storage.clone(), 2, 0).unwrap();
    let files = all_files(&*storage);
    assert_eq!(task.step(&old.last, 1000).unwrap(), 0);
    assert_eq!(all_files(&*storage), files);
    // Nor if the owner's takeover cannot be read, or the owner has made further commits.
    storage.damage(&manifest_name(7), |bytes| bytes[80] ^= 1);
    assert_eq!(task.step(&old.last, 2000).unwrap(), 0);
    storage.damage(&manifest_name(7), |bytes| bytes[80] ^= 1);
    job.commit(&Batch::of_tags(9, &[(2, 2)])).unwrap();
    let files = all_files(&*storage);
    assert_eq!(task.step(&old.last, 3000).unwrap(), 0);
    assert_eq!(all_files(&*storage), files);
}

#[test]
fn removal_works_while_commits_continue() {
    let storage = memory();
    let mut job = unrelated_commits(storage.clone(), 6);
    let mut task = task_of(&job, NONE);
    // Merges take time, so the newest commit that housekeeping knows is always an old one.
    let seen = job.last.clone();
    commit_unrelated(&mut job, 8);
    assert!(task.step(&seen, 0).unwrap() > 0);
    assert_eq!(
        open_commits(&*storage),
        [5, 6, 7, 8],
        "the newest two of those it knew, and later ones"
    );
}

#[test]
fn damaged_or_missing_old_manifests_do_not_stop_a_job() {
    let storage = memory();
    let mut job = unrelated_commits(storage.clone(), 6);
    storage.damage(&manifest_name(3), |bytes| bytes[80] ^= 1);
    let mut task = task_of(&job, NONE);
    task.step(&job.last, 0).unwrap();
    // It may be a takeover, which fences another job, so it stays.
    assert_eq!(list_commits(&*storage).unwrap(), [1, 3, 5, 6]);
    commit_unrelated(&mut job, 7);
    task.step(&job.last, 1).unwrap();
    assert_eq!(list_commits(&*storage).unwrap(), [1, 3, 6, 7]);

    // A superseded owner, in its last step, removes a manifest that this one is reading.
    let inner = storage.clone();
    let racing = Hooked::new(storage.clone(), move |call| {
        if call.what == "open" && call.name == manifest_name(6) {
            inner.unlink(&call.name).unwrap();
        }
        None
    });
    let mut task = RetentionTask::new(racing, job.start.generation, NONE);
    task.step(&job.last, 0).unwrap();
    assert_eq!(list_commits(&*storage).unwrap(), [1, 3, 7]);
}

#[test]
fn failed_step_leaves_every_manifest_whole() {
    let build = || {
        let storage = memory();
        unrelated_commits(storage.clone(), 3);
        let mut job = Job::start(storage.clone(), 2, 2_000_000).unwrap();
        commit_unrelated(&mut job, 9);
        (storage, job.last)
    };
    for mode in [Mode::Before, Mode::After] {
        let mut n = 0;
        loop {
            let (storage, last): (Arc<MemoryStorage>, Manifest) = build();
            let (failing, effects) = countdown(storage.clone(), n, mode);
            let generation = last.header.generation;
            let done = RetentionTask::new(failing, generation, NONE).step(&last, 0);
            let open = open_commits(&*storage);
            assert!(open.ends_with(&[8, 9]) && visible(&*storage).unwrap() == Some(9), "{n}");
            // The next step completes this one.
            RetentionTask::new(storage.clone(), generation, NONE).step(&last, 0).unwrap();
            assert_eq!(open_commits(&*storage), [8, 9], "{mode:?} {n}");
            assert_eq!(list_commits(&*storage).unwrap(), [1, 4, 8, 9]);
            if n >= effects.load(Ordering::SeqCst) {
                break assert!(n > 10 && done.is_ok());
            }
            n += 1;
        }
    }
}

#[test]
fn manifests_are_durably_removed_before_their_files() {
    let storage = memory();
    let job = unrelated_commits(storage.clone(), 6);
    let synced = Arc::new(AtomicBool::new(true));
    let is_synced = Arc::clone(&synced);
    let watching = Hooked::new(storage, move |call| {
        match (call.what, call.name.split('/').next()) {
            ("unlink", Some("commits")) => is_synced.store(false, Ordering::SeqCst),
            ("sync_folder", Some("commits")) => is_synced.store(true, Ordering::SeqCst),
            ("unlink", Some("segments")) => assert!(is_synced.load(Ordering::SeqCst)),
            _ => {}
        }
        None
    });
    let removed = RetentionTask::new(watching, 1, NONE).step(&job.last, 0).unwrap();
    assert!(removed >= 6 && synced.load(Ordering::SeqCst));
}

#[test]
fn merges_that_no_commit_takes_up_are_removed() {
    let storage = memory();
    let mut job = Job::start(storage.clone(), 1, 0).unwrap();
    let mut keeper =
        Housekeeper::new(storage.clone(), &job.start, NONE, job.merges.clone(), &Arc::default());
    for commit in 2..6 {
        let ids = [(commit, commit as u32)].into();
        job.commit(&Batch { ids, ..Batch::default() }).unwrap();
    }
    keeper.step(&job.last, 0).unwrap();
    // Meanwhile one of its inputs expires, so the merge comes too late.
    let late = job.merges.take();
    job.commit(&Batch { floor_hour: Some(3), ..Batch::default() }).unwrap();
    assert!(!late[0].apply(&mut job.last.body.segments.clone()));
    for now_ms in [2000, 4000] {
        job.commit(&Batch::default()).unwrap();
        keeper.step(&job.last, now_ms).unwrap();
    }
    let named = job.last.body.segments.len();
    assert_eq!((named, storage.list("segments").unwrap().len()), (3, 3));
    assert_eq!(newest(&*storage).unwrap(), Some(job.last.clone()));
    create(&*storage, &job.last).unwrap();
}

/// The state of `job`, from which all unneeded files are removed once a segment is opened.
fn vanishing(storage: &Arc<MemoryStorage>, job: &Job) -> Arc<Hooked> {
    let (inner, last) = (storage.clone(), job.last.clone());
    let armed = AtomicBool::new(true);
    Hooked::new(storage.clone(), move |call| {
        let strikes = call.what == "open" && call.name.starts_with("segments/");
        if strikes && armed.swap(false, Ordering::SeqCst) {
            let mut task = RetentionTask::new(inner.clone(), last.header.generation, NONE);
            assert!(task.step(&last, 0).unwrap() > 0);
        }
        None
    })
}

#[test]
fn commit_removed_while_opening_is_reported_as_missing() {
    type Open = fn(&dyn Storage, Manifest) -> Option<CommitError>;
    let snapshot: Open = |storage, commit| Snapshot::open(storage, commit, None).err();
    let ids: Open = |storage, commit| open_table::<Ids>(storage, &commit).err();
    let dead: Open = |storage, commit| open_table::<DeadLetters>(storage, &commit).err();
    let cases = [
        (Batch::of_tags(1, &[(1, 1)]), snapshot),
        (Batch::default().with_board(0, 1), snapshot),
        (Batch { ids: [(1, 1)].into(), ..Batch::default() }, ids),
        (Batch { dead: [1].into(), ..Batch::default() }, dead),
    ];
    // The second is a takeover, whose header stays.
    for (commit, (batch, open)) in [2, 3].iter().flat_map(|c| cases.iter().map(move |of| (*c, of)))
    {
        let storage = memory();
        Job::start(storage.clone(), 1, 0).unwrap().commit(batch).unwrap();
        let mut job = Job::start(storage.clone(), 2, 0).unwrap();
        commit_unrelated(&mut job, 6);
        let old = load(&*storage, commit).unwrap();
        let told = open(&*vanishing(&storage, &job), old).unwrap();
        assert!(matches!(told, CommitError::Missing(c) if c == commit), "{commit}: {told}");
    }
}

#[test]
fn store_check_skips_a_commit_removed_while_opening() {
    let storage = memory();
    let mut job = unrelated_commits(storage.clone(), 2);
    let claimed = job.latest.current();
    commit_unrelated(&mut job, 3);
    let version = Some(job.last.header.version);
    commit_unrelated(&mut job, 6);
    let racing = vanishing(&storage, &job);
    let mut check = StoreCheck::new(&*racing, claimed, &|_, _| true);
    let (scope, tag) = key_of(1);
    check.check_tag(&ServedTag { scope, tag, version, ..ServedTag::default() }).unwrap();
    assert_eq!(
        check.take_unresolved().tags.len(),
        1,
        "it is read again once the store shows a newer one"
    );
}
