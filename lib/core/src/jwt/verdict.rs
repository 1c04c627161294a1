//! What follows from the tokens of a request: whether it passes, as whom, and what the application gets.

use std::sync::Arc;

use super::{Claim, Claims, FoundToken, Token, TokenPlace};
use crate::objects::JwtRule;

/// How far clocks may differ, in seconds, as in Envoy.
const CLOCK_SKEW_SECONDS: f64 = 60.0;

/// The reason why a token is not good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenFault {
    /// Not three parts of base64url with JSON in them.
    #[error("the token cannot be read")]
    Malformed,
    /// No rule that looks there has its issuer.
    #[error("the token's issuer is not known here")]
    Issuer,
    /// None of the audiences that the rule has.
    #[error("the token is for another audience")]
    Audience,
    /// `exp` is over.
    #[error("the token has expired")]
    Expired,
    /// `nbf` is to come.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// A claim that says when or for whom is none.
    #[error("a claim of the token has another type than it must have")]
    Claim,
    /// An algorithm that is none of signatures, `none` among them.
    #[error("the token's algorithm is not allowed")]
    Algorithm,
    /// The issuer's keys are not there.
    #[error("the keys of the token's issuer cannot be had")]
    NoKeys,
    /// No key of the issuer has made it.
    #[error("the token's signature is not its issuer's")]
    Signature,
}

impl TokenFault {
    /// The status that the request is answered with, as in Envoy.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::Audience => 403,
            _ => 401,
        }
    }

    /// The text of that answer, as Envoy has it.
    #[must_use]
    pub const fn answer(self) -> &'static str {
        match self {
            Self::Malformed => "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections",
            Self::Issuer => "Jwt issuer is not configured",
            Self::Audience => "Audiences in Jwt are not allowed",
            Self::Expired => "Jwt is expired",
            Self::NotYetValid => "Jwt not yet valid",
            Self::Claim => "Jwt payload is an invalid JSON",
            Self::Algorithm => "Jwt header [alg] is not supported",
            Self::NoKeys => "Jwks remote fetch is failed",
            Self::Signature => "Jwt verification fails",
        }
    }

    /// The same in `%RESPONSE_CODE_DETAILS%`.
    #[must_use]
    pub const fn details(self) -> &'static str {
        match self {
            Self::Malformed => {
                "jwt_authn_access_denied{Jwt_is_not_in_the_form_of_Header.Payload.Signature_with_two_dots_and_3_sections}"
            }
            Self::Issuer => "jwt_authn_access_denied{Jwt_issuer_is_not_configured}",
            Self::Audience => "jwt_authn_access_denied{Audiences_in_Jwt_are_not_allowed}",
            Self::Expired => "jwt_authn_access_denied{Jwt_is_expired}",
            Self::NotYetValid => "jwt_authn_access_denied{Jwt_not_yet_valid}",
            Self::Claim => "jwt_authn_access_denied{Jwt_payload_is_an_invalid_JSON}",
            Self::Algorithm => "jwt_authn_access_denied{Jwt_header_[alg]_is_not_supported}",
            Self::NoKeys => "jwt_authn_access_denied{Jwks_remote_fetch_is_failed}",
            Self::Signature => "jwt_authn_access_denied{Jwt_verification_fails}",
        }
    }
}

/// Checks the claims of a token whose signature is the issuer's. `now` is in seconds since the epoch.
///
/// # Errors
/// Where it is not for here, or not for now.
pub fn check(rule: &JwtRule, claims: &Claims, now: u64) -> Result<(), TokenFault> {
    if !matches!(claims.get("iss"), Some(Claim::Text(issuer)) if **issuer == *rule.issuer) {
        return Err(TokenFault::Issuer);
    }
    let time = |name: &str| match claims.get(name) {
        None => Ok(None),
        Some(Claim::Number(seconds)) if seconds.is_finite() => Ok(Some(*seconds)),
        Some(_) => Err(TokenFault::Claim),
    };
    #[expect(clippy::cast_precision_loss, reason = "exact until the year 285 million")]
    let now = now as f64;
    if time("exp")?.is_some_and(|end| now > end + CLOCK_SKEW_SECONDS) {
        return Err(TokenFault::Expired);
    }
    if time("nbf")?.is_some_and(|start| now < start - CLOCK_SKEW_SECONDS) {
        return Err(TokenFault::NotYetValid);
    }
    if rule.audiences.is_empty() {
        return Ok(());
    }
    let is_for_here = |claim: &Claim| match claim {
        Claim::Text(audience) => rule.audiences.iter().any(|own| same_audience(own, audience)),
        _ => false,
    };
    match claims.get("aud") {
        Some(Claim::List(all)) if all.iter().any(is_for_here) => Ok(()),
        Some(one) if is_for_here(one) => Ok(()),
        _ => Err(TokenFault::Audience),
    }
}

