//! Splits Rust source into tokens, as far as needed to read imports.
//!
//! Invariant: comments vanish and a literal is one token, so that prose and strings never look like
//! code.

/// The tokens of a file: words, `::`, literals, and other characters one by one.
pub(crate) fn tokens(text: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = length(rest, first);
        let (token, after) = rest.split_at(length);
        if !first.is_whitespace() && !token.starts_with("//") && !token.starts_with("/*") {
            tokens.push(token.strip_prefix("r#").filter(|word| is_word(word)).unwrap_or(token));
        }
        rest = after;
    }
    tokens
}

/// Whether a token is an identifier or a keyword.
pub(crate) fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c == '_' || c.is_alphabetic())
}

/// The length of the token, comment or white space at the start of `rest`.
fn length(rest: &str, first: char) -> usize {
    let until = |end: &str| rest.find(end).map_or(rest.len(), |at| at + end.len());
    match first {
        _ if rest.starts_with("//") => until("\n"),
        _ if rest.starts_with("/*") => block_comment(rest),
        _ if rest.starts_with("::") => 2,
        '"' => quoted(rest),
        '\'' => quote(rest),
        '0'..='9' => word(rest),
        _ if is_word(rest) => {
            let word = word(rest);
            match (&rest[..word], &rest[word..]) {
                ("r" | "br" | "cr", after) if after.starts_with(['"', '#']) => word + raw(after),
                ("b" | "c", after) if after.starts_with('"') => word + quoted(after),
                ("b", after) if after.starts_with('\'') => word + quote(after),
                _ => word,
            }
        }
        other => other.len_utf8(),
    }
}

fn word(rest: &str) -> usize {
    rest.find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(rest.len())
}

/// Block comments nest.
fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        let bytes = &rest.as_bytes()[at..];
        match bytes {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

/// A string with escapes.
fn quoted(rest: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in rest.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// A character, or a lifetime.
fn quote(rest: &str) -> usize {
    let mut chars = rest.char_indices().skip(1);
    match (chars.next(), chars.next()) {
        // At least one character follows the backslash; it may be a quote.
        (Some((_, '\\')), Some((at, c))) => {
            let from = at + c.len_utf8();
            rest[from..].find('\'').map_or(rest.len(), |end| from + end + 1)
        }
        (Some(_), Some((at, '\''))) => at + 1,
        _ => 1 + word(&rest[1..]),
    }
}

/// A raw string after its `r`, or the rest of a raw identifier.
fn raw(after: &str) -> usize {
    let hashes = after.len() - after.trim_start_matches('#').len();
    let Some(content) = after[hashes..].strip_prefix('"') else {
        return hashes + word(&after[1..]);
    };
    let end = format!("\"{}", "#".repeat(hashes));
    let length = content.find(&end).map_or(content.len(), |at| at + end.len());
    hashes + 1 + length
}

/// The tokens without items that only tests have.
pub(crate) fn without_tests<'t>(tokens: &[&'t str]) -> Vec<&'t str> {
    let mut product = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let rest = &tokens[at..];
        if rest.starts_with(&["#", "[", "cfg", "(", "test", ")", "]"]) {
            at += 7 + item(&rest[7..]);
        } else {
            product.push(rest[0]);
            at += 1;
        }
    }
    product
}

/// The length of an item: to its `;`, or to the brace that closes its body.
fn item(tokens: &[&str]) -> usize {
    let (mut depth, mut is_use) = (0, false);
    for (at, token) in tokens.iter().enumerate() {
        match *token {
            "use" => is_use = true,
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => {
                depth -= 1;
                if depth == 0 && *token == "}" && !is_use {
                    return at + 1;
                }
            }
            ";" if depth == 0 => return at + 1,
            _ => {}
        }
    }
    tokens.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_survive_comments_and_literals_do_not_become_code() {
        let text = r##"a::b /* crate::x /* nested */ */ "crate::y \" z" r#"use "w";"# // use v"##;
        let found = tokens(text);
        assert_eq!(found, ["a", "::", "b", r#""crate::y \" z""#, r##"r#"use "w";"#"##]);
    }

    #[test]
    fn character_is_not_taken_for_a_lifetime() {
        assert_eq!(
            tokens(r"'a' '\'' '\u{1f}' b'\\' &'a T"),
            ["'a'", r"'\''", r"'\u{1f}'", r"b'\\'", "&", "'a", "T"]
        );
        assert_eq!(tokens("r#type 1..2"), ["type", "1", ".", ".", "2"]);
    }

    #[test]
    fn items_of_tests_are_left_out() {
        let text = "#[cfg(test)] use a::{b, c}; fn d() {} #[cfg(test)] mod tests { fn e() {} } \
                    #[cfg(test)] mod more; struct F;";
        let left = without_tests(&tokens(text)).concat();
        assert_eq!(left, "fnd(){}structF;");
    }
}
