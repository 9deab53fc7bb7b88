//! Readers of commits: snapshots answer like a map, and a follower sees whole commits.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use crate::common::{
    Batch, Content, Hooked, Job, Mode, Repeat, Rng, all_files, assert_holds, assert_shows, memory,
    seeds, start,
};
use parking_lot::Mutex;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use schemas::hash::KeyHash;
use schemas::manifest::Manifest;
use schemas::rows::{Boards, Table, Tags};
use sinks::commits::{
    CommitError, Follower, Housekeeper, Retention, Snapshot, create, load, make_visible,
    manifest_name, open_segment, rollback,
};
use sinks::storage::{DiskStorage, MemoryStorage, Storage};

/// Readers beside a busy writer, each with a seed of its own.
const SEEDS: u64 = 60;

fn any_batch() -> impl Strategy<Value = Batch> {
    let tags = btree_map(0_u32..40, -2_i64..1000, 0..12);
    let boards = btree_map(0_u32..4, 0_u32..9, 0..2);
    (tags, boards, 0_i64..1000).prop_map(|(tags, boards, as_of)| {
        let dead = boards.keys().map(|b| u64::from(*b) + as_of as u64 * 10).collect();
        Batch { tags, boards, dead, as_of, ..Batch::default() }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn snapshot_answers_like_a_map(
        batches in vec((any_batch(), 1_u64..4), 1..12),
        behind in vec((0_u64..14, proptest::option::of(any::<u64>())), 4),
    ) {
        let mut job = Job::start(memory(), 1, 0).unwrap();
        let mut content = Content::default();
        for (batch, workers) in &batches {
            job.workers = *workers;
            content = content.after(job.commit_number() + 1, batch);
            let manifest = job.commit(batch).unwrap().clone();
            assert_holds(&*job.storage, &manifest, &content);
            assert_shows(&job.latest.current(), &content);
        }
        let snapshot = job.latest.current();
        let hasher = snapshot.manifest.body.hash_key.hasher();
        for (after, from) in behind {
            let from = from.map(|hi| KeyHash { hi, lo: !hi });
            let want: BTreeMap<KeyHash, u64> = content
                .tags
                .iter()
                .map(|(key, tag)| (hasher.scoped(&key.0, hasher.tag(&key.1)), tag.commit))
                .filter(|(hash, commit)| *commit > after && Some(*hash) > from)
                .collect();
            let rows = snapshot.tags_changed(after, from).map(|(hash, row)| (hash, row.commit));
            prop_assert_eq!(rows.collect::<Vec<_>>(), want.into_iter().collect::<Vec<_>>());
        }
    }
}

/// A job with two commits, and what they hold.
fn two_commits(storage: Arc<dyn Storage>) -> (Job, Content, Content) {
    let mut job = Job::start(storage, 1, 0).unwrap();
    let one = Batch::of_tags(10, &[(1, 1), (2, 2), (5, 5)]).with_board(0, 1);
    let two = Batch::of_tags(20, &[(2, 3), (4, 0)]).with_board(1, 2);
    let first = Content::default().after(2, &one);
    let second = first.after(3, &two);
    job.commit(&one).unwrap();
    job.commit(&two).unwrap();
    (job, first, second)
}

#[test]
fn shared_files_are_opened_once() {
    let opened = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&opened);
    let storage = Hooked::new(memory(), move |call| {
        let segment = call.what == "open" && call.name.starts_with("segments/");
        count.fetch_add(usize::from(segment), Ordering::SeqCst);
        None
    });
    let (job, first, second) = two_commits(storage.clone());
    assert_eq!(opened.load(Ordering::SeqCst), 4, "two tag files and two board files");
    let old = Snapshot::open(&*storage, load(&*storage, 2).unwrap(), None).unwrap();
    let new = Snapshot::open(&*storage, job.last.clone(), Some(&old)).unwrap();
    assert_eq!(opened.load(Ordering::SeqCst), 8);
    assert!(Arc::ptr_eq(&old.table::<Tags>()[0], &new.table::<Tags>()[0]));
    assert!(Arc::ptr_eq(&old.table::<Boards>()[0], &new.table::<Boards>()[0]));
    assert_shows(&old, &first);
    assert_shows(&new, &second);
    // An older commit can also share the files of a newer one.
    let again = Snapshot::open(&*storage, old.manifest.clone(), Some(&new)).unwrap();
    assert_eq!(opened.load(Ordering::SeqCst), 8);
    assert_shows(&again, &first);
}

#[test]
fn damaged_segment_is_named() {
    let storage = memory();
    let (job, ..) = two_commits(storage.clone());
    let meta = job.last.segments(Tags::NAME).next().unwrap().clone();
    let whole = storage.open(&meta.name).unwrap().to_vec();
    let open = || Snapshot::open(&*storage, job.last.clone(), None);
    assert!(open().is_ok());
    let check = |bytes: &[u8], what: &str| {
        storage.damage(&meta.name, |file| *file = bytes.to_vec());
        let error = open().err().unwrap_or_else(|| panic!("{what} is not noticed"));
        let named = error.to_string().contains(&meta.name);
        assert!(named && matches!(error, CommitError::Segment { .. }), "{what}: {error}");
    };
    for end in 0..whole.len() {
        check(&whole[..end], &format!("cut at {end}"));
    }
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        check(&bytes, &format!("a flip at {at}"));
    }
    check(&[&whole[..], b"x"].concat(), "a byte too many");
    storage.damage(&meta.name, |file| *file = whole);
    assert!(open().is_ok());
    storage.unlink(&meta.name).unwrap();
    let error = open().err().unwrap().to_string();
    assert!(error.contains(&meta.name) && error.contains("missing"), "{error}");
}

