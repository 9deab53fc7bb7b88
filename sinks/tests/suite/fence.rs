//! Manifests and the fence: only one manifest ever exists for a number, however many jobs race.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::common::{Batch, Hooked, Job, Mode, all_files, memory, start};
use schemas::manifest::{Finished, Header, Manifest, ManifestError, encode};
use schemas::windows::{Window, Windows};
use sinks::commits::{
    CommitError, Follower, Owner, TakeoverError, Watch, create, list_commits, load, make_visible,
    manifest_name, newest, pending, rollback, take_over, visible,
};
use sinks::storage::{DiskStorage, Storage};

/// The manifest of a takeover of `storage`.
fn taken(storage: &dyn Storage, owner: u64, wall_ms: i64) -> Manifest {
    take_over(storage, &start(owner, wall_ms), |_| None).unwrap()
}

/// The manifest after `before`, by the same job.
fn after(before: &Manifest) -> Manifest {
    let mut next = before.clone();
    next.header.commit += 1;
    next.header.version += 1;
    next.header.takeover = false;
    next
}

#[test]
fn manifest_is_created_only_once() {
    let storage = memory();
    let first = taken(&*storage, 1, 0);
    let (ours, mut theirs) = (after(&first), after(&first));
    theirs.header.owner = "another".into();
    create(&*storage, &ours).unwrap();
    // Object stores answer "exists" when a create that succeeded is retried.
    create(&*storage, &ours).unwrap();
    let fenced = create(&*storage, &theirs);
    assert!(matches!(fenced, Err(CommitError::Fenced { commit: 2 })), "{fenced:?}");
    assert_eq!(load(&*storage, 2).unwrap(), ours);
    let commits: Vec<_> = [1, 2].map(manifest_name).into();
    assert_eq!(all_files(&*storage), commits, "no temporary file is left");
}

#[test]
fn leftover_temporary_file_is_overwritten() {
    let storage = memory();
    let manifest = after(&taken(&*storage, 1, 0));
    let temporary = format!("commits/tmp-0000000002.manifest-{}", manifest.header.owner);
    storage.append(&temporary, b"half a mani").unwrap();
    create(&*storage, &manifest).unwrap();
    assert_eq!(load(&*storage, 2).unwrap(), manifest);
}

#[test]
fn newest_manifest_has_the_highest_number() {
    let storage = memory();
    assert!(newest(&*storage).unwrap().is_none());
    let mut last = taken(&*storage, 1, 0);
    for _ in 0..10 {
        last = after(&last);
        create(&*storage, &last).unwrap();
    }
    for stray in ["commits/tmp-0000000099.manifest", "commits/0000000099.manifest~", "commits/x"] {
        storage.append(stray, b"?").unwrap();
    }
    assert_eq!(list_commits(&*storage).unwrap(), (1..=11).collect::<Vec<_>>());
    assert_eq!(newest(&*storage).unwrap(), Some(last));
}

#[test]
fn missing_or_damaged_manifest_is_named() {
    let storage = memory();
    let second = after(&taken(&*storage, 1, 0));
    create(&*storage, &second).unwrap();
    assert!(matches!(load(&*storage, 3), Err(CommitError::Missing(3))));
    storage.append("commits/0000000003.manifest", &second.encode().unwrap()).unwrap();
    let error = load(&*storage, 3).unwrap_err().to_string();
    assert!(error.contains("0000000003.manifest") && error.contains("commit 2"), "{error}");
    storage.unlink("commits/0000000003.manifest").unwrap();

    storage.damage("commits/0000000002.manifest", |bytes| bytes[90] ^= 1);
    for error in [newest(&*storage).unwrap_err(), load(&*storage, 2).unwrap_err()] {
        let checksum =
            matches!(&error, CommitError::Manifest { error: ManifestError::Checksum, .. });
        assert!(checksum && error.to_string().contains("0000000002.manifest"), "{error}");
    }
    storage.damage("commits/0000000002.manifest", Vec::clear);
    assert!(matches!(newest(&*storage), Err(CommitError::Manifest { .. })));
    assert_eq!(
        load(&*storage, 1).unwrap().header.commit,
        1,
        "older commits are still there, but nothing falls back to them"
    );
}

