//! Rollback: the content of an older commit under a higher number, and no reader misses a change.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::common::{Batch, Content, Job, Mode, all_files, assert_holds, countdown, memory, start};
use schemas::manifest::{Finished, Manifest};
use schemas::rows::{Table, Tags};
use sinks::commits::{
    CommitError, Follower, Retention, RetentionTask, RollbackError, create, list_commits, load,
    manifest_name, newest, rollback, segment_name, visible,
};
use sinks::storage::{MemoryStorage, Storage};

/// Makes commits 2 to 6. The contents are indexed by commit.
fn five_commits(storage: Arc<MemoryStorage>) -> (Job, Vec<Content>) {
    let mut job = Job::start(storage, 1, 1_000_000).unwrap();
    let mut contents = vec![Content::default(); 2];
    let batches = [
        Batch::of_tags(20, &[(1, 1), (2, 2), (3, 3)]).with_board(0, 1),
        Batch::of_tags(30, &[(4, 4)]).with_board(1, 2),
        Batch::of_tags(40, &[(2, 5), (5, 5)]).with_board(0, 3),
        Batch::of_tags(50, &[(6, 6), (7, 0)]).with_board(2, 4),
        Batch::of_tags(60, &[(2, 9), (6, 7)]).with_board(2, 5),
    ];
    for (mut batch, n) in batches.into_iter().zip(0_u64..) {
        batch.ids.insert(n, 5);
        batch.dead.insert(n);
        job.workers = 1 + n % 3;
        let commit = job.commit_number() + 1;
        contents.push(contents[contents.len() - 1].after(commit, &batch));
        job.commit(&batch).unwrap();
    }
    (job, contents)
}

#[test]
fn old_content_comes_back_under_a_higher_number() {
    for to in 2..6_u64 {
        let storage = memory();
        let (job, contents) = five_commits(storage.clone());
        let (old, last) = (load(&*storage, to).unwrap(), job.last.clone());
        let (made, unreadable) = rollback(&*storage, to, &start(2, 5)).unwrap();
        assert!(unreadable.is_empty(), "{unreadable:?}");
        let header = &made.header;
        assert_eq!((header.commit, header.generation, header.history), (7, 7, 1));
        assert!(header.takeover && header.owner == start(2, 5).owner);
        assert!(header.version > last.header.version, "even if the clock is behind");
        assert_eq!(made.body.as_of_ms, last.body.as_of_ms, "it never decreases");
        assert_eq!(made.body.counters, old.body.counters);
        assert_eq!(made.body.inputs, old.body.inputs);
        assert!(made.body.clean && made.body.finished.is_none());
        let prefix = segment_name(header, 0, Tags::NAME, "")[..28].to_owned();
        assert!(made.body.segments.iter().all(|s| s.name.starts_with(&prefix)), "{prefix}");
        assert_eq!(newest(&*storage).unwrap(), Some(made.clone()));
        assert_eq!(visible(&*storage).unwrap(), Some(7));
        let content = contents[6].rolled_back(to, &contents[to as usize], 7);
        assert_holds(&*storage, &made, &content);
        // The commits since then are unchanged.
        for commit in 2..7 {
            let manifest = load(&*storage, commit).unwrap();
            assert_holds(&*storage, &manifest, &contents[commit as usize]);
        }
    }
}

#[test]
fn followers_and_the_next_job_continue() {
    let storage = memory();
    let (mut job, contents) = five_commits(storage.clone());
    let follower = Follower::new(storage.clone());
    follower.step().unwrap();
    rollback(&*storage, 3, &start(2, 0)).unwrap();
    assert!((0..4).any(|_| follower.step().unwrap()));
    let mut content = contents[6].rolled_back(3, &contents[3], 7);
    crate::common::assert_shows(&follower.current().unwrap(), &content);
    let fenced = job.commit(&Batch::of_tags(70, &[(2, 1)])).err();
    assert!(matches!(fenced, Some(CommitError::Fenced { commit: 7 })), "{fenced:?}");

    let mut job = Job::start(storage.clone(), 3, 0).unwrap();
    assert_eq!((job.last.header.commit, job.last.header.history), (8, 1));
    let batch = Batch::of_tags(70, &[(2, 1), (8, 8)]).with_board(2, 9);
    content = content.after(9, &batch);
    job.commit(&batch).unwrap();
    assert_holds(&*storage, &job.last, &content);
    // Roll back once more, across the first rollback.
    let (made, _) = rollback(&*storage, 6, &start(4, 0)).unwrap();
    assert_eq!((made.header.commit, made.header.history), (10, 2));
    assert_holds(&*storage, &made, &content.rolled_back(6, &contents[6], 10));
}

