//! The grammars of Kubernetes' names, labels and ports, and of addresses. Each function takes text and gives a value
//! or the fault; nothing here knows fields.
//!
//! Kubernetes: `apimachinery/pkg/util/validation` ("Object Names and IDs", "Labels and Selectors" in its documents).

use std::{net::IpAddr, sync::Arc};

use ipnet::{IpNet, Ipv4Net};
use underpass_core::addr::may_be_remote;

use crate::Fault;

const LABEL_MAX_BYTES: usize = 63; // RFC 1123: one label of a DNS name
const SUBDOMAIN_MAX_BYTES: usize = 253; // a DNS name without its final dot
const PORT_NAME_MAX_BYTES: usize = 15; // RFC 6335, 5.1
const UID_MAX_BYTES: usize = 128;

const LABEL_RULE: &str = "up to 63 of a-z 0-9 -, with a letter or digit at both ends";
const SERVICE_RULE: &str = "up to 63 of a-z 0-9 -, a letter first, a letter or digit last";
const SUBDOMAIN_RULE: &str = "up to 253 of a-z 0-9 - ., with a letter or digit at both ends of each part";

const fn lower(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}

fn is_dns_label(text: &str) -> bool {
    let ends = |b: Option<&u8>| b.copied().is_some_and(lower);
    text.len() <= LABEL_MAX_BYTES
        && ends(text.as_bytes().first())
        && ends(text.as_bytes().last())
        && text.bytes().all(|b| lower(b) || b == b'-')
}

fn is_dns_subdomain(text: &str) -> bool {
    // Kubernetes does not limit the parts, only the whole.
    let part = |p: &str| {
        let ends = |b: Option<&u8>| b.copied().is_some_and(lower);
        ends(p.as_bytes().first()) && ends(p.as_bytes().last()) && p.bytes().all(|b| lower(b) || b == b'-')
    };
    text.len() <= SUBDOMAIN_MAX_BYTES && text.split('.').all(part)
}

