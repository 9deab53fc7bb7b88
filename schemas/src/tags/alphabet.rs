//! The characters that a tag may contain, by the Unicode version of `regex-syntax`.
//!
//! The alphabet is `\p{L} ∪ \p{M} ∪ \p{Nd}` and 17 special characters; a tag needs at least one
//! letter (`\p{L} ∪ \p{M}`). Invariant: it contains the alphabet of twitter-text, which froze its
//! tables at about Unicode 7, since later versions only add characters.

use std::sync::LazyLock;

use regex_syntax::hir::{Class, Hir, HirKind};

const IN_TAG: u8 = 1;
/// A letter or a mark, of which a tag needs at least one.
pub(super) const LETTER: u8 = 2;
const CODE_POINTS: usize = 0x11_0000;

/// The special characters of twitter-text's alphabet.
const SPECIALS: [char; 17] = [
    '_', '\u{200c}', '\u{200d}', '\u{a67e}', '\u{05be}', '\u{05f3}', '\u{05f4}', '\u{ff5e}',
    '\u{301c}', '\u{309b}', '\u{309c}', '\u{30a0}', '\u{30fb}', '\u{3003}', '\u{0f0b}', '\u{0f0c}',
    '\u{00b7}',
];

/// Two bits per code point, four code points per byte.
static TABLE: LazyLock<Box<[u8]>> = LazyLock::new(build);

fn build() -> Box<[u8]> {
    let mut table = vec![0_u8; CODE_POINTS / 4].into_boxed_slice();
    let mut mark = |c: u32, bits: u8| table[c as usize / 4] |= bits << (c % 4 * 2);
    for (start, end) in ranges(r"[\p{L}\p{M}]") {
        (start..=end).for_each(|c| mark(c, IN_TAG | LETTER));
    }
    for (start, end) in ranges(r"\p{Nd}") {
        (start..=end).for_each(|c| mark(c, IN_TAG));
    }
    for c in SPECIALS {
        mark(u32::from(c), IN_TAG);
    }
    table
}

fn ranges(class: &str) -> Vec<(u32, u32)> {
    match regex_syntax::parse(class).as_ref().map(Hir::kind) {
        Ok(HirKind::Class(Class::Unicode(class))) => {
            class.ranges().iter().map(|r| (u32::from(r.start()), u32::from(r.end()))).collect()
        }
        other => unreachable!("{class} is a class of Unicode characters, not {other:?}"),
    }
}

/// The classes of the ASCII characters, which need no table look-up.
static ASCII: [u8; 128] = {
    let mut classes = [0; 128];
    let mut b = 0;
    while b < 128 {
        classes[b as usize] = match b {
            b'a'..=b'z' | b'A'..=b'Z' => IN_TAG | LETTER,
            b'0'..=b'9' | b'_' => IN_TAG,
            _ => 0,
        };
        b += 1;
    }
    classes
};

/// The classes of an ASCII character.
pub(super) fn ascii(b: u8) -> u8 {
    ASCII[usize::from(b & 0x7f)]
}

/// The classes of a character: 0 if no tag may contain it.
pub(super) fn bits(c: char) -> u8 {
    if c.is_ascii() {
        return ascii(c as u8);
    }
    TABLE[c as usize / 4] >> (c as usize % 4 * 2) & 3
}

/// Whether a tag may contain `c`.
pub fn in_tag(c: char) -> bool {
    bits(c) & IN_TAG != 0
}

/// Whether `c` is a letter or a mark. A tag needs at least one.
pub fn is_letter(c: char) -> bool {
    bits(c) & LETTER != 0
}

/// Whether nobody sees `c` (`Default_Ignorable_Code_Point` of Unicode).
pub fn is_ignorable(c: char) -> bool {
    matches!(
        c,
        '\u{ad}'
            | '\u{34f}'
            | '\u{61c}'
            | '\u{115f}'..='\u{1160}'
            | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}'
            | '\u{ffa0}'
            | '\u{fff0}'..='\u{fff8}'
            | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignorable_characters_are_those_of_unicode() {
        let ranges = ranges(r"\p{Default_Ignorable_Code_Point}");
        for c in (0..=0x10_ffff).filter_map(char::from_u32) {
            let within = ranges.iter().any(|(start, end)| (*start..=*end).contains(&u32::from(c)));
            assert_eq!(is_ignorable(c), within, "U+{:04X}", u32::from(c));
        }
        assert!((0..0x80_u8).all(|b| !is_ignorable(char::from(b))));
    }

    #[test]
    fn known_characters_are_classified() {
        assert!(in_tag('é') && is_letter('é'));
        assert!(in_tag('٣') && !is_letter('٣'), "an Arabic digit is not a letter");
        assert!(in_tag('\u{0301}') && is_letter('\u{0301}'), "a lone mark counts as a letter");
        assert!(in_tag('_') && !is_letter('_'));
        assert!(!in_tag('#') && !in_tag('&') && !in_tag('😀') && !in_tag(' '));
        assert!(SPECIALS.iter().all(|c| in_tag(*c)));
    }

    #[test]
    fn table_covers_all_letters() {
        let letters = (0..CODE_POINTS as u32).filter_map(char::from_u32).filter(|c| is_letter(*c));
        assert!(letters.count() > 130_000);
    }
}
