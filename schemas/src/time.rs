//! Times and durations as users write them. Internally, times are milliseconds since 1970 in UTC.

use std::fmt;
use std::num::IntErrorKind;
use std::str::FromStr;

use thiserror::Error;

/// Event times must lie in [1970, 2100), so that a slot of one second fits 32 bits.
pub const TS_MS_END: i64 = 4_102_444_800_000;

/// How a field writes its time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimeUnit {
    /// Milliseconds since 1970.
    #[default]
    Millis,
    /// Seconds since 1970, fractions allowed.
    Seconds,
    /// Microseconds since 1970.
    Micros,
    /// A text such as `2023-11-14T22:13:20.000Z`.
    Rfc3339,
}

/// Why a time or a duration cannot be parsed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TimeError {
    /// Not a number of the unit, or not RFC 3339.
    #[error("{0:?} is not a time in {1}")]
    Unreadable(String, TimeUnit),
    /// Before 1970 or from 2100 on.
    #[error("{0} is outside 1970 to 2100; is the unit right?")]
    OutOfRange(String),
    /// An unknown unit.
    #[error("unknown time unit {0:?}; use ms, s, us or rfc3339")]
    Unit(String),
    /// Not a duration.
    #[error("{0:?} is not a duration; write for example 90s, 10m, 24h")]
    Duration(String),
}

impl fmt::Display for TimeUnit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Millis => "ms",
            Self::Seconds => "s",
            Self::Micros => "us",
            Self::Rfc3339 => "rfc3339",
        })
    }
}

impl FromStr for TimeUnit {
    type Err = TimeError;

    fn from_str(text: &str) -> Result<Self, TimeError> {
        match text {
            "ms" => Ok(Self::Millis),
            "s" => Ok(Self::Seconds),
            "us" => Ok(Self::Micros),
            "rfc3339" => Ok(Self::Rfc3339),
            _ => Err(TimeError::Unit(text.to_owned())),
        }
    }
}

impl TimeUnit {
    /// Parses a time of this unit as milliseconds; finer fractions are cut off, but a time before
    /// 1970 stays before it. Numbers may have an exponent.
    ///
    /// ```
    /// use schemas::time::TimeUnit;
    /// assert_eq!(TimeUnit::Seconds.parse("1700000000.5"), Ok(1_700_000_000_500));
    /// assert_eq!(TimeUnit::Rfc3339.parse("2023-11-14T22:13:20Z"), Ok(1_700_000_000_000));
    /// ```
    pub fn parse(self, text: &str) -> Result<i64, TimeError> {
        let unreadable = || TimeError::Unreadable(text.chars().take(40).collect(), self);
        let ms = match self {
            Self::Rfc3339 => rfc3339(text),
            Self::Millis => decimal(text, 0),
            Self::Seconds => decimal(text, 3),
            Self::Micros => decimal(text, -3),
        };
        let ms = ms.ok_or_else(unreadable)?;
        if (0..TS_MS_END).contains(&ms) {
            Ok(ms)
        } else {
            Err(TimeError::OutOfRange(text.chars().take(40).collect()))
        }
    }
}

/// Parses a time whose seconds have any number of digits: RFC 3339 sets no limit, the library does.
fn rfc3339(text: &str) -> Option<i64> {
    const DIGITS_MAX: usize = 9;
    let parse = |text: &str| {
        let ns = text.parse::<jiff::Timestamp>().ok()?.as_nanosecond();
        i64::try_from(ns.div_euclid(1_000_000)).ok()
    };
    parse(text).or_else(|| {
        let (before, rest) = text.split_once('.')?;
        let end = rest.bytes().take_while(u8::is_ascii_digit).count();
        let fraction = rest.get(..DIGITS_MAX).filter(|_| end > DIGITS_MAX)?;
        parse(&format!("{before}.{fraction}{}", &rest[end..]))
    })
}

