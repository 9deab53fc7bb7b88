//! The key of a tag: what makes two spellings one tag.
//!
//! `key = NFKC(drop U+0020(default case fold(NFKC(tag))))`. The space is dropped before the last
//! NFKC because 18 characters of the alphabet expand to a space and a mark; dropping it last would
//! not be idempotent. Invariant: `key(key(x)) == key(x)`.

use std::borrow::Cow;

use caseless::Caseless;
use unicode_normalization::UnicodeNormalization;

/// Version of the tag rules and of the Unicode tables behind them; kept in every manifest.
pub const RULES_VERSION: u32 = 1;

/// The key of `tag`; borrows when the tag is its own key in ASCII.
///
/// ```
/// assert_eq!(schemas::tags::key("Straße"), "strasse");
/// ```
pub fn key(tag: &str) -> Cow<'_, str> {
    if tag.is_ascii() {
        let own = !tag.bytes().any(|b| b.is_ascii_uppercase() || b == b' ');
        return if own {
            Cow::Borrowed(tag)
        } else {
            let folded = tag.bytes().filter(|b| *b != b' ').map(|b| b.to_ascii_lowercase() as char);
            Cow::Owned(folded.collect())
        };
    }
    Cow::Owned(tag.nfkc().default_case_fold().filter(|c| *c != ' ').nfkc().collect())
}

/// Writes the key of `tag` into `out`, which is cleared first: [`key`] without an allocation.
pub fn key_into(tag: &str, out: &mut String) {
    out.clear();
    if tag.is_ascii() {
        out.extend(tag.bytes().filter(|b| *b != b' ').map(|b| b.to_ascii_lowercase() as char));
    } else {
        out.extend(tag.nfkc().default_case_fold().filter(|c| *c != ' ').nfkc());
    }
}

#[cfg(test)]
mod tests {
    use super::super::alphabet::{in_tag, is_letter};
    use super::*;

    #[test]
    fn every_character_of_the_alphabet_has_a_stable_key_inside_it() {
        let mut out = String::new();
        for c in (0..0x11_0000).filter_map(char::from_u32).filter(|c| in_tag(*c)) {
            let once = key(c.encode_utf8(&mut [0; 4])).into_owned();
            assert_eq!(key(&once), once, "U+{:04X}", c as u32);
            assert!(once.chars().all(|k| in_tag(k) || k == '~'), "U+{:04X} {once}", c as u32);
            assert!(!is_letter(c) || once.chars().any(is_letter), "U+{:04X} {once}", c as u32);
            key_into(c.encode_utf8(&mut [0; 4]), &mut out);
            assert_eq!(out, once);
        }
    }
}
