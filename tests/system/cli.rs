//! The command line: output, exit codes, messages.

use std::fs;

use super::harness::{command, export, fails, fed, folder, ok, run};

#[test]
fn extract_prints_every_occurrence_with_code_point_offsets() {
    let out = fed("extract", "a #Tag ＃ＴＡＧ\nnone\nÅ #日本!\n".as_bytes());
    assert_eq!(
        out,
        "[{\"tag\":\"Tag\",\"key\":\"tag\",\"start\":2,\"end\":6},\
          {\"tag\":\"ＴＡＧ\",\"key\":\"tag\",\"start\":7,\"end\":11}]\n\
         []\n\
         [{\"tag\":\"日本\",\"key\":\"日本\",\"start\":2,\"end\":5}]\n"
    );
    let out = fed("extract --json", b"\"two\\nlines #a\"\n");
    assert_eq!(out, "[{\"tag\":\"a\",\"key\":\"a\",\"start\":10,\"end\":12}]\n");
    let long = format!("#{}\n", "x".repeat(139));
    assert_eq!(fed("extract", long.as_bytes()), "[]\n");
    assert!(fed("extract --no-limits", long.as_bytes()).contains("\"end\":140"));
}

#[test]
fn extract_names_the_line_it_cannot_read() {
    let mut child = command("extract --json")
        .stdin(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"\"a\"\nnope\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("standard input, line 2"), "{error}");
}

#[test]
fn generate_is_reproducible_and_splits_into_partitions() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name);
    let line = |name: &str, more: &str| {
        format!("generate --posts 3000 --seed 5 --out {} {more}", at(name).display())
    };
    ok(&line("a", ""));
    ok(&line("b", ""));
    let a = fs::read_to_string(at("a")).unwrap();
    assert_eq!(a, fs::read_to_string(at("b")).unwrap());
    assert_eq!(a.lines().count(), 3000);
    ok(&line("c", "--partitions 4"));
    let mut parts: Vec<_> = fs::read_dir(at("c")).unwrap().map(|e| e.unwrap().path()).collect();
    parts.sort();
    assert_eq!(parts.len(), 4);
    let mut whole: Vec<String> = parts
        .iter()
        .flat_map(|p| fs::read_to_string(p).unwrap().lines().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    let mut lines: Vec<String> = a.lines().map(str::to_owned).collect();
    whole.sort();
    lines.sort();
    assert_eq!(whole, lines, "the same records, dealt out");
    assert!(fails("generate --posts 10 --duplicates 2 --out /dev/null", 1).contains("duplicates"));
}

#[test]
fn dead_letters_are_listed_and_shown_unchanged() {
    let folder = folder();
    let (input, state) = (folder.path().join("posts.ndjson"), folder.path().join("state"));
    let good = "{\"event_id\":1,\"ts\":1700000000000,\"caption\":\"#a\"}";
    let huge = format!("{{\"event_id\":2,\"x\":\"{}\"}}", "y".repeat(70_000));
    let liked = "{\"event_id\":3,\"ts\":1700000000000,\"type\":\"liked\"}";
    let text = [good, "{broken", "{\"event_id\":4}", &huge, liked, "", good].join("\n");
    fs::write(&input, &text).unwrap();
    let at = state.display();
    let printed = ok(&format!("run --input {} --state {at} --bounded --json", input.display()));
    let printed: serde_json::Value = serde_json::from_str(&printed).unwrap();
    assert_eq!((&printed["dead_letters"], &printed["duplicates"]), (&3.into(), &1.into()));
    let (_, summary) = export(&state, "");
    assert_eq!((summary.events, summary.unsupported, summary.dead_letters), (1, 1, 3));
    let listed = ok(&format!("dead-letters ls --state {at}"));
    let reasons: Vec<&str> = listed.lines().map(|l| l.split('\t').nth(3).unwrap()).collect();
    assert_eq!(reasons, ["not_json", "missing_field", "too_large"]);
    let position = text.find("{broken").unwrap();
    let shown = ok(&format!("dead-letters show posts.ndjson {position} --state {at}"));
    assert!(shown.ends_with("{broken\n") && shown.starts_with("not_json: "), "{shown}");
    let only = ok(&format!("dead-letters ls --state {at} --reason too_large --json"));
    assert_eq!(only.lines().count(), 1);
    let numbers = ok(&format!("dead-letters ls --state {at} --count"));
    assert_eq!(numbers.lines().count(), 3);
    let error = fails(&format!("dead-letters show posts.ndjson 1 --state {at}"), 1);
    assert!(error.contains("position 1 of posts.ndjson"), "{error}");
}

