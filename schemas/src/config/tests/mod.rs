//! The format as a whole: an example with every key, defaults, the JSON Schema, hostile files.

mod mistakes;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::mapping::{Field, Mapping};
use crate::windows::{Window, Windows};

/// An example with every key.
const EXAMPLE: &str = include_str!("example.yaml");

/// The smallest valid file.
const LEAST: &str = r#"apiVersion: tagflow/v1
meta: {name: a}
topics: {posts: {source: "stdin:"}}
services: {count: {sources: [{type: topic, id: posts}]}}
"#;

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(text, "f.yaml").map_err(|error| error.to_string())
}

#[test]
fn example_is_read_completely() {
    let config = parse(EXAMPLE).unwrap();
    assert_eq!(config.meta, Meta { name: "hashtags".into(), version: Some("1.0.0".into()) });
    assert_eq!((config.workers, &config.state), (Some(1), &State::default()));
    let [topic] = config.topics.as_slice() else { panic!("one topic") };
    let server = |port| HostPort { host: "127.0.0.1".into(), port };
    let fields = "event_id=id,ts=created_at:rfc3339,caption=text,user_id=user";
    let want = Topic {
        name: "posts".into(),
        source: SourceUri::Kafka { brokers: vec![server(9092)], topic: "posts".into() },
        mapping: fields.parse().unwrap(),
        start: Position::Beginning,
        on_lost: OnLost::Error,
        on_open_transaction: OnOpenTransaction::Wait,
        follow: Follow::default(),
        properties: BTreeMap::new(),
        log_time: Some(LogTimeSource::Append),
        files: FileOptions::default(),
    };
    assert_eq!(*topic, want);
    let want = Service {
        name: "count-tags".into(),
        dedup: Dedup { horizon_ms: Some(86_400_000), ..Dedup::default() },
        tags_per_post_max: 60,
        posts: Some(Posts { keep_ms: 604_800_000 }),
        scopes: vec![Scope { attribute: "region".into(), allow: vec!["us".into(), "eu".into()] }],
        window: Windowing::default(),
        top: Top { k: 100, over: vec!["1h".into(), "24h".into(), "all".into()] },
        sink: Some(CqlSink {
            kind: SinkType::Cql,
            nodes: vec![server(9042)],
            keyspace: "tags".into(),
            datacenter: None,
            tls: false,
            consistency: ConsistencyPair::default(),
        }),
    };
    assert_eq!(config.service, want);
    assert_eq!(config.serve, Some(Serve::default()));
}

#[test]
fn parts_missing_in_this_build_are_located() {
    let text = EXAMPLE.replace("post: 60", "post: 30").replace("[1h, 24h, all]", "[60m]");
    let config = parse(&text).unwrap();
    let missing: Vec<_> = config.missing_parts().iter().map(ToString::to_string).collect();
    let want = [
        "17:12: posts: edits and deletes are not in this build yet",
        "16:84: values of max-per-post other than 60 are not in this build yet",
        "24:37: boards for some of the windows are not in this build yet",
    ];
    assert_eq!(missing, want);
    assert_eq!(parse(LEAST).unwrap().missing_parts(), []);
}

#[test]
fn values_other_than_the_defaults_are_read() {
    let text = r#"
apiVersion: tagflow/v1
meta: {name: a}
config: {state: {grace: 30s, bytes: 1000000}}
topics:
  two:
    source: kafka://h:1/t
    consumer: {default_starting_offset: {position: End}}
    log_time: event
  one:
    source: ./posts
    schema: {key: {type: string}, value: {fields: {region: country, ts: "t:s", image_id: ""}}}
services:
  s:
    sources: [{type: topic, id: two}, {type: topic, id: one}]
    dedup: {horizon: 90m, beyond: count}
    scopes: [{attribute: region, allow: ["no", 1]}]
    window:
      horizons: [{sliding: {duration: 10m, slide: 5s}}]
      watermark: {max-skew: 1h, max-future: 1d}
    top: [{k: 5, over: [all, 600s]}]
serve: {listen: "[::]:80", metrics: "127.0.0.1:9100", trusted-proxies: [10.0.0.0/8, "::1"]}
"#;
    let config = parse(text).unwrap();
    assert_eq!((config.state.grace_ms, config.state.bytes), (30_000, Some(1_000_000)));
    let names: Vec<_> = config.topics.iter().map(|topic| topic.name.as_str()).collect();
    assert_eq!(names, ["two", "one"], "in the order of the sources");
    assert_eq!(
        (config.topics[0].start, config.topics[0].log_time),
        (Position::End, Some(LogTimeSource::Event))
    );
    let mapping = &config.topics[1].mapping;
    assert_eq!((mapping.attribute("region"), mapping.name(Field::ImageId)), ("country", None));
    let service = config.service;
    assert_eq!((service.dedup.horizon_ms, service.dedup.beyond), (Some(5_400_000), Beyond::Count));
    assert_eq!(service.scopes[0].allow, ["no", "1"]);
    assert_eq!(service.window.windows.iter().map(Window::name).collect::<Vec<_>>(), ["10m"]);
    assert_eq!(
        service.window.watermark,
        Watermark { max_skew_ms: 3_600_000, max_future_ms: 86_400_000 }
    );
    assert_eq!(service.top, Top { k: 5, over: vec!["all".into(), "10m".into()] });
    let serve = config.serve.unwrap();
    assert_eq!((serve.listen.port(), serve.metrics.map(|m| m.port())), (80, Some(9100)));
    let proxies: Vec<String> = serve.trusted_proxies.iter().map(ToString::to_string).collect();
    assert_eq!(proxies, ["10.0.0.0/8", "::1/128"]);
}

