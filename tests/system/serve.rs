//! The API and its pages over real sockets, on a state that another process writes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use super::harness::{Job, eventually, export, fails, folder, ok};

/// A `serve` process and its address.
pub(crate) struct Served {
    pub(crate) job: Job,
    pub(crate) address: String,
}

/// Serves a state on a free port.
pub(crate) fn serve(state: &Path, more: &str) -> Served {
    start(&format!("serve --state {} --listen 127.0.0.1:0 {more}", state.display()))
}

/// Serves a store on a free port.
pub(crate) fn serve_store(store: &str) -> Served {
    start(&format!("serve --store {store} --listen 127.0.0.1:0"))
}

fn start(line: &str) -> Served {
    let mut job = Job::start(line);
    let mut first = String::new();
    BufReader::new(job.stdout()).read_line(&mut first).unwrap();
    let address = first.trim().strip_prefix("http://").expect("the URL alone").to_owned();
    Served { job, address }
}

/// An HTTP answer.
pub(crate) struct Answer {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: String,
}

impl Answer {
    /// One of its headers.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let prefix = format!("{name}: ");
        self.head.lines().find_map(|line| line.strip_prefix(&prefix))
    }

    /// Its body, parsed.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }
}

/// Sends bytes and reads until the server closes the connection.
fn raw(address: &str, request: &str) -> Option<Answer> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().unwrap();
    Some(Answer { status, head: head.to_owned(), body: body.to_owned() })
}

/// Sends a GET request.
pub(crate) fn get(address: &str, path: &str) -> Answer {
    get_with(address, path, "")
}

fn get_with(address: &str, path: &str, headers: &str) -> Answer {
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n");
    raw(address, &request).unwrap()
}

/// A finished state with a few posts.
fn small_state(folder: &Path) -> std::path::PathBuf {
    let (input, state) = (folder.join("posts.ndjson"), folder.join("state"));
    let posts = [
        (1, 1_700_000_000_000_i64, "eu", "#Sunset over #Straße"),
        (2, 1_700_000_060_000, "us", "#sunset #日本 #<b>"),
        (3, 1_700_003_700_000, "eu", "#SUNSET #a"),
    ];
    let line = |(id, ts, region, caption): &(i32, i64, &str, &str)| {
        serde_json::json!({"event_id": id, "ts": ts, "region": region, "caption": caption})
            .to_string()
    };
    std::fs::write(&input, posts.iter().map(line).collect::<Vec<_>>().join("\n")).unwrap();
    ok(&format!(
        "run --input {} --state {} --scope region=eu,us --bounded --until 1700003700000",
        input.display(),
        state.display()
    ));
    state
}

#[test]
fn api_and_command_line_print_the_documented_tag_object() {
    let folder = folder();
    let state = small_state(folder.path());
    let served = serve(&state, "");
    let answer = get(&served.address, "/tags/sunset");
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    let object = answer.json();
    let (commit, version) =
        (object["commit"].as_u64().unwrap(), object["version"].as_i64().unwrap());
    let lag = object["lag_ms"].as_i64().unwrap();
    assert_eq!(
        object,
        serde_json::json!({
            "name": "sunset", "display": "Sunset", "scope": "", "total": 3,
            "windows": {"1h": 1, "24h": 3},
            "first_seen": 1_700_000_000_000_i64, "last_seen": 1_700_003_700_000_i64,
            "as_of": 1_700_003_700_000_i64, "commit": commit, "version": version, "lag_ms": lag,
        })
    );
    let printed = ok(&format!("query tag Sunset --state {} --json", state.display()));
    assert_eq!(serde_json::from_str::<serde_json::Value>(&printed).unwrap(), object);
    let scoped = get(&served.address, "/tags/sunset?scope=region%3Deu").json();
    assert_eq!((&scoped["total"], &scoped["scope"]), (&2.into(), &"region=eu".into()));
    let scoped = get(&served.address, "/tags/sunset?scope=region=eu").json();
    assert_eq!(scoped["total"], 2);
}

#[test]
fn other_spellings_lead_to_the_canonical_name() {
    let folder = folder();
    let served = serve(&small_state(folder.path()), "");
    let at = &served.address;
    let other = get(at, "/tags/%23STRASSE/");
    assert_eq!((other.status, other.header("content-location")), (200, Some("/tags/strasse")));
    assert_eq!(get(at, "/tags/strasse").header("content-location"), None);
    let page = get(at, "/t/Stra%C3%9Fe?scope=region=eu");
    assert_eq!((page.status, page.header("location")), (308, Some("/t/strasse?scope=region=eu")));
    let page = get(at, "/t/%E6%97%A5%E6%9C%AC");
    assert!(
        page.status == 200 && page.body.contains("<h1 dir=\"auto\">#日本</h1>"),
        "{}",
        page.body
    );
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.contains("default-src 'none'"));
}

#[test]
fn front_page_shows_every_window_and_refreshes() {
    let folder = folder();
    let served = serve(&small_state(folder.path()), "");
    let page = get(&served.address, "/");
    assert_eq!(page.status, 200);
    for text in ["http-equiv=\"refresh\"", "last 1h", "last 24h", "/t/sunset", "#Sunset"] {
        assert!(page.body.contains(text), "{text}");
    }
    assert!(!page.body.contains("<script"));
}

