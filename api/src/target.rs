//! What a request asks for: the name in its path, and its query.
//!
//! Invariant: text is decoded once, and what cannot be decoded is an error rather than a guess.

use std::borrow::Cow;

use hyper::Uri;
use percent_encoding::percent_decode_str;
use schemas::tags::{Name, TagRules};

use crate::problem::{Kind, Problem};

/// The only query key.
const SCOPE: &str = "scope";

/// A query.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Query {
    /// The scope; `""` is the whole stream.
    pub(crate) scope: String,
    /// Its known keys as they were sent: `""`, or `?` and a pair.
    pub(crate) clean: String,
    /// The first key that is not known.
    unknown: Option<String>,
}

impl Query {
    /// Parses the query of an address.
    pub(crate) fn of(uri: &Uri) -> Result<Self, Problem> {
        let mut found: Option<(String, &str)> = None;
        let mut unknown = None;
        for pair in uri.query().unwrap_or("").split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let key = decoded(&spaced(key)).unwrap_or_else(|_| key.to_owned());
            if key != SCOPE {
                unknown.get_or_insert(key);
                continue;
            }
            let value = decoded(&spaced(value))
                .map_err(|why| Problem::new(Kind::BadQuery, format!("the scope {why}")))?;
            if found.replace((value, pair)).is_some() {
                return Err(Problem::new(Kind::BadQuery, "scope is given twice"));
            }
        }
        let (scope, clean) = match found {
            Some((scope, pair)) => (scope, format!("?{pair}")),
            None => (String::new(), String::new()),
        };
        Ok(Self { scope, clean, unknown })
    }

    /// The same for programs, which are told of keys that would be ignored.
    pub(crate) fn strict(uri: &Uri) -> Result<Self, Problem> {
        let query = Self::of(uri)?;
        let Some(key) = query.unknown else { return Ok(query) };
        let key: String = key.chars().take(100).collect();
        let what =
            format!("{key:?} is no query key; the only one is scope, as in ?scope=region=eu");
        Err(Problem::new(Kind::BadQuery, what))
    }

    /// Whether it has keys that are not known, such as those that others append to links.
    pub(crate) fn has_more(&self) -> bool {
        self.unknown.is_some()
    }
}

/// The name of a tag in a path, of a store whose tags were found by `rules`.
pub(crate) fn name(encoded: &str, rules: TagRules) -> Result<(String, Name), Problem> {
    let bad = |what: String| Problem::new(Kind::BadName, what);
    let text = decoded(encoded).map_err(|why| bad(format!("the name {why}")))?;
    let name = Name::parse(&text, rules).map_err(|error| bad(error.to_string()))?;
    Ok((text, name))
}

/// The text by which a tag is linked: its key, or its spelling if the key is no name, because it is
/// longer than any.
pub(crate) fn linked<'a>(key: &'a str, display: &'a str, rules: TagRules) -> &'a str {
    if leads(key, key, rules) || !leads(display, key, rules) { key } else { display }
}

/// Whether the address of `text` is that of `key`.
pub(crate) fn leads(text: &str, key: &str, rules: TagRules) -> bool {
    Name::parse(text, rules).is_ok_and(|name| name.key() == key)
}

/// In a query, `+` is a space.
fn spaced(text: &str) -> Cow<'_, str> {
    if text.contains('+') { text.replace('+', " ").into() } else { text.into() }
}

fn decoded(text: &str) -> Result<String, &'static str> {
    let hex = |digits: Option<&[u8]>| {
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    let bytes = text.as_bytes();
    let mut percents = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'%');
    if percents.any(|(at, _)| !hex(bytes.get(at + 1..at + 3))) {
        return Err("has a % without two hexadecimal digits; write %25 for a %");
    }
    let text = percent_decode_str(text).decode_utf8();
    text.map(Cow::into_owned).map_err(|_| "is not UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded_once_and_plus_is_a_space() {
        let of = |query: &str| Query::of(&format!("/t/a?{query}").parse().unwrap());
        let scope = |query: &str| of(query).unwrap().scope;
        assert_eq!(scope("scope=region=New+York"), "region=New York");
        assert_eq!(scope("scope=region%3Da%2Bb"), "region=a+b");
        assert_eq!(scope("scope=a%252Bb&"), "a%2Bb");
        assert_eq!(scope("sc%6Fpe=eu"), "eu");
        assert_eq!(scope("scope"), "");
        assert_eq!(of("fbclid=1&scope=a+b&utm_source=%zz").unwrap().clean, "?scope=a+b");
        assert!(of("fbclid=1").unwrap().has_more() && !of("scope=1&&").unwrap().has_more());
        for bad in
            ["scope=%zz", "scope=%e", "scope=%ff", "scope=%", "scope=a&scope=a", "scope&scope"]
        {
            assert_eq!(of(bad).map_err(|problem| problem.kind), Err(Kind::BadQuery), "{bad}");
        }
        let strict = |query: &str| Query::strict(&format!("/tags/a?{query}").parse().unwrap());
        assert!(strict("scope=x").is_ok());
        let said = strict("scope=x&fbclid=2").unwrap_err().detail;
        assert!(said.starts_with("\"fbclid\" is no query key"), "{said}");
    }

    #[test]
    fn a_link_leads_to_its_tag_even_if_the_key_is_longer_than_a_name() {
        let spellings = ["sun", "Sun", "Straße", &"ß".repeat(60), &"ﷺ".repeat(30), "日本"];
        for display in spellings {
            let key = schemas::tags::key(display).into_owned();
            let rules = TagRules::NEWEST;
            assert!(leads(linked(&key, display, rules), &key, rules), "{display}");
        }
        assert_eq!(linked("sun", "Sun", TagRules::NEWEST), "sun");
    }

    #[test]
    fn a_link_leads_to_its_tag_whatever_letters_it_has_by_all_rules() {
        let characters = ('a'..=char::MAX).filter(|c| !c.is_ascii());
        let text = |c: char| {
            format!("#a{c}b #a{c} #{} #{}", c.to_string().repeat(3), c.to_string().repeat(100))
        };
        let mut dead = Vec::new();
        for c in characters {
            for rules in [TagRules::First, TagRules::Second] {
                rules.limited(&text(c), schemas::tags::key, |o, key, _| {
                    if !leads(linked(key, o.tag, rules), key, rules) {
                        dead.push((o.tag.to_owned(), key.to_string()));
                    }
                });
            }
        }
        assert!(
            dead.is_empty(),
            "{} dead links, such as {:?}",
            dead.len(),
            &dead[..dead.len().min(9)]
        );
    }
}
