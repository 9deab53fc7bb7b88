//! How many old commits a job keeps: `--keep-bytes`, the message for a removed commit, and what
//! `explain` prints about the budget.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use sinks::commits::{list_commits, load};
use sinks::storage::DiskStorage;

use super::harness::{Job, eventually, fails, folder, newest_commit, ok};

/// The readable commits, and the bytes of files that only old commits need.
fn kept(state: &Path) -> (Vec<u64>, u64) {
    let storage = DiskStorage::open_existing(state).unwrap();
    let commits = list_commits(&storage).unwrap().into_iter();
    let mut manifests: Vec<_> = commits.filter_map(|commit| load(&storage, commit).ok()).collect();
    let commits = manifests.iter().map(|manifest| manifest.header.commit).collect();
    let newest = manifests.pop().unwrap();
    let live: BTreeSet<&str> = newest.body.segments.iter().map(|meta| &*meta.name).collect();
    let of_old = manifests.iter().flat_map(|manifest| &manifest.body.segments);
    let old: BTreeSet<&str> =
        of_old.map(|meta| &*meta.name).filter(|name| !live.contains(name)).collect();
    // A file that is just being removed has no size.
    let bytes = old.iter().filter_map(|name| fs::metadata(state.join(name)).ok());
    (commits, bytes.map(|file| file.len()).sum())
}

/// Starts a job on a state and waits for its own commits.
fn start(line: &str, state: &Path) -> Job {
    let before = newest_commit(state);
    let job = Job::start(line);
    eventually("its own commits", || (newest_commit(state) > before + 2).then_some(()));
    job
}

/// Waits until old commits stay within a budget for three commits in a row: a large one may follow
/// a small one.
fn await_budget(state: &Path, budget: u64) {
    let mut first = None;
    eventually("old commits that keep to their budget", || {
        let (commits, bytes) = kept(state);
        let newest = *commits.last()?;
        if bytes > budget {
            first = None;
            return None;
        }
        (newest >= *first.get_or_insert(newest) + 2).then_some(())
    });
}

fn stop(job: Job) {
    job.signal("TERM");
    let (code, _, error) = job.end();
    assert_eq!(code, Some(0), "{error}");
}

#[test]
fn old_commits_are_removed_to_fit_the_budget() {
    let folder = folder();
    let (input, state) = (folder.path().join("posts.ndjson"), folder.path().join("state"));
    ok(&format!("generate --posts 30000 --vocabulary 9000 --out {}", input.display()));
    let file = folder.path().join("dataflow.yaml");
    let text = format!(
        "apiVersion: tagflow/v1\nmeta: {{name: kept}}\n\
         config: {{state: {{path: {}, every: 100ms, keep: 24h, bytes: 1000000000}}}}\n\
         topics: {{input: {{source: 'file:{}'}}}}\n\
         services: {{count: {{sources: [{{type: topic, id: input}}]}}}}\n",
        state.display(),
        input.display()
    );
    fs::write(&file, text).unwrap();
    let explained = ok(&format!("explain {}", file.display()));
    assert!(explained.contains("old ones are kept for 24h, at most 953.7 MiB"), "{explained}");
    let job = Job::start(&format!("run {} --limit-rate 6000", file.display()));
    eventually("commits", || (newest_commit(&state) > 9).then_some(()));
    stop(job);
    let (all, bytes) = kept(&state);
    assert_eq!(all, (1..=newest_commit(&state)).collect::<Vec<_>>(), "the budget keeps all");

    let budget = bytes / 2;
    assert!(budget > 100_000, "old commits need {bytes} bytes");
    let line = format!("run --input {} --state {}", input.display(), state.display());
    let keep = |budget: u64| format!("{line} --keep 24h --keep-bytes {budget} --grace 1ms");
    let job = start(&keep(budget), &state);
    await_budget(&state, budget);
    stop(job);
    let (some, bytes) = kept(&state);
    assert!(bytes <= budget && some.len() > 2, "{some:?}, {bytes} of {budget} bytes");
    assert!(some.windows(2).all(|two| two[1] == two[0] + 1), "the oldest go first: {some:?}");
    // Kept commits can be queried, and removed ones are reported as such.
    let ask = |at: u64| format!("query top --state {} --at {at}", state.display());
    assert!(ok(&ask(some[0])).contains(&format!("commit {}", some[0])));
    let gone = some[0] - 1;
    for line in [ask(gone), ask(gone).replace("query top", "query tag beba")] {
        let error = fails(&line, 1);
        let want = format!("there is no commit {gone}; `tagflow checkpoint ls` shows those");
        assert!(error.contains(&want), "{error}");
    }
    // With a budget of 0, only commits that need no extra file stay.
    let job = start(&keep(0), &state);
    await_budget(&state, 0);
    stop(job);
    let listed = ok(&format!("checkpoint ls --state {}", state.display()));
    let newest = newest_commit(&state);
    assert!(listed.contains(&format!("{newest} ")) && ok(&ask(newest)).contains("top of"));
}