#[test]
fn readers_follow_the_pointer_of_the_highest_generation() {
    let storage = memory();
    assert_eq!(visible(&*storage).unwrap(), None);
    let header = |generation, commit| Header {
        generation,
        commit,
        ..taken(&*memory(), 1, 0).header.clone()
    };
    for takeover in [9, 10] {
        let header = Header { owner: takeover.to_string(), ..header(takeover, takeover) };
        create(&*storage, &Manifest { header, ..taken(&*memory(), 1, 0) }).unwrap();
    }
    make_visible(&*storage, &header(9, 12)).unwrap();
    make_visible(&*storage, &header(10, 10)).unwrap();
    assert_eq!(visible(&*storage).unwrap(), Some(10));
    // Nobody sees the pointer of a superseded job.
    make_visible(&*storage, &header(9, 13)).unwrap();
    storage.append("visible/tmp-0000000011", b"11\n").unwrap();
    assert_eq!(visible(&*storage).unwrap(), Some(10));
    make_visible(&*storage, &header(10, 11)).unwrap();
    assert_eq!(visible(&*storage).unwrap(), Some(11));

    for damage in [&b"11"[..], b"", b"eleven\n", b"\xff\n", b"18446744073709551615\n"] {
        storage.damage("visible/0000000010", |bytes| *bytes = damage.to_vec());
        let error = visible(&*storage).unwrap_err();
        let named = error.to_string().contains("visible/0000000010");
        assert!(matches!(error, CommitError::Visible(_)) && named, "{error}");
    }
}

#[test]
fn pointer_of_a_number_with_a_commit_is_refused_unless_a_job_began_with_it() {
    let storage = memory();
    let first = taken(&*storage, 1, 0);
    for commit in 2..=4 {
        let header = Header { commit, takeover: false, ..first.header.clone() };
        create(&*storage, &Manifest { header, ..first.clone() }).unwrap();
    }
    make_visible(&*storage, &Header { commit: 4, ..first.header.clone() }).unwrap();
    assert_eq!(visible(&*storage).unwrap(), Some(4));
    storage.append("visible/0000000003", b"2\n").unwrap();
    for error in [
        visible(&*storage).unwrap_err(),
        newest(&*storage).unwrap_err(),
        Follower::new(storage.clone()).step().unwrap_err(),
        take_over(&*storage, &start(2, 0), |_| None).map_err(commit_error).unwrap_err(),
    ] {
        assert!(error.to_string().contains("visible/0000000003 does not belong"), "{error}");
    }
    storage.unlink("visible/0000000003").unwrap();
    // The pointer of a job that began, to a commit that it did not make.
    let second = taken(&*storage, 2, 0);
    assert_eq!(second.header.commit, 5);
    storage.append("visible/0000000005", b"3\n").unwrap();
    let error = visible(&*storage).unwrap_err().to_string();
    assert!(error.contains("visible/0000000005") && error.contains("commit 3, which"), "{error}");
    make_visible(&*storage, &second.header).unwrap();
    assert_eq!(visible(&*storage).unwrap(), Some(5));
    // Nothing is hidden by a takeover that is only a header, or is damaged.
    let stripped = encode(&first.header, None).unwrap();
    storage.damage(&manifest_name(1), |bytes| bytes.clone_from(&stripped));
    assert_eq!(newest(&*storage).unwrap().unwrap().header.commit, 5);
    storage.damage(&manifest_name(1), Vec::clear);
    assert_eq!(newest(&*storage).unwrap().unwrap().header.commit, 5);
}

fn commit_error(error: TakeoverError) -> CommitError {
    match error {
        TakeoverError::Commit(error) => error,
        other => panic!("{other}"),
    }
}

#[test]
fn pointer_that_is_not_of_this_state_is_refused_by_name() {
    for stray in ["0000000099", "18446744073709551615"] {
        let storage = memory();
        taken(&*storage, 1, 0);
        let stray = format!("visible/{stray}");
        storage.append(&stray, b"99\n").unwrap();
        for error in [
            visible(&*storage).unwrap_err(),
            newest(&*storage).unwrap_err(),
            Follower::new(storage.clone()).step().unwrap_err(),
        ] {
            let named = error.to_string().contains(&stray);
            assert!(matches!(error, CommitError::Foreign { .. }) && named, "{error}");
        }
        let error = take_over(&*storage, &start(2, 0), |_| None).unwrap_err().to_string();
        assert!(error.contains(&stray), "{error}");
        let error = rollback(&*storage, 1, &start(2, 0)).unwrap_err().to_string();
        assert!(error.contains(&stray), "{error}");
        storage.unlink(&stray).unwrap();
        assert_eq!(taken(&*storage, 2, 0).header.commit, 2);
    }
}

