//! What a command says may go nowhere: a full disk, a reader that is gone. What is only said never
//! ends anything; a result that cannot be written is an error, unless nobody reads it.

use std::fs::{self, File};
use std::io::{Read, Write, pipe};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use super::harness::{
    append, command, eventually, export, folder, newest_commit, now_ms, ok, post, run,
};

/// Where an output goes.
#[derive(Clone, Copy, Debug)]
enum Sink {
    /// A disk without space.
    Full,
    /// A pipe whose reader is gone.
    Gone,
}

impl Sink {
    fn open(self) -> Stdio {
        match self {
            Self::Full => File::options().write(true).open("/dev/full").unwrap().into(),
            Self::Gone => pipe().unwrap().1.into(),
        }
    }
}

const ALL: [Sink; 2] = [Sink::Full, Sink::Gone];

/// Commands of all kinds on a finished state in `folder`, and the exit code when their result
/// cannot be written: where 1 means that values differ, it is 2.
fn commands(folder: &Path) -> Vec<(String, i32)> {
    let at = |name: &str| folder.join(name).display().to_string();
    let (input, state, yaml) = (at("posts.ndjson"), at("state"), at("dataflow.yaml"));
    let refused = "{\"event_id\":7,\"ts\":1700000000000,\"caption\":7}\n";
    let posts = [post(1, 1_700_000_000_000, "a"), post(2, 1_700_000_001_000, "b")];
    fs::write(&input, posts.concat() + refused).unwrap();
    fs::copy("examples/dataflow.yaml", &yaml).unwrap();
    ok(&format!("run --input {input} --state {state} --bounded"));
    let of_state = |command: &str| (format!("{command} --state {state}"), 1);
    let of_both = |command: &str, code| {
        let line = format!("{command} --input {input} --state {state}");
        (line, code)
    };
    vec![
        of_both("run --bounded", 1),
        of_both("run --bounded --json", 1),
        of_both("doctor", 1),
        of_both("reconcile", 2),
        of_both("reconcile --json", 2),
        of_both("explain-count a", 2),
        of_state("query tag a"),
        of_state("query tag a --json"),
        of_state("query top"),
        of_state("checkpoint ls"),
        of_state("checkpoint show"),
        of_state("checkpoint export"),
        of_state("dead-letters ls"),
        of_state("dead-letters ls --count"),
        of_state("dead-letters show posts.ndjson 98"),
        (format!("compare {state} {state}"), 2),
        (format!("validate {yaml}"), 1),
        ("validate --schema".to_owned(), 1),
        (format!("explain {yaml}"), 1),
        ("--help".to_owned(), 1),
        ("--version".to_owned(), 1),
        ("run --help".to_owned(), 1),
    ]
}

/// Runs a command line, with its outputs where they are said to go.
fn outcome(line: &str, out: Option<Sink>, error: Option<Sink>) -> Output {
    let stdio = |sink: Option<Sink>| sink.map_or_else(Stdio::piped, Sink::open);
    let mut command = command(line);
    command.stdout(stdio(out)).stderr(stdio(error));
    command.spawn().unwrap().wait_with_output().unwrap()
}

#[test]
fn no_command_depends_on_what_it_only_says() {
    let folder = folder();
    let mut commands = commands(folder.path());
    // These fail, and say why.
    let state = folder.path().join("state").display().to_string();
    commands.push((format!("query tag nowhere --state {state}"), 1));
    commands.push(("query top --state nowhere".to_owned(), 1));
    commands.push(("run --nonsense".to_owned(), 2));
    commands.push((String::new(), 2));
    for (line, _) in commands {
        let good = run(&line);
        for sink in ALL {
            let other = outcome(&line, None, Some(sink));
            assert_eq!(other.status, good.status, "{line}, {sink:?}");
            assert_eq!(other.stdout, good.stdout, "{line}, {sink:?}");
        }
    }
}

#[test]
fn result_that_cannot_be_written_is_an_error_and_one_that_nobody_reads_is_none() {
    let folder = folder();
    for (line, code) in commands(folder.path()) {
        let full = outcome(&line, Some(Sink::Full), None);
        let said = String::from_utf8_lossy(&full.stderr);
        assert_eq!(full.status.code(), Some(code), "{line}: {said}");
        assert!(said.contains("cannot write to standard output: No space left"), "{line}: {said}");
        let neither = outcome(&line, Some(Sink::Full), Some(Sink::Full));
        assert_eq!(neither.status.code(), Some(code), "{line}");
        let gone = outcome(&line, Some(Sink::Gone), None);
        assert_eq!(gone.status.code(), Some(0), "{line}");
    }
}

#[test]
fn job_goes_on_when_its_messages_go_nowhere() {
    for sink in ALL {
        let folder = folder();
        let (input, state) = (folder.path().join("posts.ndjson"), folder.path().join("state"));
        append(&input, post(1, now_ms(), "a"));
        let (of_input, of_state) = (input.display(), state.display());
        let line = format!("run --input {of_input} --state {of_state} --listen 127.0.0.1:0");
        // Everything is logged, and the progress is shown once a second.
        for level in ["trace", "warn"] {
            let mut job = command(&format!("{line} --log-level {level}"));
            let mut job = job.stdout(Stdio::null()).stderr(sink.open()).spawn().unwrap();
            let from = newest_commit(&state);
            eventually("commits", || (newest_commit(&state) > from + 4).then_some(()));
            let pid = job.id().to_string();
            assert!(std::process::Command::new("kill").arg(pid).status().unwrap().success());
            assert_eq!(job.wait().unwrap().code(), Some(0), "{sink:?}, {level}");
        }
        assert_eq!(export(&state, "").1.events, 1);
    }
}

#[test]
fn job_goes_on_and_ends_when_its_messages_are_not_read() {
    let folder = folder();
    let (input, state) = (folder.path().join("a.ndjson"), folder.path().join("state"));
    append(&input, post(1, now_ms(), "x"));
    let (mut reader, mut writer) = pipe().unwrap();
    // As much as the pipe holds; its reader lives, and reads nothing.
    writer.write_all(&vec![b'-'; 1 << 16]).unwrap();
    let line = format!("run --input {} --state {}", input.display(), state.display());
    let mut job = command(&line).stdout(Stdio::null()).stderr(writer).spawn().unwrap();
    let commits = |more: u64| {
        let commit = newest_commit(&state);
        eventually("commits", || (newest_commit(&state) > commit + more).then_some(()));
    };
    eventually("commits", || state.join("visible").exists().then_some(()));
    commits(3);
    let sent = Command::new("kill").args(["-TERM", &job.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let status = eventually("its end", || job.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert!(text.chars().all(|c| c == '-'), "{text}");
    assert_eq!(export(&state, "").1.events, 1);
}

#[test]
fn file_beyond_the_limit_of_sizes_is_an_error_with_its_name() {
    let folder = folder();
    let state = folder.path().join("state");
    let line = format!("run --input generator:?rate=20000 --state {}", state.display());
    let mut shell = Command::new("sh");
    // In blocks of 512 bytes, or of 1024 in some shells.
    shell.args(["-c", "ulimit -f 20; exec \"$@\"", "sh", super::harness::TAGFLOW]);
    let output = shell.args(line.split_whitespace()).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("File too large") && error.contains("cannot write"), "{error}");
}
