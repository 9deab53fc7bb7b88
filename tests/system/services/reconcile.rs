//! Checks a commit that counts a topic: several passes find no drift, planted drift is found with
//! its events, and the events behind a number are listed.

use schemas::rows::TagRow;
use serde_json::{Value, json};

use super::super::harness::{export, fails, folder, newest_commit, ok, run};
use super::super::reconcile::{change_tag, findings, no_drift};
use super::produce::{expire, post, produce};
use super::topics::create;
use super::{fresh, kafka, shared};

#[test]
fn several_passes_over_a_topic_find_the_same() {
    let Some(brokers) = kafka() else { return };
    let _servers = shared();
    let (topic, folder) = (fresh("recheck"), folder());
    let (input, state) = (format!("kafka://{brokers}/{topic}"), folder.path().join("state"));
    let at = format!("--input {input} --state {}", state.display());
    ok(&format!("generate --posts 8000 --vocabulary 500 --out {input} --partitions 3"));
    ok(&format!("run {at} --bounded"));
    let line = format!("reconcile {at} --json");
    let all = no_drift(&format!("{line} --workers 2"));
    for more in ["--passes 2", "--passes 3 --workers 2"] {
        assert_eq!(no_drift(&format!("{line} {more}")), all, "{more}");
    }
    let (rows, _) = export(&state, "");
    let row = rows.values().max_by_key(|row| row.total).unwrap();
    let text = ok(&format!("explain-count {} {at} --json", row.key));
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!((&last["stored"], &last["recomputed"]), (&json!(row.total), &json!(row.total)));
    assert!(text.lines().count() as i64 > row.total, "its events, copies too, and the result");

    let error = fails(&format!("{line} --kafka group.id="), 2);
    assert!(error.contains("\"group.id\": it cannot be empty"), "{error}");

    let key = change_tag(&state, |tag| Some(TagRow { total: tag.total + 7, ..tag }));
    let planted = rows.values().find(|row| row.scope.is_empty() && row.key == key).unwrap();
    let (values, _) = findings(&format!("{line} --passes 2"));
    let [value] = &values[..] else { panic!("{values:?}") };
    assert_eq!((&value["key"], &value["field"]), (&json!(key), &json!("total")));
    assert_eq!(value["recomputed"], json!(planted.total));
    let events = value["events"].as_array().unwrap();
    assert!(!events.is_empty(), "{value}");
    for event in events {
        assert!(event["partition"].as_str().unwrap().starts_with(&format!("{topic}/")), "{event}");
    }
}

#[test]
fn truncated_topic_is_reported_with_its_first_offset() {
    let Some(brokers) = kafka() else { return };
    let _servers = shared();
    let (topic, folder) = (fresh("shortened"), folder());
    let (input, state) = (format!("kafka://{brokers}/{topic}"), folder.path().join("state"));
    create(&brokers, &topic, 1, &[]);
    let posts = |ids: std::ops::Range<usize>| {
        let all = ids.map(|id| post(id, 1_700_000_000_000, "a"));
        produce(&brokers, &topic, 0, &all.collect::<Vec<_>>());
    };
    let at = format!("--input {input} --state {}", state.display());
    let line = format!("reconcile {at} --json");
    posts(0..100);
    expire(&brokers, &topic, 0, 10);
    ok(&format!("run {at} --bounded"));
    // Records removed before the job began are not counted.
    assert_eq!(no_drift(&line), 91);
    posts(100..200);
    ok(&format!("run {at} --bounded"));
    no_drift(&line);
    expire(&brokers, &topic, 0, 150);
    for command in [line.clone(), line.replace("reconcile", "explain-count a")] {
        let error = fails(&command, 2);
        let what = format!("{topic}/0 now begins at 150, but the commit counts it from 10");
        assert!(error.contains(&what) && error.contains("cannot tell"), "{error}");
        assert!(!error.contains("--on-lost") && !error.contains("instead"), "{error}");
    }
    // From a commit on that the log still covers, the check works.
    let before = newest_commit(&state);
    posts(200..300);
    ok(&format!("run {at} --bounded"));
    let output = run(&line);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{error}");
    let what = format!("after commit {before} was checked instead, and nothing of it differs");
    assert!(error.contains(&what) && error.contains("begins at 150"), "{error}");
    let last: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&last["since"], &last["drift"]), (&json!(before), &json!(0)), "{last}");
    change_tag(&state, |tag| Some(TagRow { total: tag.total + 7, ..tag }));
    let (values, last) = findings(&line);
    let [value] = &values[..] else { panic!("{values:?}") };
    assert_eq!((&value["field"], &value["recomputed"]), (&json!("total"), &json!(290)));
    assert_eq!(value["events"][0]["position"], 200);
    assert_eq!(last["since"], before);
}