/// The name part of a label's key, and a label's value: `[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?`.
fn is_label_word(text: &str) -> bool {
    let ends = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    text.len() <= LABEL_MAX_BYTES
        && ends(text.as_bytes().first())
        && ends(text.as_bytes().last())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

fn named(text: &str, rule: &'static str, is_valid: bool) -> Result<Arc<str>, Fault> {
    match text {
        "" => Err(Fault::Missing),
        _ if is_valid => Ok(text.into()),
        _ => Err(Fault::Name { found: text.into(), rule }),
    }
}

/// A namespace.
pub(crate) fn dns_label(text: &str) -> Result<Arc<str>, Fault> {
    named(text, LABEL_RULE, is_dns_label(text))
}

/// A service.
pub(crate) fn service_name(text: &str) -> Result<Arc<str>, Fault> {
    named(text, SERVICE_RULE, is_dns_label(text) && text.starts_with(|c: char| c.is_ascii_lowercase()))
}

/// Most objects, nodes and service accounts among them.
pub(crate) fn dns_subdomain(text: &str) -> Result<Arc<str>, Fault> {
    named(text, SUBDOMAIN_RULE, is_dns_subdomain(text))
}

/// The key of a label or annotation.
pub(crate) fn label_key(text: &str) -> Result<Arc<str>, Fault> {
    let is_valid = match text.split_once('/') {
        Some((prefix, name)) => is_dns_subdomain(prefix) && is_label_word(name),
        None => is_label_word(text),
    };
    if is_valid { Ok(text.into()) } else { Err(Fault::LabelKey) }
}

/// The value of a label; may be empty.
pub(crate) fn label_value(text: &str) -> Result<Arc<str>, Fault> {
    let is_valid = text.is_empty() || is_label_word(text);
    if is_valid { Ok(text.into()) } else { Err(Fault::LabelValue { found: text.into() }) }
}

/// A uid, which becomes part of a path: no dots, no slashes.
pub(crate) fn uid(text: &str) -> Result<Arc<str>, Fault> {
    let is_valid = text.len() <= UID_MAX_BYTES && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if is_valid { Ok(text.into()) } else { Err(Fault::Uid { found: text.into() }) }
}

/// A port number.
pub(crate) fn port(n: i64) -> Result<u16, Fault> {
    match u16::try_from(n) {
        Ok(n) if n > 0 => Ok(n),
        _ => Err(Fault::Port { found: n.to_string().into() }),
    }
}

/// A port number as text, which policies have. Exactly as a number prints: no sign, no zeros before it.
pub(crate) fn port_text(text: &str) -> Result<u16, Fault> {
    match text.parse::<u16>() {
        Ok(n) if n > 0 && n.to_string() == text => Ok(n),
        _ => Err(Fault::Port { found: text.into() }),
    }
}

/// The name of a container's port.
pub(crate) fn port_name(text: &str) -> Result<Arc<str>, Fault> {
    let is_valid = text.len() <= PORT_NAME_MAX_BYTES
        && is_dns_label(text)
        && !text.contains("--")
        && text.bytes().any(|b| b.is_ascii_lowercase());
    if is_valid { Ok(text.into()) } else { Err(Fault::PortName { found: text.into() }) }
}

/// An address, canonical.
pub(crate) fn address(text: &str) -> Result<IpAddr, Fault> {
    text.parse().map(|ip: IpAddr| ip.to_canonical()).map_err(|_| Fault::Address { found: text.into() })
}

/// An address that something in a cluster can have, canonical.
pub(crate) fn cluster_address(text: &str) -> Result<IpAddr, Fault> {
    let ip = address(text)?;
    if may_be_remote(ip) { Ok(ip) } else { Err(Fault::LocalAddress { found: ip }) }
}

/// A CIDR or an address, canonical: without host bits, and IPv4 where it stands for IPv4 (RFC 4291, 2.5.5.2), because
/// it is compared with canonical addresses.
pub(crate) fn cidr(text: &str) -> Result<IpNet, Fault> {
    let net = match text.parse::<IpAddr>() {
        Ok(ip) => IpNet::from(ip),
        Err(_) => text.parse::<IpNet>().map_err(|_| Fault::Cidr { found: text.into() })?,
    };
    Ok(canonical_net(net.trunc()))
}

/// A CIDR of addresses that something in a cluster can have, canonical.
pub(crate) fn cluster_range(text: &str) -> Result<IpNet, Fault> {
    let range = cidr(text)?;
    for end in [range.network(), range.broadcast()] {
        if !may_be_remote(end) {
            return Err(Fault::LocalAddress { found: end });
        }
    }
    Ok(range)
}

fn canonical_net(net: IpNet) -> IpNet {
    const MAPPED_BITS: u8 = 96;
    let IpNet::V6(v6) = net else { return net };
    let mapped = v6.addr().to_ipv4_mapped().zip(v6.prefix_len().checked_sub(MAPPED_BITS));
    match mapped.map(|(ip, len)| Ipv4Net::new(ip, len)) {
        Some(Ok(v4)) => IpNet::V4(v4),
        _ => net,
    }
}

/// RFC 3339, as Kubernetes writes times: seconds since the epoch. Fractions are cut off.
pub(crate) fn seconds(text: &str) -> Result<i64, Fault> {
    parse_time(text).ok_or_else(|| Fault::Time { found: text.into() })
}

fn parse_time(text: &str) -> Option<i64> {
    let number = |from: usize, to: usize| -> Option<i64> {
        let digits = text.get(from..to)?;
        digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
    };
    let is = |at: usize, any: &str| text.get(at..at.checked_add(1)?).filter(|c| any.contains(*c));
    is(4, "-").and(is(7, "-")).and(is(10, "Tt")).and(is(13, ":")).and(is(16, ":"))?;
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let rest = text.get(19..)?;
    let zone = match rest.strip_prefix('.') {
        Some(fraction) => {
            let zone = fraction.trim_start_matches(|c: char| c.is_ascii_digit());
            (zone.len() < fraction.len()).then_some(zone)?
        }
        None => rest,
    };
    let offset_minutes = match zone {
        "Z" | "z" => 0,
        _ => zone_minutes(zone)?,
    };
    // second 60: a leap second counts as the one after it
    let valid = (1..=12).contains(&month)
        && (1..=days_of(year, month)).contains(&day)
        && hour <= 23
        && minute <= 59
        && second <= 60;
    let days = valid.then(|| days_since_epoch(year, month, day)).flatten()?;
    let minutes = days.checked_mul(24)?.checked_add(hour)?.checked_mul(60)?.checked_add(minute)?;
    minutes.checked_sub(offset_minutes)?.checked_mul(60)?.checked_add(second)
}

fn zone_minutes(zone: &str) -> Option<i64> {
    let (sign, rest) = match zone.strip_prefix('+') {
        Some(rest) => (1, rest),
        None => (-1, zone.strip_prefix('-')?),
    };
    let (hours, minutes) = rest.split_once(':').filter(|(h, m)| h.len() == 2 && m.len() == 2)?;
    let number = |t: &str, most: i64| {
        t.bytes().all(|b| b.is_ascii_digit()).then(|| t.parse::<i64>().ok()).flatten().filter(|n| *n <= most)
    };
    number(hours, 23)?.checked_mul(60)?.checked_add(number(minutes, 59)?)?.checked_mul(sign)
}

const fn is_leap(year: i64) -> bool {
    year.rem_euclid(4) == 0 && (year.rem_euclid(100) != 0 || year.rem_euclid(400) == 0)
}

const fn days_of(year: i64, month: i64) -> i64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01, in the Gregorian calendar.
fn days_since_epoch(year: i64, month: i64, day: i64) -> Option<i64> {
    const DAYS_TO_1970: i64 = 719_162; // from 0001-01-01
    let past = year.checked_sub(1)?;
    let leap_days = past.div_euclid(4).checked_sub(past.div_euclid(100))?.checked_add(past.div_euclid(400))?;
    let mut days = past.checked_mul(365)?.checked_add(leap_days)?;
    for m in 1..month {
        days = days.checked_add(days_of(year, m))?;
    }
    days.checked_add(day)?.checked_sub(1)?.checked_sub(DAYS_TO_1970)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let long = "a".repeat(64);
        for (text, label, service, subdomain) in [
            ("a", true, true, true),
            ("reviews-v1", true, true, true),
            ("1a", true, false, true),
            ("a.b", false, false, true),
            ("a..b", false, false, false),
            ("a-.b", false, false, false),
            ("-a", false, false, false),
            ("a-", false, false, false),
            ("A", false, false, false),
            ("a_b", false, false, false),
            ("", false, false, false),
            ("../a", false, false, false),
            ("ä", false, false, false),
            (long.as_str(), false, false, true),
        ] {
            let got = (dns_label(text).is_ok(), service_name(text).is_ok(), dns_subdomain(text).is_ok());
            assert_eq!(got, (label, service, subdomain), "{text:?}");
        }
        assert!(dns_subdomain(&"a".repeat(254)).is_err());
        assert_eq!(dns_label(""), Err(Fault::Missing));
    }

    #[test]
    fn labels() {
        for (key, good) in [
            ("app", true),
            ("app.kubernetes.io/name", true),
            ("App_1.x-y", true),
            ("/name", false),
            ("a/", false),
            ("A.b/name", false),
            ("a/b/c", false),
            ("-a", false),
            ("", false),
            ("a b", false),
        ] {
            assert_eq!(label_key(key).is_ok(), good, "{key:?}");
        }
        for (value, good) in [("", true), ("v1", true), ("V_1.2-3", true), ("a/b", false), ("*", false), ("a.", false)]
        {
            assert_eq!(label_value(value).is_ok(), good, "{value:?}");
        }
        assert!(label_value(&"a".repeat(64)).is_err());
    }

    #[test]
    fn ports() {
        for (n, good) in [(0, false), (1, true), (65_535, true), (65_536, false), (-1, false)] {
            assert_eq!(port(n).is_ok(), good, "{n}");
        }
        for (text, good) in
            [("80", true), ("0", false), ("080", false), ("+80", false), ("80-90", false), ("http", false), ("", false)]
        {
            assert_eq!(port_text(text).is_ok(), good, "{text:?}");
        }
        for (text, good) in
            [("http", true), ("h2c-1", true), ("80", false), ("a--b", false), ("abcdefghijklmnop", false), ("", false)]
        {
            assert_eq!(port_name(text).is_ok(), good, "{text:?}");
        }
    }

    #[test]
    fn addresses_are_canonical() {
        for (text, expect) in [
            ("10.0.0.1", Some("10.0.0.1")),
            ("::ffff:10.0.0.1", Some("10.0.0.1")),
            ("FD00::0:1", Some("fd00::1")),
            ("10.0.0.01", None),
            ("10.0.0.256", None),
            ("fe80::1%eth0", None),
            ("10.0.0.1/32", None),
            ("", None),
        ] {
            assert_eq!(address(text).ok().map(|a| a.to_string()).as_deref(), expect, "{text}");
        }
        for text in ["127.0.0.1", "::1", "0.0.0.0", "224.0.0.1", "fe80::1", "169.254.1.1"] {
            assert!(matches!(cluster_address(text), Err(Fault::LocalAddress { .. })), "{text}");
        }
    }

    #[test]
    fn networks_are_canonical() {
        for (text, expect) in [
            ("10.0.0.0/8", Some("10.0.0.0/8")),
            ("10.1.2.3/8", Some("10.0.0.0/8")),
            ("10.1.2.3", Some("10.1.2.3/32")),
            ("fd00::1", Some("fd00::1/128")),
            ("0.0.0.0/0", Some("0.0.0.0/0")),
            ("::ffff:10.0.0.0/104", Some("10.0.0.0/8")),
            ("::ffff:10.1.2.3", Some("10.1.2.3/32")),
            ("::/0", Some("::/0")),
            ("10.0.0.0/33", None),
            ("10.0.0.0/-1", None),
            ("10.0.0.0/", None),
            ("10.0.0.0/255.0.0.0", None),
            ("x", None),
        ] {
            assert_eq!(cidr(text).ok().map(|n| n.to_string()).as_deref(), expect, "{text}");
        }
        let all = cidr("::ffff:0:0/96").unwrap();
        let mapped: IpAddr = "::ffff:10.0.0.1".parse().unwrap();
        assert!(!all.contains(&mapped) && all.contains(&mapped.to_canonical()));
    }

    #[test]
    fn times() {
        for (text, expect) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2000-02-29T12:34:56Z", Some(951_827_696)),
            ("2024-01-01T00:00:00.123456Z", Some(1_704_067_200)),
            ("2024-01-01T01:30:00+01:30", Some(1_704_067_200)),
            ("2023-12-31T23:00:00-01:00", Some(1_704_067_200)),
            ("1969-12-31T23:59:59Z", Some(-1)),
            ("9999-12-31T23:59:59Z", Some(253_402_300_799)),
            ("0001-01-01T00:00:00Z", Some(-62_135_596_800)),
            ("2023-02-29T00:00:00Z", None),
            ("2024-13-01T00:00:00Z", None),
            ("2024-01-01T24:00:00Z", None),
            ("2024-01-01T00:00:00", None),
            ("2024-01-01 00:00:00Z", None),
            ("2024-01-01T00:00:00.Z", None),
            ("2024-01-01", None),
            ("+024-01-01T00:00:00Z", None),
            ("ä024-01-01T00:00:00Z", None),
            ("", None),
        ] {
            assert_eq!(seconds(text).ok(), expect, "{text}");
        }
    }
}
