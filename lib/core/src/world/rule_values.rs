//! The values of an AuthorizationPolicy's rules, each with its field, for findings about one of them. Its own file
//! because findings and the check of references walk the same values, and must mean the same fields.

use crate::{
    authz::{Condition, Match, PrincipalMatch, ServiceAccount, StringMatch, trust_domain_is_possible},
    spiffe::is_segment,
    world::AuthorizationPolicy,
};

/// One value of a rule.
#[derive(Clone, Debug)]
pub struct RuleValue<'a> {
    /// Its field: `spec.rules[0].from[0].source.principals[1]`.
    pub field: String,
    /// It stands in the list of those that must not match.
    pub is_not: bool,
    /// The value.
    pub value: Value<'a>,
}

/// The value itself, by its kind.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    /// Of `principals`.
    Principal(&'a PrincipalMatch),
    /// Of `namespaces`.
    Namespace(&'a StringMatch),
    /// Of `trustDomains`.
    TrustDomain(&'a StringMatch),
    /// Of `serviceAccounts`.
    ServiceAccount(&'a ServiceAccount),
    /// Of `ports`.
    Port(u16),
}

impl Value<'_> {
    /// Something can match.
    #[must_use]
    pub fn is_possible(&self) -> bool {
        match self {
            Self::Principal(p) => p.is_possible(),
            Self::TrustDomain(t) => trust_domain_is_possible(t),
            Self::Namespace(StringMatch::Exact(n)) => is_segment(n),
            Self::Namespace(StringMatch::Prefix(n) | StringMatch::Suffix(n)) => !n.contains('/'),
            Self::Namespace(StringMatch::Present) | Self::ServiceAccount(_) | Self::Port(_) => true,
        }
    }

    /// The problem of a value that is not possible, and the form it should have.
    #[must_use]
    pub(crate) const fn must_be(&self) -> &'static str {
        match self {
            Self::Principal(_) => {
                "is not an identity: write TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT, or its beginning or end with `*`"
            }
            Self::Namespace(_) => "is not a namespace name",
            Self::TrustDomain(_) => "is not a trust domain",
            Self::ServiceAccount(_) => "is not a service account",
            Self::Port(_) => "is not a port",
        }
    }
}

impl AuthorizationPolicy {
    /// Every value of its rules that L4 judges, but addresses, in order.
    #[must_use]
    pub fn rule_values(&self) -> Vec<RuleValue<'_>> {
        let mut all = Vec::new();
        for (i, rule) in self.rules.iter().enumerate() {
            for (j, s) in rule.from.iter().enumerate() {
                let at = format!("spec.rules[{i}].from[{j}].source");
                list(&mut all, &at, ["principals", "notPrincipals"], &s.principals, Value::Principal);
                list(&mut all, &at, ["namespaces", "notNamespaces"], &s.namespaces, Value::Namespace);
                let names = ["serviceAccounts", "notServiceAccounts"];
                list(&mut all, &at, names, &s.service_accounts, Value::ServiceAccount);
                list(&mut all, &at, ["trustDomains", "notTrustDomains"], &s.trust_domains, Value::TrustDomain);
            }
            for (j, o) in rule.to.iter().enumerate() {
                let at = format!("spec.rules[{i}].to[{j}].operation");
                list(&mut all, &at, ["ports", "notPorts"], &o.ports, |p| Value::Port(*p));
            }
            for (j, c) in rule.when.iter().enumerate() {
                let (at, names) = (format!("spec.rules[{i}].when[{j}]"), ["values", "notValues"]);
                match c {
                    Condition::SourcePrincipal(m) => list(&mut all, &at, names, m, Value::Principal),
                    Condition::SourceNamespace(m) => list(&mut all, &at, names, m, Value::Namespace),
                    Condition::SourceServiceAccount(m) => list(&mut all, &at, names, m, Value::ServiceAccount),
                    Condition::SourceTrustDomain(m) => list(&mut all, &at, names, m, Value::TrustDomain),
                    Condition::DestinationPort(m) => list(&mut all, &at, names, m, |p| Value::Port(*p)),
                    Condition::SourceIp(_) | Condition::DestinationIp(_) | Condition::L7(_) => {}
                }
            }
        }
        all
    }
}

fn list<'a, T>(
    all: &mut Vec<RuleValue<'a>>,
    at: &str,
    names: [&str; 2],
    m: &'a Match<T>,
    value: impl Fn(&'a T) -> Value<'a>,
) {
    for (name, is_not, values) in [(names[0], false, &m.values), (names[1], true, &m.not_values)] {
        let one = |(i, v): (usize, &'a T)| RuleValue { field: format!("{at}.{name}[{i}]"), is_not, value: value(v) };
        all.extend(values.iter().enumerate().map(one));
    }
}