#[test]
fn finished_run_changes_nothing_and_refuses_another_until() {
    let folder = folder();
    let (input, state) = (folder.path().join("posts.ndjson"), folder.path().join("state"));
    ok(&format!("generate --posts 500 --out {}", input.display()));
    let line = format!("run --input {} --state {} --bounded", input.display(), state.display());
    ok(&line);
    let before = export(&state, "");
    ok(&line);
    assert_eq!(export(&state, ""), before);
    let error = fails(&format!("{line} --until 1700000000000"), 1);
    assert!(error.contains("another --until"), "{error}");
    // A file that has grown is still the same input.
    let mut text = fs::read_to_string(&input).unwrap();
    text += "{\"event_id\":\"new\",\"ts\":1700000000000,\"caption\":\"#brandnew\"}\n";
    fs::write(&input, &text).unwrap();
    ok(&line);
    let (rows, summary) = export(&state, "");
    assert_eq!(summary.events, before.1.events + 1);
    assert_eq!(rows[&(String::new(), "brandnew".to_owned())].total, 1);
    // A different file in its place is not.
    fs::write(&input, text.replacen("event_id", "Event_id", 1)).unwrap();
    let error = fails(&line, 1);
    assert!(error.contains("posts.ndjson") && error.contains("replaced"), "{error}");
}

#[test]
fn stdin_is_an_input() {
    let folder = folder();
    let state = folder.path().join("state");
    let line = format!("run --input stdin: --state {} --bounded", state.display());
    let posts = |from: u64| {
        let post = |i: u64| {
            format!("{{\"event_id\":{i},\"ts\":170000000000{},\"caption\":\"#a\"}}\n", i % 10)
        };
        (from..from + 5).map(post).collect::<String>()
    };
    fed(&line, posts(0).as_bytes());
    fed(&line, posts(3).as_bytes());
    let (rows, summary) = export(&state, "");
    assert_eq!(rows[&(String::new(), "a".to_owned())].total, 8);
    assert_eq!((summary.events, summary.duplicates), (8, 2));
}

#[test]
fn wrong_usage_exits_with_2_and_a_hint() {
    for (line, hint) in [
        ("run --bounded", "--state"),
        ("run --input x --state y --until 5", "--bounded"),
        ("run --input x --state y --map event_it=id", "did you mean \"event_id\"?"),
        ("run --input x --state y --horizon soon", "24h"),
        ("run --input x --state y --workers 0", "1..=256"),
        ("query tag 12 --state y", "at least one letter"),
        ("frobnicate", "unrecognized subcommand"),
        ("serve --state", "a value is required"),
    ] {
        let error = fails(line, 2);
        assert!(error.contains(hint), "{line}\n{error}");
    }
}

#[test]
fn missing_files_and_states_are_named() {
    let folder = folder();
    let at = folder.path().display();
    let error = fails(&format!("run --input {at}/nothere --state {at}/s --bounded"), 1);
    assert!(error.contains("nothere"), "{error}");
    fs::create_dir(folder.path().join("empty")).unwrap();
    let error = fails(&format!("run --input {at}/empty --state {at}/s --bounded"), 1);
    assert!(error.contains("holds no input"), "{error}");
    let error = fails(&format!("query top --state {at}/nostate"), 1);
    assert!(error.contains("holds no Tagflow state"), "{error}");
    assert!(!folder.path().join("nostate").exists(), "asking makes nothing");
}

#[test]
fn every_command_explains_itself() {
    let help = ok("--help");
    for name in
        ["demo", "run", "serve", "generate", "extract", "query", "checkpoint", "dead-letters"]
    {
        assert!(help.contains(&format!("  {name}")), "{name}");
        let text = ok(&format!("{name} --help"));
        assert!(text.contains("Example") || text.contains("Commands"), "{name}: {text}");
    }
    assert!(ok("--version").starts_with("tagflow "));
    assert_eq!(run("").status.code(), Some(2));
}
