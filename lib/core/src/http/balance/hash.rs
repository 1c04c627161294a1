//! What of a request decides about its endpoint under `consistentHash`, as one number, and the cookie that is made where a
//! request has none.
//!
//! What must hold: a number depends on the text alone, in every replica, version and process: not `std`'s hasher, which
//! may change with the compiler, and no crate's that says the same of itself. It is no secret: who can choose a key can
//! choose its endpoint, by trying.

use std::{
    borrow::Cow,
    net::{IpAddr, SocketAddr},
};

use super::super::RequestHead;
use crate::objects::{ConsistentHash, HashCookie, HashKey};
pub(super) use crate::route::mix;

/// What a request says about its endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hashed {
    /// The number of its key; none: it has no such header, cookie or parameter, and goes anywhere.
    pub key: Option<u64>,
    /// The value of a `set-cookie` of its response.
    pub set_cookie: Option<String>,
}

/// The key of a request. `source` is its sender's address; `dice`, a random number, becomes the value of a cookie that is
/// made.
#[must_use]
pub fn hash_of(policy: &ConsistentHash, head: &RequestHead<'_>, source: IpAddr, dice: u64) -> Hashed {
    let of = |bytes: &[u8]| Some(of_bytes(bytes));
    match &policy.key {
        HashKey::Header(name) => Hashed { key: header(head, name).and_then(|value| of(&value)), set_cookie: None },
        HashKey::Query(name) => {
            Hashed { key: head.parameter(name).and_then(|value| of(value.as_bytes())), set_cookie: None }
        }
        HashKey::SourceIp => Hashed { key: Some(hash_of_ip(source)), set_cookie: None },
        HashKey::Cookie(cookie) => match cookie_of(head, &cookie.name) {
            Some(value) => Hashed { key: of(value), set_cookie: None },
            None if cookie.ttl.is_some() => {
                let value = format!("{:016x}", mix(dice));
                Hashed { key: of(value.as_bytes()), set_cookie: Some(set_cookie(cookie, &value)) }
            }
            None => Hashed::default(),
        },
    }
}

/// The value of a header, also of those that HTTP/2 alone has as such.
fn header<'a>(head: &RequestHead<'a>, name: &str) -> Option<Cow<'a, [u8]>> {
    let special = match name {
        ":authority" | "host" => head.authority,
        ":method" => head.method,
        ":path" => head.path,
        ":scheme" => head.scheme,
        name => return head.header(name),
    };
    Some(Cow::Borrowed(special.as_bytes()))
}

/// The value of a cookie of this name, without quotes; an empty one is none (RFC 6265, 4.2.1).
fn cookie_of<'a>(head: &RequestHead<'a>, name: &str) -> Option<&'a [u8]> {
    let lines = head.headers.iter().filter(|(known, _)| *known == "cookie").map(|(_, value)| *value);
    let pairs = lines.flat_map(|line| line.split(|byte| *byte == b';')).map(<[u8]>::trim_ascii);
    let mut of_name = pairs.filter_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="));
    let value = of_name.next()?;
    let bare = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value);
    (!bare.is_empty()).then_some(bare)
}

/// As Envoy writes it: a cookie for scripts is none of this one's business.
fn set_cookie(cookie: &HashCookie, value: &str) -> String {
    let mut text = format!("{}=\"{value}\"", cookie.name);
    let mut add = |name: &str, value: &str| {
        text.push_str("; ");
        text.push_str(name);
        if !value.is_empty() {
            text.push('=');
            text.push_str(value);
        }
    };
    if let Some(ttl) = cookie.ttl.filter(|ttl| ttl.as_secs() > 0) {
        add("Max-Age", &ttl.as_secs().to_string());
    }
    if let Some(path) = cookie.path.as_deref().filter(|path| !path.is_empty()) {
        add("Path", path);
    }
    cookie.attributes.iter().for_each(|(name, value)| add(name, value));
    add("HttpOnly", "");
    text
}

/// Of a text, eight bytes at a time.
pub(super) fn of_bytes(bytes: &[u8]) -> u64 {
    let word = |chunk: &[u8]| chunk.iter().rev().fold(0_u64, |word, byte| (word << 8) | u64::from(*byte));
    let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    bytes.chunks(8).fold(mix(length), |hash, chunk| mix(hash ^ word(chunk)))
}

pub(super) fn of_address(address: SocketAddr) -> u64 {
    mix(of_ip(address.ip()) ^ u64::from(address.port()))
}

/// The key of a sender's address: that of a connection, which has no other.
#[must_use]
pub fn hash_of_ip(source: IpAddr) -> u64 {
    of_ip(source.to_canonical())
}