#[test]
fn older_owner_cannot_remove_restored_files() {
    let storage = memory();
    let (old, contents) = five_commits(storage.clone());
    let none = Retention { keep_ms: 0, bytes: Some(0), grace_ms: 0 };
    let (made, _) = rollback(&*storage, 3, &start(2, 0)).unwrap();
    let files = all_files(&*storage);
    let mut zombie = RetentionTask::new(storage.clone(), old.start.generation, none);
    assert_eq!(zombie.step(&old.last, 0).unwrap(), 0);
    assert_eq!(all_files(&*storage), files);
    let content = contents[6].rolled_back(3, &contents[3], 7);
    for name in files.iter().filter(|name| name.starts_with("segments/0000000001")) {
        storage.unlink(name).unwrap();
    }
    assert_holds(&*storage, &made, &content);
    // The next owner keeps them, and removes what is unneeded.
    let job = Job::start(storage.clone(), 3, 0).unwrap();
    let mut task = RetentionTask::new(storage.clone(), job.start.generation, none);
    task.step(&job.last, 0).unwrap();
    assert_holds(&*storage, &job.last, &content);
    assert_eq!(list_commits(&*storage).unwrap(), [1, 7, 8]);
}

#[test]
fn missing_and_newest_commits_are_refused() {
    let storage = memory();
    let (job, _) = five_commits(storage.clone());
    let files = all_files(&*storage);
    let refused = rollback(&*storage, 6, &start(2, 0)).unwrap_err();
    assert!(matches!(refused, RollbackError::Newest(6)), "{refused}");
    for missing in [0, 7, 99] {
        let refused = rollback(&*storage, missing, &start(2, 0)).unwrap_err();
        let is_missing =
            matches!(refused, RollbackError::Commit(CommitError::Missing(c)) if c == missing);
        assert!(is_missing, "{refused}");
    }
    storage.damage(&manifest_name(4), |bytes| bytes.truncate(60));
    let refused = rollback(&*storage, 4, &start(2, 0)).unwrap_err().to_string();
    assert!(refused.contains("0000000004.manifest"), "{refused}");
    let file = load(&*storage, 3).unwrap().body.segments[0].name.clone();
    storage.damage(&file, |bytes| bytes[100] ^= 1);
    let refused = rollback(&*storage, 3, &start(2, 0)).unwrap_err().to_string();
    assert!(refused.contains(&file), "{refused}");
    assert_eq!(all_files(&*storage), files, "nothing was created");
    assert!(matches!(
        rollback(&*memory(), 1, &start(2, 0)),
        Err(RollbackError::Commit(CommitError::Missing(1)))
    ));
    drop(job);
}

#[test]
fn rollback_works_from_a_damaged_manifest() {
    let storage = memory();
    let (_, contents) = five_commits(storage.clone());
    storage.damage(&manifest_name(6), |bytes| bytes[100] ^= 1);
    assert!(newest(&*storage).is_err());
    let (made, unreadable) = rollback(&*storage, 4, &start(2, 2_000_000)).unwrap();
    assert!(unreadable.is_empty(), "{unreadable:?}");
    assert_eq!((made.header.commit, made.header.version), (7, 2_000_000_000));
    assert_eq!(made.body.as_of_ms, Some(60), "taken from the rows of the damaged commit");
    assert_holds(&*storage, &made, &contents[6].rolled_back(4, &contents[4], 7));
    // The damaged file stays, and the next owner can live with it.
    let mut job = Job::start(storage.clone(), 3, 0).unwrap();
    job.commit(&Batch::of_tags(70, &[(1, 1)])).unwrap();
    let none = Retention { keep_ms: 0, bytes: Some(0), grace_ms: 0 };
    let mut task = RetentionTask::new(storage.clone(), job.start.generation, none);
    assert!(task.step(&job.last, 0).unwrap() > 0);
    assert_eq!(list_commits(&*storage).unwrap(), [1, 6, 7, 8, 9]);
}

