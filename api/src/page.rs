//! The pages: plain HTML without scripts.
//!
//! Invariant: `maud` escapes everything that comes from a store.

use maud::{DOCTYPE, Markup, html};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use schemas::printable::noun;
use schemas::rows::BoardEntry;
use schemas::tags::TagRules;
use schemas::time::format_ms;
use sinks::store::{AsOf, Board, Tag};

use crate::limits::{FRONT_PAGE_TAGS, TARGET_BYTES_MAX};
use crate::problem::{About, Kind, Problem};
use crate::target::linked;

/// Everything but letters, digits and `-_.~` is encoded in a path.
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// How often a page that shows the newest commit reloads, in seconds.
const REFRESH_S: u32 = 2;
/// Scopes that an error page links.
const SCOPES_LISTED: usize = 100;

/// The style sheet of all pages, at [`STYLE_PATH`].
pub(crate) const STYLE: &str = "\
:root{color-scheme:light dark}\
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:0 auto;padding:1.5rem}\
a{color:inherit}h1{margin:.2em 0}h1,p,li{overflow-wrap:anywhere}\
.boards{display:flex;gap:1rem 3rem;flex-wrap:wrap}\
section{flex:1 1 16rem;min-width:0}section table{width:100%}\
table{border-collapse:collapse}\
th,td{text-align:left;padding:.15rem .8rem .15rem 0;vertical-align:top;overflow-wrap:anywhere}\
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap;padding-right:0}\
p+table td.n{text-align:left}\
.total{font-size:2.2rem;font-variant-numeric:tabular-nums}\
footer{margin-top:2rem;font-size:.85rem;opacity:.75}";

/// The path of the style sheet.
pub(crate) const STYLE_PATH: &str = "/style.css";

/// The path of a tag below `prefix`.
pub(crate) fn tag_path(prefix: &str, key: &str) -> String {
    format!("{prefix}{}", utf8_percent_encode(key, PATH))
}

/// The address of a page in a scope, unless it is too long to be asked for.
fn scoped(path: &str, scope: &str) -> Option<String> {
    let address = match scope {
        "" => path.to_owned(),
        scope => format!("{path}?scope={}", utf8_percent_encode(scope, PATH)),
    };
    Some(address).filter(|address| address.len() <= TARGET_BYTES_MAX)
}

fn layout(title: &str, refresh_s: Option<u32>, body: &Markup, at: Option<&AsOf>) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width,initial-scale=1";
                meta name="description" content="Hashtag counts, exact and as of a stated time";
                @if let Some(seconds) = refresh_s {
                    meta http-equiv="refresh" content=(seconds);
                }
                title { (title) }
                link rel="icon" href="data:,";
                link rel="stylesheet" href=(STYLE_PATH);
            }
            body {
                (body)
                @if let Some(at) = at {
                    footer {
                        "as of "
                        @match at.as_of_ms {
                            Some(ms) => time datetime=(format_ms(ms)) { (format_ms(ms)) },
                            None => "no event yet",
                        }
                        " · commit " (at.commit)
                    }
                }
            }
        }
    }
}

