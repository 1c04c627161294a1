//! Values that VirtualServices and DestinationRules have in common: hosts, durations, shares, numbers within bounds.
//! Each reader gives the value, or the fault at its field.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use underpass_core::{
    authz::HeaderName,
    http::{Host, ParsePatternError, Pattern, TextMatch, ValueMatch},
    objects::{ExportTo, Limit, Share},
};

use super::{Faults, syntax};
use crate::{Fault, RouteFault, path::At, shapes};

const HOST: &str = "a host: a DNS name, one with `*` in the place of its first part, or `*` alone";
const DURATION: &str = "a duration: write one like 10s, 1m30s or 250ms";
const AT_LEAST_1_MS: &str = "a duration of at least 1ms";
const HEADER: &str = "a header name: A-Z, a-z, 0-9 and !#$%&'*+-.^_`|~";
const PERCENT: &str = "a percentage from 0 to 100";
/// The longest duration that is taken for one: 10 years. Longer ones overflow what counts them.
const MAX_SECONDS: u64 = 10 * 366 * 24 * 60 * 60;

pub(super) fn malformed(found: &str, expected: &'static str) -> Fault {
    RouteFault::Malformed { found: found.into(), expected }.into()
}

pub(super) fn host(text: &str) -> Result<Host, Fault> {
    let name = text.strip_prefix('*').map_or(text, |end| end.strip_prefix(['.', '-']).unwrap_or(end));
    let is_address = || text.parse::<std::net::IpAddr>().is_ok();
    match text {
        "" => Err(Fault::Missing),
        "*" => Ok(Host::Any),
        _ if syntax::dns_subdomain(&name.to_ascii_lowercase()).is_ok() || is_address() => Ok(Host::parse(text)),
        _ => Err(malformed(text, HOST)),
    }
}

pub(super) fn export_to(all: &[String], at: &At<'_>, faults: &mut Faults) -> ExportTo {
    if all.is_empty() || all.iter().any(|one| one == "*") {
        return ExportTo::All;
    }
    let mut others = Vec::new();
    for (i, text) in all.iter().enumerate().filter(|(_, text)| !matches!(text.as_str(), "." | "~")) {
        others.extend(faults.check(&at.index(i), syntax::dns_label(text)));
    }
    ExportTo::Namespaces { own: all.iter().any(|one| one == "."), others }
}

/// `mesh`, `name` or `namespace/name`.
pub(super) fn gateways(all: &[String], at: &At<'_>, faults: &mut Faults) -> Vec<Arc<str>> {
    let one = |text: &str| {
        let parts: Vec<_> = text.split('/').collect();
        let is_good = parts.len() <= 2 && parts.iter().all(|part| syntax::dns_subdomain(part).is_ok());
        if is_good { Ok(text.into()) } else { Err(malformed(text, "a gateway: `mesh`, `name` or `namespace/name`")) }
    };
    all.iter().enumerate().filter_map(|(i, text)| faults.check(&at.index(i), one(text))).collect()
}

/// As Go writes durations: numbers with units, without a sign.
pub(super) fn duration(text: &str) -> Result<Duration, Fault> {
    parse_duration(text).ok_or_else(|| malformed(text, DURATION))
}

fn parse_duration(text: &str) -> Option<Duration> {
    const UNITS: [(&str, u64); 7] = [
        ("ns", 1),
        ("us", 1_000),
        ("µs", 1_000),
        ("ms", 1_000_000),
        ("h", 3_600_000_000_000),
        ("m", 60_000_000_000),
        ("s", 1_000_000_000),
    ];
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut nanos: u64 = 0;
    while !rest.is_empty() || text.is_empty() {
        let (number, after) = rest.split_at(rest.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(0));
        let (unit, of_unit) = UNITS.into_iter().find(|(unit, _)| after.starts_with(unit))?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return None;
        }
        let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        nanos = nanos.checked_add(whole.checked_mul(of_unit)?)?;
        let mut of_digit = of_unit;
        for digit in fraction.bytes() {
            of_digit = of_digit.checked_div(10)?;
            nanos = nanos.checked_add(u64::from(digit.checked_sub(b'0')?).checked_mul(of_digit)?)?;
        }
        rest = after.get(unit.len()..)?;
    }
    let duration = Duration::from_nanos(nanos);
    (duration.as_secs() <= MAX_SECONDS).then_some(duration)
}