#[test]
fn rollback_works_from_a_finished_commit() {
    let storage = memory();
    let (mut job, _) = five_commits(storage.clone());
    let mut last: Manifest = job.prepare(&Batch::of_tags(70, &[])).unwrap();
    last.body.finished = Some(Finished { until_ms: None });
    create(&*storage, &last).unwrap();
    let (made, _) = rollback(&*storage, 6, &start(2, 0)).unwrap();
    assert!(made.body.finished.is_none() && made.body.clean);
}

/// Rolls back from commit 6 to 4 after `damage` to the tag file of commit `of` and to the manifests
/// of `gone`. Returns the commit, and the names of unreadable files in one text.
fn damaged(of: u64, gone: &[u64], damage: impl FnOnce(&mut Vec<u8>)) -> (Manifest, String) {
    let storage = memory();
    let (_, contents) = five_commits(storage.clone());
    let manifest = load(&*storage, of).unwrap();
    let mut files = manifest.segments(Tags::NAME).rev();
    let file = files.find(|s| s.first_commit == of && s.rows > 0).unwrap().name.clone();
    storage.damage(&file, damage);
    for commit in gone {
        storage.damage(&manifest_name(*commit), |bytes| bytes[100] ^= 1);
    }
    let (made, unreadable) = rollback(&*storage, 4, &start(2, 2_000_000)).unwrap();
    let snapshot = sinks::commits::Snapshot::open(&*storage, made.clone(), None).unwrap();
    let hasher = made.body.hash_key.hasher();
    let content = contents[6].rolled_back(4, &contents[4], 7);
    // Some keys may not be marked, but none has a wrong row.
    for (hash, row) in snapshot.tags_changed(0, None) {
        assert_eq!(hash, hasher.scoped(row.scope, hasher.tag(row.tag)), "{row:?}");
        let key = (row.scope.to_owned(), row.tag.to_owned());
        let want = &content.tags[&key];
        assert_eq!(row.total, want.total, "{row:?}");
        assert!(row.commit == want.commit || row.commit <= 4, "{row:?}");
    }
    for (key, tag) in &contents[4].tags {
        let row = snapshot.tag(hasher.scoped(&key.0, hasher.tag(&key.1))).unwrap();
        assert_eq!((row.total, row.as_of), (tag.total, tag.as_of));
    }
    assert!(made.body.as_of_ms >= Some(50), "{:?}", made.body.as_of_ms);
    (made, unreadable.join(" ").replace(&file, "it"))
}

#[test]
fn unreadable_files_are_reported_and_do_no_harm() {
    let (whole, unreadable) = damaged(6, &[], |_| {});
    assert_eq!(unreadable, "");
    let bytes = whole.segments(Tags::NAME).map(|s| s.bytes).max().unwrap() as usize;
    for at in (0..bytes).step_by(7) {
        // With the manifest the checksum reveals the damage; without it, a row's own hash does.
        let (_, unreadable) = damaged(6, &[], |file| flip(file, at));
        assert_eq!(unreadable, "it", "a flip at {at}");
        damaged(5, &[5, 6], |file| flip(file, at));
    }
    for (end, gone) in [(0, &[][..]), (100, &[]), (0, &[5, 6]), (100, &[5, 6])] {
        let (_, unreadable) = damaged(5, gone, |file| file.truncate(end));
        assert_eq!(unreadable, "it", "cut at {end}");
    }
}

fn flip(file: &mut [u8], at: usize) {
    let at = at % file.len();
    file[at] ^= 1 << (at % 8);
}

#[test]
fn failed_rollback_has_happened_or_not() {
    for mode in [Mode::Before, Mode::Torn, Mode::After] {
        let mut n = 0;
        loop {
            let storage = memory();
            let (job, contents) = five_commits(storage.clone());
            let (failing, effects) = countdown(storage.clone(), n, mode);
            let done = rollback(&*failing, 3, &start(2, 0));
            let back = contents[6].rolled_back(3, &contents[3], 7);
            let found = newest(&*storage).unwrap().unwrap();
            match found.header.commit {
                6 => assert!(found == job.last && done.is_err(), "{mode:?} {n}"),
                _ => assert_holds(&*storage, &found, &back),
            }
            assert!(visible(&*storage).unwrap() <= Some(found.header.commit));
            // Another attempt succeeds.
            if found.header.commit == 6 {
                let (made, _) = rollback(&*storage, 3, &start(3, 0)).unwrap();
                assert_holds(&*storage, &made, &back);
            }
            if n >= effects.load(Ordering::SeqCst) {
                break assert!(n > 20 && done.is_ok());
            }
            n += 1;
        }
    }
}
