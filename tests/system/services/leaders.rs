//! Leader changes: with three brokers, the leader of a partition is killed while a job follows its
//! topic and posts arrive. The state equals a recount of the topic.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::metadata::MetadataPartition;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::Value;
use tempfile::TempDir;

use super::super::harness::{Job, eventually, export, folder, ok, run, within};
use super::super::oracle::{Input, check};
use super::produce::{download, post};
use super::topics::create_replicated;
use super::{alone, fresh};

const NOW: i64 = 1_700_000_000_000;
const PARTITIONS: i32 = 3;
/// Away from the ports of the shared servers.
const PORT: u16 = 41_092;

/// Three brokers, stopped when dropped.
struct Brokers {
    script: String,
    folder: TempDir,
}

impl Brokers {
    fn start(script: String) -> Self {
        let brokers = Self { script, folder: folder() };
        // Downloads are reused.
        if let Some(services) = std::env::var_os("TAGFLOW_SERVICES_DIR") {
            let lib = Path::new(&services).join("lib");
            std::os::unix::fs::symlink(lib, brokers.folder.path().join("lib")).unwrap();
        }
        brokers.call(&["up", "kafka", "--nodes", "3"]);
        brokers
    }

    fn call(&self, arguments: &[&str]) {
        let mut command = Command::new(&self.script);
        command.args(arguments).env("TAGFLOW_SERVICES_DIR", self.folder.path());
        let done = command.env("TAGFLOW_SERVICES_PORT_BASE", PORT.to_string()).output().unwrap();
        assert!(done.status.success(), "{arguments:?}: {done:?}");
    }

    fn addresses() -> String {
        let ports = [PORT, PORT + 1000, PORT + 2000];
        ports.map(|port| format!("127.0.0.1:{port}")).join(",")
    }
}

impl Drop for Brokers {
    fn drop(&mut self) {
        let mut command = Command::new(&self.script);
        command.args(["down", "kafka"]).env("TAGFLOW_SERVICES_DIR", self.folder.path());
        let _ = command.output();
    }
}

/// The leader of a partition.
fn leader(topic: &str, partition: i32) -> Option<i32> {
    let client: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", Brokers::addresses()).create().unwrap();
    let metadata = client.fetch_metadata(Some(topic), Duration::from_secs(5)).ok()?;
    let found = metadata.topics().first()?.partitions();
    found.iter().find(|p| p.id() == partition).map(MetadataPartition::leader).filter(|id| *id > 0)
}

/// Writes posts until `end` is set. Returns how many were acknowledged, which is all of them.
fn write(topic: &str, stop: &AtomicBool) -> usize {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", Brokers::addresses()).set("enable.idempotence", "true");
    let producer: BaseProducer = config.create().unwrap();
    let mut number = 0;
    while !stop.load(Ordering::Acquire) {
        for _ in 0..20 {
            let text = post(number, NOW + number as i64, ["a", "b", "c"][number % 3]);
            let partition = number as i32 % PARTITIONS;
            let record = BaseRecord::<str, str>::to(topic).partition(partition).payload(&text);
            producer.send(record).map_err(|(error, _)| error).unwrap();
            number += 1;
        }
        producer.poll(Duration::from_millis(20));
    }
    producer.flush(Duration::from_mins(1)).unwrap();
    number
}

/// How many records a state has read.
fn read(state: &Path) -> u64 {
    let shown = run(&format!("checkpoint show --state {} --json", state.display()));
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap_or_default();
    let partitions = shown["inputs"]["input"].as_object().into_iter().flatten();
    partitions.filter_map(|(_, p)| p["position"]["offset"].as_u64()).sum()
}

#[test]
fn leader_changes_lose_and_repeat_nothing() {
    let Some(servers) = alone() else { return };
    let brokers = Brokers::start(servers.script.clone());
    let (topic, folder) = (fresh("leaders"), folder());
    let state = folder.path().join("state");
    create_replicated(&Brokers::addresses(), &topic, PARTITIONS, 3, &[]);
    let stop = Arc::new(AtomicBool::new(false));
    let (name, end) = (topic.clone(), Arc::clone(&stop));
    let writer = std::thread::spawn(move || write(&name, &end));
    let input = format!("--input kafka://{}/{topic}", Brokers::addresses());
    let run = format!("run {input} --state {} --horizon 100000h --workers 2", state.display());
    let mut job = Job::logged(&run, &folder.path().join("job.log"));
    for partition in 0..2 {
        let before = read(&state);
        eventually("records", || (read(&state) > before + 500).then_some(()));
        let led = eventually("a leader", || leader(&topic, partition));
        let node = format!("kafka-{led}");
        brokers.call(&["kill", &node]);
        within(90, "another leader", || leader(&topic, partition).filter(|now| *now != led));
        let before = read(&state);
        within(90, "records of the new leader", || {
            assert!(
                job.lives(),
                "{}",
                std::fs::read_to_string(folder.path().join("job.log")).unwrap()
            );
            (read(&state) > before + 500).then_some(())
        });
        brokers.call(&["start", &node]);
    }
    stop.store(true, Ordering::Release);
    let written = writer.join().unwrap();
    within(90, "all of it", || (read(&state) >= written as u64).then_some(()));
    job.signal("TERM");
    eventually("the job to exit", || (!job.lives()).then_some(()));
    assert_eq!(job.code(), Some(0));
    let file = folder.path().join("posts.ndjson");
    download(&Brokers::addresses(), &topic, &file);
    let (rows, summary) = export(&state, "");
    assert_eq!((summary.events, summary.duplicates), (written as u64, 0));
    check(&Input::file(&file), &rows, &summary);
    let again = folder.path().join("again");
    ok(&format!("run {input} --state {} --bounded", again.display()));
    assert_eq!(export(&again, "").0.len(), rows.len());
}