/// Parses a number times `10^shift`, cut off to an integer; one below zero stays below. One that is
/// too large gives the largest.
fn decimal(text: &str, shift: i64) -> Option<i64> {
    let all_digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    if shift == 0 && text.len() <= 18 && all_digits(text) {
        return text.parse().ok();
    }
    let (number, exponent) = match text.split_once(['e', 'E']) {
        Some((number, written)) => (number, exponent(written)?),
        None => (text, 0),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let (negative, whole) = whole.strip_prefix('-').map_or((false, whole), |w| (true, w));
    if !all_digits(whole) || !all_digits(fraction) {
        return None;
    }
    let negative = negative && whole.bytes().chain(fraction.bytes()).any(|b| b != b'0');
    let mut digits = whole.bytes().chain(fraction.bytes()).map(|b| i64::from(b - b'0'));
    let mut value: i64 = 0;
    // The point moves as the exponent says; the digits before it are the integer.
    for _ in 0..exponent.saturating_add(shift).saturating_add(whole.len() as i64) {
        let next = digits.next();
        if next.is_none() && value == 0 {
            break;
        }
        match value.checked_mul(10).and_then(|tens| tens.checked_add(next.unwrap_or(0))) {
            Some(more) => value = more,
            None => return Some(if negative { i64::MIN } else { i64::MAX }),
        }
    }
    Some(if negative { (-value).min(-1) } else { value })
}

/// An exponent. One that is too large gives the largest.
fn exponent(text: &str) -> Option<i64> {
    text.parse().map_or_else(
        |error: std::num::ParseIntError| match error.kind() {
            IntErrorKind::PosOverflow => Some(i64::MAX),
            IntErrorKind::NegOverflow => Some(i64::MIN),
            _ => None,
        },
        Some,
    )
}

/// Parses a duration such as `90s`, `10m`, `24h` or `7d` as milliseconds, at least one.
pub fn parse_duration_ms(text: &str) -> Result<i64, TimeError> {
    let error = || TimeError::Duration(text.to_owned());
    // The library rejects days, since calendar days vary in length; here a day has 24 hours.
    let days = text.strip_suffix('d').and_then(|days| days.parse::<i64>().ok());
    let ms = if let Some(days) = days {
        days.checked_mul(86_400_000)
    } else {
        let duration: jiff::SignedDuration = text.parse().map_err(|_| error())?;
        i64::try_from(duration.as_millis()).ok()
    };
    ms.filter(|ms| *ms > 0).ok_or_else(error)
}

/// A duration in milliseconds, parsed and displayed as users write it: `90s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Millis(pub i64);

impl FromStr for Millis {
    type Err = TimeError;

    fn from_str(text: &str) -> Result<Self, TimeError> {
        parse_duration_ms(text).map(Self)
    }
}

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&format_duration_ms(self.0))
    }
}

/// Formats a duration in its largest whole unit up to hours, as windows are named: `24h`, `90s`.
pub fn format_duration_ms(ms: i64) -> String {
    let units = [(3_600_000, "h"), (60_000, "m"), (1000, "s")];
    let unit = units.iter().find(|(unit, _)| ms % unit == 0 && ms > 0);
    unit.map_or_else(|| format!("{ms}ms"), |(unit, name)| format!("{}{name}", ms / unit))
}

