//! The tokens that one worker has verified lately: a client sends the same one with each of its requests, and a signature costs more
//! than all the rest of it.
//!
//! What must hold: a signature is taken for verified only of the very same text and by the very same set of keys. All else that
//! a rule asks for (issuer, times, audience) is checked for each request. What takes room here never grows.

use std::cell::RefCell;

use underpass_core::jwt::{Jwks, JwksMark};

use super::{
    read::ReadToken,
    verify::{DIGEST_BYTES, digest, is_signed},
};

/// Each token has one place, which it may lose to another one.
const PLACES: u16 = 1024;

/// Tokens that were verified.
#[derive(Debug)]
pub(crate) struct Verified(RefCell<Vec<Option<Seen>>>);

#[derive(Clone, Debug)]
struct Seen {
    token: [u8; DIGEST_BYTES],
    by: JwksMark,
}

impl Default for Verified {
    fn default() -> Self {
        Self(RefCell::new(vec![None; usize::from(PLACES)]))
    }
}

impl Verified {
    /// A key of the set has signed the token.
    pub(super) fn is_signed(&self, token: &ReadToken<'_>, keys: &Jwks) -> bool {
        self.is_known_or(token, keys, || is_signed(token, keys))
    }

    fn is_known_or(&self, token: &ReadToken<'_>, keys: &Jwks, verify: impl FnOnce() -> bool) -> bool {
        let digest = digest(token);
        let [first, second, ..] = digest;
        let mut all = self.0.borrow_mut();
        let Some(place) = all.get_mut(usize::from(u16::from_be_bytes([first, second]) % PLACES)) else {
            return verify();
        };
        if place.as_ref().is_some_and(|seen| seen.token == digest && seen.by.is_of(keys)) {
            return true;
        }
        let is_good = verify();
        if is_good {
            *place = Some(Seen { token: digest, by: keys.mark() });
        }
        is_good
    }
}

#[cfg(test)]
mod tests {
    use underpass_core::jwt::Jwk;

    use super::*;
    use crate::tokens::{read::read, testing::Signer};

    fn keys(signer: &Signer) -> Jwks {
        [Jwk::parse(&serde_json::from_value(signer.jwk()).unwrap()).unwrap().unwrap()].into_iter().collect()
    }

    /// The answer, and whether a signature was verified for it.
    fn ask(verified: &Verified, text: &str, keys: &Jwks) -> (bool, bool) {
        let (token, mut is_asked) = (read(text).unwrap(), false);
        let verify = || {
            is_asked = true;
            is_signed(&token, keys)
        };
        (verified.is_known_or(&token, keys, verify), is_asked)
    }

    #[test]
    fn a_signature_is_verified_once_by_each_set_of_keys() {
        let (a, b) = (Signer::new("ES256", "a"), Signer::new("ES256", "a"));
        let (of_a, of_b) = (keys(&a), keys(&b));
        let verified = Verified::default();
        let good = a.token(r#"{"iss":"i"}"#);
        assert_eq!([ask(&verified, &good, &of_a), ask(&verified, &good, &of_a)], [(true, true), (true, false)]);
        assert_eq!(ask(&verified, &good, &of_a.clone()), (true, false));
        // Keys of another rule, or of the same one after a rotation.
        assert_eq!([ask(&verified, &good, &of_b), ask(&verified, &good, &of_b)], [(false, true), (false, true)]);
        assert_eq!(ask(&verified, &good, &of_a), (true, false), "what failed takes no place");
        assert_eq!(ask(&verified, &good, &keys(&a)), (true, true), "the same keys, fetched again");
    }

    #[test]
    fn another_text_is_another_token() {
        let own = Signer::new("ES256", "a");
        let (of_own, verified) = (keys(&own), Verified::default());
        let good = own.token(r#"{"iss":"i"}"#);
        assert_eq!(ask(&verified, &good, &of_own), (true, true));
        let [header, payload, signature] = good.split('.').collect::<Vec<_>>().try_into().unwrap();
        let other = own.token(r#"{"iss":"j"}"#);
        let [_, payload_of_other, signature_of_other] = other.split('.').collect::<Vec<_>>().try_into().unwrap();
        for forged in [
            format!("{header}.{payload_of_other}.{signature}"),
            format!("{header}.{payload}.{signature_of_other}"),
            format!("{header}.{payload}."),
        ] {
            assert_eq!(ask(&verified, &forged, &of_own), (false, true), "{forged}");
        }
        assert_eq!(ask(&verified, &good, &of_own), (true, false));
    }

    #[test]
    fn its_room_is_constant() {
        let own = Signer::new("EdDSA", "a");
        let (of_own, verified) = (keys(&own), Verified::default());
        for number in 0..2 * PLACES {
            let token = own.token(&format!(r#"{{"sub":"{number}"}}"#));
            assert_eq!(ask(&verified, &token, &of_own), (true, true));
        }
        assert_eq!(verified.0.borrow().len(), usize::from(PLACES));
    }
}
