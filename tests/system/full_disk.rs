//! A disk that is full, for real: a small file system of its own that is filled under a running job
//! and freed again. The job waits, pages are served on, and no count is lost.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::harness::{
    Job, append, eventually, export, fails, folder, newest_commit, now_ms, ok, post, skip,
};
use super::oracle::{Input, check};
use super::serve::get;

/// A mounted file system, unmounted when dropped.
struct Mount(PathBuf);

impl Mount {
    /// A file system of two megabytes; `None`, said aloud, where nothing may be mounted.
    fn small(at: &Path, test: &str) -> Option<Self> {
        fs::create_dir(at).unwrap();
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"]).arg(at).output();
        if mount.is_ok_and(|done| done.status.success()) {
            return Some(Self(at.to_owned()));
        }
        skip(1, &format!("{test}: no file system can be mounted here"));
        None
    }

    /// Fills it to the last byte.
    fn fill(&self) {
        let mut filler = File::options().create(true).append(true).open(self.filler()).unwrap();
        for size in [1 << 16, 1 << 12, 1] {
            while filler.write_all(&vec![0; size]).is_ok() {}
        }
    }

    /// Makes room.
    fn free(&self) {
        fs::remove_file(self.filler()).unwrap();
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// A job that follows a file, and counts on a small disk.
struct World {
    disk: Mount,
    input: PathBuf,
    log: PathBuf,
    state: PathBuf,
    posts: u32,
    // Removed last.
    _folder: tempfile::TempDir,
}

impl World {
    fn new(test: &str) -> Option<Self> {
        let folder = folder();
        let at = |name: &str| folder.path().join(name);
        let (input, log, state) = (at("posts.ndjson"), at("log"), at("disk").join("state"));
        let disk = Mount::small(&at("disk"), test)?;
        Some(Self { disk, input, log, state, posts: 0, _folder: folder })
    }

    /// Appends posts to the input.
    fn post(&mut self) {
        for _ in 0..100 {
            self.posts += 1;
            let tag = format!("t{}", self.posts % 7);
            append(&self.input, post(self.posts, now_ms(), &tag));
        }
    }

    /// Starts the job. Nothing old is removed, which would make room.
    fn run(&self, more: &str) -> Job {
        let (input, state) = (self.input.display(), self.state.display());
        let keep = "--keep 1h --keep-bytes 1000000000 --grace 1h";
        let line = format!("run --input {input} --state {state} {keep} --workers 1 {more}");
        Job::logged(&line, &self.log)
    }

    fn logged(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// What follows `before` in the log.
    fn named(&self, before: &str) -> String {
        eventually(before, || {
            let text = self.logged();
            let (_, rest) = text.split_once(before)?;
            let (name, _) = rest.split_once(char::is_whitespace)?;
            Some(name.trim_end_matches("/metrics").trim_start_matches("http://").to_owned())
        })
    }

    fn until_logged(&self, text: &str) {
        eventually(text, || self.logged().contains(text).then_some(()));
    }

    /// Fails unless exactly the posts so far are counted.
    fn check(&self) {
        let (rows, summary) = export(&self.state, "");
        assert_eq!(summary.events, u64::from(self.posts));
        check(&Input::file(&self.input), &rows, &summary);
    }
}

const WAITS: &str = "waiting for space on the disk";
const GOES_ON: &str = "no longer waiting for space on the disk";

#[test]
fn job_waits_while_its_disk_is_full_and_goes_on_by_itself() {
    let Some(mut world) = World::new("full_disk") else { return };
    world.post();
    let mut job = world.run("--listen 127.0.0.1:0 --metrics 127.0.0.1:0");
    let (address, metrics) = (world.named("serving "), world.named("metrics "));
    let count = |total: u64| {
        let answer = get(&address, "/tags/t1");
        (answer.status == 200 && answer.json()["total"].as_u64() == Some(total)).then_some(())
    };
    let waiting = |number: u32| {
        let line = format!("tagflow_waiting{{for=\"space\"}} {number}");
        get(&metrics, "/metrics").body.contains(&line).then_some(())
    };
    eventually("the first posts to be counted", || count(15));
    waiting(0).expect("there is room");
    world.disk.fill();
    world.post();
    world.until_logged(WAITS);
    eventually("the metric", || waiting(1));
    let commit = newest_commit(&world.state);
    assert!(job.lives() && count(15).is_some(), "pages are served on");
    assert_eq!(newest_commit(&world.state), commit);
    let told = world.logged();
    assert!(told.contains("Nothing is lost") && told.contains("No space left"), "{told}");
    assert_eq!(told.matches(&format!("{WAITS}: cannot")).count(), 1, "told once: {told}");

    world.disk.free();
    world.until_logged(GOES_ON);
    eventually("all posts to be counted", || count(29));
    eventually("the metric", || waiting(0));
    job.signal("TERM");
    assert_eq!(job.end().0, Some(0));
    world.check();
}

#[test]
fn job_that_is_stopped_on_a_full_disk_says_what_is_not_durable() {
    let Some(mut world) = World::new("full_disk") else { return };
    world.post();
    let job = world.run("");
    eventually("commits", || (newest_commit(&world.state) > 2).then_some(()));
    world.disk.fill();
    world.post();
    world.until_logged(WAITS);
    let commit = newest_commit(&world.state);
    job.signal("TERM");
    assert_eq!(job.end().0, Some(1));
    let told = world.logged();
    let last = format!("commit {commit} is its last");
    assert!(told.contains("No space left") && told.contains(&last), "{told}");
    assert!(!told.contains(GOES_ON), "it does not go on: {told}");

    // A start that waits can be stopped.
    fs::write(&world.log, "").unwrap();
    let job = world.run("");
    world.until_logged(WAITS);
    job.signal("TERM");
    assert_eq!(job.end().0, Some(0));
    let told = world.logged();
    assert!(told.contains("stopped before the job had begun"), "{told}");

    // It starts although the disk is still full, and waits again.
    fs::write(&world.log, "").unwrap();
    let mut job = world.run("");
    world.until_logged(WAITS);
    assert!(job.lives());
    world.disk.free();
    eventually("more commits", || (newest_commit(&world.state) > commit + 2).then_some(()));
    job.signal("TERM");
    assert_eq!(job.end().0, Some(0));
    world.check();
}

#[test]
fn state_on_a_read_only_disk_can_be_read_and_says_why_no_job_can_run() {
    let Some(mut world) = World::new("full_disk") else { return };
    world.post();
    let (input, state) = (world.input.display().to_string(), world.state.display().to_string());
    ok(&format!("run --input {input} --state {state} --bounded"));
    let remounted = Command::new("mount").args(["-o", "remount,ro"]).arg(&world.disk.0).status();
    assert!(remounted.unwrap().success());
    let error = fails(&format!("run --input {input} --state {state}"), 1);
    assert!(error.contains("Read-only file system") && error.contains(&state), "{error}");
    world.check();
}

#[test]
fn job_waits_for_file_handles_and_goes_on_when_there_are_some() {
    let folder = folder();
    let (state, log) = (folder.path().join("state"), folder.path().join("log"));
    let line = format!("run --input generator:?rate=1000 --state {}", state.display());
    let mut job = Job::logged(&line, &log);
    let pid = job.id().to_string();
    let limit = |soft: &str| {
        let limit = format!("--nofile={soft}:");
        let set = Command::new("prlimit").args(["--pid", &pid, &limit]).status();
        set.is_ok_and(|status| status.success())
    };
    let logged = |text: &str| fs::read_to_string(&log).unwrap().contains(text).then_some(());
    eventually("commits", || (newest_commit(&state) > 3).then_some(()));
    if !limit("3") {
        return skip(1, "full_disk: limits cannot be set here");
    }
    eventually("a lack", || logged("waiting for free file handles"));
    let commit = newest_commit(&state);
    assert!(job.lives());
    assert!(limit("1024"));
    eventually("commits", || (newest_commit(&state) > commit + 3).then_some(()));
    job.signal("TERM");
    assert_eq!(job.end().0, Some(0));
    assert!(logged("no longer waiting for free file handles").is_some());
}
