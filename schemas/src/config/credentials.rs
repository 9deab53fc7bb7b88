//! Messages without the credentials that somebody wrote into an address.
//!
//! Invariant: nothing between the scheme of an address and its last @ is kept, nor a query that
//! names a secret.

use std::borrow::Cow;

/// Words in a query that come with a secret.
const SECRETS: [&str; 4] = ["pass", "secret", "token", "user"];

/// One address without its credentials.
pub fn hide_credentials(address: &str) -> Cow<'_, str> {
    let address = match address.split_once('?') {
        Some((before, query)) if names_secret(query) => Cow::Owned(format!("{before}?…")),
        _ => Cow::Borrowed(address),
    };
    let Some((credentials, behind)) = address.rsplit_once('@') else { return address };
    // What has neither a scheme nor a password is an address of another kind.
    match credentials.split_once("://") {
        Some((scheme, _)) => Cow::Owned(format!("{scheme}://…@{behind}")),
        None if credentials.contains(':') => Cow::Owned(format!("…@{behind}")),
        None => address,
    }
}

fn names_secret(query: &str) -> bool {
    let query = query.to_ascii_lowercase();
    SECRETS.iter().any(|word| query.contains(word))
}

/// A message without the credentials of the addresses in it.
pub fn hide_all_credentials(message: &str) -> Cow<'_, str> {
    if !message.contains("://") {
        return Cow::Borrowed(message);
    }
    let is_end = |c: char| c.is_whitespace() || "\"'`<>".contains(c);
    let words = message.split_inclusive(is_end).map(|word| {
        let end = word.trim_end_matches(is_end).len();
        let (address, behind) = word.split_at(end);
        if address.contains("://") {
            format!("{}{behind}", hide_credentials(address))
        } else {
            word.to_owned()
        }
    });
    Cow::Owned(words.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_shown_without_credentials() {
        for (text, shown) in [
            ("kafka://a:1,b:2/t", "kafka://a:1,b:2/t"),
            ("kafka://user:secret@a:1/t", "kafka://…@a:1/t"),
            ("scylla://user:sec@ret/@a:1/k", "scylla://…@a:1/k"),
            ("user:secret@a:1", "…@a:1"),
            ("kafka://a:1/t?sasl.password=secret", "kafka://a:1/t?…"),
            ("generator:?rate=5&seed=2", "generator:?rate=5&seed=2"),
            ("someone@example.org", "someone@example.org"),
        ] {
            assert_eq!(hide_credentials(text), shown);
        }
        for (text, shown) in [
            ("no address: me@here, a:b@c", "no address: me@here, a:b@c"),
            (
                "cannot read \"kafka://u:p@a:1/t\": there is none; see http://x/y",
                "cannot read \"kafka://…@a:1/t\": there is none; see http://x/y",
            ),
            ("x://u:p@a y://v:q@b", "x://…@a y://…@b"),
        ] {
            assert_eq!(hide_all_credentials(text), shown);
        }
    }
}