/// A service's name is the same with and without scheme and last slash, as in Envoy.
fn same_audience(a: &str, b: &str) -> bool {
    fn bare(text: &str) -> &str {
        let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).unwrap_or(text);
        rest.strip_suffix('/').unwrap_or(rest)
    }
    bare(a) == bare(b)
}

/// What becomes of a request by its tokens.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// It has none: it passes without a principal.
    Without,
    /// It passes as this.
    As(Token),
    /// It is refused.
    Refuse(TokenFault),
}

/// The decision about a request, from the results of all of its tokens in the order in which they were found. One that is
/// not good refuses it, also where others are; of several good ones the first says who it is.
pub fn decide(tokens: impl IntoIterator<Item = Result<Token, TokenFault>>) -> Decision {
    let mut decision = Decision::Without;
    for token in tokens {
        match (token, &decision) {
            (Err(fault), _) => return Decision::Refuse(fault),
            (Ok(token), Decision::Without) => decision = Decision::As(token),
            (Ok(_), _) => {}
        }
    }
    decision
}

/// What is changed of a request that passes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// Tokens that the application does not get.
    pub remove_tokens: Vec<TokenPlace>,
    /// Headers that are removed first: those that rules write. Only a token says them.
    pub remove_headers: Vec<Arc<str>>,
    /// Headers that are set then.
    pub set_headers: Vec<(Arc<str>, String)>,
}

