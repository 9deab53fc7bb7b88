//! Input from a real Kafka: counts equal a recount of the topic, and topics that were changed or
//! have lost records are handled.

use std::path::Path;

use serde_json::Value;

use super::super::harness::{
    Job, Summary, eventually, export, fails, folder, newest_commit, ok, run,
};
use super::super::oracle::{Input, check};
use super::super::serve::get;
use super::produce::{delete, download, expire, grow, post, produce, transactions};
use super::topics::{create, records};
use super::{fresh, kafka, shared};

const NOW: i64 = 1_700_000_000_000;

/// The command line of a job.
fn line(brokers: &str, topic: &str, state: &Path, more: &str) -> String {
    format!("run --input kafka://{brokers}/{topic} --state {} {more}", state.display())
}

fn posts(ids: std::ops::Range<usize>, tag: &str) -> Vec<String> {
    ids.map(|id| post(id, NOW + id as i64, tag)).collect()
}

/// What a state has counted so far, or `None` if it has no commit.
fn counted(state: &Path) -> Option<Summary> {
    (newest_commit(state) > 1 && state.join("visible").exists()).then(|| export(state, "").1)
}

fn events(state: &Path) -> u64 {
    counted(state).map_or(0, |summary| summary.events)
}

fn lost(state: &Path) -> u64 {
    let shown = ok(&format!("checkpoint show --state {} --json", state.display()));
    let shown: Value = serde_json::from_str(&shown).unwrap();
    shown["counters"]["lost_records"].as_u64().unwrap()
}

#[test]
fn fresh_topic_is_empty() {
    let Some(brokers) = kafka() else { return };
    let _servers = shared();
    let topic = fresh("empty");
    create(&brokers, &topic, 6, &[]);
    assert_eq!(records(&brokers, &topic).count(), 0);
    let folder = folder();
    let state = folder.path().join("state");
    ok(&line(&brokers, &topic, &state, "--bounded"));
    assert_eq!(events(&state), 0);
}

#[test]
fn bounded_run_equals_the_recount_after_kills() {
    let Some(brokers) = kafka() else { return };
    let _servers = shared();
    let topic = fresh("bounded");
    let generate = "generate --tags-mean 4 --vocabulary 3000 --duplicates 0.05 --late 0.1";
    let out = format!("--out kafka://{brokers}/{topic} --partitions 6");
    ok(&format!("{generate} --posts 60000 --seed 3 {out}"));
    let folder = folder();
    let file = folder.path().join("posts.ndjson");
    download(&brokers, &topic, &file);
    let state = folder.path().join("state");
    for workers in [2, 3, 1] {
        let before = newest_commit(&state);
        let more = format!("--bounded --workers {workers} --limit-rate 8000");
        let mut job = Job::start(&line(&brokers, &topic, &state, &more));
        eventually("two own commits", || {
            assert!(job.lives(), "it must be hit half-way");
            (newest_commit(&state) > before + 2).then_some(())
        });
        job.kill();
    }
    let ended = ok(&line(&brokers, &topic, &state, "--bounded --workers 2 --json"));
    let (rows, summary) = export(&state, "");
    check(&Input::file(&file), &rows, &summary);
    let ended: Value = serde_json::from_str(&ended).unwrap();
    assert_eq!(ended["lost_records"], 0);
    // Running it again does nothing. Later records are read by the next run.
    ok(&line(&brokers, &topic, &state, "--bounded --workers 1"));
    assert_eq!(export(&state, "").1, summary);
    ok(&format!("{generate} --posts 5000 --seed 4 {out}"));
    ok(&line(&brokers, &topic, &state, "--bounded --workers 2"));
    download(&brokers, &topic, &file);
    let (rows, summary) = export(&state, "");
    check(&Input::file(&file), &rows, &summary);
}

#[test]
fn every_compression_is_read() {
    let Some(brokers) = kafka() else { return };
    let _servers = shared();
    let folder = folder();
    for codec in ["gzip", "zstd", "snappy", "lz4"] {
        let topic = fresh(codec);
        create(&brokers, &topic, 1, &[("compression.type", codec)]);
        produce(&brokers, &topic, 0, &posts(0..100, "a"));
        let state = folder.path().join(codec);
        ok(&line(&brokers, &topic, &state, "--bounded"));
        assert_eq!(events(&state), 100, "{codec}");
    }
}