/// A duration of at least a millisecond, where there is one.
pub(super) fn some_duration(text: Option<&String>, at: &At<'_>, faults: &mut Faults) -> Option<Duration> {
    let text = text?;
    let duration = faults.check(at, duration(text))?;
    if duration < Duration::from_millis(1) {
        faults.push(at, malformed(text, AT_LEAST_1_MS));
    }
    Some(duration)
}

/// A limit of time, where one is said; `0s` says that there is none.
pub(super) fn limit(text: Option<&String>, at: &At<'_>, faults: &mut Faults) -> Option<Limit> {
    let text = text?;
    match faults.check(at, duration(text))? {
        Duration::ZERO => Some(None),
        _ => Some(some_duration(Some(text), at, faults)),
    }
}

/// A number from `least` to `most`, where there is one.
pub(super) fn number(n: Option<i64>, least: u32, most: u32, at: &At<'_>, faults: &mut Faults) -> Option<u32> {
    let n = n?;
    let fits = u32::try_from(n).ok().filter(|n| (least..=most).contains(n));
    faults.check(at, fits.ok_or(RouteFault::OutOfRange { found: n, least: least.into(), most: most.into() }.into()))
}

/// A limit of how many, where 0 says that there is none.
pub(super) fn count(n: Option<i64>, at: &At<'_>, faults: &mut Faults) -> Option<u32> {
    number(n, 0, i32::MAX.unsigned_abs(), at, faults).filter(|n| *n > 0)
}

pub(super) fn port(n: Option<i64>, at: &At<'_>, faults: &mut Faults) -> Option<u16> {
    n.and_then(|n| faults.check(at, syntax::port(n)))
}

/// `port.number`, where there is a `port`.
pub(super) fn port_of(port: Option<&shapes::PortSelector>, at: &At<'_>, faults: &mut Faults) -> Option<u16> {
    let at = at.field("port");
    let number = faults.check(&at.field("number"), port?.number.ok_or(Fault::Missing));
    self::port(number, &at.field("number"), faults)
}

pub(super) fn share(percentage: Option<&shapes::Percentage>, at: &At<'_>, faults: &mut Faults) -> Option<Share> {
    let value = percentage?.value;
    let share = Share::of_percent(value).ok_or_else(|| malformed(&value.to_string(), PERCENT));
    faults.check(&at.field("percentage").field("value"), share)
}

/// A name in lower case.
pub(super) fn header_name(text: &str) -> Result<Arc<str>, Fault> {
    let name: HeaderName = text.parse().map_err(|_| malformed(text, HEADER))?;
    Ok(name.as_str().into())
}

/// A text that goes into a head of HTTP as it is: no line may end in it.
pub(super) fn head_text(text: &str) -> Result<Arc<str>, Fault> {
    let is_good = text.bytes().all(|b| (b >= b' ' || b == b'\t') && b != 0x7f);
    if is_good { Ok(text.into()) } else { Err(malformed(text, "a text without control characters")) }
}

pub(super) fn some_head_text(text: Option<&String>, at: &At<'_>, faults: &mut Faults) -> Option<Arc<str>> {
    faults.check(at, head_text(text.filter(|t| !t.is_empty())?))
}

pub(super) fn pattern_fault(found: &str) -> impl FnOnce(ParsePatternError) -> Fault + '_ {
    |reason| RouteFault::Pattern { found: found.into(), reason }.into()
}

/// The condition; none, without a fault: it asks for nothing.
fn condition(shape: &shapes::StringMatch, at: &At<'_>, faults: &mut Faults) -> Option<TextMatch> {
    match (&shape.exact, &shape.prefix, &shape.regex) {
        (Some(text), None, None) => Some(TextMatch::Exact(text.as_str().into())),
        (None, Some(text), None) => Some(TextMatch::Prefix(text.as_str().into())),
        (None, None, Some(text)) => {
            let pattern = Pattern::parse(text).map_err(pattern_fault(text));
            faults.check(&at.field("regex"), pattern).map(TextMatch::Regex)
        }
        (None, None, None) => None,
        (_, Some(_), Some(_)) => {
            faults.push(&at.field("regex"), Fault::Exclusive { other: "prefix" });
            None
        }
        (_, Some(_), None) => {
            faults.push(&at.field("prefix"), Fault::Exclusive { other: "exact" });
            None
        }
        (_, None, Some(_)) => {
            faults.push(&at.field("regex"), Fault::Exclusive { other: "exact" });
            None
        }
    }
}

