//! Random histories of one state: files appear, grow and go, and are read to the end, in part or
//! continuously, by different numbers of workers, with rollbacks in between. Every record counts
//! exactly once.

use std::fs;
use std::path::PathBuf;

use simulate::rng::Rng;
use simulate::seed::{Repeat, seeds};
use tempfile::TempDir;

use super::harness::{Job, Summary, append, eventually, export, folder, newest_commit, ok};
use super::oracle::{Input, check};

const HISTORIES: u64 = 6;
const ACTIONS: u64 = 10;
const FILES: u64 = 3;
/// Sizes of the batches appended to files.
const BATCHES: [u64; 6] = [1, 300, 1000, 2500, 4000, 60_000];

/// A state, its input, and a copy of everything that was ever in the input.
struct World {
    folder: TempDir,
    random: Rng,
    records: u64,
    /// A bounded run has read some blocks in part.
    half_read: bool,
    /// A file was removed, so that nothing can be read again.
    removed: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        let folder = folder();
        fs::create_dir(folder.path().join("posts")).unwrap();
        let mut world =
            Self { folder, random: Rng(seed), records: 0, half_read: false, removed: false };
        world.append();
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn append(&mut self) {
        let batch = self.path("batch.ndjson");
        // Batches with the same seed are duplicates. A large one has several blocks.
        let (seed, file) = (self.random.below(BATCHES.len() as u64), self.random.below(FILES));
        let posts = BATCHES[seed as usize];
        let to = format!("--force --out {}", batch.display());
        ok(&format!("generate --posts {posts} --seed {seed} --span 10m {to}"));
        let batch = fs::read(batch).unwrap();
        let is_new = !self.path(&format!("posts/{file}.ndjson")).exists();
        // A copy of a file that was read would not be read again.
        let first = if is_new { own_line(file, &batch) } else { String::new() };
        for name in [format!("posts/{file}.ndjson"), format!("all-{file}.ndjson")] {
            append(&self.path(&name), first.as_bytes());
            append(&self.path(&name), &batch);
        }
        self.records += posts + u64::from(is_new);
    }

    fn line(&mut self, more: &str) -> String {
        let workers = 1 + self.random.below(4);
        let (input, state) = (self.path("posts"), self.path("state"));
        let (input, state) = (input.display(), state.display());
        format!("run --input {input} --state {state} --workers {workers} {more}")
    }

    fn summary(&self) -> Summary {
        export(&self.path("state"), "").1
    }

    /// Reads part of the input, by blocks or in order.
    fn begin(&mut self) {
        let bounded = self.half_read || self.random.below(2) == 0;
        let more = if bounded { "--bounded --limit-rate 4000" } else { "--limit-rate 4000" };
        let (line, state) = (self.line(more), self.path("state"));
        let before = newest_commit(&state);
        let mut job = Job::start(&line);
        eventually("two commits, or the end", || {
            (newest_commit(&state) > before + 2 || !job.lives()).then_some(())
        });
        if job.lives() {
            job.signal("INT");
        }
        let (code, _, error) = job.end();
        assert_eq!(code, Some(0), "{line}: {error}");
        self.half_read |= bounded;
    }

    fn run_to_the_end(&mut self) {
        let line = self.line("--bounded");
        ok(&line);
        self.half_read = false;
        self.check();
    }

    fn follow(&mut self) {
        if self.half_read {
            return self.run_to_the_end();
        }
        let line = self.line("");
        let before = newest_commit(&self.path("state"));
        let mut job = Job::start(&line);
        eventually("all records", || {
            assert!(job.lives(), "{line}");
            // After its first own commit the job handles signals.
            let known = newest_commit(&self.path("state")) > before + 1;
            let read = known.then(|| self.summary()).map(|s| s.events + s.duplicates);
            (read == Some(self.records)).then_some(())
        });
        job.signal("INT");
        let (code, _, error) = job.end();
        assert_eq!(code, Some(0), "{line}: {error}");
        self.check();
    }

    fn roll_back(&mut self) {
        let state = self.path("state");
        let newest = newest_commit(&state);
        if self.removed || newest < 3 {
            return;
        }
        let to = newest - 1 - self.random.below(2.min(newest - 2));
        ok(&format!("checkpoint rollback --state {} --to {to}", state.display()));
        self.half_read = true;
    }

    /// Removes a file that was read to its end.
    fn remove(&mut self) {
        self.run_to_the_end();
        let which = self.random.below(FILES);
        let file = self.path(&format!("posts/{which}.ndjson"));
        let others = fs::read_dir(self.path("posts")).unwrap().count() > 1;
        if others && file.exists() {
            fs::remove_file(file).unwrap();
            self.removed = true;
            // Anything appended from now on makes a new file of the same name.
            self.run_to_the_end();
        }
    }

    fn act(&mut self) {
        match self.random.below(if self.removed { 6 } else { 12 }) {
            0 | 1 => self.begin(),
            2 | 3 => self.run_to_the_end(),
            4 | 5 => self.follow(),
            6 => self.roll_back(),
            7 => self.remove(),
            _ => self.append(),
        }
    }

    fn check(&self) {
        let (rows, summary) = export(&self.path("state"), "");
        let all = (0..FILES).map(|file| self.path(&format!("all-{file}.ndjson")));
        let paths = all.filter(|path| path.exists()).collect();
        check(&Input { paths, ..Input::file(&self.path("posts")) }, &rows, &summary);
    }
}

/// A line that only this file has, at the time of the first one of `batch`.
fn own_line(file: u64, batch: &[u8]) -> String {
    let first = batch.split(|byte| *byte == b'\n').next().unwrap();
    let mut post: serde_json::Value = serde_json::from_slice(first).unwrap();
    post["event_id"] = format!("first of {file}").into();
    format!("{post}\n")
}

#[test]
fn every_record_counts_once_in_any_history() {
    for seed in seeds(HISTORIES) {
        let _repeat = Repeat(seed);
        let mut world = World::new(seed);
        (0..ACTIONS).for_each(|_| world.act());
        world.run_to_the_end();
    }
}