impl Effects {
    /// Nothing is changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What the application gets. `tokens` are the good ones, each with its rule, its claims and its payload as it stands in
/// the token (base64url).
#[must_use]
pub fn effects(rules: &[&JwtRule], tokens: &[(&FoundToken<'_>, usize, &Token, &str)]) -> Effects {
    let mut effects = Effects::default();
    for rule in rules {
        let written = rule.payload_header.iter().chain(rule.claim_headers.iter().map(|one| &one.header));
        for header in written {
            if !effects.remove_headers.contains(header) {
                effects.remove_headers.push(Arc::clone(header));
            }
        }
    }
    for (found, at, token, payload) in tokens {
        let Some(rule) = rules.get(*at) else { continue };
        if !rule.forward_original_token {
            effects.remove_tokens.push(found.place.clone());
        }
        let payload = rule.payload_header.iter().map(|header| (Arc::clone(header), (*payload).to_owned()));
        let claims = rule.claim_headers.iter().filter_map(|one| {
            let claim = token.claim_at(one.claim.iter().map(|name| &**name))?;
            Some((Arc::clone(&one.header), value(claim)?))
        });
        for (header, value) in payload.chain(claims) {
            if !effects.set_headers.iter().any(|(known, _)| *known == header) {
                effects.set_headers.push((header, value));
            }
        }
    }
    effects
}

/// A claim as the value of a header; none: it has no such form. The words of a list that was one text are one again.
fn value(claim: &Claim) -> Option<String> {
    let text = match claim {
        Claim::Text(text) => text.to_string(),
        Claim::Bool(is) => is.to_string(),
        Claim::Number(number) => number.to_string(),
        Claim::List(all) => {
            let words = all.iter().map(|one| match one {
                Claim::Text(word) => Some(&**word),
                _ => None,
            });
            words.collect::<Option<Vec<_>>>()?.join(" ")
        }
        Claim::Null | Claim::Map(_) => return None,
    };
    // Of a token anyone may have had made: no line of its own.
    text.bytes().all(|b| b >= b' ' && b != 0x7f).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{objects::ClaimHeader, testing::request_authentication};

    fn rule() -> JwtRule {
        request_authentication("default/x - issuer").rules[0].clone()
    }

    fn claims(all: &[(&str, Claim)]) -> Claims {
        all.iter().map(|(name, claim)| ((*name).into(), claim.clone())).collect()
    }

    fn text(text: &str) -> Claim {
        Claim::Text(text.into())
    }

    #[test]
    fn details_are_the_answer_without_spaces() {
        use TokenFault::*;
        for fault in [Malformed, Issuer, Audience, Expired, NotYetValid, Claim, Algorithm, NoKeys, Signature] {
            let expect = format!("jwt_authn_access_denied{{{}}}", fault.answer().replace(' ', "_"));
            assert_eq!(fault.details(), expect);
        }
    }

    #[test]
    fn claims_that_are_checked() {
        let issuer = ("iss", text("issuer"));
        let seconds = |name, n: i32| (name, Claim::Number(n.into()));
        let of = |all: &[(&str, Claim)], audiences: &[&str]| {
            let rule = JwtRule { audiences: audiences.iter().map(|a| Arc::from(*a)).collect(), ..rule() };
            check(&rule, &claims(all), 1_000)
        };
        assert_eq!(of(std::slice::from_ref(&issuer), &[]), Ok(()));
        assert_eq!(of(&[("iss", text("other"))], &[]), Err(TokenFault::Issuer));
        assert_eq!(of(&[], &[]), Err(TokenFault::Issuer));
        for (times, expect) in [
            (vec![seconds("exp", 1_001), seconds("nbf", 999)], Ok(())),
            (vec![seconds("exp", 940)], Ok(())),
            (vec![seconds("exp", 939)], Err(TokenFault::Expired)),
            (vec![seconds("nbf", 1_060)], Ok(())),
            (vec![seconds("nbf", 1_061)], Err(TokenFault::NotYetValid)),
            (vec![("exp", text("2000"))], Err(TokenFault::Claim)),
            (vec![("nbf", Claim::Number(f64::NAN))], Err(TokenFault::Claim)),
        ] {
            assert_eq!(of(&[std::slice::from_ref(&issuer), &times[..]].concat(), &[]), expect, "{times:?}");
        }
        for (audience, expect) in [
            (Some(text("a")), Ok(())),
            (Some(text("https://b/")), Ok(())),
            (Some(Claim::List(vec![text("x"), text("a")])), Ok(())),
            (Some(Claim::List(vec![Claim::Null])), Err(TokenFault::Audience)),
            (Some(text("c")), Err(TokenFault::Audience)),
            (None, Err(TokenFault::Audience)),
        ] {
            let mut all = vec![issuer.clone()];
            all.extend(audience.clone().map(|audience| ("aud", audience)));
            assert_eq!(of(&all, &["a", "b"]), expect, "{audience:?}");
        }
        assert_eq!((TokenFault::Audience.status(), TokenFault::Expired.status()), (403, 401));
    }

    #[test]
    fn one_bad_token_refuses() {
        let token = |subject: &str| Token::new(claims(&[("iss", text("i")), ("sub", text(subject))]), []);
        let principal = |all: Vec<Result<Token, TokenFault>>| match decide(all) {
            Decision::Without => "without".to_owned(),
            Decision::As(token) => token.principal().unwrap().to_owned(),
            Decision::Refuse(fault) => fault.to_string(),
        };
        assert_eq!(principal(vec![]), "without");
        assert_eq!(principal(vec![Ok(token("a"))]), "i/a");
        assert_eq!(principal(vec![Ok(token("a")), Ok(token("b"))]), "i/a");
        assert_eq!(principal(vec![Ok(token("a")), Err(TokenFault::Expired)]), "the token has expired");
        assert_eq!(principal(vec![Err(TokenFault::Signature), Ok(token("a"))]), TokenFault::Signature.to_string());
    }

    #[test]
    fn what_the_application_gets() {
        let header = |header: &str, claim: &[&str]| ClaimHeader {
            header: header.into(),
            claim: claim.iter().map(|name| Arc::from(*name)).collect(),
        };
        let writes = JwtRule {
            payload_header: Some("x-payload".into()),
            claim_headers: vec![
                header("x-sub", &["sub"]),
                header("x-scope", &["scope"]),
                header("x-inner", &["a", "b"]),
                header("x-age", &["age"]),
                header("x-map", &["a"]),
                header("x-line", &["line"]),
                header("x-none", &["none"]),
            ],
            ..rule()
        };
        let forwards = JwtRule { forward_original_token: true, ..writes.clone() };
        let token = Token::new(
            claims(&[
                ("sub", text("s")),
                ("scope", text("read write")),
                ("a", Claim::Map(claims(&[("b", Claim::Bool(true))]))),
                ("age", Claim::Number(7.0)),
                ("line", text("x\r\ny: z")),
            ]),
            [],
        );
        let found = FoundToken { text: "t", place: TokenPlace::Param("t".into()), rules: vec![0] };
        let pair = |name: &str, value: &str| (Arc::from(name), value.to_owned());
        let set =
            [pair("x-payload", "e30"), pair("x-sub", "s"), pair("x-scope", "read write"), pair("x-inner", "true")];
        let set = [&set[..], &[pair("x-age", "7")]].concat();
        let names = ["x-payload", "x-sub", "x-scope", "x-inner", "x-age", "x-map", "x-line", "x-none"].map(Arc::from);
        for (rule, removed) in [(&writes, vec![found.place.clone()]), (&forwards, vec![])] {
            let got = effects(&[rule], &[(&found, 0, &token, "e30")]);
            let want =
                Effects { remove_tokens: removed, remove_headers: names.clone().into(), set_headers: set.clone() };
            assert_eq!(got, want);
        }
        // Without a token they are not there.
        let got = effects(&[&writes], &[]);
        assert_eq!(got, Effects { remove_headers: names.into(), ..Effects::default() });
    }
}
