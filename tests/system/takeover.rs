//! Two jobs on one state: one continues, the other exits with code 3, and counts stay exact.

use std::path::Path;
use std::time::Duration;

use super::harness::{Job, eventually, export, fails, folder, newest_commit, now, ok};
use super::oracle::{Input, check};

fn line(input: &Path, state: &Path, more: &str) -> String {
    format!("run --input {} --state {} --bounded {more}", input.display(), state.display())
}

#[test]
fn second_job_exits_and_names_the_running_one() {
    let folder = folder();
    let (input, state) = (folder.path().join("posts.ndjson"), folder.path().join("state"));
    ok(&format!("generate --posts 60000 --tags-mean 2 --out {}", input.display()));
    let mut job = Job::start(&line(&input, &state, "--limit-rate 2000"));
    eventually("a commit", || (newest_commit(&state) >= 2).then_some(()));
    let error = fails(&line(&input, &state, ""), 3);
    assert!(error.contains(&format!("process {}", job.id())), "{error}");
    assert!(error.contains("--take-over"), "{error}");
    assert!(job.lives(), "the newcomer changed nothing");
    let before = newest_commit(&state);
    eventually("more commits", || (newest_commit(&state) > before).then_some(()));
}

#[test]
fn superseded_job_exits_with_3_and_counts_stay_exact() {
    let folder = folder();
    let (input, state) = (folder.path().join("posts.ndjson"), folder.path().join("state"));
    ok(&format!("generate --posts 120000 --tags-mean 2 --out {}", input.display()));
    // Old commits are removed after a second, so that takeovers and removals overlap.
    let paced = "--limit-rate 1000 --keep 1s --grace 1s --take-over";
    let mut job = Job::start(&line(&input, &state, paced));
    for round in 0..5 {
        let before = newest_commit(&state);
        eventually("its first own commit", || (newest_commit(&state) > before + 1).then_some(()));
        // Every second job is stopped while it is superseded, and resumes after the other's
        // commits.
        let asleep = round % 2 == 0;
        if asleep {
            job.signal("STOP");
        }
        let before = newest_commit(&state);
        let newcomer = Job::start(&line(&input, &state, paced));
        eventually("the newcomer's commits", || (newest_commit(&state) > before + 2).then_some(()));
        if asleep {
            job.signal("CONT");
        }
        let old = std::mem::replace(&mut job, newcomer);
        let (code, _, error) = old.end();
        assert_eq!(code, Some(3), "{error}");
        assert!(error.contains("superseded"), "{error}");
    }
    job.signal("TERM");
    let (code, _, error) = job.end();
    assert_eq!(code, Some(0), "{error}");
    ok(&line(&input, &state, "--keep 1s --grace 1s"));
    let (rows, summary) = export(&state, "");
    check(&Input::file(&input), &rows, &summary);
    let listed = ok(&format!("checkpoint ls --state {}", state.display()));
    assert!(listed.lines().count() < summary.commit as usize, "old commits were removed");
}

#[test]
fn stopped_job_is_taken_over_without_force() {
    let folder = folder();
    let (input, state) = (folder.path().join("posts.ndjson"), folder.path().join("state"));
    ok(&format!("generate --posts 20000 --tags-mean 2 --out {}", input.display()));
    let job = Job::start(&line(&input, &state, "--limit-rate 1000"));
    eventually("a commit", || (newest_commit(&state) >= 2).then_some(()));
    job.signal("STOP");
    // The new job sees no commit for a while, and takes over.
    let began = now();
    ok(&line(&input, &state, "--silence 3s"));
    assert!(began.elapsed() >= Duration::from_secs(3));
    job.signal("CONT");
    let (code, _, error) = job.end();
    assert_eq!(code, Some(3), "{error}");
    let (rows, summary) = export(&state, "");
    check(&Input::file(&input), &rows, &summary);
}