#[test]
fn smallest_file_has_the_documented_defaults() {
    let config = parse(LEAST).unwrap();
    let topic = &config.topics[0];
    assert_eq!(
        (&topic.mapping, topic.start, topic.log_time),
        (&Mapping::default(), Position::Beginning, None)
    );
    assert_eq!((config.workers, &config.serve, &config.meta.version), (None, &None, &None));
    let state = &config.state;
    assert_eq!(state.path.to_str(), Some("./state"));
    assert_eq!((state.every_ms, state.keep_ms, state.grace_ms), (1000, 3_600_000, 600_000));
    assert_eq!(state.bytes, None);
    let service = &config.service;
    assert_eq!((service.dedup.horizon_ms, service.dedup.beyond), (None, Beyond::DeadLetter));
    assert_eq!((service.tags_per_post_max, &service.posts), (60, &None));
    assert_eq!((service.scopes.len(), &service.sink), (0, &None));
    assert_eq!(service.window.windows, Windows::default());
    assert_eq!(
        service.window.watermark,
        Watermark { max_skew_ms: 600_000, max_future_ms: 300_000 }
    );
    assert_eq!(service.top, Top { k: 100, over: vec!["1h".into(), "24h".into(), "all".into()] });
    let serve = parse(&format!("{LEAST}serve: {{}}")).unwrap().serve.unwrap();
    assert_eq!((serve.listen.to_string().as_str(), serve.metrics), ("127.0.0.1:8080", None));
    let quorum = ConsistencyPair { write: Consistency::LocalQuorum, ..ConsistencyPair::default() };
    assert_eq!(ConsistencyPair::default(), quorum);
    let of = quorum.of(TableConsistency { read: Some(Consistency::One), write: None });
    assert_eq!(of, (Consistency::LocalQuorum, Consistency::One));
}

/// `part` of `schema` with every default, or only possible value, filled in.
fn defaults(schema: &Value, part: &Value) -> Value {
    if let Some(default) = part.get("default") {
        return default.clone();
    }
    if let Some(name) = part["$ref"].as_str() {
        return defaults(schema, schema.pointer(&name[1..]).unwrap());
    }
    if part["maxItems"] == 1 {
        return json!([defaults(schema, &part["items"])]);
    }
    if let [only] = part["oneOf"].as_array().map_or(&[][..], Vec::as_slice) {
        return only["const"].clone();
    }
    let properties = part["properties"].as_object().into_iter().flatten();
    let given = properties.map(|(name, part)| (name.clone(), defaults(schema, part)));
    let given: serde_json::Map<_, _> = given.filter(|(_, value)| !value.is_null()).collect();
    if given.is_empty() { Value::Null } else { given.into() }
}

#[test]
fn schema_states_the_real_defaults() {
    let schema = json_schema();
    let part = |name: &str| defaults(&schema, &schema["$defs"][name]);
    let mut file = defaults(&schema, &schema);
    file["meta"] = json!({"name": "a"});
    file["topics"] = json!({"posts": part("Topic")});
    file["topics"]["posts"]["source"] = json!("stdin:");
    file["services"] = json!({"count": part("Service")});
    file["services"]["count"]["sources"] = json!([{"type": "topic", "id": "posts"}]);
    for path in [
        "/config/state/every",
        "/topics/posts/schema/value/type",
        "/topics/posts/consumer/default_starting_offset/position",
        "/services/count/dedup/key",
        "/services/count/transforms/0/with/max-per-post",
        "/services/count/window/horizons/2/sliding/slide",
        "/services/count/top/0/k",
    ] {
        assert!(file.pointer(path).is_some(), "{path} in {file:#}");
    }
    assert_eq!(parse(&file.to_string()), parse(LEAST));
    let serve = json!({"listen": part("Serve")["listen"]});
    assert_eq!(parse(&format!("{LEAST}serve: {serve}")).unwrap().serve, Some(Serve::default()));
    let pair = part("ConsistencyPair");
    let text = EXAMPLE.replace("{write: LOCAL_QUORUM, read: LOCAL_QUORUM}", &pair.to_string());
    assert_eq!(parse(&text), parse(EXAMPLE));
}

