//! `If-Match` and `If-None-Match` (RFC 9110 sections 8.8.3, 13.1.1 and 13.1.2).
//!
//! Invariant: what is no entity tag matches nothing, so that a client gets an answer rather than a
//! 304 for something that it does not have.

use hyper::HeaderMap;
use hyper::header::{IF_MATCH, IF_NONE_MATCH};

/// Whether a client has what `tag` names: a quoted tag, without `W/`.
pub(crate) fn known(headers: &HeaderMap, tag: &str) -> bool {
    // The comparison is weak, because a proxy that compresses weakens the tag.
    let values = headers.get_all(IF_NONE_MATCH);
    values.iter().any(|value| listed(value.as_bytes(), tag.as_bytes(), true))
}

/// Whether a client wants anything but what `tag` names to be refused, and has named another.
pub(crate) fn refused(headers: &HeaderMap, tag: &str) -> bool {
    let values = headers.get_all(IF_MATCH);
    headers.contains_key(IF_MATCH)
        && !values.iter().any(|value| listed(value.as_bytes(), tag.as_bytes(), false))
}

fn listed(mut list: &[u8], tag: &[u8], weak: bool) -> bool {
    if list.trim_ascii() == b"*" {
        return true;
    }
    loop {
        list = list.trim_ascii_start();
        if let Some(rest) = list.strip_prefix(b",") {
            list = rest;
            continue;
        }
        let strong = list.strip_prefix(b"W/").unwrap_or(list);
        let Some(quoted) = strong.strip_prefix(b"\"") else { return false };
        // A quoted tag may contain anything but a quote: commas, stars, bytes beyond ASCII.
        let Some(end) = quoted.iter().position(|byte| *byte == b'"') else { return false };
        if strong[..end + 2] == *tag && (weak || strong.len() == list.len()) {
            return true;
        }
        list = quoted[end + 1..].trim_ascii_start();
        if !list.is_empty() && !list.starts_with(b",") {
            return false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_as_rfc_9110_has_them() {
        for list in [
            "*",
            " * ",
            "\"1-2\"",
            "W/\"1-2\"",
            "\"x\", \"1-2\"",
            "\"x\",W/\"1-2\" ,\"y\"",
            ",, \"1-2\"",
            "\"\", \"1-2\"",
            "\"a,b\", \"1-2\"",
            "\"*\",\"1-2\"",
            "\"a b\", \"1-2\"",
        ] {
            assert!(listed(list.as_bytes(), b"\"1-2\"", true), "{list}");
            let weak = list.contains("W/");
            assert_eq!(listed(list.as_bytes(), b"\"1-2\"", false), !weak, "{list}");
        }
        assert!(listed(b"\"\xe9t\xe9\", \"1-2\"", b"\"1-2\"", true), "obs-text before it");
        for list in [
            "",
            "1-2",
            "\"1-2",
            "\"client,*,tag\"",
            "\"a, * ,b\"",
            "\"*\"",
            "*, \"x\"",
            "\"x,\"1-2\"",
            "w/\"1-2\"",
            "W/ \"1-2\"",
            "\"x\" \"1-2\"",
            "\"x\"\"1-2\"",
            "\"1-2 \"",
            "\"a\", *",
            "\\\"1-2\\\"",
        ] {
            assert!(!listed(list.as_bytes(), b"\"1-2\"", true), "{list}");
        }
    }
}
