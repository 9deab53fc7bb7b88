//! The tasks that write segments and create manifests: what a reply means.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use crate::common::{Batch, Call, Content, Hooked, Job, Mode, assert_shows, memory};
use parking_lot::Mutex;
use schemas::hash::KeyHash;
use schemas::manifest::{Manifest, SegmentMeta};
use schemas::rows::{IdRow, Ids};
use schemas::segment::Rows;
use sinks::commits::{
    CommitTask, Latest, SegmentWriter, Snapshot, Verdict, WriteError, WriteJob, list_commits,
    visible,
};
use sinks::storage::{Lack, Storage, Waiting};

type Replies = Arc<Mutex<Vec<Result<SegmentMeta, WriteError>>>>;

/// A job that writes one row to `name`.
fn write_job(name: &str, replies: &Replies) -> WriteJob {
    let mut rows = Rows::<Ids>::default();
    rows.push(KeyHash::default(), &IdRow { hash: KeyHash::default(), hour: 3, forgotten: false });
    let replies = Arc::clone(replies);
    let reply = move |written| replies.lock().push(written);
    WriteJob::new(name.to_owned(), 7, rows, reply)
}

/// A storage that records its calls, and the calls.
fn recording(
    fail: impl Fn(&Call) -> bool + Send + Sync + 'static,
) -> (Arc<Hooked>, Arc<Mutex<Vec<Call>>>) {
    let calls = Arc::new(Mutex::new(Vec::new()));
    let record = Arc::clone(&calls);
    let hooked = Hooked::new(memory(), move |call| {
        record.lock().push(call.clone());
        fail(call).then_some(Mode::Before)
    });
    (hooked, calls)
}

fn names(replies: &Replies) -> Vec<Result<String, String>> {
    let replies = replies.lock();
    let name = |r: &Result<SegmentMeta, WriteError>| match r {
        Ok(meta) => Ok(meta.name.clone()),
        Err(error) => Err(error.to_string()),
    };
    replies.iter().map(name).collect()
}

#[test]
fn several_segments_need_one_sync_of_their_folder() {
    let (storage, calls) = recording(|_| false);
    let (mut writer, jobs) = SegmentWriter::new(storage.clone(), &Arc::default());
    assert!(!writer.step(), "nothing waits");
    let replies = Replies::default();
    for name in ["segments/a", "segments/b", "segments/c"] {
        jobs.send(write_job(name, &replies)).unwrap();
    }
    assert!(writer.step() && !writer.step());
    assert_eq!(names(&replies), ["a", "b", "c"].map(|n| Ok(format!("segments/{n}"))));
    let calls = std::mem::take(&mut *calls.lock());
    let of = |what| calls.iter().filter(move |c| c.what == what).map(|c| c.name.as_str());
    assert_eq!(of("sync_folder").collect::<Vec<_>>(), ["segments"]);
    assert_eq!(of("sync").count(), 3);
    let at = |what| calls.iter().rposition(|c| c.what == what).unwrap();
    assert!(at("sync") < at("rename") && at("rename") < at("sync_folder"));

    let meta = replies.lock().remove(0).unwrap();
    let bytes = storage.open(&meta.name).unwrap();
    assert_eq!((meta.rows, meta.bytes), (1, bytes.len() as u64));
    assert_eq!((meta.first_commit, meta.last_commit, meta.last_hour), (7, 7, Some(3)));
    assert_eq!(meta.xxh3, schemas::manifest::checksum(&bytes));
    assert_eq!(storage.list("segments").unwrap().len(), 3, "no temporary file is left");
}

#[test]
fn failed_segment_does_not_affect_others() {
    for what in ["append", "sync", "rename"] {
        let (storage, _) = recording(move |c| c.what == what && c.name.ends_with('b'));
        let (mut writer, jobs) = SegmentWriter::new(storage, &Arc::default());
        let replies = Replies::default();
        for name in ["segments/a", "segments/b", "segments/c"] {
            jobs.send(write_job(name, &replies)).unwrap();
        }
        writer.step();
        let names = names(&replies);
        let errors: Vec<_> = names.iter().filter_map(|r| r.as_ref().err()).collect();
        assert_eq!((names.len(), errors.len()), (3, 1), "{names:?}");
        assert!(errors[0].contains("segments/") && errors[0].contains(what), "{errors:?}");
    }
}

#[test]
fn failed_folder_sync_is_one_error() {
    let (storage, _) = recording(|c| c.what == "sync_folder");
    let (mut writer, jobs) = SegmentWriter::new(storage, &Arc::default());
    let replies = Replies::default();
    for name in ["segments/a", "segments/b"] {
        jobs.send(write_job(name, &replies)).unwrap();
    }
    writer.step();
    let names = names(&replies);
    assert!(!names.is_empty() && names.iter().all(Result::is_err), "{names:?}");
}