/// A condition on a part that every request has.
pub(super) fn text(shape: Option<&shapes::StringMatch>, at: &At<'_>, faults: &mut Faults) -> Option<TextMatch> {
    let shape = shape?;
    if *shape == shapes::StringMatch::default() {
        faults.push(at, RouteFault::OneOf { of: "exact, prefix and regex" }.into());
    }
    condition(shape, at, faults)
}

/// Conditions by the name of what may be there.
pub(super) fn values(
    all: &BTreeMap<String, shapes::StringMatch>,
    at: &At<'_>,
    faults: &mut Faults,
    name: impl Fn(&str) -> Result<Arc<str>, Fault>,
) -> BTreeMap<Arc<str>, ValueMatch> {
    let mut read = BTreeMap::new();
    for (key, shape) in all {
        let at = at.field(key);
        let present = *shape == shapes::StringMatch::default();
        let value = condition(shape, &at, faults).map(ValueMatch::Value);
        let value = if present { Some(ValueMatch::Present) } else { value };
        read.extend(faults.check(&at, name(key)).zip(value));
    }
    read
}

/// One of a closed set; none is said: nothing.
pub(super) fn word<T>(
    text: Option<&String>,
    words: &[(&'static str, T)],
    known: &'static [&'static str],
    at: &At<'_>,
    faults: &mut Faults,
) -> Option<T>
where
    T: Copy,
{
    let text = text?;
    let found = words.iter().find(|(word, _)| word == text).map(|(_, value)| *value);
    faults.check(at, found.ok_or_else(|| Fault::Value { found: text.as_str().into(), known }))
}

/// Standard base64 (RFC 4648, 4).
pub(super) fn base64(text: &str) -> Result<Vec<u8>, Fault> {
    let bad = || malformed(text, "base64");
    let digits = text.trim_end_matches('=');
    let padding = text.len().saturating_sub(digits.len());
    if !text.len().is_multiple_of(4) || padding > 2 {
        return Err(bad());
    }
    let (mut out, mut bits, mut held) = (Vec::new(), 0_u32, 0_u32);
    for digit in digits.bytes() {
        let value = match digit {
            b'A'..=b'Z' => digit.wrapping_sub(b'A'),
            b'a'..=b'z' => digit.wrapping_sub(b'a').wrapping_add(26),
            b'0'..=b'9' => digit.wrapping_sub(b'0').wrapping_add(52),
            b'+' => 62,
            b'/' => 63,
            _ => return Err(bad()),
        };
        bits = (bits << 6) | u32::from(value);
        held = held.wrapping_add(6);
        if held >= 8 {
            held = held.wrapping_sub(8);
            out.extend((bits >> held).to_le_bytes().first());
            bits &= !(u32::MAX << held);
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, expect) in [
            ("10s", Some(10_000_000_000)),
            ("1.5s", Some(1_500_000_000)),
            ("0.25s", Some(250_000_000)),
            (".5s", Some(500_000_000)),
            ("2h45m", Some(9_900_000_000_000)),
            ("250ms", Some(250_000_000)),
            ("1m0.5s", Some(60_500_000_000)),
            ("3us", Some(3_000)),
            ("0s", Some(0)),
            ("0", Some(0)),
            ("10", None),
            ("s", None),
            (".s", None),
            ("1.2.3s", None),
            ("-1s", None),
            ("+1s", None),
            ("1 s", None),
            ("1d", None),
            ("", None),
            ("99999999999h", None),
            ("90000h", None),
        ] {
            assert_eq!(parse_duration(text).map(|d| d.as_nanos()), expect, "{text:?}");
        }
    }

    #[test]
    fn hosts() {
        for (text, good) in [
            ("reviews", true),
            ("reviews.default.svc.cluster.local", true),
            ("*.example.com", true),
            ("*-cart.example.com", true),
            ("*", true),
            ("10.0.0.1", true),
            ("Reviews", true),
            ("*.", false),
            ("a.*.b", false),
            ("**.a", false),
            ("http://a", false),
            ("a:80", false),
            ("a/b", false),
            ("", false),
        ] {
            assert_eq!(host(text).is_ok(), good, "{text:?}");
        }
    }

    #[test]
    fn bytes_of_base64() {
        for (text, expect) in [("", Some("")), ("aGk=", Some("hi")), ("aGk", None), ("aGVsbG8h", Some("hello!"))] {
            assert_eq!(base64(text).ok(), expect.map(|e| e.as_bytes().to_vec()), "{text}");
        }
        assert!(base64("a===").is_err() && base64("a$k=").is_err());
    }
}
