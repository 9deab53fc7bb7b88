//! Topics that are deleted, recreated and filled beyond the old position while a job follows them:
//! the job fails, no commit counts the new topic, and no later run continues with it, however fast
//! that was.

use std::path::Path;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use serde_json::Value;

use super::super::harness::{Job, eventually, export, fails, folder, newest_commit, ok, run};
use super::produce::{delete, post, produce};
use super::topics::create;
use super::{fresh, kafka, shared, wait};

const NOW: i64 = 1_700_000_000_000;
const OLD: usize = 300;
const NEW: usize = 900;

/// Creates a topic as soon as the brokers allow it.
fn create_again(admin: &AdminClient<DefaultClientContext>, topic: &str) {
    eventually("the topic's name to be free", || {
        let new = NewTopic::new(topic, 1, TopicReplication::Fixed(1));
        let made = wait(admin.create_topics([&new], &AdminOptions::new())).unwrap();
        made[0].is_ok().then_some(())
    });
}

/// The position of a state in its only partition.
fn read(state: &Path) -> u64 {
    let shown = run(&format!("checkpoint show --state {} --json", state.display()));
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap_or_default();
    let partitions = shown["inputs"]["input"].as_object().into_iter().flatten();
    let read = partitions.map(|(_, p)| p["position"]["offset"].as_u64().unwrap_or(0));
    read.max().unwrap_or(0)
}

fn posts(number: usize, tag: &str) -> Vec<String> {
    (0..number).map(|id| post(id, NOW + id as i64, tag)).collect()
}

#[test]
fn replaced_topic_is_noticed_however_fast() {
    let Some(brokers) = kafka() else { return };
    let _servers = shared();
    let folder = folder();
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &brokers).create().unwrap();
    let worlds = [0, 1, 2, 3].map(|number| {
        let (topic, state) = (fresh("replaced"), folder.path().join(number.to_string()));
        create(&brokers, &topic, 1, &[]);
        produce(&brokers, &topic, 0, &posts(OLD, "old"));
        let (at, horizon) = (state.display(), "--horizon 100000h");
        let line = format!("run --input kafka://{brokers}/{topic} --state {at} {horizon}");
        (number, topic, Job::start(&line), state, line)
    });
    for (number, topic, mut job, state, line) in worlds {
        eventually("the existing records", || (read(&state) == OLD as u64).then_some(()));
        delete(&brokers, &topic);
        create_again(&admin, &topic);
        produce(&brokers, &topic, 0, &posts(NEW, "new"));
        let recreated =
            format!("topic {topic} was recreated: its partition 0 holds another record");
        if number == 1 {
            job.kill();
        } else {
            let (code, _, error) = job.end();
            assert_eq!(code, Some(1), "{error}");
            assert!(error.contains(&recreated), "{error}");
        }
        // Whether it could tell or was killed before: the new topic is in no commit.
        let sound = newest_commit(&state);
        let only_old = || {
            let (rows, summary) = export(&state, "");
            let tags: Vec<_> = rows.keys().map(|(_, tag)| tag.as_str()).collect();
            assert_eq!((tags, summary.events), (vec!["old"], OLD as u64));
        };
        only_old();
        let error = fails(&format!("{line} --bounded"), 1);
        assert!(error.contains(&recreated), "{error}");
        assert!(
            error.contains(&format!("Commit {sound} of {} is sound", state.display())),
            "{error}"
        );
        only_old();
        // The two ways on that the message names.
        let commands: Vec<&str> =
            error.split('`').filter(|part| part.starts_with("tagflow ")).collect();
        let [alone, added] = *commands else { panic!("{error}") };
        let new = folder.path().join(format!("{number}-new"));
        let alone = alone.replace("NEW_FOLDER", &new.display().to_string());
        let added = added.replace("NEW_NAME", "again");
        for (command, state, events) in [(alone, &new, NEW), (added, &state, OLD + NEW)] {
            let command = command.strip_prefix("tagflow ").unwrap();
            ok(&format!("{command} --bounded --horizon 100000h"));
            assert_eq!(export(state, "").1.events, events as u64);
        }
    }
}
