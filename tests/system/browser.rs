//! The pages in a real browser: what they show, that they refresh, and that they fit a narrow
//! screen.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::devtools::{Tab, browser};
use super::harness::{Job, eventually, folder, ok};
use super::serve::{Served, get, serve};

/// Rows of a board on the front page.
const PLACES: usize = 25;

/// The boards of the front page as shown: the heading, and link, text and count of each row.
const BOARDS: &str = "[...document.querySelectorAll('section')].map(section => ({
    window: section.querySelector('h2').textContent.replace(/^last | time$/, ''),
    rows: [...section.querySelectorAll('tbody tr')].map(row => ({
        path: row.querySelector('a').getAttribute('href'),
        text: row.querySelector('a').textContent.trim(),
        count: Number(row.querySelector('.n').textContent.replace(/[^0-9]/g, '')),
    })),
}))";

/// How far the page extends beyond the screen.
const OVERFLOW: &str = "document.documentElement.scrollWidth - window.innerWidth";

/// A state that counts `captions`, all posted within an hour and from `<b>eu`.
fn counted(folder: &Path, captions: &[&str]) -> PathBuf {
    let (input, state) = (folder.join("posts.ndjson"), folder.join("state"));
    let post = |(id, caption): (usize, &&str)| {
        let ts = 1_700_000_000_000 + id;
        json!({"event_id": id, "ts": ts, "region": "<b>eu", "caption": caption}).to_string()
    };
    let posts: Vec<String> = captions.iter().enumerate().map(post).collect();
    fs::write(&input, posts.join("\n")).unwrap();
    let (input, at) = (input.display(), state.display());
    ok(&format!("run --input {input} --state {at} --scope region=<b>eu --bounded"));
    state
}

fn api(served: &Served, path: &str) -> Value {
    let answer = get(&served.address, path);
    assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    answer.json()
}

fn no_complaints(tab: &Tab) {
    assert!(tab.complaints.is_empty(), "{}", tab.complaints.join("\n"));
}

#[test]
fn pages_show_what_the_api_returns() {
    let Some(browser) = browser(1) else { return };
    let folder = folder();
    let (input, state) = (folder.path().join("posts.ndjson"), folder.path().join("state"));
    let (from, at) = (input.display(), state.display());
    ok(&format!("generate --posts 20000 --span 2h --vocabulary 5000 --out {from}"));
    ok(&format!("run --input {from} --state {at} --bounded"));
    let served = serve(&state, "");
    let mut tab = Tab::open(&browser, folder.path());
    tab.load(&format!("http://{}/", served.address));
    let shown = tab.eval(BOARDS);
    let top = ok(&format!("query top --state {at} --json"));
    let top: Value = serde_json::from_str(&top).unwrap();
    let boards = shown.as_array().unwrap();
    assert_eq!(boards.len(), top["boards"].as_array().unwrap().len());
    for (shown, board) in boards.iter().zip(top["boards"].as_array().unwrap()) {
        let window = board["window"].as_str().unwrap();
        assert_eq!(shown["window"], window);
        let rows = shown["rows"].as_array().unwrap();
        assert_eq!(rows.len(), PLACES);
        for (row, place) in rows.iter().zip(board["tags"].as_array().unwrap()) {
            assert_eq!(row["count"], place["count"], "{row}");
            assert_eq!(row["text"], format!("#{}", place["display"].as_str().unwrap()));
            let path = row["path"].as_str().unwrap().replace("/t/", "/tags/");
            let counts = api(&served, &path);
            let count = if window == "all" { &counts["total"] } else { &counts["windows"][window] };
            assert_eq!(*count, row["count"], "{path}");
        }
    }
    // A click on a tag leads to its page.
    let first = boards[0]["rows"][0]["path"].as_str().unwrap();
    tab.eval("document.querySelector('tbody a').click() || true");
    tab.eval(&format!("location.pathname == '{first}' || null"));
    let total =
        tab.eval("Number(document.querySelector('.total').textContent.replace(/\\D/g, ''))");
    assert_eq!(total, api(&served, &first.replace("/t/", "/tags/"))["total"]);
    no_complaints(&tab);
}

#[test]
fn names_are_escaped_and_fit_a_narrow_screen() {
    let Some(browser) = browser(1) else { return };
    let folder = folder();
    // The longest possible tags, in wide letters and in a right-to-left script.
    let long = ["W".repeat(100), "字".repeat(100), "\u{5e9}".repeat(100)];
    let long = long.map(|name| format!("#{name}"));
    let names = ["#日本", "#שלום", "#مرحبا", "#नमस्ते", "#sun", "#bold", "#é\u{301}t\u{e9}"];
    let state = counted(
        folder.path(),
        &[
            "<script>document.title='taken'</script> #bold<b>x</b>\" onload=\"alert(1)",
            "#日本 #שלום #مرحبا #नमस्ते #sun☀\u{fe0f} #é\u{301}t\u{e9} &amp; &lt;",
            &long.join(" "),
        ],
    );
    let served = serve(&state, "");
    let mut tab = Tab::open(&browser, folder.path());
    tab.resize(360, 640);
    for scope in ["", "?scope=region%3D%3Cb%3Eeu"] {
        tab.load(&format!("http://{}/{scope}", served.address));
        let shown = tab.eval(BOARDS);
        let rows = shown[0]["rows"].as_array().unwrap().clone();
        assert_eq!(rows.len(), names.len() + long.len(), "{shown}");
        for name in names.iter().copied().chain(long.iter().map(String::as_str)) {
            assert!(rows.iter().any(|row| row["text"] == name), "{name}: {shown}");
        }
        assert!(tab.eval(OVERFLOW).as_i64().unwrap() <= 0, "the front page is too wide");
        for row in &rows {
            let path = row["path"].as_str().unwrap();
            // Links keep the scope.
            assert!(path.ends_with(scope), "{path}");
            tab.load(&format!("http://{}{path}", served.address));
            assert_eq!(tab.eval("document.querySelector('h1').textContent"), row["text"]);
            assert_eq!(tab.eval("document.title"), row["text"]);
            assert_eq!(tab.eval("document.querySelectorAll('script, b').length"), 0);
            assert_eq!(tab.eval(OVERFLOW), 0, "{path} is too wide");
        }
    }
    assert_eq!(tab.eval("document.querySelector('header p').textContent"), "in region=<b>eu");
    no_complaints(&tab);
}

#[test]
fn front_page_of_a_running_job_refreshes() {
    let Some(browser) = browser(1) else { return };
    let folder = folder();
    let mut job = Job::start("demo --seconds 300 --listen 127.0.0.1:0 --rate 2000");
    let mut url = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(job.stdout()), &mut url).unwrap();
    let address = url.trim().strip_prefix("http://").unwrap().to_owned();
    eventually("a first commit", || (get(&address, "/readyz").status == 200).then_some(()));
    let mut tab = Tab::open(&browser, folder.path());
    tab.load(url.trim());
    let sum = |boards: &Value| -> i64 {
        // The first commit may be older than the first post.
        let rows = boards[0]["rows"].as_array().into_iter().flatten();
        rows.map(|row| row["count"].as_i64().unwrap()).sum()
    };
    let mut sums = vec![sum(&tab.eval(BOARDS))];
    // The page reloads on its own.
    while sums.len() < 4 {
        tab.renewed();
        let now = sum(&tab.eval(BOARDS));
        assert!(now >= sums[sums.len() - 1], "{now} after {sums:?}");
        sums.push(now);
    }
    assert!(sums[0] < sums[3], "{sums:?}");
    assert!(job.lives());
    no_complaints(&tab);
}
