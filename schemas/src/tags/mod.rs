//! Tag rules: finding the hashtags in a text, and the key that spellings of one tag share.
//!
//! Extraction follows twitter-text 3.1.0. Invariant: it takes one pass, allocates nothing for a
//! text without a sign, and never panics.

pub mod alphabet;
mod key;
mod name;
mod urls;

use std::ops::Range;

pub use key::{RULES_VERSION, key};
pub use name::{Name, NameError};
use smallvec::SmallVec;

/// Longer tags, in code points, are dropped.
pub const TAG_CODE_POINTS_MAX: usize = 100;
/// Only this many distinct tags of a post count, the first ones.
pub const TAGS_PER_POST_MAX: usize = 60;
/// Only this many bytes of a text are read, the first ones.
pub const TEXT_BYTES_MAX: usize = 16 * 1024;

/// One hashtag in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Occurrence<'t> {
    /// The tag as written, without its sign.
    pub tag: &'t str,
    /// The byte offset of the sign.
    pub start: usize,
    /// The byte offset of the end of the tag.
    pub end: usize,
}

/// Calls `found` with every hashtag of `text`, in order and without limits.
///
/// ```
/// let mut tags = Vec::new();
/// schemas::tags::occurrences("a #Tag, not#this #2nd #1", |o| tags.push(o.tag));
/// assert_eq!(tags, ["Tag", "2nd"]);
/// ```
pub fn occurrences<'t>(text: &'t str, mut found: impl FnMut(Occurrence<'t>)) {
    let mut links: Option<SmallVec<[Range<usize>; 4]>> = None;
    let mut last = 0;
    // 0xEF begins the fullwidth sign U+FF03. Most other characters it begins fail the next test.
    for start in memchr::memchr2_iter(b'#', 0xEF, text.as_bytes()) {
        let Some(body) = after_sign(text, start) else { continue };
        if start < last || !boundary(text, start, last) {
            continue;
        }
        let Some(end) = run(text, body) else { continue };
        last = end;
        let rest = &text[end..];
        if rest.starts_with(['#', '＃']) || rest.starts_with("://") {
            continue;
        }
        let links = links.get_or_insert_with(|| link_spans(text));
        if !links.iter().any(|link| link.contains(&start)) {
            found(Occurrence { tag: &text[body..end], start, end });
        }
    }
}

fn link_spans(text: &str) -> SmallVec<[Range<usize>; 4]> {
    // A link without a slash cannot contain a sign.
    let any = memchr::memchr(b'/', text.as_bytes()).is_some();
    if any { urls::spans(text).collect() } else { SmallVec::new() }
}

/// The offset after the sign at `start`, or `None` if there is no sign that can begin a tag.
#[inline]
fn after_sign(text: &str, start: usize) -> Option<usize> {
    let body = match text.as_bytes()[start] {
        b'#' => start + 1,
        _ if text[start..].starts_with('＃') => start + '＃'.len_utf8(),
        _ => return None,
    };
    if text.as_bytes().get(body).is_some_and(u8::is_ascii) {
        return Some(body);
    }
    // The number sign of an emoji or keycap does not begin a tag.
    (!text[body..].starts_with(['\u{fe0f}', '\u{20e3}'])).then_some(body)
}

/// Whether a tag may begin at `start`: the character before it is not part of the last match, and
/// does not attach the sign to a word.
#[inline]
fn boundary(text: &str, start: usize, last: usize) -> bool {
    let Some(before) = text[..start].chars().next_back() else { return true };
    if start - before.len_utf8() < last {
        return false;
    }
    matches!(before, '\u{fe0e}' | '\u{fe0f}') || (before != '&' && !alphabet::in_tag(before))
}

