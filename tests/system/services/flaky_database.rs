//! A database that loses requests, answers late or reports write timeouts: the table ends equal to
//! the state, and memory does not grow.
//!
//! A proxy between the job and the server chooses requests at random, and the test prints how many
//! of each kind it hit.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use scylla_proxy::{
    Condition, Node, Proxy, Reaction, RequestFrame, RequestOpcode, RequestReaction, RequestRule,
    ResponseFrame, ResponseOpcode, ResponseReaction, ResponseRule, RunningProxy, ShardAwareness,
    example_db_errors,
};
use tokio::runtime::{Builder, Runtime};

use super::super::harness::{Job, fails, ok, tell, within};
use super::cql::Fixture;
use super::{cql, shared, skipped};

/// Few tags, since a lost request costs the driver's whole timeout.
const POSTS: &str = "--posts 20000 --seed 7 --vocabulary 400 --tags-mean 3";
/// Write timeouts: half of these writes happened, the other half did not.
const TIMEOUTS: f64 = 0.2;
const LOST: f64 = 0.1;
const LATE: f64 = 0.05;
const DELAY: Duration = Duration::from_secs(1);
/// Memory that retries may need in addition.
const MORE_MIB: u64 = 64;

/// How often each fault was injected.
#[derive(Default)]
struct Struck {
    not_written: AtomicU64,
    written: AtomicU64,
}

fn write_timeout(request: &RequestFrame) -> ResponseFrame {
    let error = example_db_errors::write_timeout();
    ResponseFrame::forged_error(request.params.for_response(), error, None).unwrap()
}

/// The faults of requests. A rule sees what earlier rules let pass. The driver's control connection
/// is spared: a dozen requests that must all succeed would hardly ever get through.
fn requests(struck: &Arc<Struck>) -> Vec<RequestRule> {
    let when = |share| {
        Condition::not(Condition::ConnectionRegisteredAnyEvent)
            .and(Condition::RequestOpcode(RequestOpcode::Execute))
            .and(Condition::RandomWithProbability(share))
    };
    let struck = Arc::clone(struck);
    let refuse = RequestReaction::forge_response(Arc::new(move |request| {
        struck.not_written.fetch_add(1, Ordering::Relaxed);
        write_timeout(&request)
    }));
    vec![
        RequestRule(when(LOST), RequestReaction::drop_frame()),
        RequestRule(when(LATE), RequestReaction::delay(DELAY)),
        RequestRule(when(TIMEOUTS / 2.0), refuse),
    ]
}

/// Writes that happen but are answered with a timeout.
fn responses(struck: &Arc<Struck>) -> Vec<ResponseRule> {
    /// The body of an empty result, as sent for writes.
    const VOID: [u8; 4] = [0, 0, 0, 1];
    let when = Condition::ResponseOpcode(ResponseOpcode::Result)
        .and(Condition::RandomWithProbability(TIMEOUTS / 2.0));
    let struck = Arc::clone(struck);
    let doubt = ResponseReaction::transform_frame(Arc::new(move |answer: ResponseFrame| {
        if *answer.body != VOID {
            return answer;
        }
        struck.written.fetch_add(1, Ordering::Relaxed);
        let error = example_db_errors::write_timeout();
        ResponseFrame::forged_error(answer.params, error, None).unwrap()
    }));
    vec![ResponseRule(when, doubt)]
}

/// A proxy in front of a server.
struct Bad {
    runtime: Runtime,
    running: Option<RunningProxy>,
    address: SocketAddr,
}

impl Bad {
    fn before(real: SocketAddr, requests: Vec<RequestRule>, responses: Vec<ResponseRule>) -> Self {
        // A driver connects to the addresses that nodes advertise, and to the given port.
        let address = TcpListener::bind((real.ip(), 0)).unwrap().local_addr().unwrap();
        let proxied = Node::builder()
            .real_address(real)
            .proxy_address(address)
            .shard_awareness(ShardAwareness::Unaware)
            .request_rules(requests)
            .response_rules(responses)
            .build();
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let running = runtime.block_on(Proxy::new([proxied]).run()).unwrap();
        Self { runtime, running: Some(running), address }
    }
}

/// The only node: the driver would bypass the proxy to reach others.
fn one_node() -> Option<SocketAddr> {
    let nodes = cql()?;
    let node = nodes.parse().ok();
    if node.is_none() {
        skipped(1, "a proxy needs one node, named by its address");
    }
    node
}

impl Drop for Bad {
    fn drop(&mut self) {
        let running = self.running.take();
        // The proxy reports closed connections as errors.
        let _ = self.runtime.block_on(async { running?.finish().await.err() });
    }
}

