//! Text from outside, as it can be shown to people: names of files and topics, records, arguments.
//!
//! Invariant: printable text holds no control character, which a terminal would obey, and none that
//! changes the direction of text, which would show it as what it is not.

use std::borrow::Cow;
use std::fmt::Display;
use std::path::Path;

/// Whether a terminal acts on it instead of showing it.
fn acts(c: char) -> bool {
    let is_bidi = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}');
    let is_isolate = matches!(c, '\u{2066}'..='\u{2069}');
    // Line and paragraph separators; U+FEFF is invisible, and some terminals drop what follows.
    c.is_control() || is_bidi || is_isolate || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}')
}

/// The text with control characters escaped as in Rust: `\n`, `\u{1b}`, `\u{202e}`.
pub fn printable(text: &str) -> Cow<'_, str> {
    escaped(text, acts, |c| c.escape_default().to_string())
}

/// The same for a line of fields between tabs, which stay.
pub fn printable_line(line: &str) -> Cow<'_, str> {
    escaped(line, |c| c != '\t' && acts(c), |c| c.escape_default().to_string())
}

/// The same for a line of JSON, whose value stays what it was.
pub fn printable_json(json: &str) -> Cow<'_, str> {
    escaped(json, acts, |c| {
        let mut units = [0; 2];
        c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")).collect()
    })
}

/// The path as it can be printed; bytes that are no UTF-8 are written as `\xNN`.
pub fn shown(path: &Path) -> String {
    let mut shown = String::new();
    for chunk in path.as_os_str().as_encoded_bytes().utf8_chunks() {
        shown += &printable(chunk.valid());
        chunk.invalid().iter().for_each(|byte| shown += &format!("\\x{byte:02x}"));
    }
    shown
}

fn escaped(text: &str, hidden: impl Fn(char) -> bool, escape: fn(char) -> String) -> Cow<'_, str> {
    // Nearly every text is plain.
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~')) || !text.chars().any(&hidden) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if hidden(c) { safe.push_str(&escape(c)) } else { safe.push(c) }
    }
    Cow::Owned(safe)
}

/// The text, or its beginning and its end if it has more than `most` characters.
pub fn shortened(text: &str, most: usize) -> Cow<'_, str> {
    // Fewer bytes are fewer characters.
    if text.len() <= most || text.chars().count() <= most {
        return Cow::Borrowed(text);
    }
    let at = |n: usize| text.char_indices().nth(n).map_or(text.len(), |(at, _)| at);
    let (tail, count) = (most / 4, text.chars().count());
    let (head, tail) = (&text[..at(most - tail)], &text[at(count - tail)..]);
    let left_out = text.len() - head.len() - tail.len();
    Cow::Owned(format!("{head}… ({}) …{tail}", counted(left_out, "more byte", "more bytes")))
}

/// A number and what is counted: `1 post`, `2 posts`.
pub fn counted(number: impl Display, one: &str, many: &str) -> String {
    let number = number.to_string();
    let noun = if number == "1" { one } else { many };
    format!("{number} {noun}")
}

/// The noun of [`counted`], for columns.
pub fn noun<'n>(number: u64, one: &'n str, many: &'n str) -> &'n str {
    if number == 1 { one } else { many }
}

/// Bytes as people write them.
pub fn size(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut size = bytes as f64;
    let mut unit = 0;
    while size >= 1024.0 && unit + 1 < units.len() {
        size /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{size:.1} {}", units[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_and_bidi_characters_are_escaped() {
        assert_eq!(printable("a\x1b[2Jb\n\tc\u{7f}\u{9b}"), "a\\u{1b}[2Jb\\n\\tc\\u{7f}\\u{9b}");
        assert_eq!(
            printable("gpj.\u{202e}exe\u{2066}\u{feff}"),
            "gpj.\\u{202e}exe\\u{2066}\\u{feff}"
        );
        assert_eq!(printable_line("a\tb\rc\u{2028}"), "a\tb\\rc\\u{2028}");
    }

    #[test]
    fn every_control_character_is_escaped_and_letters_stay() {
        for c in (0..=0x10_ffff).filter_map(char::from_u32).filter(|c| c.is_control()) {
            assert!(printable(&c.to_string()).starts_with('\\'), "{c:?}");
        }
        for text in ["Straße 日本 العربية עברית", "👩\u{200d}👩", "می\u{200c}خواهم", "a\\b"]
        {
            assert!(matches!(printable(text), Cow::Borrowed(same) if same == text), "{text}");
        }
    }

    #[test]
    fn escaped_json_has_the_same_value() {
        let value = serde_json::json!({ "k\u{202e}": "a\x1b\u{9b}\u{7f}\u{2066}ü\n" });
        let json = serde_json::to_string(&value).unwrap();
        let safe = printable_json(&json);
        assert!(!safe.chars().any(acts), "{safe}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&safe).unwrap(), value);
    }

    #[test]
    fn path_that_is_no_utf8_is_shown_byte_by_byte() {
        use std::ffi::OsStr;
        use std::os::unix::ffi::OsStrExt;
        let path = Path::new(OsStr::from_bytes(b"caf\xe9/\x1b\xff"));
        assert_eq!(shown(path), "caf\\xe9/\\u{1b}\\xff");
        assert_eq!(shown(Path::new("café/x")), "café/x");
    }

    #[test]
    fn long_text_is_shortened_between_characters() {
        assert_eq!(shortened("short", 5), "short");
        assert_eq!(shortened("ääää", 4), "ääää");
        assert_eq!(shortened(&"ä".repeat(20), 8), "ääääää… (24 more bytes) …ää");
        assert_eq!(shortened("abcdefghi", 8), "abcdef… (1 more byte) …hi");
    }

    #[test]
    fn sizes_have_binary_units() {
        assert_eq!([0, 1023, 1024, u64::MAX].map(size), ["0 B", "1023 B", "1.0 KiB", "16.0 EiB"]);
    }

    #[test]
    fn one_is_singular() {
        assert_eq!(counted(1_u64, "post", "posts"), "1 post");
        assert_eq!(counted(0_i64, "post", "posts"), "0 posts");
        assert_eq!(counted(11_usize, "post", "posts"), "11 posts");
    }
}
