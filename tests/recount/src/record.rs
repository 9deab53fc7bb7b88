//! Reading posts from records, written a second time.
//!
//! Invariant: a record is refused for the first of these that holds: it is no JSON, no object, too
//! deep, has a field twice, a field that cannot be used, lacks one, is of an unknown type.

use schemas::mapping::{Field, Mapping};
use schemas::time::TimeUnit;

use crate::json::{Member, members, text};

const TYPES: [&str; 7] = [
    "post_published",
    "post_edited",
    "post_deleted",
    "tag_added",
    "tag_removed",
    "liked",
    "unliked",
];
const YEAR_2100_MS: i128 = 4_102_444_800_000;

/// Where records have what is counted.
#[derive(Clone, Debug)]
pub struct Reader {
    /// The names of id, time, text, type and post in records.
    names: [Option<String>; 5],
    unit: TimeUnit,
    attributes: Vec<String>,
}

/// What a record says.
#[derive(Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields of an event")]
pub struct Event {
    pub event_id: String,
    pub ts_ms: i64,
    pub caption: String,
    /// Whether it is a published post.
    pub counts: bool,
    /// The values of the attributes.
    pub values: Vec<Option<String>>,
}

impl Reader {
    /// Reads records with these names, and these attributes of them.
    pub fn new(mapping: &Mapping, attributes: &[String]) -> Self {
        let fields = [Field::EventId, Field::Ts, Field::Caption, Field::Type, Field::PostId];
        Self {
            names: fields.map(|field| mapping.name(field).map(str::to_owned)),
            unit: mapping.unit(),
            attributes: attributes.iter().map(|a| mapping.attribute(a).to_owned()).collect(),
        }
    }

    /// The event in a record, or the code of the reason why there is none.
    pub fn read(&self, record: &[u8]) -> Result<Event, &'static str> {
        if record.len() > 65_536 {
            return Err("too_large");
        }
        if record.is_empty() {
            return Err("empty");
        }
        let (members, depth) = members(record)?;
        if depth > 32 {
            return Err("too_deep");
        }
        let [id, ts, caption, kind, post] = self
            .names
            .each_ref()
            .map(|name| name.as_ref().map_or(Ok(None), |name| only(&members, name)));
        let attributes = self.attributes.iter().map(|name| only(&members, name));
        let attributes: Vec<_> = attributes.collect::<Result<_, _>>()?;
        let (id, ts, caption, kind, post) = (id?, ts?, caption?, kind?, post?);
        let id_of = |value: &[u8]| match value[0] {
            b'"' => text(value).filter(|id| id.len() <= 1024),
            _ => number(value).filter(|n| n.len() <= 1024 && !n.contains(['.', 'e', 'E'])),
        };
        let usable = |value: Option<&[u8]>, of: &dyn Fn(&[u8]) -> Option<String>| match value {
            None => Ok(None),
            Some(value) => of(value).map(Some).ok_or("bad_field"),
        };
        let text_of = |value: &[u8]| Some(value).filter(|v| v[0] == b'"').and_then(text);
        let scalar = |value: &[u8]| text_of(value).or_else(|| number(value));
        let id = usable(id, &id_of);
        usable(post, &id_of)?;
        let ts = usable(ts, &scalar)?.map(|ts| time_ms(&ts, self.unit).ok_or("bad_field"));
        let (caption, kind) = (usable(caption, &text_of)?, usable(kind, &text_of)?);
        let event_id = id?.filter(|id| !id.is_empty());
        let (ts_ms, event_id) = (ts.transpose()?, event_id.ok_or("missing_field")?);
        let counts = match kind.as_deref() {
            None => true,
            Some(kind) if TYPES.contains(&kind) => kind == TYPES[0],
            Some(_) => return Err(ts_ms.map_or("missing_field", |_| "bad_type")),
        };
        let value = |value: Option<&[u8]>| {
            let value = value?;
            let value = match value {
                b"true" => Some("true".to_owned()),
                b"false" => Some("false".to_owned()),
                _ => scalar(value),
            };
            value.filter(|value| (1..=1024).contains(&value.len()))
        };
        Ok(Event {
            event_id,
            ts_ms: ts_ms.ok_or("missing_field")?,
            caption: caption.unwrap_or_default(),
            counts,
            values: attributes.into_iter().map(value).collect(),
        })
    }
}

