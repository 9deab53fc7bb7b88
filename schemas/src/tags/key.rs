//! The key of a tag: two spellings with one key are the same tag.
//!
//! `key = NFKC(drop U+0020(default case fold(NFKC(tag))))`. Spaces are dropped before the last NFKC
//! because 18 characters of the alphabet expand to a space and a mark; dropping them last would
//! not be idempotent. Invariant: `key(key(x)) == key(x)`.
//!
//! Most tags contain only characters that normalize independently of their neighbours. A table
//! lists these characters, and such tags take a fast path.

use std::borrow::Cow;
use std::sync::LazyLock;

use caseless::Caseless;
use unicode_normalization::char::canonical_combining_class;
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfkc_quick};

/// A character that is its own key in any text.
const STABLE: u8 = 1;
/// A character that folds to stable characters in any text.
const FOLDS: u8 = 2;
/// The table covers the basic plane.
const CODE_POINTS: u32 = 0x1_0000;

/// Two bits per code point, four code points per byte. None is set for characters that need
/// normalization.
static TABLE: LazyLock<Box<[u8]>> = LazyLock::new(|| {
    let mut table = vec![0_u8; CODE_POINTS as usize / 4].into_boxed_slice();
    for c in (0..CODE_POINTS).filter_map(char::from_u32).filter(|c| *c != ' ' && is_alone(*c)) {
        let bits = if fold(c).eq([c]) {
            STABLE
        } else if fold(c).all(is_alone) {
            FOLDS
        } else {
            0
        };
        table[c as usize / 4] |= bits << (c as usize % 4 * 2);
    }
    table
});

/// Whether NFKC leaves any text of such characters unchanged, by its quick check (UAX #15, 9).
fn is_alone(c: char) -> bool {
    canonical_combining_class(c) == 0 && is_nfkc_quick(std::iter::once(c)) == IsNormalized::Yes
}

fn fold(c: char) -> impl Iterator<Item = char> {
    std::iter::once(c).default_case_fold()
}

/// The key of `tag`. Borrows if the tag is in ASCII and its own key.
///
/// ```
/// assert_eq!(schemas::tags::key("Straße"), "strasse");
/// ```
pub fn key(tag: &str) -> Cow<'_, str> {
    if tag.bytes().all(|b| b.is_ascii() && !b.is_ascii_uppercase() && b != b' ') {
        return Cow::Borrowed(tag);
    }
    let mut key = String::with_capacity(tag.len());
    if tag.is_ascii() {
        key.push_str(tag);
        key.make_ascii_lowercase();
        key.retain(|c| c != ' ');
    } else if !push_key(tag, &mut key) {
        key.clear();
        key.extend(tag.nfkc().default_case_fold().filter(|c| *c != ' ').nfkc());
    }
    Cow::Owned(key)
}

/// Appends the key of `tag` character by character. Returns false if that is not possible.
fn push_key(tag: &str, out: &mut String) -> bool {
    let table = &**TABLE;
    tag.chars().all(|c| {
        let bits = table.get(c as usize / 4).map_or(0, |byte| byte >> (c as usize % 4 * 2) & 3);
        match bits {
            STABLE => out.push(c),
            FOLDS => out.extend(fold(c)),
            _ => return false,
        }
        true
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::alphabet::{in_tag, is_ignorable, is_letter};
    use super::*;

    /// The definition.
    fn long(tag: &str) -> String {
        tag.nfkc().default_case_fold().filter(|c| *c != ' ').nfkc().collect()
    }

    #[test]
    fn keys_of_the_alphabet_are_stable_and_inside_it() {
        for c in (0..0x11_0000).filter_map(char::from_u32).filter(|c| in_tag(*c)) {
            let once = key(c.encode_utf8(&mut [0; 4])).into_owned();
            assert_eq!(key(&once), once, "U+{:04X}", c as u32);
            assert!(once.chars().all(|k| in_tag(k) || k == '~'), "U+{:04X} {once}", c as u32);
            assert!(!is_letter(c) || once.chars().any(is_letter), "U+{:04X} {once}", c as u32);
            let ends = |text: &str| text.chars().next_back().is_some_and(is_ignorable);
            assert_eq!(ends(&once), is_ignorable(c), "U+{:04X} {once}", c as u32);
        }
    }

    /// Next to a letter, a mark and jamo, where neighbours could matter.
    #[test]
    fn every_character_has_the_key_of_the_definition() {
        for c in (0..0x11_0000).filter_map(char::from_u32) {
            for text in [format!("{c}"), format!("a{c}\u{301}"), format!("\u{1100}{c}\u{11a8}か")]
            {
                assert_eq!(key(&text), long(&text), "U+{:04X}", c as u32);
            }
        }
    }

    #[test]
    fn common_scripts_take_the_fast_path() {
        for tag in ["日本", "かなカナ", "Москва", "ÉTÉ", "한국", "ไทย", "العربية", "ΣΊΣΥΦΟΣ"]
        {
            assert!(push_key(tag, &mut String::new()), "{tag}");
        }
    }

    proptest! {
        #[test]
        fn texts_have_the_key_of_the_definition(
            text in "[a-zA-Z İıßſΣςéÉ\u{300}-\u{320}\u{1100}-\u{11ff}\
                 가-힣か-ヿ\u{3099}\u{309a}ﬀ-ﬆｱ-ﾟ日\u{345}ΐΰ\u{1f80}-\u{1fff}🇩]{0,8}",
        ) {
            prop_assert_eq!(key(&text), long(&text));
        }

        #[test]
        fn any_text_has_the_key_of_the_definition(text: String) {
            prop_assert_eq!(key(&text), long(&text));
        }
    }
}