#[test]
fn new_records_and_partitions_are_followed() {
    let Some(brokers) = kafka() else { return };
    let _servers = shared();
    let topic = fresh("follow");
    create(&brokers, &topic, 1, &[("compression.type", "lz4")]);
    produce(&brokers, &topic, 0, &posts(0..100, "a"));
    let folder = folder();
    let state = folder.path().join("state");
    let more = "--workers 2 --horizon 100000h";
    let job = Job::start(&line(&brokers, &topic, &state, more));
    eventually("the existing records", || (events(&state) == 100).then_some(()));
    produce(&brokers, &topic, 0, &posts(100..150, "b"));
    eventually("the new records", || (events(&state) == 150).then_some(()));
    grow(&brokers, &topic, 3);
    eventually("the new partitions", || {
        let out = ok(&format!("checkpoint show --state {}", state.display()));
        if !out.contains(&format!("{topic}/2")) {
            // Written before the job knows of the partition. It must start at the first record.
            return None;
        }
        Some(())
    });
    produce(&brokers, &topic, 2, &posts(150..200, "c"));
    eventually("the records of a new partition", || (events(&state) == 200).then_some(()));
    job.signal("TERM");
    let (code, _, error) = job.end();
    assert_eq!(code, Some(0), "{error}");
    produce(&brokers, &topic, 1, &posts(200..250, "d"));
    let _job = Job::start(&line(&brokers, &topic, &state, more));
    eventually("the records written meanwhile", || (events(&state) == 250).then_some(()));
}

#[test]
fn missing_recreated_and_compacted_topics_are_refused_by_name() {
    let Some(brokers) = kafka() else { return };
    let _servers = shared();
    let (topic, folder) = (fresh("recreated"), folder());
    let state = folder.path().join("state");
    let line = |topic: &str, more: &str| line(&brokers, topic, &state, more);
    create(&brokers, &topic, 2, &[]);
    produce(&brokers, &topic, 0, &posts(0..50, "a"));
    ok(&line(&topic, "--bounded"));
    delete(&brokers, &topic);
    eventually("it to be reported as missing", || {
        let output = run(&line(&topic, "--bounded"));
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        error.contains(&format!("there is no topic {topic}")).then_some(())
    });
    // Recreated with fewer records, then with more and other records, then with fewer partitions.
    create(&brokers, &topic, 2, &[]);
    let recreated = |what: &str| {
        let error = fails(&line(&topic, "--bounded"), 1);
        let want = format!("topic {topic} was recreated: its partition");
        assert!(error.contains(&want) && error.contains(what), "{error}");
    };
    recreated("ends at 0, but had been read up to 50");
    produce(&brokers, &topic, 0, &posts(0..80, "a"));
    recreated("holds another record at offset 49");
    delete(&brokers, &topic);
    eventually("it to be gone", || {
        String::from_utf8_lossy(&run(&line(&topic, "")).stderr).contains("no topic").then_some(())
    });
    create(&brokers, &topic, 1, &[]);
    recreated("1 no longer exists");
    assert_eq!(events(&state), 50, "nothing was changed");

    let compacted = fresh("compacted");
    create(&brokers, &compacted, 1, &[("cleanup.policy", "compact,delete")]);
    let error = fails(&line(&compacted, "--bounded"), 1);
    assert!(error.contains(&format!("topic {compacted} is compacted")), "{error}");
}

