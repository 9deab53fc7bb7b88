//! The fast path of decoding: reads records that are plainly well formed, and gives up on all
//! others, which the full decoder then reads from the beginning.
//!
//! Invariant: it gives the same event as the full decoder. It never rejects a record, it only gives
//! up.

use std::borrow::Cow;

use super::reject::{DEPTH_MAX, ID_BYTES_MAX};
use super::{Attribute, Decoder, Event, Target, set};

const ONES: u64 = u64::MAX / 255;

impl Decoder {
    /// Decodes a record, or returns `None` if it is unusual in any way.
    pub(super) fn decode_fast<'r>(&self, record: &'r [u8]) -> Option<Event<'r>> {
        let mut scan = Scan { text: simdutf8::basic::from_utf8(record).ok()?, at: 0 };
        let mut parts = self.no_parts();
        scan.members(|scan, key| match self.target(key) {
            Some(Target::EventId) => set(&mut parts.event_id, scan.id()?),
            Some(Target::PostId) => set(&mut parts.post_id, scan.id()?),
            Some(Target::Attribute(i)) => set(&mut parts.attributes[i], scan.attribute()?),
            Some(Target::Caption) => set(&mut parts.caption, scan.caption()?),
            Some(Target::Type) => set(&mut parts.kind, scan.caption()?),
            Some(Target::Ts) => {
                let ts_ms = self.mapping.unit().parse(&scan.scalar()??).ok()?;
                set(&mut parts.ts_ms, Some(ts_ms))
            }
            None => scan.skip(2),
        })?;
        scan.space();
        if scan.at == record.len() { self.event(parts).ok() } else { None }
    }
}

/// The value of a member, or `None` for `null`.
type Nullable<'r> = Option<Cow<'r, str>>;

/// A record that has been read up to `at`.
struct Scan<'r> {
    text: &'r str,
    at: usize,
}

