//! What commands say to people and programs: nothing that a terminal would obey, one JSON object a
//! line where that is asked for, and what is expected where an argument is wrong.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::harness::{Job, TAGFLOW, command, eventually, fails, folder, ok, run, skip};

/// Whether a terminal would act on any of it.
fn is_plain(text: &str) -> bool {
    let acts = |c: char| {
        (c.is_control() && c != '\n' && c != '\t') || ('\u{202a}'..='\u{202e}').contains(&c)
    };
    !text.chars().any(acts)
}

#[test]
fn names_and_records_cannot_control_a_terminal() {
    let folder = folder();
    let (posts, state) = (folder.path().join("posts"), folder.path().join("state"));
    fs::create_dir(&posts).unwrap();
    let name = "\u{1b}[2J\u{202e}\tx\nwarning: y.ndjson";
    let record = "{\"event_id\":\"\u{1b}]0;t\u{7}\u{202e}\",\u{9b}31m\"ts\":1}";
    let post = "{\"event_id\":\"\\u001b[2J\",\"ts\":1700000000000,\"caption\":\"#a\",\
                \"region\":\"e\\u001bu\"}";
    fs::write(posts.join(name), format!("{record}\n{post}\n")).unwrap();
    let at = state.display().to_string();
    let input = posts.display().to_string();
    let run_line = format!("run --input {input} --state {at} --bounded");
    let mut printed = vec![run(&run_line), run(&format!("doctor --input {input} --state {at}"))];
    for line in [
        "dead-letters ls --state AT",
        "dead-letters ls --json --state AT",
        "dead-letters ls --count --state AT",
        "checkpoint show --state AT",
        "checkpoint show --json --state AT",
        "explain-count a --input IN --state AT",
        "explain-count a --json --input IN --state AT",
        "reconcile --input IN --state AT",
    ] {
        let line = line.replace("AT", &at).replace("IN", &input);
        let output = run(&line);
        assert_eq!(output.status.code(), Some(0), "{line}");
        printed.push(output);
    }
    let show = |more: &[&str]| {
        let mut show = command(&format!("dead-letters show --state {at}"));
        show.args([name, "0"]).args(more).output().unwrap()
    };
    printed.push(show(&[]));
    printed.push(command(&run_line).arg("--map").arg("ts=\u{1b}[2J").output().unwrap());
    printed.push(command("query tag").args(["\u{1b}[2J", "--state", &at]).output().unwrap());
    printed.push(command("validate").arg("no\u{1b}[2J\u{202e}.yaml").output().unwrap());
    printed.push(command("\u{1b}[2J\u{202e}").output().unwrap());
    for output in &printed {
        for text in [&output.stdout, &output.stderr] {
            let text = String::from_utf8_lossy(text);
            assert!(is_plain(&text), "{text:?}");
            assert!(!text.lines().any(|line| line.starts_with("warning: y")), "{text:?}");
        }
    }
    let listed = String::from_utf8(printed[2].stdout.clone()).unwrap();
    assert!(listed.contains("\\u{1b}[2J\\u{202e}\\tx\\nwarning"), "{listed}");
    let json: Value = serde_json::from_slice(&printed[3].stdout).unwrap();
    assert_eq!(json["partition"], name, "a JSON text keeps its value");
    assert_eq!(show(&["--raw"]).stdout, record.as_bytes(), "byte for byte");
    let listed = listed.split('\t').nth(1).unwrap();
    let show = |name: &str| {
        command(&format!("dead-letters show --raw --state {at}"))
            .args([name, "0"])
            .output()
            .unwrap()
    };
    assert_eq!(show(listed).stdout, record.as_bytes(), "found by the name that is listed");
}