/// Calls `each` with every object inside `value`.
fn objects(value: &Value, each: &mut impl FnMut(&Value)) {
    match value {
        Value::Object(members) => {
            each(value);
            members.values().for_each(|member| objects(member, each));
        }
        Value::Array(items) => items.iter().for_each(|item| objects(item, each)),
        _ => {}
    }
}

#[test]
fn schema_is_strict_and_descriptions_state_defaults() {
    let schema = json_schema();
    objects(&schema, &mut |part| {
        if part["type"] == "object" && part.get("properties").is_some() {
            assert_eq!(part["additionalProperties"], false, "{part:#}");
        }
        let text = part["description"].as_str();
        if let Some(default) = part.get("default").filter(|d| d.is_string() || d.is_number()) {
            let default = default.as_str().map_or_else(|| default.to_string(), str::to_owned);
            let text = text.expect("a default has a description");
            assert!(text.ends_with(&format!("Default: `{default}`.")), "{part:#}");
        }
    });
}

/// `TAGFLOW_WRITE_SCHEMA=1 cargo test -p tagflow-schemas schema_file` rewrites it.
#[test]
fn schema_file_is_current() {
    let text = format!("{:#}\n", json_schema());
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/dataflow.schema.json");
    if std::env::var_os("TAGFLOW_WRITE_SCHEMA").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    let file = std::fs::read_to_string(path).unwrap();
    assert!(file == text, "set TAGFLOW_WRITE_SCHEMA=1 once to write {path} anew");
}

#[test]
fn yaml_bombs_are_refused() {
    let deep = |open: &str, close: &str| format!("{}{}", open.repeat(9000), close.repeat(9000));
    let double = |i: usize| format!("- &a{i} [*a{p}, *a{p}]\n", p = i - 1);
    let doubles: String = (1..60).map(double).collect();
    let doubles = format!("- &a0 [x, x]\n{doubles}");
    let many = |word: &str| format!("[&v x, {}]", word.repeat(200_000));
    // Read as any YAML, so that the limits stop the parser before an unknown key does.
    for hostile in [
        deep("[", "]"),
        deep("{a: ", "}"),
        deep("- ", ""),
        deep("? ", ""),
        doubles,
        many("*v, "),
        many("x, "),
        "#".repeat(2 << 20),
    ] {
        let mistake = error::read::<Value>(&hostile).unwrap_err();
        let sizes = ["too large or too deeply nested", "at most 1048576 are read"];
        assert!(sizes.iter().any(|size| mistake.what.contains(size)), "{mistake}");
        for place in ["{name: a}", "\"stdin:\"", "topic"] {
            assert!(parse(&LEAST.replace(place, &hostile)).is_err(), "{place}");
        }
    }
}

#[test]
fn files_of_other_programs_are_refused() {
    let marked = format!("\u{feff}{}", EXAMPLE.replace('\n', "\r\n"));
    assert_eq!(parse(&marked), parse(EXAMPLE));
    assert_eq!(parse("").unwrap_err(), "f.yaml:1:1: the file ends unexpectedly");
}

/// Pieces that may break a file.
const TOKENS: [&str; 19] = [
    "", ":", "[", "}", "- ", "\n", "  ", "&a ", "*a", "!t ", "'", "\"", "~", "9", "#", "\t", "? ",
    "|", "é",
];

/// The example with a piece of it replaced.
fn broken_example() -> impl Strategy<Value = String> {
    let token = proptest::sample::select(&TOKENS[..]);
    (0..EXAMPLE.len(), 0..40_usize, token, any::<bool>()).prop_map(|(at, length, token, least)| {
        let text = if least { LEAST } else { EXAMPLE };
        let (start, end) = (at % text.len(), (at % text.len() + length).min(text.len()));
        format!("{}{token}{}", &text[..start], &text[end..])
    })
}

fn hostile() -> impl Strategy<Value = String> {
    let yaml_like = "[a-z:{}\\[\\]&*!|>'\"%@#?,\n -]{0,80}";
    prop_oneof![any::<String>(), yaml_like, broken_example(), broken_example()]
}

proptest! {
    #[test]
    fn no_text_panics(text in hostile()) {
        let lines = text.lines().count() as u64 + 1;
        if let Err(error) = Config::parse(&text, "f.yaml") {
            prop_assert!(!error.mistakes.is_empty());
            for Finding { at, what } in error.mistakes {
                prop_assert!((1..=lines).contains(&at.line) && at.column >= 1, "{at}: {what}");
                prop_assert!(!what.is_empty() && !what.contains(char::is_control), "{what:?}");
            }
        }
    }

    #[test]
    fn no_source_panics(text in "(kafka|file|stdin|generator|x)?:?(//|[?])?[a-z0-9:/,=&.-]{0,30}") {
        let _ = text.parse::<SourceUri>();
    }
}
