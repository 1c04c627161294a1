//! The tokens of requests, by RequestAuthentications: which ones count and what follows is decided in
//! [`underpass_core::jwt`]; here they are read (`read`), their signatures verified (`verify`, those of late known by `verified`), and the keys of their issuers
//! known (`keyring`) and fetched (`fetch`, by one worker for all; how their servers are asked `get`).
//!
//! What must hold: a token whose signature was not verified by a key of its own rule's issuer says nothing; and a request waits
//! for keys no longer than its rule says.

mod fetch;
mod get;
mod keyring;
mod read;
#[cfg(test)]
#[path = "../../tests/loopback/signer.rs"]
mod testing;
mod verified;
mod verify;

use std::{rc::Rc, time::SystemTime};

use tokio::time::timeout;
use underpass_core::{
    http::RequestHead,
    jwt::{
        Decision, Effects, FoundToken, KeyPlace, KeysOf, Pace, Token, TokenFault, check, decide, effects, find, rule_of,
    },
    objects::{JwtRule, KeySource},
};
use underpass_identity::Roots;

use self::read::{ReadToken, read};
pub(crate) use self::{fetch::run, keyring::Keyring, verified::Verified};
use crate::worker::Worker;

/// How the keys of issuers are fetched.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How often.
    pub pace: Pace,
    /// Whom an issuer's server is believed by, over TLS; none: whom this machine believes.
    pub roots: Option<Roots>,
    /// Bytes of an answer.
    pub most_bytes: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { pace: Pace::default(), roots: None, most_bytes: 1 << 20 }
    }
}

/// What the tokens of a request have led to.
#[derive(Debug, Default)]
pub(crate) struct Authenticated {
    /// Who it is.
    pub(crate) token: Option<Rc<Token>>,
    /// What is changed of it.
    pub(crate) effects: Effects,
}

/// A token that is good.
struct Good<'h> {
    found: FoundToken<'h>,
    rule: usize,
    token: Token,
    payload: &'h str,
}

/// Checks the tokens of a request by these rules.
///
/// # Errors
/// The first token that is not good.
pub(crate) async fn authenticate(
    worker: &Worker,
    rules: &[&JwtRule],
    head: &RequestHead<'_>,
) -> Result<Authenticated, TokenFault> {
    let mut all = Vec::new();
    for found in find(rules, head) {
        all.push(one(worker, rules, found).await?);
    }
    let good: Vec<_> = all.iter().map(|good| (&good.found, good.rule, &good.token, good.payload)).collect();
    let effects = effects(rules, &good);
    match decide(all.into_iter().map(|good| Ok(good.token))) {
        Decision::Without => Ok(Authenticated { token: None, effects }),
        Decision::As(token) => Ok(Authenticated { token: Some(Rc::new(token)), effects }),
        Decision::Refuse(fault) => Err(fault),
    }
}

async fn one<'h>(worker: &Worker, rules: &[&JwtRule], found: FoundToken<'h>) -> Result<Good<'h>, TokenFault> {
    let read = read(found.text)?;
    let at = rule_of(rules, &found, read.issuer()).ok_or(TokenFault::Issuer)?;
    let rule = rules.get(at).ok_or(TokenFault::Issuer)?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    check(rule, &read.claims, now)?;
    verified(worker, rule, &read).await?;
    let token = Token::new(read.claims, rule.space_delimited.iter().map(|name| &**name));
    Ok(Good { found, rule: at, token, payload: read.payload })
}

/// A key of the rule's issuer has signed it. Where none has that is known, keys that are being fetched are waited for.
async fn verified(worker: &Worker, rule: &JwtRule, token: &ReadToken<'_>) -> Result<(), TokenFault> {
    let place = match &rule.keys {
        KeySource::Inline(keys) => {
            return if worker.verified.is_signed(token, keys) { Ok(()) } else { Err(TokenFault::Signature) };
        }
        KeySource::Uri(_) | KeySource::Discovery => KeyPlace::of(rule).ok_or(TokenFault::NoKeys)?,
    };
    let mut known = worker.keyring.of(&place);
    let seen = known.borrow().clone();
    let judged = |known: &KeysOf| match &known.keys {
        None => Err(TokenFault::NoKeys),
        Some(keys) if worker.verified.is_signed(token, keys) => Ok(()),
        Some(_) => Err(TokenFault::Signature),
    };
    let first = judged(&seen);
    // A key that is known and has not signed it will not have later.
    let is_key_known = seen.keys.as_ref().zip(token.key.as_ref()).is_some_and(|(keys, id)| keys.has(id));
    if first.is_ok() || is_key_known || !seen.may_wait(worker.now()) {
        return first;
    }
    if !seen.is_under_way {
        worker.keyring.ask(&place);
    }
    let next = async { known.wait_for(|known| known.ended != seen.ended).await.ok().map(|known| known.clone()) };
    match timeout(rule.timeout, next).await {
        Ok(Some(known)) => judged(&known),
        // In no time, or no rule names the place any more.
        Ok(None) | Err(_) => first,
    }
}
