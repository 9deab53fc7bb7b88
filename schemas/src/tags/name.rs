//! The name of a tag as a client writes it, in a URL or on the command line.
//!
//! Invariant: the key of a [`Name`] is one that extraction can produce by the same rules, and each
//! such key that is not too long is a name.

use thiserror::Error;

use super::{TAG_CODE_POINTS_MAX, TagRules, alphabet, key};

/// A valid name and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    key: String,
    canonical: bool,
}

/// Why a name cannot be that of a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NameError {
    /// It is empty.
    #[error("the name is empty")]
    Empty,
    /// It is longer than any tag that is counted.
    #[error("the name has {0} characters; a tag has at most {TAG_CODE_POINTS_MAX}")]
    TooLong(usize),
    /// It contains a character that no tag may contain.
    #[error("a tag cannot contain {0:?}")]
    Character(char),
    /// Digits and special characters alone are not a tag.
    #[error("a tag needs at least one letter")]
    NoLetter,
}

impl Name {
    /// Parses the name of a tag that was found by `rules`. A leading sign is ignored, and what
    /// these rules leave out at the end because nobody sees it. The rest is normalized to its key.
    pub fn parse(raw: &str, rules: TagRules) -> Result<Self, NameError> {
        let bare = raw.strip_prefix(['#', '＃']).unwrap_or(raw);
        let bare = bare.trim_end_matches(|c| {
            alphabet::is_ignorable(c) && (rules != TagRules::First || !alphabet::in_tag(c))
        });
        let length = bare.chars().count();
        if length > TAG_CODE_POINTS_MAX {
            return Err(NameError::TooLong(length));
        }
        // Keys drop only spaces that normalization produces. No tag contains a written one.
        if bare.contains(' ') {
            return Err(NameError::Character(' '));
        }
        let key = key(bare).into_owned();
        if key.is_empty() {
            return Err(NameError::Empty);
        }
        if let Some(c) = key.chars().find(|c| !alphabet::in_tag(*c) && *c != '~') {
            return Err(NameError::Character(c));
        }
        if !key.chars().any(alphabet::is_letter) {
            return Err(NameError::NoLetter);
        }
        Ok(Self { canonical: key == raw, key })
    }

    /// The key of the tag.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Whether the name is the key itself.
    pub fn is_canonical(&self) -> bool {
        self.canonical
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_give_keys_or_errors() {
        let parse = |raw: &str| Name::parse(raw, TagRules::NEWEST);
        assert_eq!(parse("#Sunset").map(|n| n.key().to_owned()), Ok("sunset".to_owned()));
        assert!(parse("sunset").is_ok_and(|n| n.is_canonical()));
        assert!(parse("Sunset").is_ok_and(|n| !n.is_canonical()));
        assert_eq!(parse(""), Err(NameError::Empty));
        assert_eq!(parse("#"), Err(NameError::Empty));
        assert_eq!(parse("12"), Err(NameError::NoLetter));
        assert_eq!(parse("a/b"), Err(NameError::Character('/')));
        assert_eq!(parse("a b"), Err(NameError::Character(' ')));
        let unseen = "#foo\u{200b}\u{200d}";
        assert_eq!(parse(unseen).map(|n| n.key().to_owned()), Ok("foo".to_owned()));
        assert_eq!(parse("\u{3164}"), Err(NameError::Empty));
        assert_eq!(parse("##a"), Err(NameError::Character('#')));
        assert_eq!(parse(&"a".repeat(101)), Err(NameError::TooLong(101)));
    }

    #[test]
    fn tags_of_older_rules_keep_what_nobody_sees() {
        let key = |raw: &str, rules| Name::parse(raw, rules).map(|name| name.key().to_owned());
        assert_eq!(key("sun\u{fe0f}", TagRules::First), Ok("sun\u{fe0f}".to_owned()));
        assert_eq!(key("sun\u{fe0f}", TagRules::Second), Ok("sun".to_owned()));
        assert_eq!(key("#\u{3164}", TagRules::First), Ok("\u{1160}".to_owned()));
        assert_eq!(key("#\u{3164}", TagRules::Second), Err(NameError::Empty));
        // What no tag may contain ends a tag by all rules.
        assert_eq!(key("sun\u{fe0f}\u{200b}", TagRules::First), Ok("sun\u{fe0f}".to_owned()));
    }
}
