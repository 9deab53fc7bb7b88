//! Runs the binary, reads what it prints, and waits with a deadline.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant, SystemTime};

use recount::Row;
use serde::Deserialize;
use tempfile::TempDir;

/// The binary under test, built with the tests.
pub(crate) const TAGFLOW: &str = env!("CARGO_BIN_EXE_tagflow");

/// A temporary folder for one test.
pub(crate) fn folder() -> TempDir {
    TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// The binary with a command line, split at blanks.
pub(crate) fn command(line: &str) -> Command {
    let mut command = Command::new(TAGFLOW);
    command.args(line.split_whitespace()).stdin(Stdio::null());
    command
}

/// Runs a command line and waits for it.
pub(crate) fn run(line: &str) -> Output {
    command(line).output().unwrap()
}

/// Runs a command line that must succeed. Returns its standard output.
pub(crate) fn ok(line: &str) -> String {
    let output = run(line);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}\n{:?}\n{error}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a command line that must exit with `code`. Returns its standard error.
pub(crate) fn fails(line: &str, code: i32) -> String {
    let output = run(line);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{line}\n{error}");
    error
}

/// Runs a command line that must succeed with `input` on its standard input. Returns its standard
/// output.
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

/// A process, killed when dropped.
pub(crate) struct Job(Child);

impl Job {
    /// Starts a command line.
    pub(crate) fn start(line: &str) -> Self {
        Self(command(line).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    /// Starts a command line that may open at most `files` files, appending its standard error to a
    /// file.
    pub(crate) fn with_files(files: usize, line: &str, log: &Path) -> Self {
        let log = File::options().create(true).append(true).open(log).unwrap();
        let mut shell = Command::new("sh");
        shell.args(["-c", "ulimit -n $1; shift; exec \"$@\"", "sh", &files.to_string(), TAGFLOW]);
        shell.args(line.split_whitespace()).stdin(Stdio::null());
        Self(shell.stdout(Stdio::null()).stderr(log).spawn().unwrap())
    }

    /// Starts a command line, appending its standard error to a file: it may print more than a pipe
    /// holds.
    pub(crate) fn logged(line: &str, log: &Path) -> Self {
        let log = File::options().create(true).append(true).open(log).unwrap();
        Self(command(line).stdout(Stdio::null()).stderr(log).spawn().unwrap())
    }

    /// The process id.
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// Whether it is still running.
    pub(crate) fn lives(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }

    /// Takes its standard output, to read line by line.
    pub(crate) fn stdout(&mut self) -> std::process::ChildStdout {
        self.0.stdout.take().unwrap()
    }

    /// Its exit code, once it has exited.
    pub(crate) fn code(&mut self) -> Option<i32> {
        self.0.try_wait().unwrap().and_then(|status| status.code())
    }

    /// Sends SIGKILL and waits. Returns whether it was still running.
    pub(crate) fn kill(&mut self) -> bool {
        let lived = self.lives();
        let _ = self.0.kill();
        self.0.wait().unwrap();
        lived
    }

    /// Sends a signal by name, such as `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.0.id().to_string();
        let sent = Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap();
        assert!(sent.success());
    }

    /// Waits for it to exit. Returns its exit code, standard output and standard error.
    pub(crate) fn end(mut self) -> (Option<i32>, String, String) {
        use std::io::Read;
        let mut texts = [String::new(), String::new()];
        let status = self.0.wait().unwrap();
        self.0.stdout.take().map(|mut out| out.read_to_string(&mut texts[0]).unwrap());
        self.0.stderr.take().map(|mut error| error.read_to_string(&mut texts[1]).unwrap());
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

/// The current time, for deadlines.
#[allow(clippy::disallowed_methods, reason = "a test's deadline is real time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Polls until `ready` returns something. Fails the test after a minute.
pub(crate) fn eventually<T>(what: &str, ready: impl FnMut() -> Option<T>) -> T {
    within(60, what, ready)
}

/// Polls until `ready` returns something. Fails the test after `seconds`.
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

/// A number from the environment.
pub(crate) fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |number| number.parse().unwrap())
}

/// The wall clock, in milliseconds.
#[allow(clippy::disallowed_methods, reason = "jobs that follow a file use the wall clock")]
pub(crate) fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    now.as_millis() as i64
}

/// A post with one tag, as a line.
pub(crate) fn post(id: u32, ts: i64, tag: &str) -> String {
    format!("{{\"event_id\":{id},\"ts\":{ts},\"caption\":\"#{tag}\"}}\n")
}

/// Appends to a file, which is created if it does not exist.
pub(crate) fn append(path: &Path, text: impl AsRef<[u8]>) {
    let mut file = File::options().create(true).append(true).open(path).unwrap();
    file.write_all(text.as_ref()).unwrap();
}

/// The number of a state's newest commit, or 0 if it has none.
pub(crate) fn newest_commit(state: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(state.join("commits")) else { return 0 };
    let names = entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned());
    names.filter_map(|n| n.strip_suffix(".manifest")?.parse().ok()).max().unwrap_or(0)
}

/// The folder of test data that may not be copied into the repository. Without it `tests` are
/// reported as skipped.
pub(crate) fn test_data(tests: &str) -> Option<PathBuf> {
    let found = std::env::var_os("TAGFLOW_TEST_DATA").map(PathBuf::from);
    if found.is_none() {
        assert!(std::env::var_os("TAGFLOW_REQUIRE_DATA").is_none(), "TAGFLOW_TEST_DATA is unset");
        skip(1, &format!("{tests}: TAGFLOW_TEST_DATA is unset"));
    }
    found
}

/// Prints that tests were skipped, past the capture of a test's output.
pub(crate) fn skip(tests: usize, why: &str) {
    tell(&format!("skipped: {tests} ({why})"));
}

/// Prints a line on the terminal, past the capture of a test's output.
#[allow(clippy::explicit_write, reason = "a macro's output would be captured")]
pub(crate) fn tell(text: &str) {
    writeln!(std::io::stderr(), "{text}").unwrap();
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

/// An export, parsed: rows by (scope, key), and the summary.
pub(crate) fn export(state: &Path, more: &str) -> (BTreeMap<(String, String), Row>, Summary) {
    let text = ok(&format!("checkpoint export --state {} {more}", state.display()));
    let (rows, summary) = text.trim_end().rsplit_once('\n').unwrap_or(("", text.trim_end()));
    let rows: Vec<Row> = rows.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(rows.is_sorted_by(|a, b| (&a.scope, &a.key) < (&b.scope, &b.key)), "byte order");
    let by_key = rows.into_iter().map(|row| ((row.scope.clone(), row.key.clone()), row));
    (by_key.collect(), serde_json::from_str(summary).unwrap())
}
