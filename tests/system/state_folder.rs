//! State folders that are not what they should be: each command says so by name, and none takes one
//! for empty.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::harness::{Job, eventually, fails, folder, newest_commit, ok, run};
use super::serve::{get, serve};

/// An input and the finished state of it.
fn finished(folder: &Path) -> (PathBuf, PathBuf) {
    let (input, state) = (folder.join("posts.ndjson"), folder.join("state"));
    ok(&format!("generate --posts 500 --late 0.01 --out {}", input.display()));
    ok(&format!("run --bounded {}", arguments(&input, &state)));
    (input, state)
}

fn arguments(input: &Path, state: &Path) -> String {
    format!("--input {} --state {}", input.display(), state.display())
}

/// The report of doctor, and its exit code.
fn doctor(input: &Path, state: &Path) -> (String, Option<i32>) {
    let output = run(&format!("doctor {}", arguments(input, state)));
    (String::from_utf8(output.stdout).unwrap(), output.status.code())
}

/// A file of the state whose name contains `part`.
fn file(state: &Path, part: &str) -> PathBuf {
    let files = ["segments", "visible", "commits"].map(|folder| fs::read_dir(state.join(folder)));
    let mut files = files.into_iter().flat_map(|entries| entries.unwrap().flatten());
    files.find(|entry| entry.path().display().to_string().contains(part)).unwrap().path()
}

#[test]
fn doctor_finds_damage_in_any_file_of_the_newest_commit() {
    let folder = folder();
    let (input, state) = finished(folder.path());
    let (report, code) = doctor(&input, &state);
    assert!(report.contains("all files of commit 2 are intact") && code == Some(0), "{report}");
    for table in ["-ids-", "-tags-", "-boards-"] {
        let damaged = file(&state, table);
        let bytes = fs::read(&damaged).unwrap();
        fs::write(&damaged, &bytes[1..]).unwrap();
        let (report, code) = doctor(&input, &state);
        let name = damaged.file_name().unwrap().to_str().unwrap();
        assert!(report.contains(name) && code == Some(1), "{report}");
        fs::write(&damaged, bytes).unwrap();
    }
    fs::write(file(&state, "visible/"), "x").unwrap();
    let (report, _) = doctor(&input, &state);
    assert!(report.contains("warning") && report.contains("visible/0000000001"), "{report}");
}

#[test]
fn doctor_warns_of_a_folder_that_others_may_use() {
    let folder = folder();
    let (input, state) = finished(folder.path());
    let mode = fs::metadata(&state).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o700);
    fs::set_permissions(&state, Permissions::from_mode(0o755)).unwrap();
    let (report, code) = doctor(&input, &state);
    assert!(report.contains("chmod 700") && report.contains("0755"), "{report}");
    assert_eq!(code, Some(0), "a warning stops no job");
}

#[test]
fn doctor_names_the_job_that_runs_on_the_state() {
    let folder = folder();
    let (input, state) = finished(folder.path());
    let job = Job::start(&format!("run {}", arguments(&input, &state)));
    eventually("the job", || (newest_commit(&state) > 3).then_some(()));
    let (report, code) = doctor(&input, &state);
    let process = format!("in use by process {}", job.id());
    assert!(report.contains(&process) && code == Some(1), "{report}");
    job.signal("TERM");
    assert_eq!(job.end().0, Some(0));
    let (report, code) = doctor(&input, &state);
    assert_eq!(code, Some(0), "{report}");
}

#[test]
fn pointer_of_another_state_is_refused_by_every_command() {
    let folder = folder();
    let (input, state) = finished(folder.path());
    let stray = state.join("visible/0000000099");
    fs::write(&stray, "99\n").unwrap();
    let both = arguments(&input, &state);
    let state_only = format!("--state {}", state.display());
    for line in [
        format!("run {both}"),
        format!("run {both} --bounded"),
        format!("serve {state_only} --listen 127.0.0.1:0"),
        format!("query top {state_only}"),
        format!("checkpoint export {state_only}"),
        format!("checkpoint rollback {state_only} --to 1"),
    ] {
        let error = fails(&line, 1);
        assert!(error.contains("visible/0000000099 does not belong"), "{line}: {error}");
    }
    let (report, code) = doctor(&input, &state);
    assert!(report.contains("visible/0000000099") && code == Some(1), "{report}");
    fs::remove_file(stray).unwrap();
    ok(&format!("run {both} --bounded"));
}

