//! Followed files, rotated in every way there is: every line counts once, or the job
//! says what may be missing.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::harness::{
    Job, Summary, append, eventually, export, fails, folder, now_ms, ok, post, run,
};

/// A followed input, and the state of the job that follows it.
struct Followed {
    folder: TempDir,
    input: &'static str,
    now: i64,
}

impl Followed {
    /// Posts 0 and 1 are in `posts.ndjson`, or in `input`, a folder.
    fn new(input: &'static str) -> Self {
        let followed = Self { folder: folder(), input, now: now_ms() };
        fs::create_dir(followed.at("in")).unwrap();
        followed.write(followed.file(), 0..2);
        followed
    }

    fn file(&self) -> &'static str {
        if self.input == "in" { "in/posts.ndjson" } else { "posts.ndjson" }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, posts: std::ops::Range<u32>) -> String {
        posts.map(|id| post(id, self.now + i64::from(id), "quay")).collect()
    }

    /// Writes posts into a new file, or over an existing one.
    fn write(&self, name: &str, posts: std::ops::Range<u32>) {
        fs::write(self.at(name), self.text(posts)).unwrap();
    }

    fn append(&self, name: &str, posts: std::ops::Range<u32>) {
        append(&self.at(name), self.text(posts));
    }

    fn rename(&self, from: &str, to: &str) {
        fs::rename(self.at(from), self.at(to)).unwrap();
    }

    fn line(&self, more: &str) -> String {
        let (input, state) = (self.at(self.input), self.at("state"));
        format!("run --input {} --state {} {more}", input.display(), state.display())
    }

    /// Starts the job, and waits until it has counted `posts` posts.
    fn start(&self, more: &str, posts: i64) -> Job {
        let job = Job::logged(&self.line(more), &self.at("log"));
        self.counts(posts);
        job
    }

    fn log(&self) -> String {
        fs::read_to_string(self.at("log")).unwrap()
    }

    /// Waits until `posts` posts count.
    fn counts(&self, posts: i64) {
        eventually(&format!("{posts} posts: {}", self.log()), || {
            (self.total() == posts).then_some(())
        });
    }

    /// The posts that count: none before the first commit.
    fn total(&self) -> i64 {
        let output = run(&format!("query tag quay --state {} --json", self.at("state").display()));
        let shown: Option<serde_json::Value> = serde_json::from_slice(&output.stdout).ok();
        shown.and_then(|shown| shown["total"].as_i64()).unwrap_or(0)
    }

    /// Stops the job, and checks that exactly `posts` posts were read, each once.
    fn ends(&self, job: Job, posts: i64) -> Summary {
        job.signal("TERM");
        let (code, ..) = job.end();
        assert_eq!(code, Some(0), "{}", self.log());
        assert_eq!(self.total(), posts);
        let summary = export(&self.at("state"), "").1;
        assert_eq!((summary.events, summary.dead_letters), (posts as u64, 0), "{}", self.log());
        summary
    }

    /// The job ends with an error that names the file and what to do.
    fn stops(&self, mut job: Job) {
        let code = eventually("an error", || job.code());
        let log = self.log();
        assert_eq!(code, 1, "{log}");
        for word in ["posts.ndjson", "byte", "missing", "--on-truncate go-on"] {
            assert!(log.contains(word), "{word}: {log}");
        }
    }
}

#[test]
fn every_line_counts_once_however_a_file_is_replaced() {
    type Way = (&'static str, &'static str, fn(&Followed));
    let ways: [Way; 6] = [
        ("renamed", "posts.ndjson", |f| {
            f.rename("posts.ndjson", "posts.ndjson.1");
            f.write("posts.ndjson", 2..8);
        }),
        ("renamed in a folder", "in", |f| {
            f.rename("in/posts.ndjson", "in/posts-1.ndjson");
            f.write("in/posts.ndjson", 2..8);
        }),
        ("removed and made again", "posts.ndjson", |f| {
            fs::remove_file(f.at("posts.ndjson")).unwrap();
            f.write("posts.ndjson", 2..8);
        }),
        ("removed from a folder", "in", |f| {
            fs::remove_file(f.at("in/posts.ndjson")).unwrap();
            f.write("in/posts.ndjson", 2..8);
        }),
        ("a grown copy", "posts.ndjson", |f| {
            f.write("copy", 0..8);
            f.rename("copy", "posts.ndjson");
        }),
        ("a grown copy in a folder", "in", |f| {
            f.write("copy", 0..8);
            f.rename("copy", "in/posts.ndjson");
        }),
    ];
    for (way, input, replace) in ways {
        for restart in [false, true] {
            let followed = Followed::new(input);
            let mut job = followed.start("--workers 2", 2);
            if restart {
                followed.ends(job, 2);
                replace(&followed);
                let removed = way.starts_with("removed");
                if removed && input == "posts.ndjson" {
                    // Nobody knows what was written before it was removed.
                    followed.stops(Job::logged(&followed.line(""), &followed.at("log")));
                    continue;
                }
                let go_on = if removed { "--on-truncate go-on" } else { "" };
                job = followed.start(go_on, 8);
            } else {
                replace(&followed);
                followed.counts(8);
            }
            let summary = followed.ends(job, 8);
            assert_eq!(summary.duplicates, 0, "{way}, restart: {restart}");
        }
    }
}

#[test]
fn link_that_is_set_to_the_next_day_is_followed() {
    let followed = Followed::new("posts.ndjson");
    followed.rename("posts.ndjson", "day1.log");
    followed.write("day2.log", 2..8);
    symlink("day1.log", followed.at("posts.ndjson")).unwrap();
    let job = followed.start("", 2);
    fs::remove_file(followed.at("posts.ndjson")).unwrap();
    symlink("day2.log", followed.at("posts.ndjson")).unwrap();
    followed.counts(8);
    followed.append("day1.log", 8..9);
    followed.counts(9);
    followed.ends(job, 9);
}