#[test]
fn records_lost_to_retention_are_an_error_or_are_counted() {
    let Some(brokers) = kafka() else { return };
    let _servers = shared();
    let (topic, folder) = (fresh("lost"), folder());
    let state = folder.path().join("state");
    let line = |more: &str| line(&brokers, &topic, &state, more);
    create(&brokers, &topic, 1, &[]);
    produce(&brokers, &topic, 0, &posts(0..100, "a"));
    // Records removed before the first run are not lost.
    expire(&brokers, &topic, 0, 10);
    ok(&line("--bounded"));
    assert_eq!((events(&state), lost(&state)), (90, 0));
    produce(&brokers, &topic, 0, &posts(100..200, "a"));
    expire(&brokers, &topic, 0, 130);
    let error = fails(&line("--bounded"), 1);
    assert!(error.contains("retention removed the records 100 to 129 of partition 0"), "{error}");
    assert!(error.contains("--on-lost skip"), "{error}");
    let ended: Value = serde_json::from_str(&ok(&line("--bounded --on-lost skip --json"))).unwrap();
    assert_eq!((&ended["events"], &ended["lost_records"]), (&160.into(), &30.into()));
    ok(&line("--bounded"));
    assert_eq!((events(&state), lost(&state)), (160, 30));
}

#[test]
fn retention_overtaking_a_running_job_is_noticed() {
    let Some(brokers) = kafka() else { return };
    let _servers = shared();
    let (topic, folder) = (fresh("overtaken"), folder());
    create(&brokers, &topic, 1, &[]);
    produce(&brokers, &topic, 0, &posts(0..6000, "a"));
    // Little is fetched in advance.
    let slow = "--bounded --limit-rate 400 --kafka queued.min.messages=1 \
                --kafka max.partition.fetch.bytes=1000";
    let states = ["skip", "error"].map(|name| folder.path().join(name));
    let start = |on_lost: usize| {
        let how = ["--on-lost skip", ""][on_lost];
        Job::start(&line(&brokers, &topic, &states[on_lost], &format!("{slow} {how}")))
    };
    let jobs = [start(0), start(1)];
    for state in &states {
        eventually("some events", || (events(state) > 100).then_some(()));
    }
    expire(&brokers, &topic, 0, 5000);
    let [skips, fails] = jobs;
    let (code, _, error) = fails.end();
    assert_eq!(code, Some(1), "{error}");
    assert!(
        error.contains("retention removed the records") && error.contains("to 4999"),
        "{error}"
    );
    let (code, _, error) = skips.end();
    assert_eq!(code, Some(0), "{error}");
    let (counted, lost) = (events(&states[0]), lost(&states[0]));
    assert!(lost > 1000 && counted >= 1100, "{counted} {lost}");
    assert_eq!(counted + lost, 6000);
}

#[test]
fn aborted_transactions_are_skipped() {
    let Some(brokers) = kafka() else { return };
    let _servers = shared();
    let (topic, folder) = (fresh("transactions"), folder());
    let state = folder.path().join("state");
    create(&brokers, &topic, 1, &[]);
    let (a, b, c, d) =
        (posts(0..40, "a"), posts(40..70, "b"), posts(70..90, "c"), posts(90..95, "d"));
    transactions(&brokers, &topic, &[(&a, true), (&b, false), (&c, true), (&d, false)]);
    for _ in 0..2 {
        ok(&line(&brokers, &topic, &state, "--bounded"));
        assert_eq!(events(&state), 60);
    }
    let shown = ok(&format!("checkpoint show --state {}", state.display()));
    // 95 records and four transaction markers.
    assert!(shown.contains(&format!("{topic}/0: up to 99, read to its end")), "{shown}");
    // A job that follows the topic catches up too, and its stream time is the clock's.
    let _job = Job::start(&line(&brokers, &topic, &state, "--horizon 100000h"));
    eventually("a commit of a job that has caught up", || {
        let summary = counted(&state)?;
        (summary.as_of > Some(NOW + 89)).then_some(())
    });
    transactions(&brokers, &topic, &[(&b, false), (&b, true)]);
    eventually("what was committed later", || (events(&state) == 90).then_some(()));
    eventually("the last mark", || {
        let shown = ok(&format!("checkpoint show --state {}", state.display()));
        shown.contains(&format!("{topic}/0: up to 161")).then_some(())
    });
}

#[test]
fn append_times_are_used_as_log_time() {
    let Some(brokers) = kafka() else { return };
    let _servers = shared();
    let folder = folder();
    for (stamps, is_append) in [("LogAppendTime", true), ("CreateTime", false)] {
        let topic = fresh("stamps");
        create(&brokers, &topic, 2, &[("message.timestamp.type", stamps)]);
        for partition in 0..2 {
            produce(&brokers, &topic, partition, &posts(0..10, "a"));
        }
        let state = folder.path().join(stamps);
        ok(&line(&brokers, &topic, &state, "--bounded"));
        let as_of = export(&state, "").1.as_of.unwrap();
        assert_eq!(as_of > NOW + 86_400_000, is_append, "{as_of}");
    }
}

