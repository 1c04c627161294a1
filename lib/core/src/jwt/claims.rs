//! The claims of a verified token (RFC 7519). Their own file because policies, routes and headers all read the same ones,
//! and each must see a claim as the others do.

use std::collections::BTreeMap;

/// A claim: a JSON value.
#[derive(Clone, Debug, PartialEq)]
pub enum Claim {
    /// `null`.
    Null,
    /// A boolean.
    Bool(bool),
    /// A number.
    Number(f64),
    /// A text.
    Text(Box<str>),
    /// An array.
    List(Vec<Claim>),
    /// An object.
    Map(Claims),
}

/// Claims by name.
pub type Claims = BTreeMap<Box<str>, Claim>;

/// Claims whose text is a list, its words, in every token (RFC 8693, 4.2).
const SPACE_DELIMITED: [&str; 2] = ["scope", "permission"];

/// What a verified token says.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    claims: Claims,
    principal: Option<Box<str>>,
}

impl Token {
    /// From its claims. The texts of `space_delimited`, of `scope` and of `permission` become lists of their words.
    #[must_use]
    pub fn new<'a>(mut claims: Claims, space_delimited: impl IntoIterator<Item = &'a str>) -> Self {
        for name in space_delimited.into_iter().chain(SPACE_DELIMITED) {
            if let Some(claim) = claims.get_mut(name)
                && let Claim::Text(text) = claim
            {
                let words = text.split(' ').filter(|word| !word.is_empty());
                *claim = Claim::List(words.map(|word| Claim::Text(word.into())).collect());
            }
        }
        let text = |name: &str| match claims.get(name) {
            Some(Claim::Text(text)) if !text.is_empty() => Some(text),
            _ => None,
        };
        let principal = text("iss").zip(text("sub")).map(|(issuer, subject)| [issuer, "/", subject].concat().into());
        Self { claims, principal }
    }

    /// `issuer/subject`; none: it does not name both.
    #[must_use]
    pub fn principal(&self) -> Option<&str> {
        self.principal.as_deref()
    }

    /// All claims.
    #[must_use]
    pub const fn claims(&self) -> &Claims {
        &self.claims
    }

    /// A claim by its name.
    #[must_use]
    pub fn claim(&self, name: &str) -> Option<&Claim> {
        self.claims.get(name)
    }

    /// A claim within objects, by the names on the way to it.
    pub fn claim_at<'a>(&self, mut names: impl Iterator<Item = &'a str>) -> Option<&Claim> {
        let first = self.claims.get(names.next()?)?;
        names.try_fold(first, |claim, name| match claim {
            Claim::Map(claims) => claims.get(name),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Claim {
        Claim::Text(text.into())
    }

    fn token(claims: &[(&str, Claim)]) -> Token {
        Token::new(claims.iter().map(|(name, claim)| ((*name).into(), claim.clone())).collect(), ["roles"])
    }

    #[test]
    fn principals_have_issuer_and_subject() {
        let check = |claims: &[(&str, Claim)], expect: Option<&str>| assert_eq!(token(claims).principal(), expect);
        check(&[("iss", text("https://a/b")), ("sub", text("c"))], Some("https://a/b/c"));
        check(&[("iss", text("a"))], None);
        check(&[("sub", text("a"))], None);
        check(&[("iss", text("a")), ("sub", text(""))], None);
        check(&[("iss", text("a")), ("sub", Claim::Number(7.0))], None);
    }

    #[test]
    fn words_become_lists_where_the_claim_is_one() {
        let words = || Claim::List(vec![text("a"), text("b")]);
        let token = token(&[("scope", text("a  b")), ("roles", text("a b")), ("name", text("a b"))]);
        let got = ["scope", "roles", "name", "permission"].map(|name| token.claim(name).cloned());
        assert_eq!(got, [Some(words()), Some(words()), Some(text("a b")), None]);
    }

    #[test]
    fn claims_within_claims() {
        let inner = Claim::Map([("b".into(), text("x"))].into());
        let token = token(&[("a", inner.clone()), ("a.b", text("y"))]);
        let at = |names: &[&str]| token.claim_at(names.iter().copied()).cloned();
        assert_eq!(at(&["a"]), Some(inner));
        assert_eq!(at(&["a", "b"]), Some(text("x")));
        assert_eq!((at(&["a", "b", "c"]), at(&["a", "c"]), at(&["b"]), at(&[])), (None, None, None, None));
    }
}