#[test]
fn pointer_of_a_commit_with_which_no_job_began_is_refused_and_a_pipe_blocks_nothing() {
    let folder = folder();
    let (input, state) = finished(folder.path());
    let stray = state.join("visible/0000000002");
    let query = format!("query top --state {}", state.display());
    fs::write(&stray, "1\n").unwrap();
    let error = fails(&query, 1);
    assert!(error.contains("no job began with commit 2"), "{error}");
    let (report, code) = doctor(&input, &state);
    assert!(report.contains("visible/0000000002") && code == Some(1), "{report}");
    fs::remove_file(&stray).unwrap();
    // The pointer of this state, set back.
    let own = state.join("visible/0000000001");
    let newest = fs::read_to_string(&own).unwrap();
    fs::write(&own, "1\n").unwrap();
    let (report, code) = doctor(&input, &state);
    let told = format!("readers see commit 1, not commit {}", newest.trim());
    assert!(report.contains(&told) && code == Some(0), "{report}");
    fs::remove_file(&own).unwrap();
    assert!(Command::new("mkfifo").arg(&own).status().unwrap().success());
    let error = fails(&query, 1);
    assert!(error.contains("0000000001: it is not a regular file"), "{error}");
}

#[test]
fn state_that_cannot_be_read_is_not_taken_for_none() {
    // The system refuses to look: the name is too long.
    let state = "x".repeat(300);
    for line in ["query top", "checkpoint ls", "dead-letters ls", "serve --listen 127.0.0.1:0"] {
        let error = fails(&format!("{line} --state {state}"), 1);
        assert!(error.contains("too long") && !error.contains("no Tagflow state"), "{error}");
    }
    let folder = folder();
    let link = folder.path().join("dang");
    std::os::unix::fs::symlink("nowhere", &link).unwrap();
    for state in [link.clone(), link.join("below")] {
        let error = fails(&format!("run --input x --bounded --state {}", state.display()), 1);
        assert!(error.contains("dang is a link that leads nowhere"), "{error}");
    }
    let error = fails("query top --state nowhere", 1);
    assert!(error.contains("nowhere holds no Tagflow state"), "{error}");
}

#[test]
fn folder_that_is_removed_under_the_service_is_told() {
    let folder = folder();
    let (input, state) = finished(folder.path());
    let [elsewhere, again] = ["elsewhere", "again"].map(|name| folder.path().join(name));
    ok(&format!("run --bounded {}", arguments(&input, &again)));
    let served = serve(&state, "");
    let ready = |status: u16| {
        let answer = get(&served.address, "/readyz");
        (answer.status == status).then_some(answer.body)
    };
    eventually("readiness", || ready(200));
    fs::rename(&state, &elsewhere).unwrap();
    let told = eventually("the trouble", || ready(503));
    assert!(told.contains("the state folder is gone"), "{told}");
    assert_eq!(get(&served.address, "/").status, 200, "what is counted is served on");
    fs::rename(&elsewhere, &state).unwrap();
    eventually("readiness", || ready(200));
    // Made again, it is another state, however soon.
    served.job.signal("STOP");
    fs::rename(&state, &elsewhere).unwrap();
    fs::rename(&again, &state).unwrap();
    served.job.signal("CONT");
    eventually("the trouble", || ready(503));
    served.job.signal("TERM");
    let (code, _, log) = served.job.end();
    // The second trouble came within a minute of the first, so that it is not in the log.
    assert!(code == Some(0) && log.contains("cannot list"), "{log}");
}
