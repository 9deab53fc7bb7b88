//! `dataflow.yaml` from the command line: run, validate and explain.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::harness::{Job, command, eventually, export, fails, folder, ok};

/// A configuration with `topic`, and more keys of its service.
fn write(folder: &Path, topic: &str, service: &str) -> String {
    let state = folder.join("state");
    let text = format!(
        "apiVersion: tagflow/v1
meta: {{name: hashtags, version: 1.2.0}}
config:
  workers: 2
  state: {{path: '{}', every: 100ms}}
topics:
  posts: {topic}
services:
  count-tags:
    sources: [{{type: topic, id: posts}}]
{service}",
        state.display()
    );
    let file = folder.join("dataflow.yaml");
    fs::write(&file, text).unwrap();
    file.display().to_string()
}

#[test]
fn file_and_options_give_the_same_job() {
    let folder = folder();
    let (posts, other) = (folder.path().join("posts.ndjson"), folder.path().join("other"));
    ok(&format!("generate --posts 5000 --seed 8 --late 0.1 --out {}", posts.display()));
    let text = fs::read_to_string(&posts).unwrap().replace("\"event_id\"", "\"id\"");
    fs::write(&posts, text).unwrap();
    let topic = format!(
        "{{source: 'file:{}', schema: {{value: {{fields: {{event_id: id}}}}}}}}",
        posts.display()
    );
    let service = "    dedup: {horizon: 2h, beyond: count}
    scopes: [{attribute: region, allow: [us]}]
    top: [{k: 3}]
";
    let file = write(folder.path(), &topic, service);
    ok(&format!("run {file} --bounded"));
    let line = format!(
        "run --input {} --map event_id=id --horizon 2h --count-beyond --scope region=us --state {} \
         --bounded --workers 1",
        posts.display(),
        other.display()
    );
    ok(&line);
    let (rows, summary) = export(&folder.path().join("state"), "");
    let (rows_there, summary_there) = export(&other, "");
    assert_eq!(rows, rows_there);
    assert!(rows.keys().any(|(scope, _)| scope == "region=us"));
    assert_eq!(summary.events, summary_there.events);
    assert!(summary.beyond_horizon > 0);
    let top = |state: &Path| ok(&format!("query top --state {} --json", state.display()));
    let entries = |text: String| {
        let value: Value = serde_json::from_str(&text).unwrap();
        value.to_string().matches("\"display\"").count()
    };
    assert!(entries(top(&folder.path().join("state"))) < entries(top(&other)));
}

#[test]
fn file_can_generate_and_serve() {
    let folder = folder();
    let topic = "{source: 'generator:?rate=2000&vocabulary=100'}";
    let file = write(folder.path(), topic, "serve: {listen: '127.0.0.1:0'}\n");
    let mut job = Job::start(&format!("run {file}"));
    let state = folder.path().join("state");
    eventually("counts are committed", || {
        assert!(job.lives());
        let counted = command(&format!("checkpoint export --state {}", state.display()));
        let output = { counted }.output().unwrap();
        (String::from_utf8(output.stdout).unwrap().lines().count() > 10).then_some(())
    });
    job.signal("TERM");
    let (code, _, error) = job.end();
    assert_eq!(code, Some(0), "{error}");
    assert!(error.contains("serving http://127.0.0.1:"), "{error}");
    assert!(state.join("generator-started-ms").is_file());
    let fast = "{source: 'generator:?posts=500&vocabulary=9'}";
    let (file, other) = (write(folder.path(), fast, ""), folder.path().join("other"));
    ok(&format!("run {file} --bounded --state {}", other.display()));
    let (rows, summary) = export(&other, "");
    assert_eq!((rows.len(), summary.events + summary.duplicates), (9, 500));
    let endless = write(folder.path(), "{source: 'generator:'}", "");
    assert!(fails(&format!("run {endless} --bounded"), 2).contains("generator:?posts=N"));
}

#[test]
fn generator_in_partitions_makes_the_same_posts() {
    let folder = folder();
    let count = |name: &str, more: &str| {
        let (state, input) = (folder.path().join(name), "generator:?posts=20000&hot-tag=0.5");
        ok(&format!("run --bounded --workers 2 --input {input}{more} --state {}", state.display()));
        state.display().to_string()
    };
    let (one, three) = (count("one", ""), count("three", "&partitions=3"));
    ok(&format!("compare {one} {three}"));
    assert_eq!(export(Path::new(&three), "").1.events, export(Path::new(&one), "").1.events);
    let parts = ok(&format!("checkpoint show --state {three}"));
    assert!(parts.contains("generated-2") && !parts.contains("generated-3"), "{parts}");
}