/// Runs a job to its end. Returns its output and its peak memory in MiB.
fn measured(line: &str) -> (String, u64) {
    let mut job = Job::start(line);
    let status = format!("/proc/{}/status", job.id());
    let mut peak = 0;
    within(300, "a run", || {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let kib = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = kib.and_then(|kib| kib.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        peak = peak.max(kib.unwrap_or_default() >> 10);
        (!job.lives()).then_some(())
    });
    let (code, out, error) = job.end();
    assert_eq!(code, Some(0), "{error}");
    (out, peak)
}

#[test]
fn table_converges_when_a_third_of_the_writes_fail() {
    let Some(node) = one_node() else { return };
    let _servers = shared();
    let fixture = Fixture::new(&node.to_string(), POSTS);
    let store = fixture.store(fixture.keyspace());
    let struck = Arc::new(Struck::default());
    let bad = Bad::before(node, requests(&struck), responses(&struck));
    let through = store.replace(&node.to_string(), &bad.address.to_string());
    let line = |state: &str, store: &str| format!("{} --json", fixture.line(state, store));
    let (out, peak) = measured(&line("state", &through));
    fixture.check("state", fixture.keyspace());
    let printed: serde_json::Value = serde_json::from_str(&out).unwrap();
    let count = |field: &str| printed["store"][field].as_u64().unwrap();
    let [before, after] = [&struck.not_written, &struck.written].map(|n| n.load(Ordering::Relaxed));
    let (rows, resent) = (count("rows"), count("resent"));
    tell(&format!(
        "faults: {rows} rows, {resent} sent again; write timeouts: {before} before the write, \
         {after} after it"
    ));
    assert!(before > rows / 20 && after > rows / 20, "too few faults");
    assert!(resent > rows / 4 && count("refused") == 0);
    // Compared with a healthy database.
    let calm = fixture.second();
    let (_, usual) = measured(&line("calm", &fixture.store(&calm)));
    tell(&format!("faults: peak {peak} MiB, without them {usual} MiB"));
    assert!(peak <= usual + MORE_MIB, "{peak} MiB, without faults {usual} MiB");
    fixture.check("calm", &calm);
    fixture.remove(&calm);
}

#[test]
fn rejected_row_is_kept_counted_and_blocks_nothing() {
    let Some(node) = one_node() else { return };
    let _servers = shared();
    let fixture = Fixture::new(&node.to_string(), "--posts 100");
    let posts = ["#cursed", "#cat"].map(|tag| {
        format!(r#"{{"event_id":"{tag}","ts":1700000000000,"caption":"{tag}"}}"#) + "\n"
    });
    fs::write(fixture.path("posts.ndjson"), posts.concat()).unwrap();
    // No accepted event makes such a row, so this stands for a server with lower limits.
    let cursed = Condition::RequestOpcode(RequestOpcode::Execute)
        .and(Condition::BodyContainsCaseSensitive(b"\0\0\0\x06cursed".to_vec().into()));
    let refusal = (example_db_errors::invalid(), Some("Mutation is too large".to_owned()));
    let refuse = RequestReaction::forge_with_error_and_message(refusal.0, refusal.1);
    let bad = Bad::before(node, vec![RequestRule(cursed, refuse)], Vec::new());
    let store = fixture.store(fixture.keyspace());
    let through = store.replace(&node.to_string(), &bad.address.to_string());
    let ended: serde_json::Value =
        serde_json::from_str(&ok(&format!("{} --json", fixture.line("state", &through)))).unwrap();
    assert_eq!((&ended["events"], &ended["store"]["refused"]), (&2.into(), &1.into()));
    let (want, got) = fixture.both("state");
    assert_eq!((want.len(), got.len()), (2, 1));
    let files = fs::read_dir(fixture.path("state").join("refused")).unwrap();
    let kept: Vec<String> =
        files.map(|file| fs::read_to_string(file.unwrap().path()).unwrap()).collect();
    let [kept] = kept.as_slice() else { panic!("{kept:?}") };
    let kept: serde_json::Value = serde_json::from_str(kept).unwrap();
    assert_eq!((&kept["table"], &kept["total"]), (&"tag".into(), &1.into()));
    assert!(kept["why"].as_str().unwrap().contains("too large"), "{}", kept["why"]);
    let listed = ok(&format!("dead-letters refused --state {}", fixture.path("state").display()));
    assert_eq!(listed.lines().count(), 1);
}

#[test]
fn row_that_waits_is_named_with_the_reason_as_the_database_gives_it() {
    let Some(node) = one_node() else { return };
    let _servers = shared();
    let fixture = Fixture::new(&node.to_string(), "--posts 100");
    let posts = ["#stuck", "#cat"].map(|tag| {
        format!(r#"{{"event_id":"{tag}","ts":1700000000000,"caption":"{tag}"}}"#) + "\n"
    });
    fs::write(fixture.path("posts.ndjson"), posts.concat()).unwrap();
    // The replicas of one row are down.
    let stuck = Condition::RequestOpcode(RequestOpcode::Execute)
        .and(Condition::BodyContainsCaseSensitive(b"\0\0\0\x05stuck".to_vec().into()));
    let down = RequestReaction::forge_with_error(example_db_errors::unavailable());
    let bad = Bad::before(node, vec![RequestRule(stuck, down)], Vec::new());
    let through =
        fixture.store(fixture.keyspace()).replace(&node.to_string(), &bad.address.to_string());
    let error = fails(&format!("{} --store-wait 6s", fixture.line("state", &through)), 1);
    let waits = error.lines().find(|line| line.contains("publishing waits: 1 row of commit"));
    let waits = waits.unwrap_or_else(|| panic!("{error}"));
    assert!(waits.contains(r#"first of table tag the one of "" "stuck", could not"#), "{waits}");
    assert!(waits.contains("the database cannot do it now: Not enough nodes"), "{waits}");
    assert!(waits.contains(&bad.address.to_string()), "{waits}");
    let last = error.lines().last().unwrap();
    assert!(last.contains(" in full (cql://"), "{last}");
    assert!(last.contains("the database cannot do it now"), "{last}");
    assert!(!error.contains("does not answer"), "{error}");
}
