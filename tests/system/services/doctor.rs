//! `doctor` on a real topic and a real keyspace.

use super::super::harness::{folder, ok, run};
use super::topics::create;
use super::{cql, fresh, kafka, shared};

#[test]
fn doctor_checks_a_topic_and_a_keyspace() {
    let (Some(brokers), Some(nodes)) = (kafka(), cql()) else { return };
    let _servers = shared();
    let folder = folder();
    let (topic, keyspace) = (fresh("doctor"), fresh("doctor"));
    let (input, store) =
        (format!("kafka://{brokers}/{topic}"), format!("cql://{nodes}/{keyspace}"));
    let state = folder.path().join("state");
    let line = format!("doctor --input {input} --store {store} --state {}", state.display());
    let report = |line: &str| {
        let output = run(line);
        let text = String::from_utf8(output.stdout).unwrap();
        (output.status.code(), text)
    };
    let (code, text) = report(&line);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("there is no topic") && text.contains("there is no keyspace"), "{text}");

    ok(&format!("generate --posts 2000 --out {input} --partitions 3"));
    ok(&format!("store init --store {store}"));
    let (code, text) = report(&line);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("3 partitions") && text.contains("log time follows"), "{text}");
    assert!(text.contains("300 records were read as a sample, all of them events"), "{text}");
    assert!(text.contains("has no commit yet"), "{text}");

    ok(&format!("run --input {input} --store {store} --state {} --bounded", state.display()));
    let (code, text) = report(&line);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("of this state"), "{text}");
    // The store belongs to another state.
    let (code, text) = report(&line.replace("/state", "/other"));
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("Name another keyspace"), "{text}");
}

#[test]
fn doctor_reports_a_compacted_topic_and_absent_servers() {
    let Some(brokers) = kafka() else { return };
    let _servers = shared();
    let topic = fresh("compacted");
    create(&brokers, &topic, 1, &[("cleanup.policy", "compact")]);
    let state = folder();
    let state = state.path().join("state");
    let line = format!("doctor --input kafka://{brokers}/{topic} --state {}", state.display());
    let output = run(&line);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("is compacted"), "{text}");
    let output = run(&format!("{line} --kafka sasl.password=secret"));
    assert_eq!(output.status.code(), Some(1));
    for text in [output.stdout, output.stderr] {
        let text = String::from_utf8(text).unwrap();
        assert!(!text.contains("secret"), "{text}");
    }
}