#[test]
fn unchanged_commit_is_answered_304() {
    let folder = folder();
    let served = serve(&small_state(folder.path()), "");
    let at = &served.address;
    let tag = get(at, "/tags/a").header("etag").unwrap().to_owned();
    let again = get_with(at, "/tags/a", &format!("If-None-Match: {tag}\r\n"));
    assert_eq!((again.status, again.body.as_str()), (304, ""));
    assert_eq!(get_with(at, "/tags/a", "If-None-Match: \"other\"\r\n").status, 200);
    let head = raw(at, "HEAD /tags/a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert!(head.header("content-length").is_some());
}

#[test]
fn bad_requests_get_the_documented_problem() {
    let folder = folder();
    let served = serve(&small_state(folder.path()), "");
    let at = &served.address;
    let long = "x".repeat(2100);
    let cases = [
        ("/tags/nothere", 404, "unknown-tag"),
        ("/tags/a?scope=region=mars", 404, "unknown-scope"),
        ("/tags/123", 400, "bad-name"),
        ("/tags/a%20b", 400, "bad-name"),
        ("/tags/%23", 400, "bad-name"),
        ("/tags/%ff", 400, "bad-name"),
        ("/tags/%3Cscript%3E", 400, "bad-name"),
        (&format!("/tags/{}", "a".repeat(101)), 400, "bad-name"),
        ("/tags/a?x=1", 400, "bad-query"),
        ("/tags/a?scope=a&scope=b", 400, "bad-query"),
        ("/tags/", 404, "unknown-path"),
        ("/tags/a/b", 404, "unknown-path"),
        ("/../etc/passwd", 404, "unknown-path"),
        ("/metrics", 404, "unknown-path"),
        (&format!("/tags/{long}"), 414, "too-long"),
    ];
    for (path, status, problem) in cases {
        let answer = get(at, path);
        assert_eq!(answer.status, status, "{path}");
        assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{path}");
        let document = answer.json();
        assert_eq!(document["type"], format!("/problems/{problem}"), "{path}");
        assert_eq!(document["status"], status, "{path}");
    }
}

#[test]
fn silent_clients_are_closed_and_do_not_block_others() {
    let folder = folder();
    let served = serve(&small_state(folder.path()), "");
    let connect = |i: usize| {
        let mut stream = TcpStream::connect(&served.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        if i.is_multiple_of(2) {
            stream.write_all(b"GET /tags/a HT").unwrap();
        }
        stream
    };
    let silent: Vec<TcpStream> = (0..200).map(connect).collect();
    assert_eq!(get(&served.address, "/tags/a").status, 200);
    for mut stream in silent {
        // Closed, with or without an answer.
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 408"));
    }
}

#[test]
fn reader_follows_a_running_job_while_old_files_are_removed() {
    let folder = folder();
    let (input, state) = (folder.path().join("posts.ndjson"), folder.path().join("state"));
    ok(&format!("generate --posts 60000 --tags-mean 3 --vocabulary 50 --out {}", input.display()));
    let mut job = Job::start(&format!(
        "run --input {} --state {} --bounded --limit-rate 5000 --keep 1s --grace 1s",
        input.display(),
        state.display()
    ));
    eventually("a state", || state.join("visible").read_dir().ok()?.next().map(drop));
    let served = serve(&state, "");
    let (mut last, mut commits) = ((0, 0), 0);
    while job.lives() {
        let answer = get(&served.address, "/tags/beba");
        if [404, 503].contains(&answer.status) && commits == 0 {
            continue;
        }
        assert_eq!(answer.status, 200, "{}", answer.body);
        let object = answer.json();
        let now = (object["commit"].as_u64().unwrap(), object["total"].as_i64().unwrap());
        assert!(now.0 >= last.0 && now.1 >= last.1, "{last:?} went back to {now:?}");
        commits += usize::from(now.0 != last.0);
        last = now;
        std::thread::park_timeout(Duration::from_millis(3));
    }
    // Commits are slow on a busy machine.
    assert!(commits >= 4, "{commits} commits seen");
    let (rows, summary) = export(&state, "");
    let total = rows[&(String::new(), "beba".to_owned())].total;
    eventually("the last commit", || {
        let object = get(&served.address, "/tags/beba").json();
        (object["commit"] == summary.commit && object["total"] == total).then_some(())
    });
}

#[test]
fn metrics_listen_on_loopback_only() {
    let folder = folder();
    let state = small_state(folder.path());
    let mut job = Job::start(&format!(
        "serve --state {} --listen 127.0.0.1:0 --metrics 127.0.0.1:0",
        state.display()
    ));
    let mut lines = BufReader::new(job.stdout()).lines();
    let url = lines.next().unwrap().unwrap();
    let metrics = lines.next().unwrap().unwrap();
    get(url.strip_prefix("http://").unwrap(), "/tags/a");
    let address = metrics.strip_prefix("http://").unwrap().strip_suffix("/metrics").unwrap();
    let answer = get(address, "/metrics");
    assert!(
        answer.body.contains("tagflow_http_requests_total{route=\"/tags/{name}\",code=\"200\"} 1"),
        "{}",
        answer.body
    );
    let state = state.display();
    let error =
        fails(&format!("serve --state {state} --listen 127.0.0.1:0 --metrics 0.0.0.0:0"), 2);
    assert!(error.contains("loopback"), "{error}");
}

#[test]
fn port_in_use_names_its_process() {
    let folder = folder();
    let state = small_state(folder.path());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let error = fails(&format!("serve --state {} --listen 127.0.0.1:{port}", state.display()), 1);
    assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
}