impl<'r> Scan<'r> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    /// Skips `byte` and the space around it. Returns false if something else comes next.
    fn skips(&mut self, byte: u8) -> bool {
        self.space();
        let there = self.peek() == Some(byte);
        self.at += usize::from(there);
        self.space();
        there
    }

    /// Reads an object. `each` is called with the name of each member and must read its value.
    fn members(&mut self, mut each: impl FnMut(&mut Self, &'r str) -> Option<()>) -> Option<()> {
        if !self.skips(b'{') {
            return None;
        }
        if self.skips(b'}') {
            return Some(());
        }
        loop {
            let (name, is_plain) = self.string()?;
            if !is_plain || !self.skips(b':') {
                return None;
            }
            each(self, name)?;
            if !self.skips(b',') {
                return self.skips(b'}').then_some(());
            }
        }
    }

    fn elements(&mut self, depth: usize) -> Option<()> {
        if !self.skips(b'[') {
            return None;
        }
        if self.skips(b']') {
            return Some(());
        }
        loop {
            self.skip(depth)?;
            if !self.skips(b',') {
                return self.skips(b']').then_some(());
            }
        }
    }

    /// Skips a value at `depth`.
    fn skip(&mut self, depth: usize) -> Option<()> {
        match self.peek()? {
            b'"' => self.string().map(drop),
            b'{' | b'[' if depth > DEPTH_MAX => None,
            b'{' => self.members(|scan, _| scan.skip(depth + 1)),
            b'[' => self.elements(depth + 1),
            b'0'..=b'9' | b'-' => self.number().map(drop),
            _ => ["null", "true", "false"].iter().find_map(|word| self.word(word)),
        }
    }

    fn word(&mut self, word: &str) -> Option<()> {
        let there = self.text.as_bytes()[self.at..].starts_with(word.as_bytes());
        self.at += if there { word.len() } else { 0 };
        there.then_some(())
    }

    /// Reads a string. Returns what is between its quotes, and whether it is free of escapes.
    fn string(&mut self) -> Option<(&'r str, bool)> {
        if self.peek()? != b'"' {
            return None;
        }
        self.at += 1;
        let (start, mut is_plain) = (self.at, true);
        loop {
            self.at = special(self.text.as_bytes(), self.at)?;
            match self.peek()? {
                b'"' => break,
                b'\\' => {
                    is_plain = false;
                    self.escape()?;
                }
                _ => return None,
            }
        }
        let between = self.text.get(start..self.at)?;
        self.at += 1;
        Some((between, is_plain))
    }

    /// Skips an escape. Whether it stands for a character is up to whoever reads the text.
    fn escape(&mut self) -> Option<()> {
        self.at += 2;
        match self.text.as_bytes().get(self.at - 1)? {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(()),
            b'u' => {
                let digits = self.text.as_bytes().get(self.at..self.at + 4)?;
                self.at += 4;
                digits.iter().all(u8::is_ascii_hexdigit).then_some(())
            }
            _ => None,
        }
    }

    /// Reads a number. Returns it as written.
    fn number(&mut self) -> Option<&'r str> {
        let start = self.at;
        self.at += usize::from(self.peek() == Some(b'-'));
        let zero = self.peek() == Some(b'0');
        let whole = self.digits();
        if whole == 0 || (zero && whole > 1) {
            return None;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            if self.digits() == 0 {
                return None;
            }
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            self.at += usize::from(matches!(self.peek(), Some(b'+' | b'-')));
            if self.digits() == 0 {
                return None;
            }
        }
        self.text.get(start..self.at)
    }

    fn digits(&mut self) -> usize {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        self.at - start
    }

    /// Reads a text, or a number as written. `Some(None)` stands for `null`.
    fn scalar(&mut self) -> Option<Nullable<'r>> {
        match self.peek()? {
            b'0'..=b'9' | b'-' => Some(Some(Cow::Borrowed(self.number()?))),
            _ => self.caption(),
        }
    }

    fn id(&mut self) -> Option<Nullable<'r>> {
        let is_number = self.peek()? != b'"';
        let value = self.scalar()?;
        let is_id = |v: &Cow<'_, str>| !(is_number && v.contains(['.', 'e', 'E']));
        let fits = |v: &Cow<'_, str>| v.len() <= ID_BYTES_MAX && is_id(v);
        if value.as_ref().is_some_and(|v| !fits(v)) {
            return None;
        }
        Some(value.filter(|v| !v.is_empty()))
    }

    /// Reads what an attribute holds.
    fn attribute(&mut self) -> Option<Attribute<'r>> {
        let start = self.at;
        match self.peek()? {
            b'"' | b'n' | b'0'..=b'9' | b'-' => self.scalar().map(Attribute::of),
            b't' | b'f' => {
                self.skip(2)?;
                Some(Attribute::Text(Cow::Borrowed(self.text.get(start..self.at)?)))
            }
            _ => self.skip(2).map(|()| Attribute::Other),
        }
    }

    /// Reads a text. `Some(None)` stands for `null`.
    fn caption(&mut self) -> Option<Nullable<'r>> {
        if self.peek()? == b'n' {
            return self.word("null").map(|()| None);
        }
        let start = self.at;
        let (text, is_plain) = self.string()?;
        if is_plain {
            return Some(Some(Cow::Borrowed(text)));
        }
        let text = serde_json::from_str::<String>(self.text.get(start..self.at)?).ok()?;
        Some(Some(Cow::Owned(text)))
    }
}