#[test]
fn with_log_json_every_line_of_standard_error_is_an_object() {
    let folder = folder();
    let state = folder.path().join("state");
    let log = folder.path().join("log");
    let line = format!(
        "run --input generator:?rate=500 --state {} --listen 127.0.0.1:0 --log-json",
        state.display()
    );
    let mut job = Job::logged(&line, &log);
    let objects = || -> Vec<Value> {
        let text = fs::read_to_string(&log).unwrap();
        // The last line may be half-written.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let messages = || -> Vec<String> {
        let text = |object: &Value| object["fields"]["message"].as_str().unwrap().to_owned();
        objects().iter().map(text).collect()
    };
    eventually("a progress line", || messages().contains(&"progress".to_owned()).then_some(()));
    let progress = objects().into_iter().find(|o| o["fields"]["message"] == "progress").unwrap();
    for field in ["records_per_s", "events", "commit"] {
        assert!(progress["fields"][field].is_u64(), "{progress}");
    }
    assert!(progress["level"] == "INFO" && progress["timestamp"].is_string(), "{progress}");
    job.signal("TERM");
    eventually("its end", || (!job.lives()).then_some(()));
    assert_eq!(job.code(), Some(0));
    let all = messages().join("\n");
    for said in ["the job has started", "serving http://", "stopping", "the job has ended"] {
        assert!(all.contains(said), "{said}: {all}");
    }
    // The next job says whose state it takes over; errors are objects too.
    let again = run(&format!("{line} --metrics 192.0.2.1:0"));
    let last = String::from_utf8(again.stderr).unwrap();
    let error: Value = serde_json::from_str(last.lines().last().unwrap()).unwrap();
    assert_eq!((again.status.code(), &error["level"]), (Some(1), &"ERROR".into()), "{error}");
    let posts = folder.path().join("posts.ndjson");
    ok(&format!("generate --posts 10 --out {}", posts.display()));
    let other = folder.path().join("other");
    let bounded = format!("run --input {} --state {} --bounded", posts.display(), other.display());
    ok(&bounded);
    let post = "{\"event_id\":\"new\",\"ts\":1700000000000,\"caption\":\"#new\"}";
    fs::write(&posts, fs::read_to_string(&posts).unwrap() + post + "\n").unwrap();
    let took_over = String::from_utf8(run(&bounded).stderr).unwrap();
    assert!(took_over.contains("it goes on after a job that ended"), "{took_over}");
    // One that stopped at an error was not killed.
    let (damaged, state) = (folder.path().join("damaged.gz"), folder.path().join("third"));
    fs::write(&damaged, b"\x1f\x8b\x08\0\0\0\0\0\0\xff\xff\xffdamaged").unwrap();
    let fails = format!("run --input {} --state {}", damaged.display(), state.display());
    let said = [(); 2].map(|()| {
        let failed = run(&format!("{fails} --bounded"));
        assert_eq!(failed.status.code(), Some(1));
        String::from_utf8(failed.stderr).unwrap()
    });
    assert!(said[1].contains("from a job that did not end cleanly"), "{}", said[1]);
}

#[test]
fn live_line_fits_into_a_terminal() {
    let line = format!("stty cols 30 rows 9; {TAGFLOW} demo --seconds 3 --listen 127.0.0.1:0");
    let shown = Command::new("script").args(["-qec", &line, "/dev/null"]).output();
    let Ok(shown) = shown else {
        return skip(1, "no script(1), which runs a command in a terminal");
    };
    let shown = String::from_utf8(shown.stdout).unwrap();
    let lines = shown.split("\r\u{1b}[2K").filter(|line| line.contains("records/s"));
    let widths: Vec<usize> = lines.map(|line| line.chars().count()).collect();
    assert!(!widths.is_empty() && widths.iter().all(|width| *width <= 29), "{widths:?}: {shown:?}");
}

#[test]
fn quiet_leaves_only_warnings_and_errors() {
    let folder = folder();
    let (posts, state) = (folder.path().join("posts.ndjson"), folder.path().join("state"));
    ok(&format!("generate --posts 3000 --out {}", posts.display()));
    let line = format!(
        "run --input {} --state {} --bounded --limit-rate 1500 -q",
        posts.display(),
        state.display()
    );
    let quiet = run(&line);
    assert_eq!(
        (quiet.status.code(), String::from_utf8(quiet.stderr).unwrap()),
        (Some(0), String::new())
    );
    assert!(String::from_utf8(quiet.stdout).unwrap().starts_with("commit "), "the result stays");
    let error = fails(&format!("{line} --until 2000"), 1);
    assert!(error.contains("another --until"), "{error}");
}

