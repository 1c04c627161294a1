//! The rules of a policy as they were written, from our extension. None: it has something that this version does not
//! know, and Istio's fields beside it, which are never wider, count instead.
//!
//! Values that only a waypoint judges are not sent: any stand in their place, and nothing at L4 reads them.

use std::{net::Ipv4Addr, sync::Arc};

use ipnet::IpNet;
use underpass_core::{
    authz::{
        self, ClaimPath, L7Condition, Match, OperationL7, PathMatch, PrincipalMatch, ServiceAccount, SourceL7,
        StringMatch,
    },
    world::Action,
};
use underpass_door::Fault;

use super::{plain, values};
use crate::contract::underpass::v1::{
    Blocks, Condition, ExactPolicy, Operation, Ports, Rule, ServiceAccounts, Source, Strings, condition::Key,
};

/// Action, provider and rules.
pub(super) fn policy(exact: &ExactPolicy) -> Option<(Action, Option<Arc<str>>, Vec<authz::Rule>)> {
    let rules = all(&exact.rules, rule)?;
    match (plain::action(exact.action).ok()?, exact.provider.as_str(), exact.audits) {
        (action, "", false) => Some((action, None, rules)),
        (Action::Deny, "", true) => Some((Action::Audit, None, rules)),
        (Action::Deny, provider, false) => Some((Action::Custom, Some(provider.into()), rules)),
        _ => None,
    }
}

fn all<M, T>(messages: &[M], one: impl Fn(&M) -> Option<T>) -> Option<Vec<T>> {
    messages.iter().map(one).collect()
}

fn rule(rule: &Rule) -> Option<authz::Rule> {
    Some(authz::Rule {
        from: all(&rule.from, source)?,
        to: all(&rule.to, operation)?,
        when: all(&rule.when, condition)?,
    })
}

fn source(source: &Source) -> Option<authz::Source> {
    let mut l7 = SourceL7::default();
    for field in &source.l7_fields {
        match field.as_str() {
            "requestPrincipals" => l7.request_principals.values.push(StringMatch::Present),
            "notRequestPrincipals" => l7.request_principals.not_values.push(StringMatch::Present),
            "remoteIpBlocks" => l7.remote_ip_blocks.values.push(any_address()),
            "notRemoteIpBlocks" => l7.remote_ip_blocks.not_values.push(any_address()),
            _ => return None,
        }
    }
    Some(authz::Source {
        principals: list(source.principals.as_ref(), principals)?,
        namespaces: list(source.namespaces.as_ref(), texts)?,
        service_accounts: list(source.service_accounts.as_ref(), accounts)?,
        ip_blocks: list(source.ip_blocks.as_ref(), blocks)?,
        trust_domains: list(source.trust_domains.as_ref(), texts)?,
        l7: l7.boxed(),
    })
}

fn any_address() -> IpNet {
    ipnet::Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0).into()
}

fn operation(operation: &Operation) -> Option<authz::Operation> {
    let (mut l7, any) = (OperationL7::default(), StringMatch::Present);
    for field in &operation.l7_fields {
        match field.as_str() {
            "hosts" => l7.hosts.values.push(any.clone()),
            "notHosts" => l7.hosts.not_values.push(any.clone()),
            "methods" => l7.methods.values.push(any.clone()),
            "notMethods" => l7.methods.not_values.push(any.clone()),
            "paths" => l7.paths.values.push(PathMatch::Text(any.clone())),
            "notPaths" => l7.paths.not_values.push(PathMatch::Text(any.clone())),
            _ => return None,
        }
    }
    Some(authz::Operation { ports: list(operation.ports.as_ref(), ports)?, l7: l7.boxed() })
}

fn condition(condition: &Condition) -> Option<authz::Condition> {
    Some(match condition.key.as_ref()? {
        Key::SourceIp(m) => authz::Condition::SourceIp(blocks(m).ok()?),
        Key::SourceNamespace(m) => authz::Condition::SourceNamespace(texts(m).ok()?),
        Key::SourcePrincipal(m) => authz::Condition::SourcePrincipal(principals(m).ok()?),
        Key::SourceServiceAccount(m) => authz::Condition::SourceServiceAccount(accounts(m).ok()?),
        Key::SourceTrustDomain(m) => authz::Condition::SourceTrustDomain(texts(m).ok()?),
        Key::DestinationIp(m) => authz::Condition::DestinationIp(blocks(m).ok()?),
        Key::DestinationPort(m) => authz::Condition::DestinationPort(ports(m).ok()?),
        Key::L7Key(key) => authz::Condition::L7(l7_key(key)?.into()),
    })
}

/// The condition whose key is written so, without values.
fn l7_key(key: &str) -> Option<L7Condition> {
    let within = |start: &str| key.strip_prefix(start)?.strip_suffix(']');
    Some(match key {
        "remote.ip" => L7Condition::RemoteIp(Match::default()),
        "connection.sni" => L7Condition::ConnectionSni(Match::default()),
        "request.auth.principal" => L7Condition::RequestPrincipal(Match::default()),
        "request.auth.audiences" => L7Condition::RequestAudiences(Match::default()),
        "request.auth.presenter" => L7Condition::RequestPresenter(Match::default()),
        _ if key.starts_with("experimental.envoy.filters") => {
            L7Condition::EnvoyFilter { key: key.into(), values: Match::default() }
        }
        _ => match (within("request.headers["), within("request.auth.claims[")) {
            (Some(name), _) => L7Condition::RequestHeader(name.parse().ok()?, Match::default()),
            (_, Some(path)) => L7Condition::RequestClaim(ClaimPath::parse(path)?, Match::default()),
            (None, None) => return None,
        },
    })
}

/// An absent list asks for nothing, and so does an empty one: that is never sent.
fn list<M, T>(message: Option<&M>, read: impl Fn(&M) -> Result<Match<T>, Fault>) -> Option<Match<T>> {
    match message {
        None => Some(Match::default()),
        Some(message) => read(message).ok().filter(|m| !m.is_empty()),
    }
}

fn principals(m: &Strings) -> Result<Match<PrincipalMatch>, Fault> {
    values::both(&m.values, &m.not_values, |pattern| values::principal(values::exact_text(pattern)))
}

fn texts(m: &Strings) -> Result<Match<StringMatch>, Fault> {
    values::both(&m.values, &m.not_values, values::exact_text)
}

fn accounts(m: &ServiceAccounts) -> Result<Match<ServiceAccount>, Fault> {
    values::both(&m.values, &m.not_values, values::account)
}

fn blocks(m: &Blocks) -> Result<Match<IpNet>, Fault> {
    values::both(&m.values, &m.not_values, values::block)
}

fn ports(m: &Ports) -> Result<Match<u16>, Fault> {
    values::both(&m.values, &m.not_values, values::port)
}