#[test]
fn writer_ends_with_its_last_sender() {
    let (writer, jobs) = SegmentWriter::new(memory(), &Arc::default());
    let replies = Replies::default();
    let thread = std::thread::spawn(|| writer.run());
    for name in ["segments/a", "segments/b"] {
        jobs.send(write_job(name, &replies)).unwrap();
    }
    drop(jobs);
    thread.join().unwrap();
    assert_eq!(names(&replies).len(), 2);
}

#[test]
fn reply_means_durable_visible_and_open() {
    let storage = memory();
    let mut job = Job::start(storage.clone(), 1, 0).unwrap();
    let batch = Batch::of_tags(5, &[(1, 1), (2, 2)]).with_board(0, 1);
    let manifest = job.commit(&batch).unwrap().clone();
    assert_eq!(visible(&*storage).unwrap(), Some(2));
    let shown = job.latest.wait(1, Duration::ZERO).unwrap();
    assert_eq!(shown.manifest, manifest);
    assert_shows(&shown, &Content::default().after(2, &batch));
    assert!(job.latest.wait(2, Duration::ZERO).is_none(), "no newer one yet");
}

#[test]
fn waiting_ends_with_a_commit_or_the_end() {
    let mut job = Job::start(memory(), 1, 0).unwrap();
    let latest = Arc::clone(&job.latest);
    let waiting = std::thread::spawn(move || {
        let commit = latest.wait(1, Duration::from_mins(1)).map(|s| s.manifest.header.commit);
        (commit, latest.wait(2, Duration::from_mins(1)).is_none(), latest.is_closed())
    });
    job.commit(&Batch::of_tags(5, &[(1, 1)])).unwrap();
    job.latest.close();
    assert_eq!(waiting.join().unwrap(), (Some(2), true, true));
}

/// Creates two manifests on a storage whose call `fails` fails. Returns the storage, the numbers of
/// failed and successful replies, and the latest commit.
fn two_manifests(fails: Option<usize>) -> (Arc<dyn Storage>, [usize; 2], Arc<Latest>) {
    let storage = memory();
    let mut job = Job::start(storage.clone(), 1, 0).unwrap();
    let first = job.prepare(&Batch::of_tags(5, &[(1, 1)])).unwrap();
    let mut second = first.clone();
    second.header.commit += 1;
    second.header.version += 1;
    let calls = AtomicUsize::new(0);
    let failing = Hooked::new(storage.clone(), move |_| {
        (Some(calls.fetch_add(1, Ordering::SeqCst)) == fails).then_some(Mode::Before)
    });
    let before = Snapshot::open(&*storage, job.last.clone(), None).unwrap();
    let latest = Arc::new(Latest::new(Arc::new(before)));
    let (mut task, queue) = CommitTask::new(failing, Arc::clone(&latest), &Arc::default());
    let (reply, replies) = channel();
    for manifest in [first, second] {
        let reply = reply.clone();
        let check = || Verdict::Create;
        queue.send(manifest, check, move |done| reply.send(done.is_ok()).unwrap());
    }
    while task.step() {}
    let mut counts = [0, 0];
    for good in replies.try_iter() {
        counts[usize::from(good)] += 1;
    }
    (storage, counts, latest)
}

#[test]
fn no_manifest_is_created_after_a_failed_one() {
    let (_, counts, _) = two_manifests(None);
    assert_eq!(counts, [0, 2]);
    let mut n = 0;
    loop {
        let (storage, [bad, good], latest) = two_manifests(Some(n));
        let commits = list_commits(&*storage).unwrap();
        assert_eq!(commits, (1..=commits.len() as u64).collect::<Vec<_>>(), "a gap, call {n}");
        assert!(commits.len() as u64 <= 2 + good as u64, "call {n}: {commits:?}");
        // This process is never ahead of other readers.
        let shown = latest.current().manifest.header.commit;
        assert_eq!(shown, 1 + good as u64, "call {n}");
        assert!(visible(&*storage).unwrap() >= Some(shown), "call {n}");
        if bad == 0 {
            break assert!(n > 10, "every call of a commit has failed once");
        }
        n += 1;
    }
}

