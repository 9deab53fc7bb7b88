//! Measures how long after a commit becomes visible another process serves it.
//!
//! One thread reads the pointer file, another asks the API over one connection, each a thousand
//! times per second, so the error is at most two milliseconds.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::error::Error;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::measure::{KilledOnDrop, now};

const LOOK: Duration = Duration::from_millis(1);
const DEADLINE: Duration = Duration::from_mins(1);
/// At this modest rate a commit takes the minimum of one second.
const RATE_MAX: u64 = 10_000;
/// Seconds of input in addition to the time of the commits.
const SPARE: u64 = 5;

type Seen = BTreeMap<u64, Instant>;

#[derive(Deserialize)]
struct Top {
    boards: Vec<Board>,
}

#[derive(Deserialize)]
struct Board {
    tags: Vec<BoardTag>,
}

#[derive(Deserialize)]
struct BoardTag {
    tag: String,
}

#[derive(Deserialize)]
struct Answer {
    commit: u64,
}

/// Milliseconds from visible to served, ascending, for about `commits` commits.
pub(crate) fn lags(
    tagflow: &Path,
    input: &Path,
    state: &Path,
    (posts, commits): (u64, usize),
) -> Result<Vec<f64>, Box<dyn Error>> {
    let rate = (posts / (commits as u64 + SPARE)).clamp(1, RATE_MAX);
    let job = Command::new(tagflow)
        .args(["run", "--bounded", "--workers", "1", "--limit-rate", &rate.to_string()])
        .arg("--input")
        .arg(input)
        .arg("--state")
        .arg(state)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let _job = KilledOnDrop(job);
    let tag = until("a tag", || top_tag(tagflow, state))?;
    let (_serve, address) = serve(tagflow, state)?;
    let stop = Arc::new(AtomicBool::new(false));
    let watcher = {
        let (folder, stop) = (state.join("visible"), Arc::clone(&stop));
        std::thread::spawn(move || watch(&folder, &stop))
    };
    let served = ask(&address, &tag, commits);
    stop.store(true, Ordering::Release);
    let visible = watcher.join().map_err(|_| "the watcher of the pointer panicked")?;
    let served = served?;
    // The first commit was there before the watch began.
    let lag = |(commit, visible): (&u64, &Instant)| {
        // An answer from a later commit serves this one too.
        let (_, served) = served.range(commit..).next()?;
        Some(served.saturating_duration_since(*visible).as_secs_f64() * 1e3)
    };
    let mut lags: Vec<f64> = visible.iter().skip(1).filter_map(lag).collect();
    lags.sort_by(f64::total_cmp);
    Ok(lags)
}

/// Polls until `ready` returns something.
fn until<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> Result<T, Box<dyn Error>> {
    let start = now();
    loop {
        if let Some(value) = ready() {
            return Ok(value);
        }
        if start.elapsed() > DEADLINE {
            return Err(format!("waited {DEADLINE:?} for {what}").into());
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

fn top_tag(tagflow: &Path, state: &Path) -> Option<String> {
    let mut query = Command::new(tagflow);
    query.args(["query", "top", "--json", "--state"]).arg(state);
    let top: Top = serde_json::from_slice(&query.output().ok()?.stdout).ok()?;
    Some(top.boards.into_iter().next()?.tags.into_iter().next()?.tag)
}

/// The serving process and its address.
fn serve(tagflow: &Path, state: &Path) -> Result<(KilledOnDrop, String), Box<dyn Error>> {
    let mut command = Command::new(tagflow);
    command.args(["serve", "--listen", "127.0.0.1:0", "--state"]).arg(state);
    let mut child = KilledOnDrop(command.stdout(Stdio::piped()).spawn()?);
    let out: ChildStdout = child.0.stdout.take().ok_or("no standard output")?;
    let mut url = String::new();
    BufReader::new(out).read_line(&mut url)?;
    let address = url.trim().strip_prefix("http://").ok_or("serve printed no URL")?;
    Ok((child, address.to_owned()))
}

/// When each commit was first seen in the pointer of the newest generation.
fn watch(folder: &Path, stop: &AtomicBool) -> Seen {
    let mut seen = Seen::new();
    while !stop.load(Ordering::Acquire) {
        if let Some(commit) = pointer(folder) {
            seen.entry(commit).or_insert_with(now);
        }
        std::thread::park_timeout(LOOK);
    }
    seen
}

fn pointer(folder: &Path) -> Option<u64> {
    let files = fs::read_dir(folder).ok()?.flatten().map(|file| file.path());
    let is_pointer = |file: &PathBuf| {
        file.file_name().is_some_and(|n| n.as_encoded_bytes().iter().all(u8::is_ascii_digit))
    };
    let newest = files.filter(is_pointer).max()?;
    fs::read_to_string(newest).ok()?.trim().parse().ok()
}

/// When each commit was first served, until `commits` of them were.
fn ask(address: &str, tag: &str, commits: usize) -> Result<Seen, Box<dyn Error>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let path: String = tag.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let request = format!("GET /tags/{path} HTTP/1.1\r\nHost: bench\r\n\r\n");
    let mut seen = Seen::new();
    let mut changed = now();
    while seen.len() <= commits {
        stream.write_all(request.as_bytes())?;
        let answer: Answer = serde_json::from_slice(&body(&mut reader)?)?;
        if let Entry::Vacant(first) = seen.entry(answer.commit) {
            changed = *first.insert(now());
        } else if changed.elapsed() > DEADLINE {
            return Err(format!("no new commit was served for {DEADLINE:?}").into());
        }
        std::thread::park_timeout(LOOK);
    }
    Ok(seen)
}

/// The body of the next response on a connection that stays open.
pub(crate) fn body(reader: &mut impl BufRead) -> Result<Vec<u8>, Box<dyn Error>> {
    let (mut length, mut line) = (0, String::new());
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Err("the API closed the connection".into());
        }
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(body)
}
