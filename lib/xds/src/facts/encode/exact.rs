//! The rules of a policy as they were written, for agents of ours: all but the values that only a waypoint judges.

use underpass_core::{
    authz::{self, Match, StringMatch},
    world::{Action, AuthorizationPolicy},
};

use super::{policy, strings};
use crate::contract::underpass::v1::{
    Blocks, Condition, ExactPolicy, Operation, Ports, Rule, ServiceAccounts, Source, Strings, condition::Key,
};

pub(super) fn policy(policy: &AuthorizationPolicy) -> ExactPolicy {
    ExactPolicy {
        action: policy::action(policy.action).into(),
        rules: policy.rules.iter().map(rule).collect(),
        provider: policy.provider.as_deref().unwrap_or_default().to_owned(),
        audits: policy.action == Action::Audit,
    }
}

fn rule(rule: &authz::Rule) -> Rule {
    Rule {
        from: rule.from.iter().map(source).collect(),
        to: rule.to.iter().map(operation).collect(),
        when: rule.when.iter().map(condition).collect(),
    }
}

fn source(source: &authz::Source) -> Source {
    Source {
        principals: there(&source.principals, principals),
        namespaces: there(&source.namespaces, texts),
        service_accounts: there(&source.service_accounts, accounts),
        ip_blocks: there(&source.ip_blocks, blocks),
        trust_domains: there(&source.trust_domains, texts),
        l7_fields: source.l7_fields().map(String::from).collect(),
    }
}

fn operation(operation: &authz::Operation) -> Operation {
    Operation { ports: there(&operation.ports, ports), l7_fields: operation.l7_fields().map(String::from).collect() }
}

fn condition(condition: &authz::Condition) -> Condition {
    let key = match condition {
        authz::Condition::SourceIp(m) => Key::SourceIp(blocks(m)),
        authz::Condition::SourceNamespace(m) => Key::SourceNamespace(texts(m)),
        authz::Condition::SourcePrincipal(m) => Key::SourcePrincipal(principals(m)),
        authz::Condition::SourceServiceAccount(m) => Key::SourceServiceAccount(accounts(m)),
        authz::Condition::SourceTrustDomain(m) => Key::SourceTrustDomain(texts(m)),
        authz::Condition::DestinationIp(m) => Key::DestinationIp(blocks(m)),
        authz::Condition::DestinationPort(m) => Key::DestinationPort(ports(m)),
        authz::Condition::L7(condition) => Key::L7Key(condition.key().into_owned()),
    };
    Condition { key: Some(key) }
}

fn there<T, M>(m: &Match<T>, message: impl Fn(&Match<T>) -> M) -> Option<M> {
    (!m.is_empty()).then(|| message(m))
}

fn principals(m: &Match<authz::PrincipalMatch>) -> Strings {
    let of = |all: &[authz::PrincipalMatch]| all.iter().map(|p| strings::pattern(p.text())).collect();
    Strings { values: of(&m.values), not_values: of(&m.not_values) }
}

fn texts(m: &Match<StringMatch>) -> Strings {
    let of = |all: &[StringMatch]| all.iter().map(strings::pattern).collect();
    Strings { values: of(&m.values), not_values: of(&m.not_values) }
}

fn accounts(m: &Match<authz::ServiceAccount>) -> ServiceAccounts {
    ServiceAccounts { values: policy::accounts(&m.values), not_values: policy::accounts(&m.not_values) }
}

fn blocks(m: &Match<ipnet::IpNet>) -> Blocks {
    Blocks { values: policy::blocks(&m.values), not_values: policy::blocks(&m.not_values) }
}

fn ports(m: &Match<u16>) -> Ports {
    let of = |all: &[u16]| all.iter().copied().map(u32::from).collect();
    Ports { values: of(&m.values), not_values: of(&m.not_values) }
}