/// The value of the only member of this name, unless it is `null`.
fn only<'r>(members: &[Member<'r>], name: &str) -> Result<Option<&'r [u8]>, &'static str> {
    let mut named = members.iter().filter(|(own, _)| own.as_deref() == Some(name));
    match (named.next(), named.next()) {
        (_, Some(_)) => Err("duplicate_field"),
        (first, None) => Ok(first.map(|(_, value)| *value).filter(|value| *value != b"null")),
    }
}

/// A number as written.
fn number(value: &[u8]) -> Option<String> {
    let is_number = matches!(value[0], b'-' | b'0'..=b'9');
    is_number.then(|| String::from_utf8_lossy(value).into_owned())
}

/// A time in milliseconds.
fn time_ms(text: &str, unit: TimeUnit) -> Option<i64> {
    let ms = match unit {
        TimeUnit::Millis => scaled(text, 0),
        TimeUnit::Seconds => scaled(text, 3),
        TimeUnit::Micros => scaled(text, -3),
        TimeUnit::Rfc3339 => rfc3339(text),
    };
    ms.filter(|ms| (0..YEAR_2100_MS).contains(ms)).and_then(|ms| i64::try_from(ms).ok())
}

/// A number times a power of ten, without what is behind its point: -1 if it is negative, whatever
/// its size.
fn scaled(text: &str, power: i128) -> Option<i128> {
    let lower = text.to_ascii_lowercase();
    let (mantissa, exponent) = lower.split_once('e').unwrap_or((&lower, "0"));
    let unsigned = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
    if unsigned.is_empty() || !unsigned.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    // More than any record has digits.
    let far: i128 = 1_000_000;
    let exponent = match exponent.parse::<i128>() {
        Ok(exponent) => exponent.clamp(-far, far),
        Err(_) if exponent.starts_with('-') => -far,
        Err(_) => far,
    };
    let magnitude = mantissa.strip_prefix('-').unwrap_or(mantissa);
    let (whole, fraction) = magnitude.split_once('.').unwrap_or((magnitude, "0"));
    if [whole, fraction].iter().any(|d| d.is_empty() || !d.bytes().all(|b| b.is_ascii_digit())) {
        return None;
    }
    let all = format!("{whole}{fraction}");
    let digits = all.trim_start_matches('0');
    let point = whole.len() as i128 - (all.len() - digits.len()) as i128 + exponent + power;
    if mantissa.starts_with('-') && !digits.is_empty() {
        return Some(-1);
    }
    if digits.is_empty() || point <= 0 {
        return Some(0);
    }
    // Past the year 2100 in any case.
    if point > 20 {
        return Some(YEAR_2100_MS);
    }
    let integer: String =
        digits.chars().chain(std::iter::repeat('0')).take(point as usize).collect();
    integer.parse().ok()
}

/// A time such as `2023-11-14T22:13:20.5+01:00`.
fn rfc3339(text: &str) -> Option<i128> {
    let part = |range: std::ops::Range<usize>| {
        let digits = text.get(range).filter(|d| d.bytes().all(|b| b.is_ascii_digit()))?;
        digits.parse::<i128>().ok()
    };
    let (year, month, day) = (part(0..4)?, part(5..7)?, part(8..10)?);
    let (hour, minute, second) = (part(11..13)?, part(14..16)?, part(17..19)?);
    let rest = text.get(19..)?;
    let fraction = rest
        .strip_prefix('.')
        .map_or("", |rest| &rest[..rest.bytes().take_while(u8::is_ascii_digit).count()]);
    let zone = &rest[if fraction.is_empty() { 0 } else { 1 + fraction.len() }..];
    let offset = match zone {
        "Z" | "z" => 0,
        _ => {
            let at = text.len() - 5;
            let minutes = part(at..at + 2)? * 60 + part(at + 3..at + 5)?;
            if zone.len() != 6 {
                return None;
            }
            if zone.starts_with('-') { -minutes } else { minutes }
        }
    };
    // Days since 1970-01-01, counted from the first of March of the year 0.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    let seconds = ((days * 24 + hour) * 60 + minute - offset) * 60 + second;
    let ms: String = fraction.chars().chain("000".chars()).take(3).collect();
    Some(seconds * 1000 + ms.parse::<i128>().ok()?)
}