/// The index of the first byte from `at` on that ends the plain part of a string: a quote, a
/// backslash or a control character. Reads eight bytes at a time.
fn special(bytes: &[u8], mut at: usize) -> Option<usize> {
    while let Some(chunk) = bytes.get(at..at + 8) {
        let word = u64::from_le_bytes(chunk.try_into().ok()?);
        let below = |word: u64, least: u64| word.wrapping_sub(ONES * least) & !word;
        let quote = below(word ^ (ONES * u64::from(b'"')), 1);
        let backslash = below(word ^ (ONES * u64::from(b'\\')), 1);
        // The lowest set bit is right; borrows may set wrong ones above it.
        let found = (quote | backslash | below(word, 0x20)) & (ONES << 7);
        if found != 0 {
            return Some(at + found.trailing_zeros() as usize / 8);
        }
        at += 8;
    }
    let rest = bytes.get(at..)?;
    rest.iter().position(|b| matches!(b, b'"' | b'\\' | ..0x20)).map(|i| at + i)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::event::Reject;
    use crate::mapping::Mapping;

    const ALPHABET: &[u8] = b"\"\\{}[]:,.-+eEu0d8c19tfn \t\n\x00\x1f\x7f\xc3\xa9\xff";

    /// JSON texts of values: ordinary ones, and ones that parsers get wrong.
    fn value() -> impl Strategy<Value = String> {
        let word = r"(null|true|false|nul|nulll|-?[0-9]{1,3}(\.[0-9]{1,2})?([eE][+-]?[0-9]{1,3})?)";
        let number = r"(-|-?0[0-9]?|-?[1-9][0-9]{0,40}|1700000000000|1\.7e12|1\.|\.5|1e400|2e-)";
        let text = "\"([a-z# éß日😀\u{7f}]|\\\\[\"\\\\/bfnrtx]|\
             \\\\u(00e9|d83d|de00|d83d\\\\ude00|\\+0e9|00g0)){0,6}\"";
        let leaf = prop_oneof![
            word.prop_map(|s| s),
            number.prop_map(|s| s),
            text.prop_map(|s| s),
            Just("1700000000000".to_owned()),
            Just("\"\"".to_owned()),
            (0_usize..36).prop_map(|n| format!("{}{}", "[".repeat(n), "]".repeat(n))),
        ];
        leaf.prop_recursive(3, 12, 3, |inner| {
            let member =
                (name(), inner.clone()).prop_map(|(name, value)| format!("{name}:{value}"));
            prop_oneof![
                vec(inner, 0..3).prop_map(|all| format!("[{}]", all.join(","))),
                vec(member, 0..3).prop_map(|all| format!("{{{}}}", all.join(" , "))),
            ]
        })
    }

    fn name() -> impl Strategy<Value = String> {
        let names =
            vec!["event_id", "ts", "caption", "type", "post_id", "lang", "x", "", "t\\u0073"];
        proptest::sample::select(names).prop_map(|name| format!("\"{name}\""))
    }

    fn record() -> impl Strategy<Value = Vec<u8>> {
        let good = vec![r#""event_id":"e1""#, r#""ts":1700000000000"#, r#""caption":"a #b \n""#];
        let member = (name(), "[ \n]{0,1}", value())
            .prop_map(|(name, space, value)| format!("{space}{name}{space}:{space}{value}"));
        let some_good = proptest::sample::subsequence(good, 0..=3);
        let edits = vec((any::<proptest::sample::Index>(), 0..3_u8, any::<u8>()), 0..3);
        (some_good, vec(member, 0..4), any::<bool>(), edits).prop_map(
            |(good, members, good_first, edits)| {
                let good = good.into_iter().map(str::to_owned);
                let all: Vec<String> = if good_first {
                    good.chain(members).collect()
                } else {
                    members.into_iter().chain(good).collect()
                };
                let mut bytes = format!("{{{}}}", all.join(",")).into_bytes();
                for (at, kind, byte) in edits {
                    let at = at.index(bytes.len());
                    let byte = ALPHABET[usize::from(byte) % ALPHABET.len()];
                    match kind {
                        0 => bytes[at] = byte,
                        1 => bytes.insert(at, byte),
                        _ if bytes.len() > 1 => drop(bytes.remove(at)),
                        _ => (),
                    }
                }
                bytes
            },
        )
    }

    fn decoder() -> Decoder {
        Decoder::new(Mapping::default(), &["lang".to_owned(), "x".to_owned()])
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        /// The full decoder is the oracle, for events as well as for rejects.
        #[test]
        fn both_decoders_agree(bytes in record()) {
            let decoder = decoder();
            let want: Result<Event<'_>, Reject> = decoder.decode_full(&bytes);
            let fast = decoder.decode_fast(&bytes);
            if let Some(event) = &fast {
                prop_assert_eq!(Ok(event), want.as_ref(), "{}", String::from_utf8_lossy(&bytes));
            }
            prop_assert_eq!(decoder.decode(&bytes), want);
        }

        #[test]
        fn end_of_a_plain_string_is_found(bytes in vec(any::<u8>(), 0..40), at in 0_usize..40) {
            let at = at.min(bytes.len());
            let found = bytes[at..].iter().position(|b| matches!(b, b'"' | b'\\' | ..0x20));
            prop_assert_eq!(special(&bytes, at), found.map(|i| at + i));
        }
    }

    #[test]
    fn plain_records_take_the_fast_path() {
        let plain = [
            r#"{"event_id":"e","ts":1,"caption":"a #b","u":{"y":[1.5,-2,true,null,{}],"z":[]}}"#,
            r##" { "event_id" : 7 , "ts":"5" , "caption" : "\"#b\" \n \ud83d\ude00", "x":"de" }"##,
            r#"{"event_id":"e","type":"liked","post_id":null,"ts":0}"#,
            r#"{"event_id":"e","ts":1.5e12,"score":1e400,"by":"\ud83d","lang":true,"x":[1,{}]}"#,
        ];
        for record in plain {
            let event = decoder().decode_fast(record.as_bytes());
            assert_eq!(event, decoder().decode_full(record.as_bytes()).ok(), "{record}");
            assert!(event.is_some(), "{record}");
        }
    }
}
