//! JSON by the grammar of RFC 8259, written a second time.
//!
//! Invariant: what is not read is only walked over, without recursion, so neither its depth nor
//! what it holds matters.

/// A member of an object: its name, unless it is no Unicode, and its value as written.
pub(crate) type Member<'r> = (Option<String>, &'r [u8]);

/// A record that has been walked up to `at`.
struct Walk<'r> {
    bytes: &'r [u8],
    at: usize,
}

/// The members of a record, and how deep it is nested, or the code of the reason why it has none.
pub(crate) fn members(record: &[u8]) -> Result<(Vec<Member<'_>>, usize), &'static str> {
    let mut whole = Walk { bytes: record, at: 0 };
    let depth = whole.value().ok_or("not_json")?;
    whole.space();
    if whole.at < record.len() {
        return Err("not_json");
    }
    let mut walk = Walk { bytes: record, at: 0 };
    if walk.sign() != Some(b'{') {
        return Err("not_an_object");
    }
    let mut members = Vec::new();
    walk.space();
    while walk.peek() == Some(b'"') {
        let name = walk.string().and_then(text);
        walk.sign();
        walk.space();
        let start = walk.at;
        walk.value();
        members.push((name, &record[start..walk.at]));
        walk.sign();
        walk.space();
    }
    Ok((members, depth))
}

impl<'r> Walk<'r> {
    fn next(&mut self) -> Option<u8> {
        self.at += 1;
        self.bytes.get(self.at - 1).copied()
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    /// The next byte that is no space.
    fn sign(&mut self) -> Option<u8> {
        self.space();
        self.next()
    }

    /// Walks over a value. Returns how deep its lists and objects are nested.
    fn value(&mut self) -> Option<usize> {
        let (mut open, mut deepest) = (Vec::new(), 0);
        loop {
            match self.sign()? {
                b'{' => {
                    open.push(b'}');
                    deepest = deepest.max(open.len());
                    if !self.closes(&mut open) {
                        self.name()?;
                        continue;
                    }
                }
                b'[' => {
                    open.push(b']');
                    deepest = deepest.max(open.len());
                    if !self.closes(&mut open) {
                        continue;
                    }
                }
                first => self.leaf(first)?,
            }
            loop {
                if open.is_empty() {
                    return Some(deepest);
                }
                if self.closes(&mut open) {
                    continue;
                }
                if self.sign()? != b',' {
                    return None;
                }
                if open.last() == Some(&b'}') {
                    self.name()?;
                }
                break;
            }
        }
    }

    /// Walks over the end of the innermost list or object, if it comes next.
    fn closes(&mut self, open: &mut Vec<u8>) -> bool {
        self.space();
        let ends = self.peek().is_some() && self.peek() == open.last().copied();
        if ends {
            self.at += 1;
            open.pop();
        }
        ends
    }

    /// Walks over a name and its colon.
    fn name(&mut self) -> Option<()> {
        self.space();
        self.string()?;
        (self.sign()? == b':').then_some(())
    }

    fn leaf(&mut self, first: u8) -> Option<()> {
        self.at -= 1;
        let words: [&[u8]; 3] = [b"true", b"false", b"null"];
        let rest = &self.bytes[self.at..];
        match first {
            b'"' => self.string().map(drop),
            b'-' | b'0'..=b'9' => self.number(),
            _ => words.iter().find(|word| rest.starts_with(word)).map(|word| self.at += word.len()),
        }
    }

    fn number(&mut self) -> Option<()> {
        self.at += usize::from(self.peek() == Some(b'-'));
        let begins_with_zero = self.peek() == Some(b'0');
        let whole = self.digits()?;
        if begins_with_zero && whole > 1 {
            return None;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            self.at += usize::from(matches!(self.peek(), Some(b'+' | b'-')));
            self.digits()?;
        }
        Some(())
    }

    fn digits(&mut self) -> Option<usize> {
        let start = self.at;
        while self.peek().is_some_and(|b| b.is_ascii_digit()) {
            self.at += 1;
        }
        (self.at > start).then_some(self.at - start)
    }

    /// Walks over a string. Returns it with its quotes.
    fn string(&mut self) -> Option<&'r [u8]> {
        let start = self.at;
        if self.next()? != b'"' {
            return None;
        }
        loop {
            match self.next()? {
                b'"' => return self.bytes.get(start..self.at),
                b'\\' => match self.next()? {
                    b'u' => {
                        for _ in 0..4 {
                            self.next().filter(u8::is_ascii_hexdigit)?;
                        }
                    }
                    escaped => {
                        b"\"\\/bfnrt".contains(&escaped).then_some(())?;
                    }
                },
                0..0x20 => return None,
                _ => {}
            }
        }
    }
}

/// What a string with its quotes says, unless it is no Unicode.
pub(crate) fn text(string: &[u8]) -> Option<String> {
    let mut bytes = string[1..string.len() - 1].iter().copied();
    let mut text: Vec<u8> = Vec::new();
    let mut first_half: Option<u16> = None;
    while let Some(byte) = bytes.next() {
        let escaped = if byte == b'\\' { bytes.next() } else { None };
        if escaped == Some(b'u') {
            let digits: Vec<u8> = bytes.by_ref().take(4).collect();
            let unit = u16::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?;
            if first_half.is_none() && (0xd800..0xdc00).contains(&unit) {
                first_half = Some(unit);
                continue;
            }
            let units = first_half.take().into_iter().chain([unit]);
            let decoded: Option<String> = char::decode_utf16(units).collect::<Result<_, _>>().ok();
            text.extend(decoded?.bytes());
            continue;
        }
        if first_half.is_some() {
            return None;
        }
        text.push(match escaped {
            None => byte,
            Some(b'b') => 8,
            Some(b'f') => 12,
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(other) => other,
        });
    }
    String::from_utf8(text).ok().filter(|_| first_half.is_none())
}