fn of_ip(ip: IpAddr) -> u64 {
    match ip {
        IpAddr::V4(v4) => of_bytes(&v4.octets()),
        IpAddr::V6(v6) => of_bytes(&v6.octets()),
    }
}

/// A number below `bound`, each as likely where `roll` is uniform over `u64`; of 0 it is 0.
pub(super) fn below(roll: u64, bound: u64) -> u64 {
    u64::try_from(u128::from(roll).wrapping_mul(u128::from(bound)) >> u64::BITS).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, sync::Arc, time::Duration};

    use super::*;
    use crate::{http::Source, objects::HashRing};

    fn ask(key: HashKey, path: &str, headers: &[(&str, &[u8])]) -> Hashed {
        let head = RequestHead {
            method: "GET",
            scheme: "http",
            authority: "cart:80",
            path,
            headers,
            port: 80,
            source: Source::default(),
        };
        hash_of(&ConsistentHash { key, ring: HashRing::Ring(8) }, &head, "::ffff:10.0.0.1".parse().unwrap(), 7)
    }

    #[test]
    fn the_part_of_a_request_that_decides() {
        let of = |text: &str| Hashed { key: Some(of_bytes(text.as_bytes())), set_cookie: None };
        let none = Hashed::default();
        let headers: [(&str, &[u8]); 4] =
            [("user", b"jason"), ("cookie", b"a=1; session=\"x y\";s=2"), ("cookie", b"empty=; t=3"), ("n", b"")];
        let header = |name: &str| ask(HashKey::Header(name.into()), "/", &headers);
        assert_eq!([header("user"), header("other"), header("n")], [of("jason"), none.clone(), of("")]);
        let special = [":authority", "host", ":method", ":path", ":scheme"].map(header);
        assert_eq!(special, ["cart:80", "cart:80", "GET", "/", "http"].map(of));
        let query = |name: &str| ask(HashKey::Query(name.into()), "/a?user=jason&x=&user=2", &headers);
        assert_eq!([query("user"), query("x"), query("y")], [of("jason"), of(""), none.clone()]);
        let source = ask(HashKey::SourceIp, "/", &[]);
        assert_eq!(source.key, Some(of_bytes(&[10, 0, 0, 1])));
        let cookie = |name: &str| {
            let cookie = HashCookie { name: name.into(), path: None, ttl: None, attributes: vec![] };
            ask(HashKey::Cookie(cookie), "/", &headers)
        };
        assert_eq!(["a", "session", "s", "t"].map(cookie), ["1", "x y", "2", "3"].map(of));
        assert_eq!(["empty", "essio", "b", "A"].map(cookie), [(); 4].map(|()| none.clone()));
    }

    #[test]
    fn a_cookie_that_is_missing_is_made() {
        let made = |ttl: u64, path: Option<&str>, attributes: &[(&str, &str)]| {
            let cookie = HashCookie {
                name: "session".into(),
                path: path.map(Arc::from),
                ttl: Some(Duration::from_secs(ttl)),
                attributes: attributes.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
            };
            let hashed = ask(HashKey::Cookie(cookie.clone()), "/", &[]);
            let text = hashed.set_cookie.unwrap();
            // What it says comes back with the next request, and leads to the same place.
            let pair = text.split(';').next().unwrap().as_bytes();
            let again = ask(HashKey::Cookie(cookie), "/", &[("cookie", pair)]);
            assert_eq!(again, Hashed { key: hashed.key, set_cookie: None });
            text
        };
        let value = format!("{:016x}", mix(7));
        assert_eq!(made(0, None, &[]), format!("session=\"{value}\"; HttpOnly"));
        let all = made(3600, Some("/cart"), &[("SameSite", "Strict"), ("Secure", "")]);
        assert_eq!(all, format!("session=\"{value}\"; Max-Age=3600; Path=/cart; SameSite=Strict; Secure; HttpOnly"));
    }

    /// Pinned: another number would move the keys of every mesh at an upgrade.
    #[test]
    fn numbers_stay_as_they_are() {
        let texts = ["", "a", "\0", "jason", "12345678", "123456789"];
        let all: BTreeSet<u64> = texts.iter().map(|text| of_bytes(text.as_bytes())).collect();
        assert_eq!(all.len(), texts.len());
        assert_eq!(of_bytes(b""), 0xe220_a839_7b1d_cdaf);
        assert_eq!(of_bytes(b"jason"), mix(mix(5) ^ 0x6e_6f73_616a));
        assert_ne!(of_address("10.0.0.1:80".parse().unwrap()), of_address("10.0.0.1:81".parse().unwrap()));
        assert_eq!([below(u64::MAX, 3), below(0, 3), below(u64::MAX, 0)], [2, 0, 0]);
    }
}