/// The end of the tag characters that begin at `body`, if there is a letter among them.
#[inline]
fn run(text: &str, body: usize) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut end = body;
    let mut class = 0;
    while let Some(b) = bytes.get(end) {
        let (bits, length) = if b.is_ascii() {
            (alphabet::ascii(*b), 1)
        } else {
            let c = text[end..].chars().next()?;
            (alphabet::bits(c), c.len_utf8())
        };
        if bits == 0 {
            break;
        }
        class |= bits;
        end += length;
    }
    (class & alphabet::LETTER != 0).then_some(end)
}

/// What the limits dropped from a text. It is counted, so that nothing is dropped silently.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Occurrences of tags longer than [`TAG_CODE_POINTS_MAX`].
    pub too_long: u32,
    /// Occurrences of tags beyond the first [`TAGS_PER_POST_MAX`] distinct ones.
    pub too_many: u32,
    /// Whether the text is longer than [`TEXT_BYTES_MAX`].
    pub truncated: bool,
}

/// Calls `found(occurrence, key, first)` for every occurrence within the limits. `key_of` decides
/// which spellings are one tag, as [`key`] does. `first` is true for the first occurrence of a key
/// in the text, which is the one that counts.
///
/// ```
/// use schemas::tags::{key, limited};
/// let mut counted = Vec::new();
/// limited("#Sun #moon #SUN", key, |o, _, first| counted.extend(first.then_some(o.tag)));
/// assert_eq!(counted, ["Sun", "moon"]);
/// ```
pub fn limited<'t, K: PartialEq>(
    text: &'t str,
    mut key_of: impl FnMut(&'t str) -> K,
    mut found: impl FnMut(Occurrence<'t>, &K, bool),
) -> Dropped {
    let mut dropped = Dropped::default();
    let mut seen: SmallVec<[K; 16]> = SmallVec::new();
    let read = &text[..text.floor_char_boundary(TEXT_BYTES_MAX)];
    dropped.truncated = read.len() < text.len();
    occurrences(read, |o| {
        // A tag cut off by the limit would be counted under a name that nobody wrote.
        if dropped.truncated && o.end == read.len() {
            return;
        }
        if o.tag.len() > TAG_CODE_POINTS_MAX && o.tag.chars().count() > TAG_CODE_POINTS_MAX {
            dropped.too_long += 1;
            return;
        }
        let key = key_of(o.tag);
        let first = !seen.contains(&key);
        if first && seen.len() == TAGS_PER_POST_MAX {
            dropped.too_many += 1;
            return;
        }
        found(o, &key, first);
        if first {
            seen.push(key);
        }
    });
    dropped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(text: &str) -> Vec<&str> {
        let mut tags = Vec::new();
        occurrences(text, |o| tags.push(o.tag));
        tags
    }

    #[test]
    fn text_that_touches_another_tag_is_not_a_tag() {
        assert_eq!(tags("#a#b"), Vec::<&str>::new());
        assert_eq!(tags("#a##b"), ["b"]);
        assert_eq!(tags("##a"), ["a"]);
        assert_eq!(tags("#a/#b"), ["a", "b"]);
        assert_eq!(tags("＃ａ"), ["ａ"]);
    }

    #[test]
    fn what_limits_drop_is_counted() {
        let long = format!("#{} #ok", "x".repeat(101));
        let mut kept = Vec::new();
        let dropped = limited(&long, key, |o, _, _| kept.push(o.tag));
        assert_eq!((kept, dropped.too_long), (vec!["ok"], 1));

        let many: String = (0..62).map(|i| format!("#t{i} ")).chain(["#T0".into()]).collect();
        let (mut all, mut first) = (0, 0);
        let dropped = limited(&many, key, |_, _, f| {
            all += 1;
            first += u32::from(f);
        });
        assert_eq!((all, first, dropped.too_many), (61, 60, 2), "the 61st repeats t0");

        let cut = format!("{}#tag", " ".repeat(TEXT_BYTES_MAX - 2));
        let mut kept = 0;
        let dropped = limited(&cut, key, |_, _, _| kept += 1);
        assert_eq!(
            (kept, dropped.truncated),
            (0, true),
            "a tag cut off by the limit does not count"
        );
    }
}