#[test]
fn files_that_no_job_can_have_named_are_no_commits_and_no_requests() {
    let storage = memory();
    taken(&*storage, 1, 0);
    for stray in ["7", "00000000007", "99999999999999", "18446744073709551615"] {
        storage.append(&format!("commits/{stray}.manifest"), b"?").unwrap();
        storage.append(&format!("control/{stray}"), b"?").unwrap();
    }
    assert_eq!(list_commits(&*storage).unwrap(), [1]);
    assert_eq!(pending(&*storage, 0).unwrap(), [0; 0]);
    assert_eq!(taken(&*storage, 2, i64::MAX / 2_000_000).header.commit, 2);
}

#[test]
fn takeover_whose_outcome_is_unknown_is_completed() {
    let storage = memory();
    let claimant = start(1, 5);
    let lost =
        Hooked::new(storage.clone(), |call| (call.what == "sync_folder").then_some(Mode::Before));
    take_over(&*lost, &claimant, |_| None).unwrap_err();
    let takeover = take_over(&*storage, &claimant, |_| panic!("it is our own")).unwrap();
    assert_eq!(takeover.header.commit, 1);
    assert_eq!(list_commits(&*storage).unwrap(), [1]);
}

#[test]
fn first_takeover_is_commit_1_of_generation_1() {
    let storage = memory();
    let first = taken(&*storage, 7, 1000);
    let Header { commit, history, generation, takeover, version, .. } = first.header;
    assert_eq!((commit, history, generation, takeover, version), (1, 0, 1, true, 1_000_000));
    assert_eq!(first.body.hash_key, start(7, 0).hash_key);
    assert!(first.body.segments.is_empty() && first.body.as_of_ms.is_none());
    assert_eq!(newest(&*storage).unwrap(), Some(first));
}

#[test]
fn takeover_keeps_the_content_and_raises_the_version() {
    let storage = memory();
    let mut job = Job::start(storage.clone(), 1, 5_000_000).unwrap();
    job.commit(&Batch::of_tags(9, &[(1, 1)])).unwrap();
    let mut last = after(&job.last);
    (last.body.finished, last.body.clean) = (Some(Finished { until_ms: Some(3) }), true);
    last.header.history = 4;
    create(&*storage, &last).unwrap();
    // The second job's clock is behind, the third's is ahead.
    for (owner, wall_ms) in [(2, 1000), (3, 900_000_000)] {
        let before = newest(&*storage).unwrap().unwrap();
        let takeover = taken(&*storage, owner, wall_ms);
        assert_eq!(takeover.header.commit, before.header.commit + 1);
        assert_eq!(takeover.header.generation, takeover.header.commit);
        assert_eq!(takeover.header.history, 4);
        assert!(takeover.header.takeover && takeover.header.version > before.header.version);
        let mut content = takeover.body.clone();
        assert!(content.finished.is_none() && !content.clean);
        (content.finished, content.clean) = (before.body.finished.clone(), before.body.clean);
        assert_eq!(content, before.body, "the content is that of the newest commit");
    }
    assert_eq!(newest(&*storage).unwrap().unwrap().header.version, 900_000_000_000);
}

#[test]
fn loser_of_a_race_continues_from_the_winner() {
    let storage = memory();
    let mut owner = Job::start(storage.clone(), 1, 0).unwrap();
    let next = owner.prepare(&Batch::of_tags(9, &[(1, 1)])).unwrap();
    let (winner, raced) = (storage.clone(), AtomicBool::new(false));
    let racing = Hooked::new(storage.clone(), move |call| {
        if call.what == "link" && !raced.swap(true, Ordering::SeqCst) {
            create(&*winner, &next).unwrap();
        }
        None
    });
    let mut asked = Vec::new();
    let takeover = take_over(&*racing, &start(2, 0), |before| {
        asked.push(before.header.commit);
        None
    });
    let takeover = takeover.unwrap();
    assert_eq!(asked, [1, 2], "the winner is checked as well");
    assert_eq!((takeover.header.commit, takeover.header.generation), (3, 3));
    assert_eq!(takeover.body.segments, load(&*storage, 2).unwrap().body.segments);
    assert_eq!(takeover.body.segments.len(), 1);
    // A job that has committed since is superseded all the same.
    owner.last = load(&*storage, 2).unwrap();
    let fenced = owner.commit(&Batch::of_tags(10, &[(1, 2)])).err();
    assert!(matches!(fenced, Some(CommitError::Fenced { commit: 3 })), "{fenced:?}");
}

