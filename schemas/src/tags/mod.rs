//! Tag rules: finding the hashtags in a text, and the key that spellings of one tag share.
//!
//! Extraction follows twitter-text 3.1.0, but for characters at the end of a tag that nobody sees
//! (UAX #31, default-ignorable code points). Invariant: it takes one pass, allocates nothing for a
//! text without a sign, and never panics.

pub mod alphabet;
mod key;
mod name;
mod rules;
mod urls;

use std::ops::Range;

pub use key::key;
pub use name::{Name, NameError};
pub use rules::TagRules;
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
    /// The tag as written, without its sign and without invisible characters at its end.
    pub tag: &'t str,
    /// The byte offset of the sign.
    pub start: usize,
    /// The byte offset of the end of the tag, behind those characters.
    pub end: usize,
}

/// Calls `found` with every hashtag of `text`, in order and without limits, by the newest rules.
///
/// ```
/// let mut tags = Vec::new();
/// schemas::tags::occurrences("a #Tag, not#this #2nd #1", |o| tags.push(o.tag));
/// assert_eq!(tags, ["Tag", "2nd"]);
/// ```
pub fn occurrences<'t>(text: &'t str, found: impl FnMut(Occurrence<'t>)) {
    TagRules::NEWEST.occurrences(text, found);
}

fn by_rules<'t>(rules: TagRules, text: &'t str, mut found: impl FnMut(Occurrence<'t>)) {
    let mut links: Option<SmallVec<[Range<usize>; 4]>> = None;
    let mut last = 0;
    // 0xEF begins the fullwidth sign U+FF03. Most other characters it begins fail the next test.
    for start in memchr::memchr2_iter(b'#', 0xEF, text.as_bytes()) {
        let Some(body) = after_sign(text, start) else { continue };
        if start < last || !boundary(text, start, last) {
            continue;
        }
        let Some(end) = run(text, body) else { continue };
        let Some(tag) = rules.visible(&text[body..end]) else { continue };
        last = end;
        let rest = &text[end..];
        if rest.starts_with(['#', '＃']) || rest.starts_with("://") {
            continue;
        }
        let links = links.get_or_insert_with(|| link_spans(text));
        if !links.iter().any(|link| link.contains(&start)) {
            found(Occurrence { tag, start, end });
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

impl TagRules {
    /// [`occurrences`] by these rules.
    pub fn occurrences<'t>(self, text: &'t str, found: impl FnMut(Occurrence<'t>)) {
        by_rules(self, text, found);
    }

    /// [`limited`] by these rules.
    pub fn limited<'t, K: PartialEq>(
        self,
        text: &'t str,
        key_of: impl FnMut(&'t str) -> K,
        found: impl FnMut(Occurrence<'t>, &K, bool),
    ) -> Dropped {
        limited_by(self, text, key_of, found)
    }

    /// What belongs to a tag of what is written as one: `None` if there is no letter in it.
    #[inline]
    fn visible(self, written: &str) -> Option<&str> {
        if self == Self::First || written.as_bytes().last().is_none_or(u8::is_ascii) {
            return Some(written);
        }
        let tag = written.trim_end_matches(alphabet::is_ignorable);
        let is_tag = tag.len() == written.len() || tag.chars().any(alphabet::is_letter);
        is_tag.then_some(tag)
    }
}

/// Calls `found(occurrence, key, first)` for every occurrence within the limits, by the newest
/// rules. `key_of` decides which spellings are one tag, as [`key`] does. `first` is true for the
/// first occurrence of a key in the text, which is the one that counts.
///
/// ```
/// use schemas::tags::{key, limited};
/// let mut counted = Vec::new();
/// limited("#Sun #moon #SUN", key, |o, _, first| counted.extend(first.then_some(o.tag)));
/// assert_eq!(counted, ["Sun", "moon"]);
/// ```
pub fn limited<'t, K: PartialEq>(
    text: &'t str,
    key_of: impl FnMut(&'t str) -> K,
    found: impl FnMut(Occurrence<'t>, &K, bool),
) -> Dropped {
    limited_by(TagRules::NEWEST, text, key_of, found)
}

fn limited_by<'t, K: PartialEq>(
    rules: TagRules,
    text: &'t str,
    mut key_of: impl FnMut(&'t str) -> K,
    mut found: impl FnMut(Occurrence<'t>, &K, bool),
) -> Dropped {
    let mut dropped = Dropped::default();
    let mut seen: SmallVec<[K; 16]> = SmallVec::new();
    let read = &text[..text.floor_char_boundary(TEXT_BYTES_MAX)];
    dropped.truncated = read.len() < text.len();
    rules.occurrences(read, |o| {
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

    /// The default-ignorable characters that a tag may hold.
    fn invisible() -> impl Iterator<Item = char> {
        (0..=0x10_ffff)
            .filter_map(char::from_u32)
            .filter(|c| alphabet::is_ignorable(*c) && alphabet::in_tag(*c))
    }

    #[test]
    fn invisible_characters_at_the_end_make_no_other_tag() {
        let mut number = 0;
        for c in invisible() {
            number += 1;
            let code = u32::from(c);
            let at_end = format!("a #foo{c} #foo{c}{c}, #日本{c}");
            assert_eq!(tags(&at_end), ["foo", "foo", "日本"], "U+{code:04X}");
            assert_eq!(tags(&format!("#{c} #{c}{c}, #1{c}")), Vec::<&str>::new(), "U+{code:04X}");
            let inside = format!("#fo{c}o");
            assert_eq!(tags(&inside), [&inside[1..]], "U+{code:04X} inside a word");
            // The older rules, by which older states go on.
            let mut old = Vec::new();
            TagRules::First.occurrences(&at_end, |o| old.push(o.tag.to_owned()));
            assert_eq!(old, [format!("foo{c}"), format!("foo{c}{c}"), format!("日本{c}")]);
        }
        assert!(number > 250, "{number} such characters");
        assert_eq!(tags("#foo\u{200b} #\u{3164} #\u{34f} #\u{115f}"), ["foo"]);
        assert_eq!(tags("#foo\u{200d}#bar"), Vec::<&str>::new(), "it still touches the next one");
    }

    #[test]
    fn end_of_a_tag_lies_behind_its_invisible_characters() {
        let mut ends = Vec::new();
        occurrences("#a\u{200d} #b", |o| ends.push((o.tag, o.start, o.end)));
        assert_eq!(ends, [("a", 0, 5), ("b", 6, 8)]);
        // One that is cut off within them may go on.
        let cut = format!("{}#a\u{200d}b", " ".repeat(TEXT_BYTES_MAX - 5));
        let mut kept = 0;
        limited(&cut, key, |_, _, _| kept += 1);
        assert_eq!(kept, 0);
    }

    proptest::proptest! {
        #[test]
        fn key_does_not_depend_on_invisible_characters_at_the_end(
            tag in "[a-zA-Zß日か\u{3099}\u{115f}\u{3164}\u{200c}]{0,4}[a-z日]",
            end in "[\u{200c}\u{200d}\u{fe0e}\u{fe0f}\u{34f}\u{3164}\u{115f}\u{1160}\u{ffa0}\u{e0100}]{0,4}",
        ) {
            let text = format!("#{tag}{end}");
            let mut keys = Vec::new();
            occurrences(&text, |o| keys.push(key(o.tag).into_owned()));
            proptest::prop_assert_eq!(keys, vec![key(&tag).into_owned()]);
        }
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