#[test]
fn truncated_file_stops_the_job_or_is_counted_from_its_beginning() {
    for restart in [false, true] {
        for (on_truncate, longer) in [("", true), ("", false), ("--on-truncate go-on", true)] {
            let followed = Followed::new("posts.ndjson");
            // The beginnings are equal, and longer than what is compared.
            let liked = format!("{{\"event_id\":\"a\",\"ts\":{},\"type\":\"liked\"", followed.now);
            let same = format!("{liked},\"caption\":\"{}\"}}\n", "x".repeat(5000));
            fs::write(followed.at("posts.ndjson"), same.clone() + &followed.text(0..2)).unwrap();
            let overwrite = || {
                let posts = if longer { 2..8 } else { 2..3 };
                let text = same.clone() + &followed.text(posts);
                fs::write(followed.at("posts.ndjson"), text).unwrap();
            };
            let mut job = followed.start(on_truncate, 2);
            if restart {
                followed.ends(job, 2);
                overwrite();
                job = Job::logged(&followed.line(on_truncate), &followed.at("log"));
            } else {
                overwrite();
            }
            let total = if longer { 8 } else { 3 };
            if on_truncate.is_empty() {
                followed.stops(job);
                assert_eq!(followed.total(), 2);
                job = followed.start("--on-truncate go-on", total);
            }
            followed.counts(total);
            job.signal("TERM");
            assert_eq!(job.end().0, Some(0), "{}", followed.log());
            let state = followed.at("state");
            let shown = ok(&format!("checkpoint show --state {} --json", state.display()));
            let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
            assert_eq!(shown["counters"]["truncations"], 1);
        }
    }
}

/// Writes posts to a file that is renamed, in one go.
fn write_on(mut file: &fs::File, text: &str) {
    file.write_all(text.as_bytes()).unwrap();
}

#[test]
fn writer_may_go_on_with_a_renamed_file_through_a_crash() {
    let followed = Followed::new("posts.ndjson");
    let writer = fs::File::options().append(true).open(followed.at("posts.ndjson")).unwrap();
    let mut job = followed.start("--rotate-wait 1h", 2);
    followed.rename("posts.ndjson", "posts.ndjson.1");
    write_on(&writer, &followed.text(2..3));
    followed.counts(3);
    followed.write("posts.ndjson", 3..5);
    write_on(&writer, &followed.text(5..6));
    followed.counts(6);
    job.kill();
    write_on(&writer, &followed.text(6..7));
    followed.append("posts.ndjson", 7..8);
    // The next start finds the rest of it, under another name.
    followed.rename("posts.ndjson.1", "posts-old.log");
    let mut job = followed.start("--rotate-wait 1h --workers 3", 8);
    // Half a line holds nothing back.
    let (half, rest) = (followed.text(8..9), followed.text(8..9));
    write_on(&writer, &half[..20]);
    let as_of = || export(&followed.at("state"), "").1.as_of;
    let before = as_of();
    eventually("windows that move on", || (as_of() > before).then_some(()));
    write_on(&writer, &rest[20..]);
    followed.counts(9);
    job.kill();
    // Rotated once more while no job runs.
    followed.rename("posts.ndjson", "posts.ndjson.1");
    followed.write("posts.ndjson", 9..11);
    let job = followed.start("", 11);
    followed.ends(job, 11);
}

#[test]
fn renamed_file_is_let_go_and_goes_on_under_its_new_name() {
    let followed = Followed::new("in");
    let job = followed.start("--rotate-wait 1s --log-level info", 2);
    followed.rename("in/posts.ndjson", "in/posts-1.ndjson");
    followed.write("in/posts.ndjson", 2..4);
    followed.append("in/posts-1.ndjson", 4..5);
    followed.counts(5);
    eventually("the old file is let go", || {
        followed.log().contains("no longer grows").then_some(())
    });
    followed.append("in/posts-1.ndjson", 5..6);
    followed.counts(6);
    fs::copy(followed.at("in/posts-1.ndjson"), followed.at("copy")).unwrap();
    followed.rename("copy", "in/copy.ndjson");
    followed.append("in/copy.ndjson", 6..7);
    followed.counts(7);
    assert_eq!(followed.ends(job, 7).duplicates, 0, "no line was read twice");
    reconciles(&followed);
}

/// The state equals a second count of its files, wherever they are now.
fn reconciles(followed: &Followed) {
    let (input, state) = (followed.at(followed.input), followed.at("state"));
    ok(&format!("reconcile --input {} --state {}", input.display(), state.display()));
}

#[test]
fn rotated_files_are_found_again_by_a_second_count() {
    let followed = Followed::new("posts.ndjson");
    let job = followed.start("--rotate-wait 1ms", 2);
    followed.rename("posts.ndjson", "posts.ndjson.1");
    followed.write("posts.ndjson", 2..4);
    followed.counts(4);
    followed.append("posts.ndjson", 4..5);
    followed.counts(5);
    followed.ends(job, 5);
    followed.rename("posts.ndjson.1", "posts.ndjson.2");
    followed.rename("posts.ndjson", "posts.ndjson.1");
    followed.write("posts.ndjson", 5..6);
    reconciles(&followed);
    let old: &Path = &followed.at("posts.ndjson.2");
    fs::write(old, followed.text(7..8)).unwrap();
    let (input, state) = (followed.at("posts.ndjson"), followed.at("state"));
    let line = format!("reconcile --input {} --state {}", input.display(), state.display());
    let error = fails(&line, 2);
    assert!(error.contains("rotated") && error.contains("--since"), "{error}");
}
