//! Durations as people write them: `30`, `30s`, `1h30m`, `500ms`. A bare number is seconds.

use std::time::Duration;

/// The units of a duration, largest first, in milliseconds.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// A text that is no duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// Not the grammar.
    #[error("a number of seconds, or numbers with units, such as 30s, 1h30m or 500ms (d, h, m, s, ms)")]
    Syntax,
    /// More milliseconds than there are numbers.
    #[error("longer than can be counted")]
    TooLong,
    /// Less than makes sense.
    #[error("at least {}", show(*.0))]
    TooShort(Duration),
}

/// Reads a duration.
///
/// # Errors
/// Where it is none.
pub fn duration(text: &str) -> Result<Duration, DurationError> {
    let (mut rest, mut total, mut parts) = (text, 0u64, 0);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (number, after) = rest.split_at(digits);
        let unit = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit);
        let is_bare = unit.is_empty() && parts == 0;
        let known = UNITS.iter().find(|(name, _)| *name == if is_bare { "s" } else { unit });
        let (_, ms) = known.ok_or(DurationError::Syntax)?;
        if number.is_empty() {
            return Err(DurationError::Syntax);
        }
        let part = number.parse::<u64>().ok().and_then(|n| n.checked_mul(*ms));
        total = part.and_then(|part| total.checked_add(part)).ok_or(DurationError::TooLong)?;
        (rest, parts) = (after, parts + 1);
    }
    if parts == 0 { Err(DurationError::Syntax) } else { Ok(Duration::from_millis(total)) }
}

/// Reads a duration that is not shorter than `least_s` seconds.
///
/// # Errors
/// Where it is none, or shorter.
pub fn at_least(text: &str, least_s: u64) -> Result<Duration, DurationError> {
    let least = Duration::from_secs(least_s);
    duration(text).and_then(|d| if d < least { Err(DurationError::TooShort(least)) } else { Ok(d) })
}

/// The text of a duration, in the largest units.
#[must_use]
pub fn show(duration: Duration) -> String {
    let mut ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut text = String::new();
    for (name, unit) in UNITS {
        if ms >= unit {
            text += &format!("{}{name}", ms / unit);
            ms %= unit;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let good = |text: &str, ms: u64, shown: &str| {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
            assert_eq!(show(Duration::from_millis(ms)), shown);
            assert_eq!(duration(shown), Ok(Duration::from_millis(ms)));
        };
        good("0", 0, "0s");
        good("30", 30_000, "30s");
        good("86400", 86_400_000, "1d");
        good("1h30m", 5_400_000, "1h30m");
        good("500ms", 500, "500ms");
        good("1m500ms", 60_500, "1m500ms");
        good("90s", 90_000, "1m30s");

        let bad = |text: &str, want: DurationError| assert_eq!(duration(text), Err(want), "{text:?}");
        for text in ["", "s", "-1", "1.5", "1.5s", "1h30", "1 h", " 1", "1w", "1S", "h1", "١s"] {
            bad(text, DurationError::Syntax);
        }
        bad("99999999999999999999", DurationError::TooLong);
        bad("18446744073709551615s", DurationError::TooLong);
        bad("213503982334d18446744073709551615ms", DurationError::TooLong);

        assert_eq!(at_least("4", 4), Ok(Duration::from_secs(4)));
        assert_eq!(at_least("3999ms", 4).unwrap_err().to_string(), "at least 4s");
    }
}
