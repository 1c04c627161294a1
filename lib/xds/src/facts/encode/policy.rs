//! A policy as Istio's message: what L4 judges, exactly where the message can carry it, else stricter. An ALLOW then
//! matches less than was written, a DENY more.

use ipnet::IpNet;
use underpass_core::{
    authz::{Condition, Match, Operation, PrincipalMatch, Rule, ServiceAccount, Source, StringMatch},
    world::{Action, AuthorizationPolicy, MeshSettings, Scope},
};

use super::{exact, strings};
use crate::{
    contract::{
        istio::security::{
            self, Address, Authorization, Group, Match as Fields, Rules, ServiceAccountMatch, StringMatch as Pattern,
        },
        underpass::v1::PolicyExtension,
    },
    facts::{decode::plain, extension, names},
};

/// None: it is judged at a waypoint alone. At L4 AUDIT does nothing, and no external authorizer is asked, so that CUSTOM denies.
pub(super) fn authorization(settings: &MeshSettings, policy: &AuthorizationPolicy) -> Option<Authorization> {
    let scope = match &policy.scope {
        Scope::Targets(_) => return None,
        Scope::Selector(_) => security::Scope::WorkloadSelector,
        Scope::Namespace if policy.name.namespace() == &*settings.root_namespace => security::Scope::Global,
        Scope::Namespace => security::Scope::Namespace,
    };
    let mut message = Authorization {
        name: policy.name.name().into(),
        namespace: policy.name.namespace().into(),
        scope: scope.into(),
        dry_run: policy.dry_run,
        ..Authorization::default()
    };
    if policy.dry_run || policy.action == Action::Audit {
        message.action = security::Action::Deny.into();
    } else {
        message.action = action(policy.action).into();
        let lower = Lower { settings, action: policy.action };
        message.groups = policy.rules.iter().flat_map(|rule| lower.groups(rule)).collect();
    }
    let is_exact =
        plain::policy(settings, &message).is_ok_and(|read| read.action == policy.action && read.rules == policy.rules);
    let selector = match &policy.scope {
        Scope::Selector(labels) => labels.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
        Scope::Namespace | Scope::Targets(_) => Default::default(),
    };
    let exact = (!is_exact).then(|| exact::policy(policy));
    message.extensions = extension::pack(&PolicyExtension { selector, exact });
    Some(message)
}

/// The message's action.
pub(super) const fn action(action: Action) -> security::Action {
    match action {
        Action::Allow => security::Action::Allow,
        Action::Deny | Action::Custom | Action::Audit => security::Action::Deny,
    }
}

/// What becomes of one entry of a clause.
enum Lowered {
    /// It never matches.
    Never,
    /// It always matches.
    Always,
    /// It matches where all of these do.
    All(Vec<Fields>),
}

impl Lowered {
    /// All that must match; an entry without fields never does.
    fn all(self) -> Vec<Fields> {
        match self {
            Self::Always => Vec::new(),
            Self::Never => vec![Fields::default()],
            Self::All(fields) => fields,
        }
    }
}

struct Lower<'a> {
    settings: &'a MeshSettings,
    action: Action,
}