#[test]
fn mistakes_name_their_line() {
    let folder = folder();
    let file = write(folder.path(), "{source: 'file:posts'}", "    windw: {}\n");
    for line in ["validate", "explain", "run"] {
        let error = fails(&format!("{line} {file}"), 2);
        let want = "dataflow.yaml:11:5: unknown key \"windw\"; did you mean \"window\"?";
        assert!(error.contains(want), "{error}");
    }
    let output = command(&format!("validate {file} --json")).output().unwrap();
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["valid"], false);
    assert_eq!(
        (&found["mistakes"][0]["line"], &found["mistakes"][0]["column"]),
        (&11.into(), &5.into())
    );
    assert!(fails(&format!("validate {}/no.yaml", folder.path().display()), 1).contains("no.yaml"));
    assert!(fails("run --bounded", 2).contains("dataflow.yaml"));
    assert!(fails(&format!("run {file} --input posts"), 2).contains("cannot be used with"));
}

#[test]
fn kafka_topic_is_explained_without_a_broker() {
    let folder = folder();
    let source = "source: 'kafka://localhost:9092/posts'";
    let file = write(folder.path(), &format!("{{{source}}}"), "");
    ok(&format!("validate {file}"));
    let explained = ok(&format!("explain {file} --bounded"));
    let want = "Kafka topic posts at localhost:9092, up to its ends when the job starts";
    assert!(explained.contains(want), "{explained}");
    let more = "consumer: {on_lost: skip, default_starting_offset: {position: End}, \
                properties: {fetch.min.bytes: 7, check.crcs: false}}";
    let file = write(folder.path(), &format!("{{{source}, {more}}}"), "");
    let explained = ok(&format!("explain {file}"));
    assert!(explained.contains("starting at its end"), "{explained}");
    assert!(explained.contains("skipped and counted"), "{explained}");
    for line in ["validate", "run"] {
        let error = fails(&format!("{line} {file}"), 2);
        assert!(error.contains("check.crcs cannot be set"), "{error}");
    }
}

#[test]
fn kafka_properties_are_checked_before_connecting() {
    let folder = folder();
    let state = folder.path().join("state");
    let run = |rest: &str| fails(&format!("run --state {} {rest}", state.display()), 2);
    let far = "--input kafka://kafka.example:9092/posts";
    for (property, want) in [
        ("fetch.mn.bytes=7", "fetch.mn.bytes"),
        ("group.instance.id=7", "group.instance.id cannot be set"),
        ("enable.auto.commit=true", "enable.auto.commit cannot be set"),
        ("sasl.password=hunter2", "in clear text to kafka.example:9092"),
        ("hunter2", "--kafka: write KEY=VALUE"),
    ] {
        let error = run(&format!("{far} --kafka {property}"));
        assert!(error.contains(want) && !error.contains("hunter2"), "{error}");
    }
    let error = run("--input posts.ndjson --kafka fetch.min.bytes=7");
    assert!(error.contains("--kafka applies to kafka: inputs only"), "{error}");
    let error = run("--input posts.ndjson --on-lost skip");
    assert!(error.contains("--on-lost applies to kafka: inputs only"), "{error}");
    let mut by_environment = command(&format!("run --state {} {far}", state.display()));
    by_environment.env("TAGFLOW_KAFKA_ISOLATION_LEVEL", "read_uncommitted");
    by_environment.env("TAGFLOW_KAFKA_SASL_USERNAME", "");
    let output = by_environment.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("isolation.level cannot be set"), "{error}");
    assert!(error.contains("(TAGFLOW_KAFKA_ISOLATION_LEVEL sets it)"), "{error}");
    assert!(!state.exists());
}

#[test]
fn printed_schema_equals_the_file() {
    let repository = concat!(env!("CARGO_MANIFEST_DIR"), "/schemas/dataflow.schema.json");
    assert_eq!(ok("validate --schema"), fs::read_to_string(repository).unwrap());
}

#[test]
fn explain_estimates_memory_closely() {
    let folder = folder();
    let posts = folder.path().join("posts.ndjson");
    for (count, mean, vocabulary, zipf) in [(30_000, 7, 100_000, 1.05), (100_000, 2, 20_000, 0.8)] {
        ok(&format!(
            "generate --posts {count} --tags-mean {mean} --vocabulary {vocabulary} --zipf {zipf} \
             --span 20h --force --out {}",
            posts.display()
        ));
        let state = folder.path().join(format!("state-{mean}"));
        let run = format!("run --input {} --state {} --bounded", posts.display(), state.display());
        let ended: Value = serde_json::from_str(&ok(&format!("{run} --json"))).unwrap();
        let (rows, summary) = export(&state, "");
        let file = write(folder.path(), "{source: 'file:posts'}", "");
        let explained = ok(&format!(
            "explain {file} --bounded --posts {} --tags-per-post {mean} --distinct-tags {} \
             --zipf {zipf} --json",
            summary.events,
            rows.len()
        ));
        let explained: Value = serde_json::from_str(&explained).unwrap();
        for what in ["id_bytes", "tag_bytes", "segment_bytes"] {
            let estimated = explained["estimate"][what].as_f64().unwrap();
            let measured = ended["state"][what].as_f64().unwrap();
            let ratio = estimated / measured;
            assert!((0.7..=1.3).contains(&ratio), "{what}: {estimated} for {measured}");
        }
    }
}
