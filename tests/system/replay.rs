//! `replay` up to a commit of a running job gives the same counts whenever it runs. Decisions that
//! depended on the clock are either taken from the job's record or show up as differences.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use super::harness::{
    Job, append, eventually, export, fails, folder, newest_commit, now_ms, ok, post, run,
};

const HOUR: i64 = 3_600_000;

/// A folder of files, followed by a running job.
struct Live {
    folder: TempDir,
    job: Job,
}

impl Live {
    fn start(more: &str) -> Self {
        let folder = folder();
        fs::create_dir(folder.path().join("posts")).unwrap();
        let state = folder.path().join("state");
        let (posts, at) = (folder.path().join("posts"), state.display());
        let line = format!("run --input {} --state {at} --workers 2 {more}", posts.display());
        let live = Self { job: Job::start(&line), folder };
        let shown = format!("checkpoint show --state {}", live.state().display());
        eventually("the first commit", || run(&shown).status.success().then_some(()));
        live
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn state(&self) -> PathBuf {
        self.path("state")
    }

    fn append(&self, file: &str, text: &str) {
        append(&self.path("posts").join(file), text);
    }

    /// Waits until the job has committed this many records.
    fn counted(&mut self, records: u64) {
        let state = self.state();
        eventually("the records", || {
            assert!(self.job.lives());
            let s = export(&state, "").1;
            let all = s.events + s.duplicates + s.beyond_horizon + s.dead_letters;
            (all == records).then_some(())
        });
    }

    /// Replays into the state `name`.
    fn replay(&self, name: &str, more: &str) -> PathBuf {
        let state = self.path(name);
        ok(&self.line(name, more));
        state
    }

    fn line(&self, name: &str, more: &str) -> String {
        let (posts, state, live) = (self.path("posts"), self.path(name), self.state());
        let more = more.replace("LIVE", &live.display().to_string());
        format!("replay --input {} --state {} {more}", posts.display(), state.display())
    }
}

/// The tags that differ between two states.
fn differ(a: &Path, b: &Path, more: &str) -> BTreeSet<String> {
    let output = run(&format!("compare {} {} --json {more}", a.display(), b.display()));
    let text = String::from_utf8(output.stdout).unwrap();
    let (summary, tags) = text.trim_end().split_once('\n').unwrap_or((text.trim_end(), ""));
    let summary: Value = serde_json::from_str(summary).unwrap();
    assert_eq!(summary["differ"], tags.lines().count());
    assert_eq!(output.status.code(), Some(i32::from(!tags.is_empty())));
    let tags = tags.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    tags.map(|tag| tag["key"].as_str().unwrap().to_owned()).collect()
}

/// A running job that has made every kind of decision: an event from the future, and one below the
/// floor.
fn with_decisions() -> Live {
    let mut live = Live::start("");
    let now = now_ms();
    live.append("a.ndjson", &(0..20).map(|i| post(i, now - 1000, "now")).collect::<String>());
    live.append("a.ndjson", &post(20, now + HOUR, "future"));
    live.counted(21);
    // The previous commit set the floor. The log time of an old file is old as well.
    live.append("old.ndjson", &post(21, now - 30 * HOUR, "old"));
    live.append("old.ndjson", &post(22, now - 2000, "both"));
    live.counted(23);
    live.append("a.ndjson", &(post(3, now, "now") + &post(23, now - 25 * HOUR, "beyond")));
    live.append("a.ndjson", &post(24, now, "both"));
    live.counted(26);
    let (_, counted) = export(&live.state(), "");
    let sums = (counted.events, counted.duplicates, counted.dead_letters, counted.beyond_horizon);
    assert_eq!(sums, (22, 1, 1, 2), "{counted:?}");
    live
}

#[test]
fn recorded_decisions_explain_every_difference() {
    let live = with_decisions();
    let commit = newest_commit(&live.state()) - 1;
    let until = format!("--until-commit LIVE@{commit}");
    let at = format!("--at-a {commit}");
    let same = live.replay("same", &format!("{until} --decisions-from LIVE --workers 2"));
    assert_eq!(differ(&live.state(), &same, &at), BTreeSet::new());
    let (want, counted) = export(&live.state(), &format!("--at {commit}"));
    let (got, again) = export(&same, "");
    assert_eq!((got, again.as_of), (want, counted.as_of));
    let sums = |s: &super::harness::Summary| {
        (s.events, s.duplicates, s.beyond_horizon, s.dead_letters, s.unsupported)
    };
    assert_eq!(sums(&again), sums(&counted));
    let key = |state: &Path| {
        let newest = state.join(format!("commits/{:010}.manifest", newest_commit(state)));
        let text = fs::read_to_string(newest).unwrap();
        let body: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        body["hash_key"].as_str().unwrap().to_owned()
    };
    assert_eq!(key(&same), key(&live.state()));
    let alone = live.replay("alone", &until);
    assert_ne!(key(&alone), key(&live.state()));
    let decided = ["future", "old"].map(str::to_owned);
    assert_eq!(differ(&live.state(), &alone, &at), decided.into());
    assert_eq!(export(&alone, "").1.as_of, counted.as_of, "as of");
    // The replay can be checked for drift itself.
    let (input, state) = (live.path("posts"), same.display());
    ok(&format!("reconcile --input {} --state {state}", input.display()));
}

#[test]
fn replay_stops_at_any_commit_and_continues_to_a_later_one() {
    let mut live = Live::start("");
    let now = now_ms();
    let mut commits = Vec::new();
    for round in 0..4_u32 {
        for file in ["a.ndjson", "b.ndjson"] {
            let ids = (0..50).map(|i| (round * 50 + i) * 2 + u32::from(file == "a.ndjson"));
            let text = ids.map(|id| post(id, now - HOUR + i64::from(id), "x"));
            live.append(file, &text.collect::<String>());
        }
        live.counted(u64::from(round + 1) * 100);
        commits.push(newest_commit(&live.state()));
    }
    for (i, commit) in commits.iter().enumerate() {
        let name = format!("to-{commit}");
        let state = live.replay(&name, &format!("--until-commit LIVE@{commit}"));
        let (want, counted) = export(&live.state(), &format!("--at {commit}"));
        let (got, again) = export(&state, "");
        assert_eq!((got, again.as_of, again.events), (want, counted.as_of, counted.events));
        assert!(counted.events >= (i as u64 + 1) * 100, "{counted:?}");
        let printed = ok(&live.line("all", &format!("--until-commit LIVE@{commit}")));
        assert!(printed.starts_with("commit "), "{printed}");
        assert_eq!(differ(&state, &live.path("all"), ""), BTreeSet::new());
    }
    let back = fails(&live.line("all", &format!("--until-commit LIVE@{}", commits[0])), 1);
    assert!(back.contains("use another state folder"), "{back}");
    // Only the records between two commits.
    let (first, last) = (commits[0], commits[2]);
    let between = live.replay("part", &format!("--from LIVE@{first} --until-commit LIVE@{last}"));
    let events = |more: &str| export(&live.state(), more).1.events;
    let want = events(&format!("--at {last}")) - events(&format!("--at {first}"));
    assert_eq!(export(&between, "").1.events, want);
    // Only the records at or after a time.
    let time = now - HOUR + 120;
    let later = live.replay("later", &format!("--from {time} --bounded"));
    assert_eq!(export(&later, "").1.events, 400 - 120);
}

#[test]
fn replay_follows_a_job_through_kills() {
    let mut live = with_decisions();
    let line = live.line("follow", "--decisions-from LIVE");
    let state = live.path("follow");
    for _ in 0..2 {
        let before = newest_commit(&state);
        let mut job = Job::start(&line);
        eventually("its own commits", || (newest_commit(&state) > before + 1).then_some(()));
        assert!(job.kill());
    }
    let mut job = Job::start(&line);
    let now = now_ms();
    live.append("a.ndjson", &(post(100, now, "new") + &post(101, now + HOUR, "future")));
    live.counted(28);
    eventually("the replay to have followed", || {
        assert!(job.lives());
        let (a, b) = (export(&live.state(), "").1, export(&state, "").1);
        let sums = |s: &super::harness::Summary| (s.events, s.duplicates, s.dead_letters);
        (sums(&a) == sums(&b)).then_some(())
    });
    job.signal("TERM");
    let (code, _, error) = job.end();
    assert_eq!(code, Some(0), "{error}");
    assert_eq!(differ(&live.state(), &state, ""), BTreeSet::new());
    // A longer horizon counts more.
    let until = "--until-commit LIVE --decisions-from LIVE --horizon 48h";
    let longer = live.replay("longer", until);
    assert_eq!(differ(&live.state(), &longer, ""), ["beyond".to_owned()].into());
}

#[test]
fn bounded_run_is_replayed_exactly() {
    let folder = folder();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (input, state) = (path("posts.ndjson"), path("state"));
    ok(&format!("generate --posts 60000 --late 0.2 --vocabulary 2000 --out {input}"));
    ok(&format!("run --input {input} --state {state} --bounded --workers 2"));
    let replayed = path("replayed");
    let line = format!("replay --input {input} --state {replayed}");
    ok(&format!("{line} --until-commit {state} --decisions-from {state}"));
    let (want, counted) = export(Path::new(&state), "");
    let (got, again) = export(Path::new(&replayed), "");
    assert_eq!((got, again.as_of, again.events), (want, counted.as_of, counted.events));
    ok(&format!("compare {state} {replayed}"));
    // Running it again changes nothing.
    ok(&format!("{line} --until-commit {state}"));
    assert_eq!(export(Path::new(&replayed), "").1, again);
    // Records appended later are not read.
    append(Path::new(&input), "{}\n");
    let third = path("third");
    ok(&format!("replay --input {input} --state {third} --until-commit {state}"));
    ok(&format!("compare {state} {third}"));

    let error = fails(&format!("replay --input {input} --state {state} --until-commit {state}"), 2);
    assert!(error.contains("name a new folder with --state"), "{error}");
    let error = fails(&format!("replay --input - --state {} --bounded", path("x")), 2);
    assert!(error.contains("cannot be read again"), "{error}");
    let error = fails(&format!("replay --input {input} --bounded"), 2);
    assert!(error.contains("--state"), "{error}");
}