#[test]
fn concurrent_takeovers_get_distinct_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Storage> = Arc::new(DiskStorage::create(folder.path()).unwrap());
    for storage in [disk, memory()] {
        let starts: Vec<_> = (0..8)
            .map(|owner| {
                let storage = Arc::clone(&storage);
                std::thread::spawn(move || taken(&*storage, owner, 0))
            })
            .collect();
        let made: Vec<Manifest> = starts.into_iter().map(|s| s.join().unwrap()).collect();
        let numbers: BTreeSet<u64> = made.iter().map(|m| m.header.commit).collect();
        assert_eq!(numbers, (1..=8).collect());
        for manifest in &made {
            assert_eq!(load(&*storage, manifest.header.commit).unwrap(), *manifest);
            assert_eq!(manifest.body.hash_key, load(&*storage, 1).unwrap().body.hash_key);
        }
        let versions: Vec<_> =
            (1..=8).map(|c| load(&*storage, c).unwrap().header.version).collect();
        assert!(versions.is_sorted_by(|a, b| a < b), "{versions:?}");
        assert_eq!(all_files(&*storage).len(), 8);
    }
}

#[test]
fn running_owner_is_not_superseded() {
    let storage = memory();
    taken(&*storage, 1, 0);
    let files = all_files(&*storage);
    let owner = Owner { id: "1".into(), pid: 7, host: "h".into(), started_ms: 0 };
    let refused = take_over(&*storage, &start(2, 0), |before| {
        assert_eq!(before.header.owner, start(1, 0).owner);
        Some(owner.clone())
    });
    assert!(matches!(&refused, Err(TakeoverError::InUse(o)) if *o == owner), "{refused:?}");
    assert_eq!(all_files(&*storage), files, "nothing was created");
}

#[test]
fn state_with_other_windows_or_rules_is_refused() {
    let storage = memory();
    let first = taken(&*storage, 1, 0);
    let hour = Window { duration_ms: 3_600_000, slide_ms: 60_000 };
    let other = crate::common::windows();
    let asked =
        sinks::commits::Claimant { windows: Windows::try_from(vec![hour]).unwrap(), ..start(2, 0) };
    assert_ne!(asked.windows, other);
    let error = take_over(&*storage, &asked, |_| None).unwrap_err();
    let told = error.to_string();
    assert!(matches!(error, TakeoverError::Windows { .. }), "{told}");
    assert!(told.contains("1h by 1m, 24h by 10m") && told.contains("not 1h by 1m."), "{told}");

    let mut ahead = after(&first);
    ahead.body.rules += 1;
    create(&*storage, &ahead).unwrap();
    let rules = ahead.body.rules;
    let error = take_over(&*storage, &start(2, 0), |_| None).unwrap_err();
    assert!(matches!(error, TakeoverError::Rules(r) if r == rules), "{error}");
    assert_eq!(list_commits(&*storage).unwrap(), [1, 2], "nothing was created");
}

#[test]
fn takeover_refuses_a_damaged_newest_commit() {
    let storage = memory();
    taken(&*storage, 1, 0);
    storage.damage("commits/0000000001.manifest", |bytes| bytes.truncate(100));
    let error = take_over(&*storage, &start(2, 0), |_| None).unwrap_err();
    assert!(error.to_string().contains("0000000001.manifest"), "{error}");
    assert_eq!(list_commits(&*storage).unwrap(), [1]);
}

#[test]
fn stripped_takeover_still_fences() {
    let storage = memory();
    let first = taken(&*storage, 1, 0);
    taken(&*storage, 2, 0);
    let stripped = encode(&first.header, None).unwrap();
    storage.damage("commits/0000000001.manifest", |bytes| *bytes = stripped);
    assert!(matches!(load(&*storage, 1), Err(CommitError::Missing(1))));
    let late = taken(&*memory(), 3, 0);
    assert!(matches!(create(&*storage, &late), Err(CommitError::Fenced { commit: 1 })));
}

#[test]
fn watch_notices_commits() {
    let storage = memory();
    let watch = Watch::new(&*storage, 500).unwrap();
    assert!(!watch.has_moved(&*storage).unwrap());
    assert_eq!((watch.age_ms(500), watch.age_ms(1700), watch.age_ms(0)), (0, 1200, 0));
    let first = taken(&*storage, 1, 0);
    assert!(watch.has_moved(&*storage).unwrap());
    let watch = Watch::new(&*storage, 0).unwrap();
    assert!(!watch.has_moved(&*storage).unwrap());
    create(&*storage, &after(&first)).unwrap();
    assert!(watch.has_moved(&*storage).unwrap());
}
