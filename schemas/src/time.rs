//! Times and durations as users write them. Internally, times are milliseconds since 1970 in UTC.

use std::fmt;
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
    /// Parses a time of this unit as milliseconds; finer fractions are cut off.
    ///
    /// ```
    /// use schemas::time::TimeUnit;
    /// assert_eq!(TimeUnit::Seconds.parse("1700000000.5"), Ok(1_700_000_000_500));
    /// assert_eq!(TimeUnit::Rfc3339.parse("2023-11-14T22:13:20Z"), Ok(1_700_000_000_000));
    /// ```
    pub fn parse(self, text: &str) -> Result<i64, TimeError> {
        let unreadable = || TimeError::Unreadable(text.chars().take(40).collect(), self);
        let ms = match self {
            Self::Rfc3339 => {
                let time: jiff::Timestamp = text.parse().map_err(|_| unreadable())?;
                Some(time.as_millisecond())
            }
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

/// Parses a decimal number times `10^shift`, truncated to an integer.
fn decimal(text: &str, shift: i32) -> Option<i64> {
    let all_digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    if shift == 0 && all_digits(text) {
        return text.parse().ok();
    }
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let (negative, digits) = whole.strip_prefix('-').map_or((false, whole), |d| (true, d));
    if !all_digits(digits) || !all_digits(fraction) {
        return None;
    }
    let number: i64 = digits.parse().ok()?;
    let scale = 10_i64.pow(shift.unsigned_abs());
    let value = if shift < 0 {
        number / scale
    } else {
        let mut part = 0;
        for i in 0..shift as usize {
            part = part * 10 + fraction.as_bytes().get(i).map_or(0, |d| i64::from(d - b'0'));
        }
        number.checked_mul(scale)?.checked_add(part)?
    };
    Some(if negative { -value } else { value })
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
        for bad in ["", "x", "1e3", "1.", ".5", "+1", "0x1", "99999999999999999999"] {
            assert!(matches!(TimeUnit::Millis.parse(bad), Err(TimeError::Unreadable(..))), "{bad}");
        }
        for outside in ["-1", "4102444800000"] {
            assert!(matches!(TimeUnit::Millis.parse(outside), Err(TimeError::OutOfRange(_))));
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
