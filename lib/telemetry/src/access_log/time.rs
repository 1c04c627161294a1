//! Times of lines, in UTC: RFC 3339, and formats of the user's own with the specifiers of strftime. No clock: moments are
//! arguments.

use std::fmt::{self, Display, Write as _};

const MS_PER_DAY: u64 = 86_400_000;
/// 9999-12-31T23:59:59.999Z: RFC 3339 has four digits for a year.
const LAST_MS: u64 = 253_402_300_799_999;
/// 1970-01-01 was a Thursday, counted from Sunday.
const FIRST_WEEKDAY: u64 = 4;

const WEEKDAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// Milliseconds since the epoch, shown as RFC 3339 in UTC.
pub(super) struct Timestamp(pub(super) u64);

impl Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = Moment::new(self.0.saturating_mul(1000));
        let Moment { year, month, day, hour, minute, second, us, .. } = at;
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", us / 1000)
    }
}

/// A moment, in the parts that people read.
#[derive(Clone, Copy, Debug)]
struct Moment {
    /// Seconds since 1970.
    unix: u64,
    year: u64,
    /// From 1.
    month: u64,
    day: u64,
    hour: u64,
    minute: u64,
    second: u64,
    us: u64,
    /// From Sunday, 0.
    weekday: u64,
    /// From 1.
    day_of_year: u64,
}

impl Moment {
    /// Of microseconds since 1970; none is after the year 9999.
    fn new(us: u64) -> Self {
        let us = us.min(LAST_MS * 1000 + 999);
        let (ms, unix) = (us / 1000, us / 1_000_000);
        let days = ms / MS_PER_DAY;
        let (year, month, day) = civil(days);
        let seconds = ms % MS_PER_DAY / 1000;
        let day_of_year = days + 1 - days_before(year);
        let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        let weekday = (days + FIRST_WEEKDAY) % 7;
        Self { unix, year, month, day, hour, minute, second, us: us % 1_000_000, weekday, day_of_year }
    }

    const fn hour_of_12(&self) -> u64 {
        match self.hour % 12 {
            0 => 12,
            hour => hour,
        }
    }
}

/// Days from 1970-01-01 to the first of January of this year.
const fn days_before(year: u64) -> u64 {
    let last = year - 1;
    let leap_days = last / 4 - last / 100 + last / 400;
    // 477 leap days were before 1970.
    (year - 1970) * 365 + leap_days - 477
}

/// Year, month and day of the `days`-th day after 1970-01-01, in the Gregorian calendar.
///
/// Counted in eras of 400 years that begin on a 1st of March, so that the leap day comes last
/// (H. Hinnant, "chrono-compatible low-level date algorithms", `civil_from_days`).
const fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468; // from 0000-03-01
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + (month <= 2) as u64;
    (year, month, day)
}

/// A format of times, read once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct TimeFormat(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(String),
    /// A specifier of strftime.
    Specifier(char),
    /// So many digits of the second's fraction.
    Fraction(usize),
}

impl TimeFormat {
    /// Reads it; an empty one is RFC 3339 with milliseconds.
    ///
    /// # Errors
    /// The specifier that is none.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let (mut rest, mut literal) = (text.chars(), String::new());
        while let Some(c) = rest.next() {
            if c != '%' {
                literal.push(c);
                continue;
            }
            let part = match rest.next() {
                Some('%') => {
                    literal.push('%');
                    continue;
                }
                Some('n') => {
                    literal.push('\n');
                    continue;
                }
                Some('t') => {
                    literal.push('\t');
                    continue;
                }
                Some('f') => Part::Fraction(9),
                Some(digit @ '1'..='9') if rest.clone().next() == Some('f') => {
                    rest.next();
                    Part::Fraction(digit.to_digit(10).map_or(9, |digits| digits as usize))
                }
                Some(c) if "YCymdejHIMSpsaAbBhzZFTRDcxXu".contains(c) => Part::Specifier(c),
                other => return Err(format!("%{}", other.map(String::from).unwrap_or_default())),
            };
            if !literal.is_empty() {
                parts.push(Part::Literal(std::mem::take(&mut literal)));
            }
            parts.push(part);
        }
        if !literal.is_empty() {
            parts.push(Part::Literal(literal));
        }
        Ok(Self(parts))
    }

    /// This moment, in microseconds since 1970.
    pub(super) const fn at(&self, unix_us: u64) -> At<'_> {
        At { format: self, unix_us }
    }
}

/// A moment, shown in a format.
#[derive(Clone, Copy, Debug)]
pub(super) struct At<'f> {
    format: &'f TimeFormat,
    unix_us: u64,
}

impl Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.format.0.is_empty() {
            return Timestamp(self.unix_us / 1000).fmt(f);
        }
        let at = Moment::new(self.unix_us);
        self.format.0.iter().try_for_each(|part| match part {
            Part::Literal(text) => f.write_str(text),
            Part::Specifier(c) => specified(f, *c, &at),
            Part::Fraction(digits) => {
                let all = format!("{:06}000", at.us);
                f.write_str(all.get(..*digits).unwrap_or(&all))
            }
        })
    }
}

