//! Conformance of the tag rules: every case of the copied files, and those that may only be read
//! from `TAGFLOW_TEST_DATA` (counted as skipped without it).

use std::path::{Path, PathBuf};

use schemas::tags::alphabet::is_ignorable;
use schemas::tags::{TagRules, key, occurrences};
use serde::Deserialize;

#[derive(Deserialize)]
struct Case {
    description: String,
    text: String,
    #[serde(default)]
    expected: Vec<String>,
    #[serde(default)]
    indices: Option<Vec<(usize, usize)>>,
    #[serde(default)]
    valid: Option<bool>,
}

#[derive(Deserialize)]
struct KeyCase {
    raw: String,
    key: String,
}

fn copied(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance").join(name)
}

fn load<T: for<'de> Deserialize<'de>>(path: &Path) -> Vec<T> {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_slice(&bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn check(path: &Path) {
    let cases: Vec<Case> = load(path);
    let mut wrong = Vec::new();
    for case in &cases {
        let mut tags = Vec::new();
        let mut indices = Vec::new();
        let code_points = |byte: usize| case.text[..byte].chars().count();
        TagRules::First.occurrences(&case.text, |o| {
            tags.push(o.tag.to_owned());
            indices.push((code_points(o.start), code_points(o.end)));
        });
        // Our own rules differ in what nobody sees at the end of a tag, and in nothing else.
        let visible = tags.iter().map(|tag| tag.trim_end_matches(is_ignorable).to_owned());
        let visible: Vec<String> = visible.filter(|tag| !tag.is_empty()).collect();
        let mut newest = Vec::new();
        occurrences(&case.text, |o| newest.push(o.tag.to_owned()));
        assert_eq!(newest, visible, "{}", case.description);
        let right = match case.valid {
            Some(valid) => valid == (indices == [(0, case.text.chars().count())]),
            None => tags == case.expected && case.indices.as_ref().is_none_or(|i| *i == indices),
        };
        if !right {
            wrong.push(format!("{}: {:?} gave {tags:?} {indices:?}", case.description, case.text));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    println!("{}: {} cases", path.display(), cases.len());
}

#[test]
fn extraction_agrees_with_twitter_text() {
    check(&copied("twitter-text-hashtags.json"));
}

#[test]
fn edge_cases_agree_with_twitter_text() {
    check(&copied("oracle-edge.json"));
}

#[test]
fn keys_match_the_reference() {
    let cases: Vec<KeyCase> = load(&copied("keys.json"));
    for case in &cases {
        assert_eq!(key(&case.raw), case.key, "key of {:?}", case.raw);
        assert_eq!(key(&case.key), case.key, "the key of a key is itself");
    }
    assert!(cases.len() > 100);
}

#[test]
fn autolink_and_validate_cases_agree_with_twitter_text() {
    let Some(data) = std::env::var_os("TAGFLOW_TEST_DATA") else {
        assert!(std::env::var_os("TAGFLOW_REQUIRE_DATA").is_none(), "TAGFLOW_TEST_DATA is unset");
        println!("skipped: 2 (autolink and validate cases; TAGFLOW_TEST_DATA is unset)");
        return;
    };
    let folder = Path::new(&data).join("conformance/twitter-text");
    check(&folder.join("autolink-hashtags-public.json"));
    check(&folder.join("validate-hashtags-public.json"));
}
