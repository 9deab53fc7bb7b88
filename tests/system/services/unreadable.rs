//! What a topic holds that cannot be counted, or not yet: open transactions, tombstones, empty
//! records.

use serde_json::Value;

use super::super::harness::{Job, eventually, export, folder, ok};
use super::produce::{OpenTransaction, post, produce, produce_values};
use super::topics::create;
use super::{fresh, kafka, shared};

const NOW: i64 = 1_700_000_000_000;

fn posts(ids: std::ops::Range<usize>) -> Vec<String> {
    ids.map(|id| post(id, NOW + id as i64, "a")).collect()
}

#[test]
fn open_transaction_is_told_and_waited_for_unless_a_run_may_end_before_it() {
    let Some(brokers) = kafka() else { return };
    let _servers = shared();
    let (topic, folder) = (fresh("open"), folder());
    create(&brokers, &topic, 1, &[]);
    produce(&brokers, &topic, 0, &posts(0..10));
    let open = OpenTransaction::begin(&brokers, &topic, &posts(10..15));
    produce(&brokers, &topic, 0, &posts(15..18));
    let state = folder.path().join("state");
    let line = format!("run --input kafka://{brokers}/{topic} --state {}", state.display());
    for _ in 0..2 {
        ok(&format!("{line} --bounded --on-open-transaction end"));
        assert_eq!(export(&state, "").1.events, 10);
    }
    let log = folder.path().join("log");
    let mut job = Job::logged(&format!("{line} --bounded"), &log);
    let logged = |what: &str| {
        let text = std::fs::read_to_string(&log).unwrap();
        text.lines().find(|line| line.contains(what)).map(str::to_owned)
    };
    let told = eventually("a line about the transaction", || {
        assert!(job.lives());
        logged("waited at offset")
    });
    let want = format!("topic {topic}: partition 0 has waited at offset 10 for 1");
    assert!(told.contains(&want) && told.contains("the 8 offsets behind it"), "{told}");
    assert!(told.contains("--on-open-transaction end"), "{told}");
    open.commit();
    assert_eq!(eventually("the run to end", || job.code()), 0);
    assert_eq!(export(&state, "").1.events, 18);
}

#[test]
fn tombstones_and_empty_records_are_dead_letters_of_their_own() {
    let Some(brokers) = kafka() else { return };
    let _servers = shared();
    let (topic, folder) = (fresh("tombstones"), folder());
    create(&brokers, &topic, 1, &[]);
    produce(&brokers, &topic, 0, &posts(0..3));
    produce_values(&brokers, &topic, &[None, Some(""), Some(" "), None]);
    let state = folder.path().join("state");
    ok(&format!("run --input kafka://{brokers}/{topic} --state {} --bounded", state.display()));
    let summary = export(&state, "").1;
    assert_eq!((summary.events, summary.dead_letters), (3, 4));
    let listed = ok(&format!("dead-letters ls --state {} --json", state.display()));
    let rows: Vec<Value> = listed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let reasons: Vec<_> = rows.iter().map(|row| row["reason"].as_str().unwrap()).collect();
    assert_eq!(reasons, ["tombstone", "empty", "not_json", "tombstone"]);
    let of = |reason: &str| {
        let line = format!("dead-letters ls --state {} --reason {reason}", state.display());
        ok(&line).lines().count()
    };
    assert_eq!((of("tombstone"), of("empty")), (2, 1));
}
