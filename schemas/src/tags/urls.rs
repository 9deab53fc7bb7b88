//! The links in a text: a sign inside a link does not begin a tag.
//!
//! This follows twitter-text's grammar of URLs, but without its list of top-level domains: with a
//! protocol any dotted host is a link, without one it needs a path as well. Invariant: the search
//! takes linear time.

use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;

/// The characters of paths, as in twitter-text: Latin with accents, and Cyrillic.
const PATH: &str = r"a-z0-9!*';:=+,.$/%#\[\]\-–_~@|&\u{0400}-\u{04FF}\u{00C0}-\u{00D6}\u{00D8}-\u{00F6}\u{00F8}-\u{024F}\u{0300}-\u{036F}\u{1E00}-\u{1EFF}";
/// The characters that a path may end with. Punctuation at its end belongs to the sentence.
const PATH_END: &str = r"a-z0-9=_#/+\-\u{0400}-\u{04FF}\u{00C0}-\u{00D6}\u{00D8}-\u{00F6}\u{00F8}-\u{024F}\u{0300}-\u{036F}\u{1E00}-\u{1EFF}";
const QUERY: &str = r"(?:\?[a-z0-9!?*'@();:&=+$/%#\[\]\-_.,~|]*[a-z0-9\-_&=#/])?";
/// The labels of a host: anything but punctuation, spaces and directional marks.
const LABEL: &str = r"[^\p{P}\p{S}\p{Z}\p{C}](?:[\-_]*[^\p{P}\p{S}\p{Z}\p{C}])*";

fn path() -> String {
    let inner = format!("[{PATH}]");
    let parens = format!(r"\((?:{inner}+|{inner}*\({inner}+\){inner}*)\)");
    format!(r"(?:/(?:{inner}*(?:{parens}{inner}*)*(?:[{PATH_END}]|{parens})|@{inner}+/)*)")
}

/// A match includes the character before the link, if any. That is never a sign, so spans need not
/// exclude it, which would take look-behind.
static LINK: LazyLock<Regex> = LazyLock::new(|| {
    let path = path();
    let host = format!(r"(?:{LABEL}\.)+{LABEL}");
    let short = format!(r"https?://t\.co/[a-z0-9]+{QUERY}");
    let full = format!(r"https?://{host}(?::[0-9]+)?{path}?{QUERY}");
    let bare = format!(r"{host}(?::[0-9]+)?{path}{QUERY}");
    let pattern =
        format!(r"(?i)(?:^|[^a-z0-9@＠$#＃])(?:{short}|{full})|(?:^|[^a-z0-9@＠$#＃_./\-]){bare}");
    match Regex::new(&pattern) {
        Ok(link) => link,
        Err(error) => unreachable!("the pattern is constant, and the tests compile it: {error}"),
    }
});

/// The byte ranges of the links in `text`, in order, each including the character before it.
pub(super) fn spans(text: &str) -> impl Iterator<Item = Range<usize>> {
    LINK.find_iter(text).map(|link| link.range())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn links(text: &str) -> Vec<&str> {
        spans(text).map(|span| text[span].trim_start()).collect()
    }

    #[test]
    fn link_with_a_protocol_is_found_whole() {
        assert_eq!(links("see https://example.com/a#b, ok"), ["https://example.com/a#b"]);
        assert_eq!(links("http://x.org:80/?q=#a end"), ["http://x.org:80/?q=#a"]);
        assert_eq!(links("https://example.com/(a)#tag"), ["https://example.com/(a)#tag"]);
        assert_eq!(links("http://例え.jp/#x"), ["http://例え.jp/#x"]);
        assert_eq!(links("http://localhost/#x"), Vec::<&str>::new());
    }

    #[test]
    fn short_link_ends_with_its_slug() {
        assert_eq!(links("https://t.co/abc/#tag"), ["https://t.co/abc"]);
    }

    #[test]
    fn link_without_a_protocol_needs_a_path() {
        assert_eq!(links("foo.bar/#tag"), ["foo.bar/#tag"]);
        assert_eq!(links("foo.bar #tag"), Vec::<&str>::new());
        assert_eq!(links("me@foo.bar/#tag"), Vec::<&str>::new());
    }
}