#[test]
fn the_environment_names_the_state_where_nothing_else_does() {
    let folder = folder();
    let (posts, state) = (folder.path().join("posts.ndjson"), folder.path().join("state"));
    fs::write(&posts, "{\"event_id\":1,\"ts\":1700000000000,\"caption\":\"#a\"}\n").unwrap();
    let with = |line: &str, variable: &Path| {
        command(line).env("TAGFLOW_STATE", variable).output().unwrap()
    };
    let printed = |line: &str| {
        let output = with(line, &state);
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    printed(&format!("run --input {} --bounded --until 2023-11-14T22:13:20Z", posts.display()));
    assert!(printed("query tag a").starts_with("#a: 1 post\n"));
    for line in ["checkpoint ls", "dead-letters ls", "repairs ls", "query top"] {
        printed(line);
    }
    printed(&format!("reconcile --input {}", posts.display()));
    let other = folder.path().join("other");
    assert_eq!(
        with(&format!("query tag a --state {}", state.display()), &other).status.code(),
        Some(0)
    );
    let config = folder.path().join("job.yaml");
    let text = format!(
        "apiVersion: tagflow/v1\nmeta: {{ name: x }}\nconfig: {{ state: {{ path: {} }} }}\n\
         topics: {{ posts: {{ source: \"file:{}\" }} }}\n\
         services: {{ tags: {{ sources: [{{ type: topic, id: posts }}] }} }}\n",
        folder.path().join("named").display(),
        posts.display()
    );
    fs::write(&config, text).unwrap();
    ok(&format!("validate {}", config.display()));
    printed(&format!("run {} --bounded", config.display()));
    assert!(folder.path().join("named").exists(), "a dataflow.yaml names its own");
    let error = fails("query tag a", 2);
    assert!(error.contains("--state DIR") && error.contains("TAGFLOW_STATE"), "{error}");
}

#[test]
fn generate_replaces_no_file_unless_forced() {
    let folder = folder();
    let (file, parts) = (folder.path().join("a.ndjson"), folder.path().join("parts"));
    fs::write(&file, "precious").unwrap();
    let line = format!("generate --posts 3 --out {}", file.display());
    let error = fails(&line, 1);
    assert!(error.contains("a.ndjson exists") && error.contains("--force"), "{error}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    ok(&format!("{line} --force"));
    assert_eq!(fs::read_to_string(&file).unwrap().lines().count(), 3);
    let line = format!("generate --posts 9 --partitions 3 --out {}", parts.display());
    fs::create_dir(&parts).unwrap();
    fs::write(parts.join("posts-002.ndjson"), "precious").unwrap();
    assert!(fails(&line, 1).contains("posts-002.ndjson exists"));
    assert_eq!(fs::read_dir(&parts).unwrap().count(), 1, "no other is written");
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(folder.path().join("nowhere"), &link).unwrap();
    assert!(fails(&format!("generate --posts 3 --out {}", link.display()), 1).contains("--force"));
    ok("generate --posts 3 --out /dev/null");
}

#[test]
fn configuration_is_read_only_from_a_file_and_only_as_far_as_it_may_be_long() {
    let folder = folder();
    let path = |name: &str| folder.path().join(name);
    let line = |name: &str| format!("validate {}", path(name).display());
    let made = Command::new("mkfifo").arg(path("pipe")).status().unwrap();
    assert!(made.success());
    for line in [line("pipe"), "validate /dev/zero".into(), "explain /dev/zero".into()] {
        assert!(fails(&line, 1).contains("is a pipe or a device"), "{line}");
    }
    assert!(fails(&format!("validate {}", folder.path().display()), 1).contains("is a folder"));
    let large = fs::File::create(path("large")).unwrap();
    large.set_len(1 << 40).unwrap();
    let error = fails(&line("large"), 2);
    assert!(error.contains("1099511627776 bytes; at most 1048576 are read"), "{error}");
    fs::write(path("latin"), b"apiVersion: tagflow/v1\nmeta: { name: caf\xe9 }\n").unwrap();
    let error = fails(&line("latin"), 1);
    assert!(error.contains("byte 40 (0xe9, in line 2) is not UTF-8"), "{error}");
}

#[test]
fn mistakes_say_what_is_expected_and_repeat_little() {
    for (line, code, hint) in [
        ("run --input x --state y --workers abc", 2, "expected a whole number"),
        ("generate --posts many --out x", 2, "expected a whole number"),
        ("generate --posts 1 --out x --late no", 2, "expected a number"),
        ("serve --state y --listen foo", 2, "expected HOST:PORT"),
        ("run --input x --state y --listen :80", 2, "expected HOST:PORT"),
        ("demo --listen 127.0.0.1:99999", 2, "expected HOST:PORT"),
        ("run", 2, "--input such as posts.ndjson"),
        ("run examples/posts.ndjson", 2, "`--input examples/posts.ndjson`"),
        ("run examples", 1, "`--input examples`"),
        ("query top --state README.md", 1, "README.md is no folder"),
        ("run --input x --state README.md", 1, "README.md is no folder"),
        ("store check", 2, "name the --store"),
        ("generate --log-json", 2, "\"message\":\"the following required arguments were not"),
        ("run --input x --state y --bounded --until noon", 2, "2026-05-01T12:00:00Z"),
    ] {
        let error = fails(line, code);
        assert!(error.contains(hint), "{line}\n{error}");
    }
    let long = "x".repeat(50_000);
    for line in [
        format!("run --input x --state y --workers {long}"),
        format!("run --input x --state y --map {long}"),
        format!("run --input x --state y --horizon {long}"),
        format!("run --input x --state y --scope {long}"),
        format!("query tag 1{long}"),
        format!("query top --state /{long}"),
        format!("validate {long}"),
        format!("serve --state y --listen {long}"),
        format!("--{long}"),
        long.clone(),
    ] {
        let output = run(&line);
        assert!(!output.status.success() && output.stderr.len() < 4000, "{line:.60}");
    }
}

#[test]
fn names_that_are_no_utf8_are_read_and_told() {
    let folder = folder();
    let path = |name: &[u8]| folder.path().join(OsStr::from_bytes(name));
    let (posts, state, again) = (path(b"caf\xe9.ndjson"), path(b"st\xe9"), path(b"again\xff"));
    fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/posts.ndjson"), &posts).unwrap();
    let with = |line: &str, arguments: &[&Path]| {
        let mut command = command(line);
        let output = command.args(arguments).output().unwrap();
        let [out, error] = [output.stdout, output.stderr].map(|t| String::from_utf8(t).unwrap());
        (output.status.code(), out, error)
    };
    let input = |line: &str, posts: &Path, state: &Path| {
        with(line, &[Path::new("--input"), posts, Path::new("--state"), state])
    };
    assert_eq!(input("run --bounded", &posts, &state).0, Some(0));
    assert_eq!(input("run --bounded", &posts, &again).0, Some(0));
    assert_eq!(input("reconcile", &posts, &state).0, Some(0));
    assert_eq!(with("compare", &[&state, &again]).0, Some(0));
    let (code, out, _) = with("query tag harbour --state", &[&state]);
    assert!(code == Some(0) && out.starts_with("#Harbour: 4 posts"), "{out}");
    let (code, _, error) = with("query top --state", &[&path(b"no\xe9")]);
    assert!(code == Some(1) && error.contains("/no\\xe9 holds no Tagflow state"), "{error}");
    let (code, _, error) = with("validate", &[&path(b"no\xe9")]);
    assert!(code == Some(1) && error.contains("/no\\xe9: No such file"), "{error}");
}

#[test]
fn state_of_another_version_is_not_called_damaged() {
    let folder = folder();
    let state = folder.path().join("state");
    ok(&format!("run --input examples/posts.ndjson --state {} --bounded", state.display()));
    let newest = state.join("commits/0000000002.manifest");
    let manifest = fs::read_to_string(&newest).unwrap();
    let (first, rest) = manifest.split_once('\n').unwrap();
    let mut words: Vec<&str> = first.split(' ').collect();
    words[1] = "99";
    fs::write(&newest, format!("{}\n{rest}", words.join(" "))).unwrap();
    for command in ["query top", "checkpoint show", "run --bounded --input examples/posts.ndjson"] {
        let error = fails(&format!("{command} --state {}", state.display()), 1);
        assert!(error.contains("another version of Tagflow: it has format 99"), "{error}");
        assert!(!error.contains("damaged"), "{error}");
    }
}

#[test]
fn explain_answers_for_the_largest_load() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/dataflow.yaml");
    let most = u64::MAX;
    let line =
        format!("explain {example} --posts {most} --distinct-tags {most} --tags-per-post 60");
    assert!(ok(&line).contains("EiB"));
    assert!(
        ok(&format!("explain {example} --posts 1 --distinct-tags 1")).contains("size with 1 post")
    );
}

#[test]
fn help_is_in_groups_and_no_wider_than_a_terminal() {
    let help = ok("--help");
    for group in ["Count and look:", "Check and repair:", "Messages:"] {
        assert!(help.contains(group), "{help}");
    }
    let help = ok("run --help");
    for group in ["Input:", "Counting:", "State:", "Store:", "Serving:", "Messages:"] {
        assert!(help.contains(&format!("\n{group}\n")), "{group}\n{help}");
    }
    let commands = [
        "",
        "run",
        "serve",
        "demo",
        "query tag",
        "query top",
        "compare",
        "reconcile",
        "replay",
        "store rebuild",
        "checkpoint rollback",
        "dead-letters replay",
        "doctor",
        "generate",
    ];
    for name in commands {
        for help in ["-h", "--help"] {
            let text = ok(&format!("{name} {help}"));
            let widest = text.lines().map(|line| line.chars().count()).max().unwrap();
            assert!(widest <= 100, "{name} {help}: {widest} columns\n{text}");
        }
    }
}

#[test]
fn output_that_nobody_reads_to_its_end_is_no_error() {
    let folder = folder();
    let (posts, state) = (folder.path().join("posts.ndjson"), folder.path().join("state"));
    ok(&format!("generate --posts 5000 --out {}", posts.display()));
    ok(&format!("run --input {} --state {} --bounded", posts.display(), state.display()));
    for line in [
        "--help",
        "run --help",
        "--version",
        &format!("checkpoint export --state {}", state.display()),
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = command(line).stdout(writer).stderr(Stdio::piped()).output().unwrap();
        assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()), "{line}");
    }
    // Standard error with nobody behind it ends nothing either.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let state = folder.path().join("again");
    let line = format!("run --input {} --state {} --bounded", posts.display(), state.display());
    let output = command(&line).stdout(Stdio::piped()).stderr(writer).output().unwrap();
    assert!(output.status.success() && output.stdout.starts_with(b"commit "), "{output:?}");
}

#[test]
fn runbooks_without_arguments_print_their_usage() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/runbooks");
    let mut runbooks = 0;
    for script in fs::read_dir(folder).unwrap() {
        let path = script.unwrap().path();
        let output = Command::new(&path).output().unwrap();
        let usage = String::from_utf8(output.stderr).unwrap();
        let name = String::from_utf8_lossy(path.file_name().unwrap().as_bytes()).into_owned();
        assert_eq!(output.status.code(), Some(2), "{name}: {usage}");
        assert!(usage.contains(&format!("\n  scripts/runbooks/{name} ")), "{name}: {usage}");
        runbooks += 1;
    }
    assert_eq!(runbooks, 4);
}