/// Writes segments and manifests on a disk that is full until `has_room`, with threads. Returns
/// what was told, and the replies.
fn on_a_full_disk(
    end: impl FnOnce(&Waiting, &AtomicBool),
) -> (Vec<(Lack, bool)>, Vec<Result<String, String>>) {
    let has_room = Arc::new(AtomicBool::new(false));
    let room = Arc::clone(&has_room);
    let full = || io::ErrorKind::StorageFull.into();
    let storage = Hooked::answering(full, memory(), move |call| {
        (call.what == "append" && !room.load(Ordering::SeqCst)).then_some(Mode::Torn)
    });
    let told = Arc::new(Mutex::new(Vec::new()));
    let (tell, (waits, is_waiting)) = (Arc::clone(&told), channel());
    let waiting = Arc::new(Waiting::new(true, move |lack, begins| {
        tell.lock().push((lack, begins));
        let _ = waits.send(());
    }));
    let (writer, jobs) = SegmentWriter::new(storage, &waiting);
    let other = writer.another();
    let threads = [std::thread::spawn(|| writer.run()), std::thread::spawn(|| other.run())];
    let replies = Replies::default();
    for name in ["segments/a", "segments/b", "segments/c"] {
        jobs.send(write_job(name, &replies)).unwrap();
    }
    drop(jobs);
    is_waiting.recv().unwrap();
    end(&waiting, &has_room);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let told = told.lock().clone();
    (told, names(&replies))
}

#[test]
fn writers_go_on_by_themselves_when_there_is_room() {
    let (told, replies) = on_a_full_disk(|_, has_room| has_room.store(true, Ordering::SeqCst));
    let all: std::collections::BTreeSet<_> = replies.into_iter().map(Result::unwrap).collect();
    assert_eq!(all.len(), 3, "every segment is written once: {all:?}");
    assert_eq!((told[0], told[told.len() - 1]), ((Lack::Space, true), (Lack::Space, false)));
}

#[test]
fn writers_that_wait_for_room_end_with_the_job() {
    for end in [Waiting::end_soon, Waiting::end_now] {
        let (_, replies) = on_a_full_disk(|waiting, _| end(waiting));
        assert!(!replies.is_empty() && replies.iter().all(Result::is_err), "{replies:?}");
    }
}

#[test]
fn segment_that_had_no_room_at_first_is_written_whole() {
    let (storage, has_room) = (memory(), Arc::new(AtomicBool::new(false)));
    let room = Arc::clone(&has_room);
    let full = || io::ErrorKind::StorageFull.into();
    // Not even the torn half can be removed at first.
    let failing = Hooked::answering(full, storage.clone(), move |call| {
        let fails = matches!(call.what, "append" | "unlink") && !room.load(Ordering::SeqCst);
        fails.then_some(Mode::Torn)
    });
    let waiting = Arc::new(Waiting::new(false, |_, _| ()));
    let (mut writer, jobs) = SegmentWriter::new(failing, &waiting);
    let replies = Replies::default();
    jobs.send(write_job("segments/a", &replies)).unwrap();
    for _ in 0..5 {
        assert!(writer.step() && replies.lock().is_empty());
    }
    has_room.store(true, Ordering::SeqCst);
    writer.step();
    let meta = replies.lock().remove(0).unwrap();
    let bytes = storage.open("segments/a").unwrap();
    assert_eq!(meta.xxh3, schemas::manifest::checksum(&bytes));
    assert_eq!(sinks::commits::open_segment::<Ids>(&*storage, &meta).unwrap().rows.len(), 1);
    assert_eq!(storage.list("segments").unwrap(), ["a"]);
}

#[test]
fn manifest_waits_for_its_check() {
    let storage = memory();
    let mut job = Job::start(storage.clone(), 1, 0).unwrap();
    let first = job.prepare(&Batch::of_tags(5, &[(1, 1)])).unwrap();
    let before = Snapshot::open(&*storage, job.last.clone(), None).unwrap();
    let latest = Arc::new(Latest::new(Arc::new(before)));
    let (mut task, queue) = CommitTask::new(storage.clone(), latest, &Arc::default());
    let verdict = Arc::new(Mutex::new(Verdict::Wait));
    let (reply, replies) = channel();
    let send = |manifest: &Manifest| {
        let (check, reply) = (Arc::clone(&verdict), reply.clone());
        let check = move || *check.lock();
        queue.send(manifest.clone(), check, move |done| reply.send(done.is_ok()).unwrap());
    };
    let commits = || list_commits(&*storage).unwrap().len();
    send(&first);
    assert!(task.step() && task.step(), "it is asked again");
    assert_eq!((commits(), replies.try_iter().count()), (1, 0));
    *verdict.lock() = Verdict::Create;
    assert!(task.step());
    assert_eq!((commits(), replies.try_iter().collect::<Vec<_>>()), (2, vec![true]));
    let mut second = first;
    second.header.commit += 1;
    second.header.version += 1;
    *verdict.lock() = Verdict::Never;
    send(&second);
    assert!(task.step());
    *verdict.lock() = Verdict::Create;
    send(&second);
    assert!(!task.step(), "a job that is ending makes no commit");
    assert_eq!((commits(), replies.try_iter().count()), (2, 0));
}
