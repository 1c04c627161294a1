//! When the keys of issuers are fetched, and which of them count meanwhile. A state machine without IO: what is due is
//! asked for, and what came of it is told. Times count from any moment, the same for all.
//!
//! ```text
//! want --> due --> under way --ended(keys)--> kept, due again after Pace::refresh
//!            ^                 \-ended(fault)-> those before are kept, due again after a pause that grows
//!            +--- ask: a token names a key that is not known (once in Pace::unknown_key)
//! ```
//! What must hold: keys that were good stay until others come, or nothing wants them; and no token makes its issuer be
//! asked more often than the pace says.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::Jwks;
use crate::objects::{JwtRule, KeySource};

/// The first pause after a failure, which doubles with each.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest.
const LAST_PAUSE: Duration = Duration::from_secs(60);

/// Where the keys of an issuer are fetched.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyPlace {
    /// At a `jwksUri`.
    Uri(Arc<str>),
    /// At the URI that the configuration of this issuer names (OpenID Connect Discovery 1.0, 4).
    Discovery(Arc<str>),
}

impl KeyPlace {
    /// Of a rule; none: it has its keys in it.
    #[must_use]
    pub fn of(rule: &JwtRule) -> Option<Self> {
        match &rule.keys {
            KeySource::Inline(_) => None,
            KeySource::Uri(uri) => Some(Self::Uri(Arc::clone(uri))),
            KeySource::Discovery => Some(Self::Discovery(Arc::clone(&rule.issuer))),
        }
    }

    /// The URI, or the issuer: what a log says.
    #[must_use]
    pub fn text(&self) -> &str {
        match self {
            Self::Uri(text) | Self::Discovery(text) => text,
        }
    }
}

/// How often issuers are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// The age at which keys are fetched again.
    pub refresh: Duration,
    /// The least time between two fetches where tokens name keys that are not known.
    pub unknown_key: Duration,
}

impl Default for Pace {
    /// 20 minutes, as istiod, and one minute.
    fn default() -> Self {
        Self { refresh: Duration::from_secs(20 * 60), unknown_key: Duration::from_secs(60) }
    }
}

/// What is known of an issuer's keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeysOf {
    /// The last good ones; none: there were none yet.
    pub keys: Option<Jwks>,
    /// Fetches that have ended, well or not.
    pub ended: u64,
    /// One is under way.
    pub is_under_way: bool,
    /// From then on a token with a key that is not known makes them be fetched.
    pub asks_from: Duration,
}

impl KeysOf {
    /// Whether a token that the keys here cannot verify may wait for a fetch. Without keys it waits for the first one alone:
    /// an issuer that does not answer holds up no further requests.
    #[must_use]
    pub fn may_wait(&self, now: Duration) -> bool {
        match self.keys {
            None => self.ended == 0,
            Some(_) => self.is_under_way || now >= self.asks_from,
        }
    }
}

#[derive(Clone, Debug)]
struct Entry {
    known: KeysOf,
    timeout: Duration,
    failures: u32,
    due: Duration,
}

/// The keys of all issuers.
#[derive(Clone, Debug)]
pub struct KeyBook {
    pace: Pace,
    entries: BTreeMap<KeyPlace, Entry>,
}

impl KeyBook {
    /// An empty one.
    #[must_use]
    pub const fn new(pace: Pace) -> Self {
        Self { pace, entries: BTreeMap::new() }
    }

    /// These keys are needed, and each fetch may take this time; of several the longest counts.
    pub fn want(&mut self, place: KeyPlace, timeout: Duration, now: Duration) {
        let new = || Entry { known: KeysOf::default(), timeout, failures: 0, due: now };
        let entry = self.entries.entry(place).or_insert_with(new);
        entry.timeout = entry.timeout.max(timeout);
    }

    /// Forgets the others.
    pub fn retain(&mut self, is_wanted: impl Fn(&KeyPlace) -> bool) {
        self.entries.retain(|place, _| is_wanted(place));
    }

    /// A token names a key of this issuer that is not known.
    pub fn ask(&mut self, place: &KeyPlace, now: Duration) {
        if let Some(entry) = self.entries.get_mut(place)
            && now >= entry.known.asks_from
        {
            entry.due = entry.due.min(now);
        }
    }

    /// What is to be fetched now, each with its time; it counts as under way from here on.
    pub fn begin(&mut self, now: Duration) -> Vec<(KeyPlace, Duration)> {
        let mut due = Vec::new();
        for (place, entry) in &mut self.entries {
            if !entry.known.is_under_way && entry.due <= now {
                entry.known.is_under_way = true;
                entry.known.asks_from = now.saturating_add(self.pace.unknown_key);
                due.push((place.clone(), entry.timeout));
            }
        }
        due
    }

    /// A fetch has ended; none: it failed.
    pub fn ended(&mut self, place: &KeyPlace, keys: Option<Jwks>, now: Duration) {
        let Some(entry) = self.entries.get_mut(place) else { return };
        entry.known.is_under_way = false;
        entry.known.ended = entry.known.ended.wrapping_add(1);
        let pause = match keys {
            Some(keys) => {
                entry.known.keys = Some(keys);
                entry.failures = 0;
                self.pace.refresh
            }
            None => {
                let pause = FIRST_PAUSE.saturating_mul(1_u32.checked_shl(entry.failures).unwrap_or(u32::MAX));
                entry.failures = entry.failures.saturating_add(1);
                pause.min(LAST_PAUSE)
            }
        };
        entry.due = now.saturating_add(pause);
    }