/// A number with its digits in groups of three.
fn grouped(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut out = String::from(if number < 0 { "-" } else { "" });
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

/// The front page: the top tags of every window.
pub(crate) fn front(boards: &[Board], scope: &str, at: &AsOf, rules: TagRules) -> Markup {
    let link = |entry: &BoardEntry| {
        scoped(&tag_path("/t/", linked(&entry.tag, &entry.display, rules)), scope)
    };
    let body = html! {
        header { h1 { "Top hashtags" @if !scope.is_empty() { " in " (scope) } } }
        main class="boards" {
            @for board in boards {
                section {
                    h2 { @if board.window == "all" { "all time" } @else { "last " (board.window) } }
                    table {
                        thead { tr { th { "tag" } th class="n" { "posts" } } }
                        tbody {
                            @for entry in board.entries.iter().take(FRONT_PAGE_TAGS) {
                                tr {
                                    td {
                                        a href=[link(entry)] dir="auto" {
                                            "#" (entry.display)
                                        }
                                    }
                                    td class="n" { (grouped(entry.count)) }
                                }
                            }
                        }
                    }
                    @if board.entries.is_empty() { p { "no posts in this window" } }
                }
            }
        }
    };
    layout("Top hashtags", Some(REFRESH_S), &body, Some(at))
}

/// The page of a tag.
pub(crate) fn tag(tag: &Tag, at: &AsOf) -> Markup {
    let body = html! {
        header {
            nav { a href=[scoped("/", &tag.scope)] { "top hashtags" } }
            h1 dir="auto" { "#" (tag.display) }
            @if !tag.scope.is_empty() { p { "in " (tag.scope) } }
        }
        main {
            p {
                span class="total" { (grouped(tag.total)) }
                " " (noun(tag.total.unsigned_abs(), "post", "posts")) " in all"
            }
            table {
                tbody {
                    @for (window, count) in &tag.windows {
                        tr { th scope="row" { "last " (window) } td class="n" { (grouped(*count)) } }
                    }
                    tr { th scope="row" { "first seen" } td { (format_ms(tag.first_seen_ms)) } }
                    tr { th scope="row" { "last seen" } td { (format_ms(tag.last_seen_ms)) } }
                }
            }
        }
    };
    layout(&format!("#{}", tag.display), None, &body, Some(at))
}

/// An error for people: what is wrong, what to do, and a way home.
pub(crate) fn problem(problem: &Problem) -> Markup {
    let About { status, title, advice, .. } = *problem.kind.about();
    let body = html! {
        header {
            nav { a href="/" { "top hashtags" } }
            h1 { (title) }
        }
        main {
            p { (problem.detail) }
            p { "What to do: " (advice) "." }
            @if !problem.scopes.is_empty() {
                h2 { "Scopes" }
                ul {
                    @for scope in problem.scopes.iter().take(SCOPES_LISTED) {
                        li { a href=[scoped("/", scope)] { (scope) } }
                    }
                }
            }
            p { "Error " (status.as_u16()) }
        }
    };
    // A page that refreshes would otherwise stay an error for ever.
    let refresh_s = (problem.kind == Kind::Unavailable).then_some(REFRESH_S);
    layout(title, refresh_s, &body, None)
}

/// What a person finds at the type of a problem.
pub(crate) fn kind(kind: Kind) -> Markup {
    let About { status, title, meaning, advice, .. } = *kind.about();
    let body = html! {
        header {
            nav { a href="/" { "top hashtags" } }
            h1 { (title) }
        }
        main {
            p { "Requests are answered with status " (status.as_u16()) " and this error if " (meaning) "." }
            p { "What to do: " (advice) "." }
        }
    };
    layout(title, None, &body, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at() -> AsOf {
        AsOf { commit: 7, version: 1, as_of_ms: Some(1_700_000_000_000), wall_ms: 0 }
    }

    #[test]
    fn hostile_names_are_escaped() {
        let hostile = Tag {
            name: "x".into(),
            display: "<script>alert(1)</script>\"'&".into(),
            scope: "<b>".into(),
            total: 1_234_567,
            windows: vec![("1h".into(), -5)],
            first_seen_ms: 0,
            last_seen_ms: 0,
        };
        let page = tag(&hostile, &at()).into_string();
        assert!(!page.contains("<script") && !page.contains("<b>"));
        assert!(page.contains("&lt;script&gt;") && page.contains("1\u{202f}234\u{202f}567"));
    }

    #[test]
    fn links_are_percent_encoded() {
        assert_eq!(tag_path("/t/", "日本/a b"), "/t/%E6%97%A5%E6%9C%AC%2Fa%20b");
        let entries =
            vec![BoardEntry { tag: "strasse".into(), display: "Straße".into(), count: 3 }];
        let boards = [Board { window: "1h".into(), entries }];
        let page = front(&boards, "", &at(), TagRules::NEWEST).into_string();
        assert!(page.contains("href=\"/t/strasse\""), "{page}");
        assert!(page.contains("http-equiv=\"refresh\""));
        let page = problem(&Problem {
            scopes: vec!["region=<b>".into()],
            ..Problem::new(Kind::UnknownScope, "<script>")
        });
        let page = page.into_string();
        assert!(page.contains("&lt;script&gt;") && !page.contains("<b>"), "{page}");
        assert!(page.contains("href=\"/?scope=region%3D%3Cb%3E\"") && page.contains("href=\"/\""));
        let page = front(&boards, "region=us&a", &at(), TagRules::NEWEST).into_string();
        assert!(page.contains("href=\"/t/strasse?scope=region%3Dus%26a\""), "{page}");
    }
    #[test]
    fn what_could_not_be_asked_for_is_shown_without_a_link() {
        let (scope, tag) = ("\u{65e5}".repeat(300), "\u{20000}".repeat(100));
        let page = |scopes| Problem { scopes, ..Problem::new(Kind::UnknownScope, "") };
        let page = problem(&page(vec![scope.clone(), "a".into()])).into_string();
        assert!(page.contains(&format!("<li><a>{scope}</a></li>")), "{page}");
        assert!(page.contains("<a href=\"/?scope=a\">a</a>"), "{page}");
        let entries = vec![BoardEntry { tag: tag.clone(), display: tag.clone(), count: 1 }];
        let boards = [Board { window: "1h".into(), entries }];
        for (letters, linked) in [(0, true), (90, true), (150, false), (300, false)] {
            let scope: String = scope.chars().take(letters).collect();
            let page = front(&boards, &scope, &at(), TagRules::NEWEST).into_string();
            assert!(page.contains(&format!("#{tag}</a>")), "{page}");
            assert_eq!(page.contains("<a href=\"/t/"), linked, "{letters}");
        }
    }
}