#[test]
fn segment_of_another_table_is_named() {
    let storage = memory();
    let (job, ..) = two_commits(storage.clone());
    let mut meta = job.last.segments(Boards::NAME).next().unwrap().clone();
    meta.table = Tags::NAME;
    let error = open_segment::<Tags>(&*storage, &meta).err().unwrap().to_string();
    assert!(error.contains(&meta.name) && error.contains("columns"), "{error}");
}

#[test]
fn open_files_stay_readable_after_their_removal() {
    let folder = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Storage> = Arc::new(DiskStorage::create(folder.path()).unwrap());
    let (job, _, content) = two_commits(Arc::clone(&disk));
    let follower = Follower::new(Arc::clone(&disk));
    assert!(follower.step().unwrap());
    for name in all_files(&*disk) {
        disk.unlink(&name).unwrap();
    }
    drop(job);
    assert_shows(&follower.current().unwrap(), &content);
}

/// The number of the commit that a follower shows.
fn shown(follower: &Follower) -> Option<u64> {
    follower.current().map(|snapshot| snapshot.manifest.header.commit)
}

#[test]
fn follower_never_goes_back() {
    let storage = memory();
    let follower = Follower::new(storage.clone());
    assert!(!follower.step().unwrap() && shown(&follower).is_none());
    let (mut job, _, second) = two_commits(storage.clone());
    assert!(follower.step().unwrap() && !follower.step().unwrap());
    assert_eq!(shown(&follower), Some(3));
    // A manifest that is not visible is not followed.
    let next = job.prepare(&Batch::of_tags(30, &[(1, 9)])).unwrap();
    create(&*storage, &next).unwrap();
    assert!((0..8).all(|_| !follower.step().unwrap()));
    // Nor is an older one that the pointer goes back to.
    make_visible(&*storage, &load(&*storage, 2).unwrap().header).unwrap();
    assert!((0..8).all(|_| !follower.step().unwrap()));
    assert_shows(&follower.current().unwrap(), &second);
    make_visible(&*storage, &next.header).unwrap();
    assert!(follower.step().unwrap());
    assert_eq!(shown(&follower), Some(4));
}