    /// The next time at which something is due; none: nothing is, before something else happens.
    #[must_use]
    pub fn next(&self) -> Option<Duration> {
        self.entries.values().filter(|entry| !entry.known.is_under_way).map(|entry| entry.due).min()
    }

    /// What is known of a place; none: it is not wanted.
    #[must_use]
    pub fn of(&self, place: &KeyPlace) -> Option<&KeysOf> {
        self.entries.get(place).map(|entry| &entry.known)
    }

    /// What is known of each.
    pub fn known(&self) -> impl Iterator<Item = (&KeyPlace, &KeysOf)> {
        self.entries.iter().map(|(place, entry)| (place, &entry.known))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::jwt::{Jwk, PublicKey};

    fn place(uri: &str) -> KeyPlace {
        KeyPlace::Uri(uri.into())
    }

    fn keys(byte: u8) -> Jwks {
        [Jwk { id: None, algorithm: None, key: PublicKey::Ed25519([byte; 32]) }].into_iter().collect()
    }

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn begun(book: &mut KeyBook, now: u64) -> Vec<String> {
        book.begin(at(now)).into_iter().map(|(place, time)| format!("{} {time:?}", place.text())).collect()
    }

    #[test]
    fn a_rule_says_where_its_keys_are() {
        let rule = crate::testing::request_authentication("default/x - https://issuer").rules[0].clone();
        let of = |keys: KeySource| KeyPlace::of(&JwtRule { keys, ..rule.clone() });
        assert_eq!(of(KeySource::Discovery), Some(KeyPlace::Discovery("https://issuer".into())));
        assert_eq!(of(KeySource::Uri("http://a/k".into())), Some(place("http://a/k")));
        assert_eq!(of(KeySource::Inline(keys(1))), None);
    }

    #[test]
    fn keys_are_fetched_again_when_they_are_old() {
        let mut book = KeyBook::new(Pace::default());
        book.want(place("a"), at(5), at(10));
        book.want(place("a"), at(2), at(11));
        assert_eq!(book.next(), Some(at(10)));
        assert_eq!(begun(&mut book, 11), ["a 5s"]);
        assert_eq!((begun(&mut book, 99), book.next()), (vec![], None), "it is under way");
        book.ended(&place("a"), Some(keys(1)), at(12));
        assert_eq!(book.next(), Some(at(12 + 1200)));
        assert_eq!((begun(&mut book, 1211), begun(&mut book, 1212)), (vec![], vec!["a 5s".to_owned()]));
        book.ended(&place("a"), None, at(1213));
        assert_eq!(book.of(&place("a")).unwrap().keys, Some(keys(1)), "the last good ones stay");
        book.retain(|_| false);
        book.ended(&place("a"), Some(keys(2)), at(1214));
        assert!(book.known().next().is_none() && book.next().is_none());
    }

    #[test]
    fn failures_are_tried_again_with_pauses() {
        let mut book = KeyBook::new(Pace::default());
        book.want(place("a"), at(5), at(0));
        let (mut now, mut pauses) = (at(0), Vec::new());
        for _ in 0..40 {
            assert_eq!(book.begin(now).len(), 1);
            book.ended(&place("a"), None, now);
            let next = book.next().unwrap();
            pauses.push((next - now).as_secs());
            now = next;
        }
        assert_eq!((&pauses[..8], pauses[39]), (&[1, 2, 4, 8, 16, 32, 60, 60][..], 60));
        book.begin(now);
        book.ended(&place("a"), Some(keys(1)), now);
        now = book.next().unwrap();
        book.begin(now);
        book.ended(&place("a"), None, now);
        assert_eq!(book.next(), Some(now + FIRST_PAUSE), "a success ends the growing");
    }

    #[test]
    fn a_key_that_is_not_known_is_asked_for() {
        let mut book = KeyBook::new(Pace::default());
        let waits = |book: &KeyBook, now| book.of(&place("a")).unwrap().may_wait(at(now));
        book.want(place("a"), at(5), at(0));
        assert!(waits(&book, 0), "for the first fetch");
        book.begin(at(0));
        book.ended(&place("a"), None, at(1));
        assert!(!waits(&book, 1), "not for another one");
        book.begin(at(2));
        book.ended(&place("a"), Some(keys(1)), at(3));
        book.ask(&place("a"), at(61));
        assert_eq!((waits(&book, 61), begun(&mut book, 61)), (false, vec![]), "60 seconds are not over");
        book.ask(&place("a"), at(62));
        assert_eq!((waits(&book, 62), begun(&mut book, 62)), (true, vec!["a 5s".to_owned()]));
        assert!(waits(&book, 63), "it is under way");
        book.ended(&place("a"), Some(keys(2)), at(64));
        assert!(!waits(&book, 64));
        book.ask(&place("b"), at(64));
        assert!(book.begin(at(64)).is_empty());
    }

    proptest! {
        /// However many tokens ask for a key, fetches of one place begin a minute apart, but for those after failures.
        #[test]
        fn tokens_do_not_set_the_pace(steps in proptest::collection::vec((0_u64..30, any::<bool>()), 0..60)) {
            let mut book = KeyBook::new(Pace::default());
            book.want(place("a"), at(5), at(0));
            let (mut now, mut last) = (0, None);
            for (later, asks) in steps {
                now += later;
                if asks {
                    book.ask(&place("a"), at(now));
                }
                if !book.begin(at(now)).is_empty() {
                    prop_assert!(last.is_none_or(|last| now - last >= 60), "{last:?} {now}");
                    last = Some(now);
                    book.ended(&place("a"), Some(keys(1)), at(now));
                }
            }
        }
    }
}
