//! Rules of an AuthorizationPolicy: sources, operations and conditions.

use underpass_core::{
    authz::{Condition, Operation, PrincipalMatch, Rule, ServiceAccount, Source, StringMatch},
    spiffe,
};

use super::{Faults, l7, syntax, value::Lists};
use crate::{Fault, path::At, shapes};

/// One rule; `namespace` is the policy's.
pub(super) fn rule(shape: &shapes::Rule, namespace: &str, at: &At<'_>, faults: &mut Faults) -> Rule {
    let mut rule = Rule::default();
    let (from, to, when) = (at.field("from"), at.field("to"), at.field("when"));
    for (i, entry) in entries(shape.from.as_ref(), &from, faults) {
        rule.from.extend(source(entry.source.as_ref(), namespace, &from.index(i).field("source"), faults));
    }
    for (i, entry) in entries(shape.to.as_ref(), &to, faults) {
        rule.to.extend(operation(entry.operation.as_ref(), &to.index(i).field("operation"), faults));
    }
    for (i, entry) in entries(shape.when.as_ref(), &when, faults) {
        rule.when.extend(condition(entry, namespace, &when.index(i), faults));
    }
    rule
}

/// The entries of a list that, where it is there, must not be empty.
fn entries<'s, T>(
    list: Option<&'s Vec<T>>,
    at: &At<'_>,
    faults: &mut Faults,
) -> impl Iterator<Item = (usize, &'s T)> + use<'s, T> {
    if list.is_some_and(Vec::is_empty) {
        faults.push(at, Fault::EmptyList);
    }
    list.into_iter().flatten().enumerate()
}

fn source(shape: Option<&shapes::Source>, namespace: &str, at: &At<'_>, faults: &mut Faults) -> Option<Source> {
    let asks = shape.filter(|s| **s != shapes::Source::default());
    let Some(s) = asks else {
        faults.push(at, Fault::EmptyMatch { what: "source" });
        return None;
    };
    Some(Source {
        principals: Lists {
            names: ("principals", "notPrincipals"),
            values: s.principals.as_ref(),
            not_values: s.not_principals.as_ref(),
        }
        .read(at, faults, principal),
        namespaces: Lists {
            names: ("namespaces", "notNamespaces"),
            values: s.namespaces.as_ref(),
            not_values: s.not_namespaces.as_ref(),
        }
        .read(at, faults, pattern),
        service_accounts: Lists {
            names: ("serviceAccounts", "notServiceAccounts"),
            values: s.service_accounts.as_ref(),
            not_values: s.not_service_accounts.as_ref(),
        }
        .read(at, faults, |text, at, faults| faults.check(at, service_account(text, namespace))),
        ip_blocks: Lists {
            names: ("ipBlocks", "notIpBlocks"),
            values: s.ip_blocks.as_ref(),
            not_values: s.not_ip_blocks.as_ref(),
        }
        .read(at, faults, |text, at, faults| faults.check(at, syntax::cidr(text))),
        trust_domains: Lists {
            names: ("trustDomains", "notTrustDomains"),
            values: s.trust_domains.as_ref(),
            not_values: s.not_trust_domains.as_ref(),
        }
        .read(at, faults, pattern),
        l7: l7::source(s, at, faults),
    })
}

fn operation(shape: Option<&shapes::Operation>, at: &At<'_>, faults: &mut Faults) -> Option<Operation> {
    let asks = shape.filter(|o| **o != shapes::Operation::default());
    let Some(o) = asks else {
        faults.push(at, Fault::EmptyMatch { what: "operation" });
        return None;
    };
    let ports = Lists { names: ("ports", "notPorts"), values: o.ports.as_ref(), not_values: o.not_ports.as_ref() };
    let ports = ports.read(at, faults, |text, at, f| f.check(at, syntax::port_text(text)));
    Some(Operation { ports, l7: l7::operation(o, at, faults) })
}

fn condition(shape: &shapes::Condition, namespace: &str, at: &At<'_>, faults: &mut Faults) -> Option<Condition> {
    let lists =
        Lists { names: ("values", "notValues"), values: shape.values.as_ref(), not_values: shape.not_values.as_ref() };
    if shape.values.is_none() && shape.not_values.is_none() {
        faults.push(at, Fault::EmptyMatch { what: "values and notValues" });
    }
    let net = |text: &str, at: &At<'_>, faults: &mut Faults| faults.check(at, syntax::cidr(text));
    Some(match shape.key.as_str() {
        "source.ip" => Condition::SourceIp(lists.read(at, faults, net)),
        "source.namespace" => Condition::SourceNamespace(lists.read(at, faults, pattern)),
        "source.principal" => Condition::SourcePrincipal(lists.read(at, faults, principal)),
        "source.serviceAccount" => Condition::SourceServiceAccount(
            lists.read(at, faults, |text, at, faults| faults.check(at, service_account(text, namespace))),
        ),
        "source.trustDomain" => Condition::SourceTrustDomain(lists.read(at, faults, pattern)),
        "destination.ip" => Condition::DestinationIp(lists.read(at, faults, net)),
        "destination.port" => Condition::DestinationPort(
            lists.read(at, faults, |text, at, faults| faults.check(at, syntax::port_text(text))),
        ),
        "" => {
            faults.push(&at.field("key"), Fault::Missing);
            return None;
        }
        key => {
            let condition = l7::condition(key, &lists, at, faults);
            Condition::L7(Box::new(faults.check(&at.field("key"), condition)?))
        }
    })
}

fn pattern(text: &str, at: &At<'_>, faults: &mut Faults) -> Option<StringMatch> {
    faults.check(at, one_star(text)).map(|()| StringMatch::parse(text))
}

fn principal(text: &str, at: &At<'_>, faults: &mut Faults) -> Option<PrincipalMatch> {
    if let Some(bare) = text.strip_prefix("spiffe://") {
        faults.push(at, Fault::SpiffePrefix { bare: bare.into() });
        return None;
    }
    faults.check(at, one_star(text)).map(|()| PrincipalMatch::parse(text))
}

/// A star stands for something at one end of a pattern, and nowhere else.
fn one_star(text: &str) -> Result<(), Fault> {
    let rest = text.strip_prefix('*').unwrap_or_else(|| text.strip_suffix('*').unwrap_or(text));
    match rest.contains('*') {
        true => Err(Fault::Star { found: text.into(), both: text.starts_with('*') && text.ends_with('*') }),
        false => Ok(()),
    }
}

/// `ns/sa`, or `sa` of the policy's namespace; no patterns.
fn service_account(text: &str, namespace: &str) -> Result<ServiceAccount, Fault> {
    let (namespace, name) = text.split_once('/').unwrap_or((namespace, text));
    if spiffe::is_segment(namespace) && spiffe::is_segment(name) {
        Ok(ServiceAccount { namespace: namespace.into(), name: name.into() })
    } else {
        Err(Fault::ServiceAccount { found: text.into() })
    }
}