#[test]
fn follower_never_follows_a_state_made_again_in_the_same_folder() {
    // With fewer commits than were seen, with as many, and with more.
    for (owner, commits) in [(7, 1), (8, 3), (9, 5)] {
        let storage = memory();
        let follower = Follower::new(storage.clone());
        let (_, _, second) = two_commits(storage.clone());
        assert!(follower.step().unwrap());
        assert_eq!(shown(&follower), Some(3));
        for file in all_files(&*storage) {
            storage.unlink(&file).unwrap();
        }
        let mut again = Job::start(storage.clone(), owner, 0).unwrap();
        for commit in 1..commits {
            again.commit(&Batch::of_tags(10 * commit, &[(1, 1)])).unwrap();
        }
        let error = (0..40).find_map(|_| follower.step().err()).expect("it is found out");
        assert!(matches!(error, CommitError::Another(_)), "{error}");
        again.commit(&Batch::of_tags(90, &[(1, 2)])).unwrap();
        assert!((0..8).all(|_| matches!(follower.step(), Err(CommitError::Another(_)))));
        let trouble = follower.trouble().unwrap();
        assert!(trouble.contains("is of another state now"), "{trouble}");
        assert_shows(&follower.current().unwrap(), &second);
    }
}

#[test]
fn follower_goes_on_after_a_rollback() {
    let storage = memory();
    let follower = Follower::new(storage.clone());
    two_commits(storage.clone());
    assert!(follower.step().unwrap());
    rollback(&*storage, 2, &start(5, 0)).unwrap();
    assert!((0..4).any(|_| follower.step().unwrap()));
    assert_eq!((shown(&follower), follower.trouble()), (Some(4), None));
}

#[test]
fn follower_finds_a_newer_generation_within_four_steps() {
    let storage = memory();
    let (mut old, ..) = two_commits(storage.clone());
    for phase in 0..4 {
        let follower = Follower::new(storage.clone());
        for _ in 0..=phase {
            follower.step().unwrap();
        }
        let before = shown(&follower).unwrap();
        let job = Job::start(storage.clone(), 10 + phase, 0).unwrap();
        // The pointer of the superseded job is not followed.
        make_visible(&*storage, &old.last.header).unwrap();
        let steps = (1..=4).find(|_| follower.step().unwrap());
        assert!(steps.is_some(), "phase {phase}");
        assert_eq!(shown(&follower), Some(before + 1));
        old = job;
    }
}

#[test]
fn follower_survives_removal_of_its_pointer() {
    let storage = memory();
    let (old, ..) = two_commits(storage.clone());
    let follower = Follower::new(storage.clone());
    follower.step().unwrap();
    Job::start(storage.clone(), 2, 0).unwrap();
    storage.unlink(&format!("visible/{:010}", old.start.generation)).unwrap();
    assert!((0..4).any(|_| follower.step().unwrap()));
    assert_eq!(shown(&follower), Some(4));
}

#[test]
fn folder_that_is_gone_is_told_and_what_passes_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("state");
    let disk: Arc<dyn Storage> = Arc::new(DiskStorage::create(&root).unwrap());
    let (_job, ..) = two_commits(Arc::clone(&disk));
    let follower = Follower::new(Arc::clone(&disk));
    follower.step().unwrap();
    assert_eq!(follower.trouble(), None);
    std::fs::rename(&root, folder.path().join("elsewhere")).unwrap();
    for _ in 0..8 {
        follower.step().unwrap_err();
        assert!(follower.trouble().unwrap().contains("state/visible"));
    }
    assert_eq!(shown(&follower), Some(3), "what was read is shown on");
    std::fs::rename(folder.path().join("elsewhere"), &root).unwrap();
    follower.step().unwrap();
    assert_eq!(follower.trouble(), None);

    let busy =
        Hooked::answering(|| std::io::Error::from_raw_os_error(24), disk, |_| Some(Mode::Before));
    let follower = Follower::new(busy);
    follower.step().unwrap_err();
    assert_eq!(follower.trouble(), None);
}

#[test]
fn segment_with_another_number_of_rows_is_damaged() {
    let (job, ..) = two_commits(memory());
    let mut meta = job.last.segments(Tags::NAME).next().unwrap().clone();
    meta.rows += 1;
    let error = open_segment::<Tags>(&*job.storage, &meta).err().unwrap().to_string();
    assert!(error.contains(&meta.name) && error.contains("rows"), "{error}");
}

