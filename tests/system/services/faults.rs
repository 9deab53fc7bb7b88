//! A database that loses requests, answers late, and says of writes that it does not know: the
//! table ends equal to the state, and memory stays where it is with a good database.
//!
//! A proxy stands between the job and the server. Which requests it meets is up to chance, and how
//! many of each kind is told.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use scylla_proxy::{
    Condition, Node, Proxy, Reaction, RequestFrame, RequestOpcode, RequestReaction, RequestRule,
    ResponseFrame, ResponseOpcode, ResponseReaction, ResponseRule, RunningProxy, ShardAwareness,
    example_db_errors, get_exclusive_local_address,
};
use tokio::runtime::{Builder, Runtime};

use super::super::harness::{Job, tell, within};
use super::cql::Fixture;
use super::{cql, shared, skipped};

/// Few tags, since a request that is lost costs the driver's whole patience.
const POSTS: &str = "--posts 20000 --seed 7 --vocabulary 400 --tags-mean 3";
/// Write timeouts: a half of them has been written, the other half has not.
const TIMEOUTS: f64 = 0.2;
const LOST: f64 = 0.1;
const LATE: f64 = 0.05;
const DELAY: Duration = Duration::from_secs(1);
/// What a retry may keep in memory besides what is there anyway.
const MORE_MIB: u64 = 64;

/// How often each fault struck.
#[derive(Default)]
struct Struck {
    not_written: AtomicU64,
    written: AtomicU64,
}

fn write_timeout(request: &RequestFrame) -> ResponseFrame {
    let error = example_db_errors::write_timeout();
    ResponseFrame::forged_error(request.params.for_response(), error, None).unwrap()
}

/// The faults of requests. A rule sees what those before it let pass.
fn requests(struck: &Arc<Struck>) -> Vec<RequestRule> {
    let when = |share| {
        Condition::RequestOpcode(RequestOpcode::Execute)
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

/// Writes that happen and are answered as if nobody knew.
fn responses(struck: &Arc<Struck>) -> Vec<ResponseRule> {
    /// The body of an answer that holds nothing, as writes get it.
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
    struck: Arc<Struck>,
}

impl Bad {
    fn before(node: &str) -> Self {
        let real: SocketAddr = node.parse().unwrap();
        let address = SocketAddr::new(get_exclusive_local_address(), real.port());
        let struck = Arc::new(Struck::default());
        let proxied = Node::builder()
            .real_address(real)
            .proxy_address(address)
            .shard_awareness(ShardAwareness::Unaware)
            .request_rules(requests(&struck))
            .response_rules(responses(&struck))
            .build();
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let running = runtime.block_on(Proxy::new([proxied]).run()).unwrap();
        Self { runtime, running: Some(running), address, struck }
    }
}

impl Drop for Bad {
    fn drop(&mut self) {
        let running = self.running.take();
        // Connections that end are errors to it.
        let _ = self.runtime.block_on(async { running?.finish().await.err() });
    }
}

/// Runs a job to its end; what it says, and its peak memory in MiB.
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
fn a_table_converges_though_the_database_loses_delays_and_doubts_a_third_of_all_writes() {
    let Some(nodes) = cql() else { return };
    let _servers = shared();
    // The driver would find the way around a proxy to the other nodes.
    let Ok(_) = nodes.parse::<SocketAddr>() else {
        return skipped(1, "a proxy needs one node, named by its address");
    };
    let fixture = Fixture::new(&nodes, POSTS);
    let store = fixture.store(fixture.keyspace());
    let bad = Bad::before(&nodes);
    let through = store.replace(&nodes, &bad.address.to_string());
    let line = |state: &str, store: &str| format!("{} --json", fixture.line(state, store));
    let (out, peak) = measured(&line("state", &through));
    fixture.check("state", fixture.keyspace());
    let told: serde_json::Value = serde_json::from_str(&out).unwrap();
    let count = |field: &str| told["store"][field].as_u64().unwrap();
    let [before, after] =
        [&bad.struck.not_written, &bad.struck.written].map(|n| n.load(Ordering::Relaxed));
    let (rows, resent) = (count("rows"), count("resent"));
    tell(&format!(
        "faults: {rows} rows, {resent} sent again; write timeouts: {before} before the write, \
         {after} after it"
    ));
    assert!(before > rows / 20 && after > rows / 20, "too few faults");
    assert!(resent > rows / 4 && count("refused") == 0);
    // Beside a good database.
    let calm = fixture.second();
    let (_, usual) = measured(&line("calm", &fixture.store(&calm)));
    tell(&format!("faults: peak {peak} MiB, without them {usual} MiB"));
    assert!(peak <= usual + MORE_MIB, "{peak} MiB, without faults {usual} MiB");
    fixture.check("calm", &calm);
    fixture.remove(&calm);
}
