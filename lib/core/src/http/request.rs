//! A request as far as decisions about it need it, and the dice that are thrown for it once.

use std::borrow::Cow;

use crate::labels::{Labels, selects};

/// The head of a request. Lent: nothing of it is copied to decide.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'a> {
    /// `:method`.
    pub method: &'a str,
    /// `:scheme`.
    pub scheme: &'a str,
    /// `:authority`, or `Host`: the port as it is written there.
    pub authority: &'a str,
    /// `:path`, normalised, with its query.
    pub path: &'a str,
    /// Names in lower case, each as often as it is there.
    pub headers: &'a [(&'a str, &'a [u8])],
    /// The called port.
    pub port: u16,
    /// Its sender.
    pub source: Source<'a>,
}

/// The sender of a request, as far as it is known.
#[derive(Clone, Copy, Debug, Default)]
pub struct Source<'a> {
    /// The namespace of its workload.
    pub namespace: Option<&'a str>,
    /// Its pod's labels.
    pub labels: Option<&'a Labels>,
}

impl Source<'_> {
    /// It has these labels. One of which nothing is known has none.
    pub(super) fn has(&self, labels: &Labels) -> bool {
        match self.labels {
            Some(own) => selects(labels, own),
            None => labels.is_empty(),
        }
    }
}

impl<'a> RequestHead<'a> {
    /// The path without its query.
    #[must_use]
    pub fn path_alone(&self) -> &'a str {
        self.path.split(['?', '#']).next().unwrap_or_default()
    }

    /// The query without its question mark, where there is one.
    #[must_use]
    pub fn query(&self) -> Option<&'a str> {
        self.path.split('#').next()?.split_once('?').map(|(_, query)| query)
    }

    /// The value of a header: of one that is there more than once all values, with commas between them (RFC 9110, 5.3).
    #[must_use]
    pub fn header(&self, name: &str) -> Option<Cow<'a, [u8]>> {
        let mut values = self.headers.iter().filter(|(known, _)| *known == name).map(|(_, value)| *value);
        let first = values.next()?;
        Some(values.fold(Cow::Borrowed(first), |all, value| Cow::Owned([&all, &b","[..], value].concat())))
    }

    /// The first value of a query parameter, as it is written: nothing is decoded, as in Envoy.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&'a str> {
        let pairs = self.query()?.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        pairs.into_iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }
}

/// What chance says about one request: a random number, from which every throw for it follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dice(pub u64);

/// A throw. Each is independent of the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Throw {
    /// Which target.
    Target,
    /// Whether it is delayed.
    Delay,
    /// Whether it is aborted.
    Abort,
    /// Whether the mirror of this number gets a copy.
    Mirror(u16),
    /// Which endpoint, of the try of this number.
    Endpoint(u32),
    /// The value of a cookie that is made for a consistent hash.
    Hash,
    /// How long the pause is before the try of this number.
    Pause(u32),
    /// The name of the request, in two parts.
    Name(bool),
}

impl Dice {
    /// A number that is uniform over `u64` where the dice's is.
    #[must_use]
    pub const fn throw(self, throw: Throw) -> u64 {
        let number = match throw {
            Throw::Target => 0,
            Throw::Delay => 1,
            Throw::Abort => 2,
            Throw::Name(second) => 3_u64.wrapping_add(second as u64),
            Throw::Hash => 5,
            Throw::Mirror(n) => (1 << 16) | n as u64,
            Throw::Endpoint(n) => (1 << 32) | n as u64,
            Throw::Pause(n) => (2 << 32) | n as u64,
        };
        // SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", OOPSLA 2014).
        let mut z = self.0.wrapping_add(number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 128 bits that name the request.
    #[must_use]
    pub const fn name(self) -> [u64; 2] {
        [self.throw(Throw::Name(false)), self.throw(Throw::Name(true))]
    }

    /// A number below `bound`, which is not 0, each as likely.
    #[must_use]
    pub fn below(self, throw: Throw, bound: u64) -> u64 {
        let product = u128::from(self.throw(throw)).wrapping_mul(u128::from(bound));
        u64::try_from(product >> 64).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head<'a>(path: &'a str, headers: &'a [(&'a str, &'a [u8])]) -> RequestHead<'a> {
        RequestHead {
            method: "GET",
            scheme: "http",
            authority: "a",
            path,
            headers,
            port: 80,
            source: Source::default(),
        }
    }

    #[test]
    fn parts_of_a_head() {
        let headers: [(&str, &[u8]); 3] = [("x", b"a"), ("y", b"b"), ("x", b"c")];
        let h = head("/a/b?x=1&y=&z&x=2&w=a=b", &headers);
        assert_eq!((h.path_alone(), h.query()), ("/a/b", Some("x=1&y=&z&x=2&w=a=b")));
        let got = ["x", "y", "z", "w", "v", ""].map(|name| h.parameter(name));
        assert_eq!(got, [Some("1"), Some(""), Some(""), Some("a=b"), None, None]);
        assert_eq!(h.header("x").as_deref(), Some(&b"a,c"[..]));
        assert_eq!((h.header("y").as_deref(), h.header("z")), (Some(&b"b"[..]), None));
        assert_eq!((head("/a#b?c", &[]).path_alone(), head("/a#b?c", &[]).query()), ("/a", None));
    }

    #[test]
    fn throws_are_uniform_and_independent() {
        let mut counts = [[0_u32; 2]; 2];
        for n in 0..40_000_u64 {
            let dice = Dice(n);
            let at = |throw| usize::from(dice.below(throw, 2) == 1);
            counts[at(Throw::Target)][at(Throw::Abort)] += 1;
            assert!(dice.below(Throw::Mirror(0), 3) < 3);
        }
        // Five standard deviations of a binomial distribution of 40,000 throws with p = 1/4.
        assert!(counts.iter().flatten().all(|n| n.abs_diff(10_000) < 433), "{counts:?}");
    }
}
