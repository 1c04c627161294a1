//! A policy from Istio's message alone.
//!
//! Its clauses are AND-ed, and each is any of its matches; core knows sources, operations and conditions. A clause of
//! callers alone becomes `from`, one of ports alone `to`, one with a single match conditions. A further clause of several
//! matches is multiplied out: one rule for each of them.
//!
//! What must hold: a part that is not understood is an error of the whole policy.

use underpass_core::{
    ObjectName,
    authz::{Condition, Match, Operation, Rule, Source},
    labels::Labels,
    world::{Action, AuthorizationPolicy, MeshSettings, Scope},
};
use underpass_door::{Fault, ResourceFault};

use super::{Faulty, values};
use crate::contract::istio::security::{self, Authorization, Group, Match as Fields, Rules};

/// The most rules of one policy.
const MAX_RULES: usize = 4096;

/// The policy that Istio's fields are.
pub(crate) fn policy(settings: &MeshSettings, message: &Authorization) -> Result<AuthorizationPolicy, Faulty> {
    let mut rules = Vec::new();
    for (i, group) in message.groups.iter().enumerate() {
        rules.extend(of_group(group, &format!("groups[{i}]"))?);
        if rules.len() > MAX_RULES {
            return Err(("groups".into(), ResourceFault::TooManyRules { max: MAX_RULES }.into()));
        }
    }
    Ok(AuthorizationPolicy {
        name: ObjectName::new(message.namespace.as_str(), message.name.as_str()),
        scope: scope(settings, message)?,
        action: action(message.action).map_err(|fault| ("action".into(), fault))?,
        provider: None,
        rules,
        dry_run: message.dry_run,
    })
}

/// The action of this number.
pub(super) fn action(number: i32) -> Result<Action, Fault> {
    match security::Action::try_from(number) {
        Ok(security::Action::Allow) => Ok(Action::Allow),
        Ok(security::Action::Deny) => Ok(Action::Deny),
        Err(_) => Err(ResourceFault::UnknownValue { found: number }.into()),
    }
}

/// The scope, where it means the same here.
pub(super) fn scope(settings: &MeshSettings, message: &Authorization) -> Result<Scope, Faulty> {
    let is_root = message.namespace == *settings.root_namespace;
    let at = |fault: ResourceFault| ("scope".to_owned(), Fault::from(fault));
    match security::Scope::try_from(message.scope) {
        Ok(security::Scope::WorkloadSelector) => Ok(Scope::Selector(Labels::new())),
        Ok(security::Scope::Global) if is_root => Ok(Scope::Namespace),
        Ok(security::Scope::Namespace) if !is_root => Ok(Scope::Namespace),
        Ok(_) => Err(at(ResourceFault::RootNamespace { root: settings.root_namespace.clone() })),
        Err(_) => Err(at(ResourceFault::UnknownValue { found: message.scope })),
    }
}

/// One match, by what it asks of whom.
#[derive(Clone, Default)]
struct Entry {
    source: Source,
    ports: Match<u16>,
    destinations: Match<ipnet::IpNet>,
}

impl Entry {
    fn asks_of_source_alone(&self) -> bool {
        self.ports.is_empty() && self.destinations.is_empty()
    }

    fn asks_of_ports_alone(&self) -> bool {
        self.source.is_l4_empty() && self.destinations.is_empty()
    }

    /// All of it, as conditions. Nothing never matches, and neither does a condition without values.
    fn conditions(self) -> Vec<Condition> {
        let Source { principals, namespaces, service_accounts, ip_blocks, .. } = self.source;
        let mut all = Vec::new();
        let mut push = |is_there: bool, condition| all.extend(is_there.then_some(condition));
        push(!ip_blocks.is_empty(), Condition::SourceIp(ip_blocks));
        push(!namespaces.is_empty(), Condition::SourceNamespace(namespaces));
        push(!principals.is_empty(), Condition::SourcePrincipal(principals));
        push(!service_accounts.is_empty(), Condition::SourceServiceAccount(service_accounts));
        push(!self.destinations.is_empty(), Condition::DestinationIp(self.destinations));
        push(!self.ports.is_empty(), Condition::DestinationPort(self.ports));
        if all.is_empty() {
            all.push(Condition::DestinationPort(Match::default()));
        }
        all
    }
}

fn of_group(group: &Group, at: &str) -> Result<Vec<Rule>, Faulty> {
    let (mut rule, mut rest) = (Rule::default(), Vec::new());
    for (i, clause) in group.rules.iter().enumerate() {
        let entries = entries(clause, &format!("{at}.rules[{i}]"))?;
        if rule.to.is_empty() && entries.iter().all(Entry::asks_of_ports_alone) {
            rule.to = entries.into_iter().map(|entry| Operation { ports: entry.ports, l7: None }).collect();
        } else if rule.from.is_empty() && entries.iter().all(Entry::asks_of_source_alone) {
            rule.from = entries.into_iter().map(|entry| entry.source).collect();
        } else if let [entry] = &*entries {
            rule.when.extend(entry.clone().conditions());
        } else {
            rest.push(entries);
        }
    }
    let mut rules = vec![rule];
    for entries in rest {
        if rules.len().saturating_mul(entries.len()) > MAX_RULES {
            return Err((at.into(), ResourceFault::TooManyRules { max: MAX_RULES }.into()));
        }
        let each = rules.iter().flat_map(|rule| {
            entries.iter().map(|entry| {
                let mut rule = rule.clone();
                rule.when.extend(entry.clone().conditions());
                rule
            })
        });
        rules = each.collect();
    }
    Ok(rules)
}

fn entries(clause: &Rules, at: &str) -> Result<Vec<Entry>, Faulty> {
    if clause.matches.is_empty() {
        return Err((at.into(), ResourceFault::NoMatches.into()));
    }
    let one = |(i, fields): (usize, &Fields)| {
        entry(fields).map_err(|(field, fault)| (format!("{at}.matches[{i}].{field}"), fault))
    };
    clause.matches.iter().enumerate().map(one).collect()
}

fn entry(m: &Fields) -> Result<Entry, (&'static str, Fault)> {
    if let Some(extension) = m.extensions.first() {
        let found = extension.name.as_str().into();
        return Err(("extensions", ResourceFault::UnknownExtension { found }.into()));
    }
    let at = |field: &'static str| move |fault: Fault| (field, fault);
    let principal = |pattern: &_| values::principal(values::text(pattern));
    let source = Source {
        principals: values::both(&m.principals, &m.not_principals, principal).map_err(at("principals"))?,
        namespaces: values::both(&m.namespaces, &m.not_namespaces, values::text).map_err(at("namespaces"))?,
        service_accounts: values::both(&m.service_accounts, &m.not_service_accounts, values::account)
            .map_err(at("service_accounts"))?,
        ip_blocks: values::both(&m.source_ips, &m.not_source_ips, values::block).map_err(at("source_ips"))?,
        ..Source::default()
    };
    Ok(Entry {
        source,
        ports: values::both(&m.destination_ports, &m.not_destination_ports, values::port)
            .map_err(at("destination_ports"))?,
        destinations: values::both(&m.destination_ips, &m.not_destination_ips, values::block)
            .map_err(at("destination_ips"))?,
    })
}
