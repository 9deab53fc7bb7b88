//! Running the binary, reading what it prints, and waiting with a deadline.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use recount::Row;
use serde::Deserialize;
use tempfile::TempDir;

/// The binary under test, built with the tests.
pub(crate) const TAGFLOW: &str = env!("CARGO_BIN_EXE_tagflow");

/// A folder of a test's own.
pub(crate) fn folder() -> TempDir {
    TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// A command line of the binary, words separated by blanks.
pub(crate) fn command(line: &str) -> Command {
    let mut command = Command::new(TAGFLOW);
    command.args(line.split_whitespace()).stdin(Stdio::null());
    command
}

/// Runs a command line to its end.
pub(crate) fn run(line: &str) -> Output {
    command(line).output().unwrap()
}

/// Runs a command line that must succeed; its standard output.
pub(crate) fn ok(line: &str) -> String {
    let output = run(line);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}\n{:?}\n{error}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a command line that must fail with `code`; its standard error.
pub(crate) fn fails(line: &str, code: i32) -> String {
    let output = run(line);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{line}\n{error}");
    error
}

/// Feeds `input` to a command line that must succeed; its standard output.
pub(crate) fn fed(line: &str, input: &[u8]) -> String {
    let mut child = command(line).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success(), "{line}: {:?}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// A process that is killed when the test ends.
pub(crate) struct Job(Child);

impl Job {
    /// Starts a command line.
    pub(crate) fn start(line: &str) -> Self {
        Self(command(line).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// Whether it still runs.
    pub(crate) fn lives(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }

    /// Its standard output, to read line by line.
    pub(crate) fn stdout(&mut self) -> std::process::ChildStdout {
        self.0.stdout.take().unwrap()
    }

    /// Kills it as nothing can resist; whether it lived.
    pub(crate) fn kill(&mut self) -> bool {
        let lived = self.lives();
        let _ = self.0.kill();
        self.0.wait().unwrap();
        lived
    }

    /// Sends a signal by its name, such as TERM.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.0.id().to_string();
        let sent = Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap();
        assert!(sent.success());
    }

    /// Waits for its end: exit code, standard output, standard error.
    pub(crate) fn end(mut self) -> (Option<i32>, String, String) {
        use std::io::Read;
        let mut texts = [String::new(), String::new()];
        let status = self.0.wait().unwrap();
        self.0.stdout.take().unwrap().read_to_string(&mut texts[0]).unwrap();
        self.0.stderr.take().unwrap().read_to_string(&mut texts[1]).unwrap();
        let [out, error] = texts;
        (status.code(), out, error)
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The time for deadlines.
#[allow(clippy::disallowed_methods, reason = "a test's deadline is real time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Polls until `ready` gives something, and fails the test after a minute.
pub(crate) fn eventually<T>(what: &str, ready: impl FnMut() -> Option<T>) -> T {
    within(60, what, ready)
}

/// Polls until `ready` gives something, and fails the test after so many seconds.
pub(crate) fn within<T>(seconds: u64, what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let deadline = now() + Duration::from_secs(seconds);
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(now() < deadline, "waited {seconds} s for {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// The number of the newest commit of a state; 0 where there is none.
pub(crate) fn newest_commit(state: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(state.join("commits")) else { return 0 };
    let names = entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned());
    names.filter_map(|n| n.strip_suffix(".manifest")?.parse().ok()).max().unwrap_or(0)
}

/// Where test data that may not be copied lies. Says that `tests` are left out where it is absent.
pub(crate) fn test_data(tests: &str) -> Option<PathBuf> {
    let found = std::env::var_os("TAGFLOW_TEST_DATA").map(PathBuf::from);
    if found.is_none() {
        assert!(std::env::var_os("TAGFLOW_REQUIRE_DATA").is_none(), "TAGFLOW_TEST_DATA is unset");
        skip(1, &format!("{tests}: TAGFLOW_TEST_DATA is unset"));
    }
    found
}

/// Says on the terminal, past the capture of a test's output, that tests were left out.
#[allow(clippy::explicit_write, reason = "a macro's output would be captured")]
pub(crate) fn skip(tests: usize, why: &str) {
    writeln!(std::io::stderr(), "skipped: {tests} ({why})").unwrap();
}

/// The last line of `checkpoint export`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Summary {
    pub(crate) as_of: Option<i64>,
    pub(crate) commit: u64,
    pub(crate) events: u64,
    pub(crate) duplicates: u64,
    pub(crate) beyond_horizon: u64,
    pub(crate) unsupported: u64,
    pub(crate) dead_letters: u64,
}

/// An export, read back: rows by (scope, key) and the summary.
pub(crate) fn export(state: &Path, more: &str) -> (BTreeMap<(String, String), Row>, Summary) {
    let text = ok(&format!("checkpoint export --state {} {more}", state.display()));
    let (rows, summary) = text.trim_end().rsplit_once('\n').unwrap_or(("", text.trim_end()));
    let rows: Vec<Row> = rows.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(rows.is_sorted_by(|a, b| (&a.scope, &a.key) < (&b.scope, &b.key)), "byte order");
    let by_key = rows.into_iter().map(|row| ((row.scope.clone(), row.key.clone()), row));
    (by_key.collect(), serde_json::from_str(summary).unwrap())
}