/// Removes a commit's manifest and the files that no other of `kept` names.
fn remove(storage: &MemoryStorage, gone: &Manifest, kept: &Manifest) {
    storage.unlink(&manifest_name(gone.header.commit)).unwrap();
    let names = |m: &Manifest| m.body.segments.iter().map(|s| s.name.clone()).collect::<Vec<_>>();
    for name in names(gone).iter().filter(|name| !names(kept).contains(name)) {
        storage.unlink(name).unwrap();
    }
}

#[test]
fn commit_removed_while_opening_is_skipped() {
    // The removal happens when the manifest is opened, or when its last file is.
    for strikes_at in ["commits/0000000003", "segments/"] {
        let storage = memory();
        let (job, ..) = two_commits(storage.clone());
        let mut newer = job.last.clone();
        newer.header.commit += 1;
        newer.body.segments.remove(0);
        let (inner, armed, old) = (storage.clone(), AtomicBool::new(true), job.last.clone());
        let next = newer.clone();
        let racing = Hooked::new(storage, move |call| {
            let strikes = call.what == "open" && call.name.starts_with(strikes_at);
            if strikes && armed.swap(false, Ordering::SeqCst) {
                create(&*inner, &next).unwrap();
                make_visible(&*inner, &next.header).unwrap();
                remove(&inner, &old, &next);
            }
            None
        });
        let follower = Follower::new(racing);
        assert!(!follower.step().unwrap(), "nothing new, and no error");
        assert!(follower.step().unwrap());
        assert_eq!(shown(&follower), Some(newer.header.commit));
    }
}

#[test]
fn damaged_commit_is_an_error_and_the_current_one_stays() {
    let storage = memory();
    let (mut job, _, second) = two_commits(storage.clone());
    let follower = Follower::new(storage.clone());
    follower.step().unwrap();
    let third = job.commit(&Batch::of_tags(30, &[(1, 9)])).unwrap().clone();
    let file = third.body.segments.last().unwrap().name.clone();
    storage.damage(&file, |bytes| bytes[40] ^= 1);
    for _ in 0..5 {
        let error = follower.step().unwrap_err().to_string();
        assert!(error.contains(&file), "{error}");
        assert_shows(&follower.current().unwrap(), &second);
    }
    storage.damage(&file, |bytes| bytes[40] ^= 1);
    assert!(follower.step().unwrap());
    assert_eq!(shown(&follower), Some(4));
}

#[test]
fn slower_of_two_steps_does_not_go_back() {
    let storage = memory();
    let (mut job, ..) = two_commits(storage.clone());
    let next = job.prepare(&Batch::of_tags(30, &[(1, 9)])).unwrap();
    let follower: Arc<OnceLock<Follower>> = Arc::default();
    let (other, inner, armed) = (Arc::clone(&follower), storage.clone(), AtomicBool::new(true));
    // While one step opens the files of commit 3, another one switches to commit 4.
    let racing = Hooked::new(storage, move |call| {
        let opens = call.what == "open" && call.name.starts_with("segments/");
        if opens && armed.swap(false, Ordering::SeqCst) {
            create(&*inner, &next).unwrap();
            make_visible(&*inner, &next.header).unwrap();
            assert!(other.get().unwrap().step().unwrap());
        }
        None
    });
    let follower = follower.get_or_init(|| Follower::new(racing));
    assert!(!follower.step().unwrap(), "commit 3 is old by now");
    assert_eq!(shown(follower), Some(4));
}