#[test]
fn job_started_at_the_end_skips_nothing_after_a_restart() {
    let Some(brokers) = kafka() else { return };
    let _servers = shared();
    let (topic, folder) = (fresh("end"), folder());
    create(&brokers, &topic, 2, &[]);
    let state = folder.path().join("state");
    produce(&brokers, &topic, 0, &posts(0..30, "a"));
    let file = folder.path().join("dataflow.yaml");
    let text = format!(
        "apiVersion: tagflow/v1\nmeta: {{name: end}}\nconfig: {{state: {{path: {}}}}}\n\
         topics: {{posts: {{source: 'kafka://{brokers}/{topic}', \
         consumer: {{default_starting_offset: {{position: End}}}}}}}}\n\
         services: {{count-tags: {{sources: [{{type: topic, id: posts}}], \
         dedup: {{horizon: 100000h}}}}}}\n",
        state.display()
    );
    std::fs::write(&file, text).unwrap();
    let line = format!("run {}", file.display());
    for (first, last, want) in [(30, 40, 10), (50, 70, 40)] {
        let job = Job::start(&line);
        let before = newest_commit(&state);
        eventually("a commit", || (newest_commit(&state) > before + 1).then_some(()));
        produce(&brokers, &topic, 1, &posts(first..last, "b"));
        eventually("the records after the start", || (events(&state) == want).then_some(()));
        job.signal("TERM");
        assert_eq!(job.end().0, Some(0));
        produce(&brokers, &topic, 0, &posts(40..50, "c"));
    }
    assert_eq!(events(&state), 40, "10, then 10 that came meanwhile, and 20");
}

#[test]
fn partition_far_ahead_is_paused_and_shown_in_metrics() {
    let Some(brokers) = kafka() else { return };
    let _servers = shared();
    let (topic, folder) = (fresh("skew"), folder());
    create(&brokers, &topic, 2, &[]);
    produce(&brokers, &topic, 0, &posts(0..8000, "behind"));
    let ahead = (10_000..11_000).map(|id| post(id, NOW + 3_600_000 + id as i64, "ahead"));
    produce(&brokers, &topic, 1, &ahead.collect::<Vec<_>>());
    let (state, log) = (folder.path().join("state"), folder.path().join("log"));
    let more = "--workers 2 --limit-rate 600 --horizon 100000h --listen 127.0.0.1:0";
    let line = line(&brokers, &topic, &state, &format!("{more} --metrics 127.0.0.1:0"));
    let job = Job::logged(&line, &log);
    let address = eventually("the address of the metrics", || {
        let log = std::fs::read_to_string(&log).ok()?;
        let url = log.lines().find_map(|line| line.strip_prefix("metrics http://"))?;
        url.strip_suffix("/metrics").map(str::to_owned)
    });
    let held = || -> Option<i64> {
        let text = get(&address, "/metrics").body;
        let value = text.lines().find_map(|line| line.strip_prefix("tagflow_held_partitions "));
        value?.parse().ok()
    };
    let counted = || {
        let rows = export(&state, "").0;
        let of = |tag: &str| rows.get(&(String::new(), tag.to_owned())).map_or(0, |row| row.total);
        (of("behind"), of("ahead"))
    };
    assert_eq!(held().map(|held| held <= 1), Some(true), "a gauge of that name");
    eventually("the partition ahead to be paused", || (held()? == 1).then_some(()));
    // It is paused while the other one is read.
    eventually("a commit of the other one while it is held", || {
        let held = held()?;
        (held == 1 && events(&state) > 1000).then_some(())
    });
    let (behind, ahead) = counted();
    assert!(behind > 500 && ahead < 500, "{behind} and {ahead} posts");
    eventually("all of both", || (events(&state) == 9000).then_some(()));
    eventually("no partition to be paused", || (held()? == 0).then_some(()));
    assert_eq!(counted(), (8000, 1000));
    drop(job);
}