/// Formats a time as RFC 3339 in UTC, for people to read.
pub fn format_ms(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).map_or_else(|_| format!("{ms} ms"), |t| t.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_parsed_in_every_unit() {
        assert_eq!(TimeUnit::Millis.parse("1700000000000"), Ok(1_700_000_000_000));
        assert_eq!(TimeUnit::Micros.parse("1700000000123456"), Ok(1_700_000_000_123));
        assert_eq!(TimeUnit::Seconds.parse("1700000000"), Ok(1_700_000_000_000));
        assert_eq!(TimeUnit::Seconds.parse("1700000000.1239"), Ok(1_700_000_000_123));
        assert_eq!(TimeUnit::Rfc3339.parse("2023-11-15T00:13:20.25+02:00"), Ok(1_700_000_000_250));
        for bad in ["", "x", "1.", ".5", "+1", "0x1", "1e", "e3", "1e+", "1e+-3", "1e0.5", "--1"] {
            assert!(matches!(TimeUnit::Millis.parse(bad), Err(TimeError::Unreadable(..))), "{bad}");
        }
        for outside in ["-1", "4102444800000", "99999999999999999999", "1e99999999999999999999"] {
            let parsed = TimeUnit::Millis.parse(outside);
            assert!(matches!(parsed, Err(TimeError::OutOfRange(_))), "{outside}");
        }
    }

    #[test]
    fn time_before_1970_is_refused_however_little_before() {
        let numbers = ["-0.5", "-0.0001", "-1e-9", "-1e-99999999999999999999", "-999e-3", "-1"];
        for unit in [TimeUnit::Millis, TimeUnit::Seconds, TimeUnit::Micros] {
            for text in numbers {
                let parsed = unit.parse(text);
                assert!(matches!(parsed, Err(TimeError::OutOfRange(_))), "{text} {unit}");
            }
            for zero in ["-0", "-0.0", "-0.000e5", "-0e-9", "-0e99999999999999999999"] {
                assert_eq!(unit.parse(zero), Ok(0), "{zero} {unit}");
            }
            assert_eq!(unit.parse("1e-9"), Ok(0), "{unit}");
        }
        for digits in [1, 3, 4, 9, 10, 50] {
            let text = format!("1969-12-31T23:59:59.{}Z", "9".repeat(digits));
            let parsed = TimeUnit::Rfc3339.parse(&text);
            assert!(matches!(parsed, Err(TimeError::OutOfRange(_))), "{text}");
        }
    }

    #[test]
    fn number_with_an_exponent_is_exactly_that_number() {
        let ms = |unit: TimeUnit, text: &str| unit.parse(text).unwrap();
        for (text, want) in [
            ("1.7672544e12", 1_767_254_400_000),
            ("1.767254400123E+12", 1_767_254_400_123),
            ("17672544001239e-1", 1_767_254_400_123),
            ("0.00000000000001767254400123e26", 1_767_254_400_123),
            ("1.767254400123999999999999999999e12", 1_767_254_400_123),
            ("1e-99999999999999999999", 0),
            ("0e99999999999999999999", 0),
            ("0.0", 0),
        ] {
            assert_eq!(ms(TimeUnit::Millis, text), want, "{text}");
        }
        // A double would give 1767254400122.
        assert_eq!(ms(TimeUnit::Seconds, "1767254400.123"), 1_767_254_400_123);
        assert_eq!(ms(TimeUnit::Seconds, "1.7672544001239e9"), 1_767_254_400_123);
        assert_eq!(ms(TimeUnit::Micros, "1.767254400123999e15"), 1_767_254_400_123);
        let zeros = "0".repeat(60_000);
        assert_eq!(ms(TimeUnit::Millis, &format!("0.{zeros}17e60002")), 17);
        assert_eq!(ms(TimeUnit::Millis, &format!("17{zeros}e-60000")), 17);
    }

    #[test]
    fn seconds_of_rfc_3339_have_any_number_of_digits() {
        let zeros = "0".repeat(20_000);
        for (fraction, want) in [
            ("", 0),
            (".1", 100),
            (".123456789", 123),
            (".1239999999", 123),
            (".123999999999999999999999999999", 123),
            (&format!(".5{zeros}1"), 500),
        ] {
            for zone in ["Z", "z", "+00:00", "-00:00"] {
                let parsed =
                    TimeUnit::Rfc3339.parse(&format!("2026-01-01T08:00:00{fraction}{zone}"));
                assert_eq!(parsed, Ok(1_767_254_400_000 + want), "{fraction:.40}{zone}");
            }
        }
        for bad in ["2026-01-01T08:00:00.Z", "2026-01-01T08:00:00.1234567891", "x.1234567891Z"] {
            assert!(TimeUnit::Rfc3339.parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_are_parsed_and_formatted() {
        for (text, ms) in [("90s", 90_000), ("10m", 600_000), ("24h", 86_400_000), ("50ms", 50)] {
            assert_eq!(parse_duration_ms(text), Ok(ms));
        }
        assert_eq!(parse_duration_ms("7d"), Ok(604_800_000));
        assert!(parse_duration_ms("0s").is_err() && parse_duration_ms("soon").is_err());
        assert_eq!(format_duration_ms(3_600_000), "1h");
        assert_eq!(format_duration_ms(86_400_000), "24h");
        assert_eq!(format_duration_ms(90_000), "90s");
    }
}