impl Lower<'_> {
    /// The groups of one rule: none where it never matches, several where its sources cannot stand in one clause.
    fn groups(&self, rule: &Rule) -> Vec<Group> {
        if self.action == Action::Allow && !rule.l7_fields().is_empty() {
            return Vec::new();
        }
        let one = |fields: Fields| clause([fields]);
        let to = if rule.to.is_empty() { None } else { any_of(rule.to.iter().map(operation)) };
        let to = to.map(|all| clause(all.into_iter().flatten()));
        let when: Vec<Rules> = rule.when.iter().flat_map(|c| self.condition(c).all()).map(one).collect();
        let from = if rule.from.is_empty() { None } else { any_of(rule.from.iter().map(|s| self.source(s))) };
        let group =
            |from: Vec<Rules>| Group { rules: to.iter().cloned().chain(from).chain(when.iter().cloned()).collect() };
        match from {
            None => vec![group(Vec::new())],
            Some(all) if all.iter().all(|fields| fields.len() == 1) => {
                vec![group(vec![clause(all.into_iter().flatten())])]
            }
            Some(all) => all.into_iter().map(|fields| group(fields.into_iter().map(one).collect())).collect(),
        }
    }

    fn source(&self, source: &Source) -> Lowered {
        if source.is_l4_empty() {
            return if source.l7_fields().next().is_some() { Lowered::Always } else { Lowered::Never };
        }
        let Some(mut fields) = self.fields(source) else { return Lowered::Never };
        match self.trust_domains(&source.trust_domains) {
            TrustDomains::Never => Lowered::Never,
            TrustDomains::Match { values, not_values } => {
                fields.not_principals.extend(not_values);
                match values {
                    None if fields == Fields::default() => Lowered::Always,
                    None => Lowered::All(vec![fields]),
                    Some(values) if fields.principals.is_empty() => {
                        fields.principals = values;
                        Lowered::All(vec![fields])
                    }
                    Some(values) => Lowered::All(vec![fields, Fields { principals: values, ..Fields::default() }]),
                }
            }
        }
    }

    /// All but the trust domains. None: it never matches.
    fn fields(&self, source: &Source) -> Option<Fields> {
        let of = |all: &[PrincipalMatch]| all.iter().flat_map(|p| strings::principals(self.settings, p)).collect();
        let of_namespaces = |all: &[StringMatch]| all.iter().filter_map(strings::namespace).collect::<Vec<Pattern>>();
        let namespaces = of_namespaces(&source.namespaces.values);
        if namespaces.is_empty() && !source.namespaces.values.is_empty() {
            return None;
        }
        Some(Fields {
            principals: of(&source.principals.values),
            not_principals: of(&source.principals.not_values),
            namespaces,
            not_namespaces: of_namespaces(&source.namespaces.not_values),
            service_accounts: accounts(&source.service_accounts.values),
            not_service_accounts: accounts(&source.service_accounts.not_values),
            source_ips: blocks(&source.ip_blocks.values),
            not_source_ips: blocks(&source.ip_blocks.not_values),
            ..Fields::default()
        })
    }

    fn trust_domains(&self, m: &Match<StringMatch>) -> TrustDomains {
        let of = |all: &[StringMatch]| {
            all.iter().map(|t| strings::trust_domains(self.settings, t)).fold(
                (Vec::new(), true),
                |(mut all, complete), (some, is)| {
                    all.extend(some);
                    (all, complete && is)
                },
            )
        };
        let ((values, whole), (not_values, not_whole)) = (of(&m.values), of(&m.not_values));
        let allows = self.action == Action::Allow;
        if allows && !not_whole {
            return TrustDomains::Never;
        }
        let values = match (m.values.is_empty(), whole || allows) {
            (true, _) | (false, false) => None,
            (false, true) if values.is_empty() => return TrustDomains::Never,
            (false, true) => Some(values),
        };
        TrustDomains::Match { values, not_values }
    }

    fn condition(&self, condition: &Condition) -> Lowered {
        let of_source = |source: Source| match source.is_l4_empty() {
            true => Lowered::Never,
            false => self.source(&source),
        };
        let fields = |fields: Fields| match fields == Fields::default() {
            true => Lowered::Never,
            false => Lowered::All(vec![fields]),
        };
        match condition {
            Condition::SourceIp(m) => of_source(Source { ip_blocks: m.clone(), ..Source::default() }),
            Condition::SourceNamespace(m) => of_source(Source { namespaces: m.clone(), ..Source::default() }),
            Condition::SourcePrincipal(m) => of_source(Source { principals: m.clone(), ..Source::default() }),
            Condition::SourceServiceAccount(m) => {
                of_source(Source { service_accounts: m.clone(), ..Source::default() })
            }
            Condition::SourceTrustDomain(m) => of_source(Source { trust_domains: m.clone(), ..Source::default() }),
            Condition::DestinationIp(m) => fields(Fields {
                destination_ips: blocks(&m.values),
                not_destination_ips: blocks(&m.not_values),
                ..Fields::default()
            }),
            Condition::DestinationPort(m) => fields(ports(m)),
            Condition::L7(_) => Lowered::Always,
        }
    }
}

enum TrustDomains {
    Never,
    /// No values: any.
    Match {
        values: Option<Vec<Pattern>>,
        not_values: Vec<Pattern>,
    },
}

/// None: one of them always matches. Where none ever matches, an entry that never does.
fn any_of(entries: impl Iterator<Item = Lowered>) -> Option<Vec<Vec<Fields>>> {
    let mut all = Vec::new();
    for entry in entries {
        match entry {
            Lowered::Always => return None,
            other => all.push(other.all()),
        }
    }
    Some(all)
}

fn operation(operation: &Operation) -> Lowered {
    match (operation.ports.is_empty(), operation.l7_fields().next().is_some()) {
        (true, true) => Lowered::Always,
        (true, false) => Lowered::Never,
        (false, _) => Lowered::All(vec![ports(&operation.ports)]),
    }
}

fn clause(matches: impl IntoIterator<Item = Fields>) -> Rules {
    Rules { matches: matches.into_iter().collect() }
}

fn ports(m: &Match<u16>) -> Fields {
    let of = |all: &[u16]| all.iter().copied().map(u32::from).collect();
    Fields { destination_ports: of(&m.values), not_destination_ports: of(&m.not_values), ..Fields::default() }
}

/// Ranges of addresses.
pub(super) fn blocks(all: &[IpNet]) -> Vec<Address> {
    let one = |net: &IpNet| Address { address: names::bytes(net.addr()), length: net.prefix_len().into() };
    all.iter().map(one).collect()
}

/// Service accounts.
pub(super) fn accounts(all: &[ServiceAccount]) -> Vec<ServiceAccountMatch> {
    let one = |account: &ServiceAccount| ServiceAccountMatch {
        namespace: account.namespace.to_string(),
        service_account: account.name.to_string(),
    };
    all.iter().map(one).collect()
}
