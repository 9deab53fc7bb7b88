//! Clients that hold connections open, beside a job that needs its files, and scopes that nobody
//! counts.

use std::fs;
use std::io::Write;
use std::net::TcpStream;

use super::harness::{Job, append, eventually, fails, folder, now_ms, ok, post};
use super::serve::{get, serve};

/// The open files that the job of these tests may have.
const FILES: usize = 128;

#[test]
fn more_idle_connections_than_open_files_neither_end_a_job_nor_shut_others_out() {
    let folder = folder();
    let [posts, state, log] = ["posts", "state", "log"].map(|name| folder.path().join(name));
    fs::create_dir(&posts).unwrap();
    let now = now_ms();
    append(&posts.join("a.ndjson"), post(1, now, "x"));
    let line = format!(
        "run --input {} --state {} --listen 127.0.0.1:0 --metrics 127.0.0.1:0",
        posts.display(),
        state.display()
    );
    let mut job = Job::with_files(FILES, &line, &log);
    let listening = |what: &str| {
        let said = fs::read_to_string(&log).unwrap();
        let url = said.lines().find_map(|line| line.strip_prefix(what))?;
        Some(url.strip_prefix("http://")?.trim_end_matches("/metrics").to_owned())
    };
    let at = eventually("an address", || listening("serving "));
    let metrics = eventually("an address", || listening("metrics "));
    eventually("a commit", || (get(&at, "/tags/x").status == 200).then_some(()));
    let mut idle = Vec::new();
    for i in 0..2 * FILES {
        let mut stream = TcpStream::connect(&at).unwrap();
        if i % 2 == 0 {
            let _ = stream.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n");
        }
        idle.push(stream);
    }
    // The job opens files: one to read and those of its commits.
    for id in 2..5 {
        append(&posts.join(format!("{id}.ndjson")), post(id, now, "x"));
        eventually("another post", || {
            assert!(job.lives(), "{}", fs::read_to_string(&log).unwrap());
            let answer = get(&at, "/tags/x");
            (answer.status == 200 && answer.json()["total"] == id).then_some(())
        });
        assert_eq!(get(&at, "/livez").status, 200);
    }
    let metrics = get(&metrics, "/metrics").body;
    let evicted = metrics.lines().find_map(|line| line.strip_prefix("tagflow_http_evicted_total "));
    assert!(evicted.unwrap().parse::<usize>().unwrap() >= FILES, "{metrics}");
    drop(idle);
    job.signal("TERM");
    assert_eq!(job.end().0, Some(0), "{}", fs::read_to_string(&log).unwrap());
}

#[test]
fn an_unknown_scope_is_an_error_in_the_api_on_pages_and_on_the_command_line() {
    let folder = folder();
    let (posts, state) = (folder.path().join("posts.ndjson"), folder.path().join("state"));
    append(&posts, "{\"event_id\":1,\"ts\":1700000000000,\"region\":\"eu\",\"caption\":\"#x\"}\n");
    let (from, at) = (posts.display(), state.display());
    ok(&format!("run --input {from} --state {at} --scope region=eu,us --bounded"));
    let scopes = "the scopes are \"region=eu\" and \"region=us\"";
    for what in ["tag x", "tag x --json", "top", "top --json"] {
        let error = fails(&format!("query {what} --state {at} --scope region=mars"), 2);
        assert!(error.contains("\"region=mars\"") && error.contains(scopes), "{error}");
        // One that is counted is none, although no post is in it.
        if what.starts_with("top") {
            ok(&format!("query {what} --state {at} --scope region=us"));
        }
    }
    let served = serve(&state, "");
    let json = get(&served.address, "/tags/x?scope=region=mars");
    assert_eq!((json.status, &json.json()["type"]), (404, &"/problems/unknown-scope".into()));
    assert!(json.json()["detail"].as_str().unwrap().contains(scopes));
    for path in ["/?scope=region=mars", "/t/x?scope=region=mars"] {
        let page = get(&served.address, path);
        assert!(page.status == 404 && page.body.contains("/?scope=region%3Dus"), "{}", page.body);
    }
    assert_eq!(get(&served.address, "/?scope=region=us").status, 200);
}