fn specified(f: &mut fmt::Formatter<'_>, specifier: char, at: &Moment) -> fmt::Result {
    let Moment { unix, year, month, day, hour, minute, second, weekday, day_of_year, .. } = at;
    let weekday_name = WEEKDAYS[*weekday as usize % 7];
    let month_name = MONTHS[(*month as usize + 11) % 12];
    match specifier {
        'Y' => write!(f, "{year}"),
        'C' => write!(f, "{:02}", year / 100),
        'y' => write!(f, "{:02}", year % 100),
        'm' => write!(f, "{month:02}"),
        'd' => write!(f, "{day:02}"),
        'e' => write!(f, "{day:2}"),
        'j' => write!(f, "{day_of_year:03}"),
        'H' => write!(f, "{hour:02}"),
        'I' => write!(f, "{:02}", at.hour_of_12()),
        'M' => write!(f, "{minute:02}"),
        'S' => write!(f, "{second:02}"),
        'p' => f.write_str(if *hour < 12 { "AM" } else { "PM" }),
        's' => write!(f, "{unix}"),
        'a' => f.write_str(&weekday_name[..3]),
        'A' => f.write_str(weekday_name),
        'b' | 'h' => f.write_str(&month_name[..3]),
        'B' => f.write_str(month_name),
        'u' => write!(f, "{}", if *weekday == 0 { 7 } else { *weekday }),
        'z' => f.write_str("+0000"),
        'Z' => f.write_str("UTC"),
        'F' => write!(f, "{year}-{month:02}-{day:02}"),
        'T' | 'X' => write!(f, "{hour:02}:{minute:02}:{second:02}"),
        'R' => write!(f, "{hour:02}:{minute:02}"),
        'D' | 'x' => write!(f, "{month:02}/{day:02}/{:02}", year % 100),
        'c' => {
            let (weekday, month) = (&weekday_name[..3], &month_name[..3]);
            write!(f, "{weekday} {month} {day:2} {hour:02}:{minute:02}:{second:02} {year}")
        }
        other => f.write_char(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_of_times() {
        // 2024-02-29T13:05:09.012345Z, a Thursday.
        let at = 1_709_211_909_012_345;
        let check = |format: &str, want: &str| {
            let format = TimeFormat::parse(format);
            assert_eq!(format.map(|format| format.at(at).to_string()).as_deref(), Ok(want));
        };
        check("", "2024-02-29T13:05:09.012Z");
        check("%Y/%m/%dT%H:%M:%S%z %s", "2024/02/29T13:05:09+0000 1709211909");
        check("%s.%3f %f %1f %9f", "1709211909.012 012345000 0 012345000");
        check("%a %A %b %B %h %e %j %y %C %u", "Thu Thursday Feb February Feb 29 060 24 20 4");
        check("%I%p %R %T %D %F", "01PM 13:05 13:05:09 02/29/24 2024-02-29");
        check("%c %x %X %Z %% day", "Thu Feb 29 13:05:09 2024 02/29/24 13:05:09 UTC % day");
        let wrong = |format: &str, specifier: &str| {
            assert_eq!(TimeFormat::parse(format).map(|_| ()), Err(specifier.to_owned()), "{format}");
        };
        wrong("%Y %Q", "%Q");
        wrong("%3", "%3");
        wrong("%", "%");
    }

    #[test]
    fn days_of_years() {
        for (day, want) in [(0, 1), (364, 365), (365, 1), (1_095, 366), (1_096, 1), (19_782, 60), (47_541, 60)] {
            assert_eq!(Moment::new(day * MS_PER_DAY * 1000).day_of_year, want, "{day}");
        }
    }

    #[test]
    fn timestamps() {
        let check = |ms: u64, want: &str| assert_eq!(Timestamp(ms).to_string(), want);
        check(0, "1970-01-01T00:00:00.000Z");
        check(951_782_399_999, "2000-02-28T23:59:59.999Z");
        check(951_782_400_000, "2000-02-29T00:00:00.000Z");
        check(951_868_800_000, "2000-03-01T00:00:00.000Z");
        check(1_709_164_800_000, "2024-02-29T00:00:00.000Z");
        check(1_735_689_599_999, "2024-12-31T23:59:59.999Z");
        check(4_107_542_400_000, "2100-03-01T00:00:00.000Z");
        check(u64::MAX, "9999-12-31T23:59:59.999Z");
    }

    #[test]
    fn every_day_follows_the_day_before() {
        let leap = |y: u64| y.is_multiple_of(4) && (!y.is_multiple_of(100) || y.is_multiple_of(400));
        let days_in = |y, m| match m {
            2 if leap(y) => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        let (mut y, mut m, mut d) = (1970, 1, 1);
        for day in 0..300_000 {
            assert_eq!(civil(day), (y, m, d));
            (y, m, d) = match (m, d) {
                (12, 31) => (y + 1, 1, 1),
                (m, d) if d == days_in(y, m) => (y, m + 1, 1),
                (m, d) => (y, m, d + 1),
            };
        }
    }
}
