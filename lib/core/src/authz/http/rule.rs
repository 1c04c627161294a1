//! Rules with all of their fields, for a request. Their own file because a request has values that a connection has not:
//! some are there more than once, some in several spellings, and one that cannot be read for certain is unknown.
//!
//! | field | compared with |
//! |---|---|
//! | `ports`, `destination.*` | what was called at gate 1, the endpoint at gate 2 |
//! | `source.*`, `ipBlocks`, `remoteIpBlocks`, `remote.ip` | the original source: within the mesh no header names another |
//! | `hosts` | the authority as it is written, in any case of its letters; unknown where only its port or last dot differs |
//! | `paths` | the normalised path, without its query |
//! | `request.headers[]` | the value; of several their list with commas, and unknown where one alone would match |
//! | `request.auth.*`, `requestPrincipals` | the verified token: a list by any element; unknown of what is no text |
//! | `connection.sni` | nothing: there is no TLS of the client's within the tunnel |
//! | `experimental.envoy.filters.*` | unknown: it is Envoy's alone |

use std::{borrow::Cow, iter::once_with};

use super::Asked;
use crate::{
    authz::{
        Condition, HeaderName, L7Condition, Match, Operation, OperationL7, Rule, Source, SourceL7, StringMatch,
        truth::Truth,
    },
    jwt::Claim,
};

impl Asked<'_> {
    pub(super) fn rule(&self, rule: &Rule) -> Truth {
        let from = || match rule.from.is_empty() {
            true => Truth::Yes,
            false => Truth::any(rule.from.iter().map(|source| self.source(source))),
        };
        let to = || match rule.to.is_empty() {
            true => Truth::Yes,
            false => Truth::any(rule.to.iter().map(|operation| self.operation(operation))),
        };
        let when = || Truth::all(rule.when.iter().map(|condition| self.condition(condition)));
        Truth::all(once_with(from).chain(once_with(to)).chain(once_with(when)))
    }

    fn source(&self, source: &Source) -> Truth {
        let l7 = |l7: &SourceL7| {
            let address = l7.remote_ip_blocks.matches(|net| net.contains(&self.ends.peer.address));
            Truth::all([self.principal(&l7.request_principals), address.into()])
        };
        match (source.l4_matches(self.settings, self.ends), &source.l7) {
            (false, _) => Truth::No,
            (true, None) => Truth::Yes,
            (true, Some(fields)) => l7(fields),
        }
    }

    fn operation(&self, operation: &Operation) -> Truth {
        let head = &self.request.head;
        let l7 = |l7: &OperationL7| {
            Truth::all([
                l7.methods.matches(|method| method.matches(head.method)).into(),
                l7.hosts.truth(|host| matches_host(host, head.authority)),
                l7.paths.truth(|path| path.matches(head.path_alone())),
            ])
        };
        match (operation.l4_matches(self.ends), &operation.l7) {
            (false, _) => Truth::No,
            (true, None) => Truth::Yes,
            (true, Some(fields)) => l7(fields),
        }
    }

    fn condition(&self, condition: &Condition) -> Truth {
        match condition {
            Condition::L7(condition) => self.l7_condition(condition),
            l4 => l4.l4_matches(self.settings, self.ends).into(),
        }
    }

    fn l7_condition(&self, condition: &L7Condition) -> Truth {
        let claim = |name: &str| self.request.token.and_then(|token| token.claim(name));
        match condition {
            L7Condition::RemoteIp(m) => asks(m, || m.matches(|net| net.contains(&self.ends.peer.address)).into()),
            L7Condition::ConnectionSni(m) => asks(m, || m.matches(|_| false).into()),
            L7Condition::RequestHeader(name, m) => asks(m, || self.header(name, m)),
            L7Condition::RequestPrincipal(m) => asks(m, || self.principal(m)),
            L7Condition::RequestAudiences(m) => asks(m, || m.truth(|text| matches_claim(text, claim("aud")))),
            L7Condition::RequestPresenter(m) => asks(m, || m.truth(|text| matches_claim(text, claim("azp")))),
            L7Condition::RequestClaim(path, m) => asks(m, || {
                let claim = self.request.token.and_then(|token| token.claim_at(path.names()));
                m.truth(|text| matches_claim(text, claim))
            }),
            L7Condition::EnvoyFilter { .. } => Truth::Unknown,
        }
    }

    fn principal(&self, m: &Match<StringMatch>) -> Truth {
        let principal = self.request.token.and_then(|token| token.principal());
        m.matches(|text| principal.is_some_and(|principal| text.matches(principal))).into()
    }

    fn header(&self, name: &HeaderName, m: &Match<StringMatch>) -> Truth {
        let head = &self.request.head;
        let pseudo = match name.as_str() {
            ":authority" | "host" => Some(head.authority),
            ":method" => Some(head.method),
            ":path" => Some(head.path),
            ":scheme" => Some(head.scheme),
            _ => None,
        };
        let value = match pseudo {
            Some(value) => Some(Cow::Borrowed(value.as_bytes())),
            None => head.header(name.as_str()),
        };
        let Some(value) = value else { return m.matches(|_| false).into() };
        let each = || head.headers.iter().filter(|(known, _)| *known == name.as_str()).map(|(_, value)| *value);
        m.truth(|text| match text.matches_header(&value) {
            true => Truth::Yes,
            // What reads the values one by one may see this one alone.
            false if pseudo.is_none() && each().any(|one| text.matches_header(one)) => Truth::Unknown,
            false => Truth::No,
        })
    }
}

/// A condition without values matches nothing.
fn asks<T>(m: &Match<T>, truth: impl FnOnce() -> Truth) -> Truth {
    if m.is_empty() { Truth::No } else { truth() }
}

fn matches_host(host: &StringMatch, authority: &str) -> Truth {
    if host.matches_ignoring_case(authority) {
        return Truth::Yes;
    }
    let name = match authority.rsplit_once(':') {
        // Not the last group of an IPv6 address.
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => authority,
    };
    let spellings = [name, name.strip_suffix('.').unwrap_or(name)];
    if spellings.into_iter().any(|name| host.matches_ignoring_case(name)) { Truth::Unknown } else { Truth::No }
}

fn matches_claim(text: &StringMatch, claim: Option<&Claim>) -> Truth {
    let one = |claim: &Claim| match claim {
        Claim::Text(value) => text.matches(value).into(),
        _ => Truth::Unknown,
    };
    match claim {
        None => Truth::No,
        Some(Claim::List(all)) => Truth::any(all.iter().map(one)),
        Some(claim) => one(claim),
    }
}