#[test]
fn concurrent_readers_see_whole_commits_in_order() {
    let storage = memory();
    let mut job = Job::start(storage.clone(), 1, 0).unwrap();
    let follower = Arc::new(Follower::new(storage));
    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let (follower, done) = (Arc::clone(&follower), Arc::clone(&done));
            std::thread::spawn(move || {
                let (mut last, mut seen, mut steps_left) = (0, 0, 5);
                while steps_left > 0 {
                    steps_left -= u64::from(done.load(Ordering::SeqCst));
                    follower.step().unwrap();
                    let Some(snapshot) = follower.current() else { continue };
                    let commit = snapshot.manifest.header.commit;
                    assert!(commit >= last, "{commit} after {last}");
                    seen += u64::from(commit > last);
                    last = commit;
                    // Every commit writes its number into all its tags.
                    let totals: Vec<_> =
                        snapshot.tags_changed(0, None).map(|(_, row)| row.total).collect();
                    assert!(totals.iter().all(|total| *total == commit as i64), "{totals:?}");
                }
                (last, seen)
            })
        })
        .collect();
    let mut rng = Rng(7);
    for commit in 2..200_i64 {
        job.workers = 1 + rng.below(3);
        let tags: Vec<_> = (0..9).map(|k| (k, commit)).collect();
        job.commit(&Batch::of_tags(commit, &tags)).unwrap();
    }
    done.store(true, Ordering::SeqCst);
    for reader in readers {
        let (last, seen) = reader.join().unwrap();
        assert!(last == 199 && seen > 1, "ended at {last} after {seen} commits");
    }
}

/// A job that does housekeeping and is sometimes restarted, and the contents of its commits.
struct Busy {
    rng: Rng,
    job: Job,
    keeper: Housekeeper,
    contents: BTreeMap<u64, Content>,
}

impl Busy {
    fn start(storage: Arc<dyn Storage>, owner: u64) -> (Job, Housekeeper) {
        let job = Job::start(Arc::clone(&storage), owner, 0).unwrap();
        let none = Retention { keep_ms: 0, bytes: Some(0), grace_ms: 0 };
        let keeper =
            Housekeeper::new(storage, &job.start, none, Arc::clone(&job.merges), &Arc::default());
        (job, keeper)
    }

    fn act(&mut self) {
        let commit = self.job.commit_number() + 1;
        let before = self.contents[&(commit - 1)].clone();
        if self.rng.chance(5) {
            (self.job, self.keeper) = Self::start(Arc::clone(&self.job.storage), commit);
            self.contents.insert(commit, before);
            return;
        }
        let rng = &mut self.rng;
        let tags: Vec<_> = (0..4).map(|_| (rng.below(20) as u32, rng.below(99) as i64)).collect();
        let batch = Batch::of_tags(commit as i64, &tags).with_board(commit as u32 % 3, 7);
        self.contents.insert(commit, before.after(commit, &batch));
        self.job.commit(&batch).unwrap();
        self.keeper.step(&self.job.last, commit * 1000).unwrap();
    }
}

#[test]
fn reader_tolerates_changes_between_any_two_calls() {
    let (mut passed, mut shown_commits) = (0, 0);
    let seeds = seeds(SEEDS);
    for seed in seeds.clone() {
        let _repeat = Repeat(seed);
        let storage = memory();
        let (job, keeper) = Busy::start(storage.clone(), 1);
        let contents = BTreeMap::from([(1, Content::default())]);
        let rng = Rng(seed);
        let busy = Arc::new(Mutex::new(Busy { rng, job, keeper, contents }));
        let other = Arc::clone(&busy);
        let follower = Follower::new(Hooked::new(storage, move |_| {
            let mut busy = other.lock();
            // From one commit in fifty calls to two in every call.
            while busy.rng.chance(2 + seed % SEEDS) {
                busy.act();
            }
            None
        }));
        let (mut last, mut kept) = (0, Vec::new());
        for _ in 0..40 {
            let moved = follower.step().unwrap();
            passed += u64::from(!moved);
            let Some(snapshot) = follower.current() else { continue };
            let commit = snapshot.manifest.header.commit;
            assert!(commit > last || !moved && commit == last, "{commit} after {last}");
            assert_shows(&snapshot, &busy.lock().contents[&commit]);
            shown_commits += u64::from(moved);
            last = commit;
            kept.push(snapshot);
        }
        // Old snapshots stay readable, whatever has been removed since.
        for snapshot in kept {
            let commit = snapshot.manifest.header.commit;
            assert_shows(&snapshot, &busy.lock().contents[&commit]);
        }
    }
    let enough = passed > 100 && shown_commits > 100;
    let fewer = seeds.count() < SEEDS as usize;
    assert!(enough || fewer, "{passed} passed over, {shown_commits} shown");
}
