//! Invalid files and the message about each: where, what, and what to do.

use super::{EXAMPLE, LEAST, parse};

/// In the example, `-` is replaced by `+` once; `=` is the message. `\n` ends a line.
const MISTAKES: &str = include_str!("mistakes.txt");

/// The message about `text` with `from` replaced by `to`.
fn message(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "{from:?} is not there");
    let parsed = parse(&text.replacen(from, to, 1));
    parsed.map_or_else(|message| message, |config| format!("no mistake: {config:?}"))
}

#[test]
fn every_message_says_where_and_what_to_do() {
    let blocks = MISTAKES.split("\n\n").filter(|block| !block.starts_with('#'));
    let mut wrong = Vec::new();
    for block in blocks.clone() {
        let line = |sign| {
            let line = block.lines().find_map(|line| line.strip_prefix(sign)).unwrap();
            line.strip_prefix(' ').unwrap_or(line)
        };
        let [from, to] = ["-", "+"].map(|sign| line(sign).replace("\\n", "\n"));
        let message = message(EXAMPLE, &from, &to);
        if message != format!("f.yaml:{}", line("=")) {
            wrong.push(format!("{block}\nnot {message}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    assert!(blocks.count() > 70);
}

#[test]
fn mistakes_of_the_whole_file_are_located() {
    let services = "{count: {sources: [{type: topic, id: posts}]}}";
    let want = "f.yaml:4:11: a job needs a service; name one and its sources";
    assert_eq!(message(LEAST, services, "{}"), want);
    let topics = r#"{posts: {source: "stdin:"}}"#;
    assert_eq!(message(LEAST, topics, "{}"), r#"f.yaml:4:48: there is no topic "posts""#);
    let comment = format!("{LEAST}#{}", " ".repeat(1 << 20));
    let want =
        format!("f.yaml:1:1: the file has {} bytes; at most 1048576 are read", comment.len());
    assert_eq!(parse(&comment), Err(want));
}

#[test]
fn all_mistakes_but_syntax_errors_are_reported_together() {
    let to = "source: x, log_time: append, \
              consumer: {default_starting_offset: {position: End}}";
    let want = "\
f.yaml:3:94: only a kafka: source can begin at its end; use Beginning
f.yaml:3:39: only a kafka: source stamps its records; use event, or leave log_time out";
    assert_eq!(message(LEAST, "source: \"stdin:\"", to), want);
}

#[test]
fn credentials_in_an_address_are_refused_and_not_repeated() {
    for (from, to) in [
        ("source: \"stdin:\"", "source: \"kafka://user:secret@a:1/t\""),
        ("source: \"stdin:\"", "source: \"kafka://a:1/t?sasl.password=secret\""),
        ("source: \"stdin:\"", "source: \"file://user:secret@a/t\""),
        ("source: \"stdin:\"", "kafka://user:secret@a:1/t: 1"),
    ] {
        let message = message(LEAST, from, to);
        let shown = crate::config::hide_all_credentials(&message);
        assert!(shown.starts_with("f.yaml:3:") && !shown.contains("secret"), "{message}");
    }
    let nodes = "127.0.0.1:9042";
    for node in ["user:secret@a:9042", "scylla://user:secret@a:9042", "a:1/k?password=secret"] {
        let message = message(EXAMPLE, nodes, node);
        assert!(message.contains("HOST:PORT") && !message.contains("secret"), "{message}");
    }
}

/// Keys of the example that it chose itself, and the variant of a horizon.
const NAMES: [&str; 6] = ["count-tags", "event_id", "ts", "caption", "user_id", "sliding"];

#[test]
fn every_misspelt_key_is_found() {
    let is_word = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
    let mut found = 0;
    for (colon, _) in EXAMPLE.match_indices(':') {
        let start = EXAMPLE[..colon].rfind(|c| !is_word(c)).map_or(0, |before| before + 1);
        let (before, key) = (&EXAMPLE[..start], &EXAMPLE[start..colon]);
        let is_key = EXAMPLE[colon + 1..].starts_with([' ', '\n']);
        let is_topic = before.ends_with("topics:\n  ");
        if !is_key || is_topic || NAMES.contains(&key) {
            continue;
        }
        let message = parse(&format!("{before}q{}", &EXAMPLE[start..])).unwrap_err();
        let (line, column) =
            (before.lines().count(), before.len() - before.rfind('\n').map_or(0, |n| n + 1));
        let line = if before.ends_with('\n') || before.is_empty() { line + 1 } else { line };
        let at = format!("f.yaml:{line}:{}", column + 1);
        assert_eq!(message, format!("{at}: unknown key \"q{key}\"; did you mean {key:?}?"));
        found += 1;
    }
    assert_eq!(found, 70);
}
