//! The rules of AuthorizationPolicies, and how they match. Rules are OR-ed by the policy; from, to and when are AND-ed;
//! entries of a list OR-ed; fields of an entry AND-ed.
//!
//! Fields that need HTTP (methods, paths, JWT claims ...) are kept for a waypoint: nothing at L4 can judge them, and
//! [`super::l7`] says what happens then.

use std::{borrow::Cow, sync::Arc};

use ipnet::IpNet;
use serde::Serialize;

use super::{
    Ends, Peer,
    principal::{self, PrincipalMatch},
    value::{Match, StringMatch},
    waypoint::{L7Condition, OperationL7, SourceL7},
};
use crate::{Identity, world::MeshSettings};

/// A service account of a namespace. Compared exactly.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServiceAccount {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

/// `from[].source`. One that asks for nothing matches nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Source {
    /// `trust domain/ns/namespace/sa/account`, without `spiffe://`, under any name of the trust domain.
    pub principals: Match<PrincipalMatch>,
    /// The namespace of the identity.
    pub namespaces: Match<StringMatch>,
    /// The service account of the identity.
    pub service_accounts: Match<ServiceAccount>,
    /// The peer's address.
    pub ip_blocks: Match<IpNet>,
    /// The trust domain of the identity.
    pub trust_domains: Match<StringMatch>,
    /// The fields that only a waypoint can judge.
    pub l7: Option<Box<SourceL7>>,
}

/// `to[].operation`. One that asks for nothing matches nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Operation {
    /// Target ports.
    pub ports: Match<u16>,
    /// The fields that only a waypoint can judge.
    pub l7: Option<Box<OperationL7>>,
}

/// `when[]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Condition {
    /// `source.ip`.
    SourceIp(Match<IpNet>),
    /// `source.namespace`.
    SourceNamespace(Match<StringMatch>),
    /// `source.principal`.
    SourcePrincipal(Match<PrincipalMatch>),
    /// `source.serviceAccount`.
    SourceServiceAccount(Match<ServiceAccount>),
    /// `source.trustDomain`.
    SourceTrustDomain(Match<StringMatch>),
    /// `destination.ip`.
    DestinationIp(Match<IpNet>),
    /// `destination.port`, a target port.
    DestinationPort(Match<u16>),
    /// A key that only a waypoint can judge.
    L7(Box<L7Condition>),
}

/// One of a policy's rules. A rule without any of the three matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Rule {
    /// The callers; empty: any.
    pub from: Vec<Source>,
    /// The operations; empty: any.
    pub to: Vec<Operation>,
    /// On these conditions, all of them.
    pub when: Vec<Condition>,
}

// What only a waypoint judges costs a policy without it a pointer, or nothing.
const _: () = {
    assert!(size_of::<Condition>() == size_of::<Match<u16>>() + size_of::<usize>());
    assert!(size_of::<Operation>() == size_of::<Match<u16>>() + size_of::<usize>());
};

impl Rule {
    /// Whether the part that L4 can judge matches. Entries whose only fields are L7 ones count as matching here.
    #[must_use]
    pub fn l4_matches(&self, settings: &MeshSettings, ends: Ends<'_>) -> bool {
        (self.from.is_empty() || self.from.iter().any(|s| s.l4_matches(settings, ends)))
            && (self.to.is_empty() || self.to.iter().any(|o| o.l4_matches(ends)))
            && self.when.iter().all(|c| c.l4_matches(settings, ends))
    }

    /// The fields that need a waypoint, as written, each once.
    #[must_use]
    pub fn l7_fields(&self) -> Vec<Arc<str>> {
        let from = self.from.iter().flat_map(Source::l7_fields);
        let to = self.to.iter().flat_map(Operation::l7_fields);
        let when = self.when.iter().filter_map(Condition::l7_key);
        let mut fields: Vec<Arc<str>> = Vec::new();
        for field in from.chain(to).map(Arc::from).chain(when.map(Arc::from)) {
            if !fields.contains(&field) {
                fields.push(field);
            }
        }
        fields
    }
}

impl Source {
    /// Asks for nothing at L4.
    #[must_use]
    pub fn is_l4_empty(&self) -> bool {
        self.principals.is_empty()
            && self.namespaces.is_empty()
            && self.service_accounts.is_empty()
            && self.ip_blocks.is_empty()
            && self.trust_domains.is_empty()
    }

    /// The names of its fields that need a waypoint.
    pub fn l7_fields(&self) -> impl Iterator<Item = &'static str> {
        self.l7.iter().flat_map(|l7| l7.fields())
    }

    pub(super) fn l4_matches(&self, settings: &MeshSettings, r: Ends<'_>) -> bool {
        if self.is_l4_empty() && self.l7_fields().next().is_none() {
            return false;
        }
        let id = r.peer.identity;
        principal(&self.principals, settings, &r.peer)
            && namespace(&self.namespaces, id)
            && service_account(&self.service_accounts, &r.peer)
            && self.ip_blocks.matches(|net| net.contains(&r.peer.address))
            && trust_domain(&self.trust_domains, settings, id)
    }
}

impl Operation {
    /// The names of its fields that need a waypoint.
    pub fn l7_fields(&self) -> impl Iterator<Item = &'static str> {
        self.l7.iter().flat_map(|l7| l7.fields())
    }

    pub(super) fn l4_matches(&self, r: Ends<'_>) -> bool {
        let asks = !self.ports.is_empty() || self.l7_fields().next().is_some();
        asks && self.ports.matches(|p| *p == r.port)
    }
}

impl Condition {
    /// Its key, where that needs a waypoint.
    #[must_use]
    pub fn l7_key(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::L7(condition) => Some(condition.key()),
            _ => None,
        }
    }

    pub(super) fn l4_matches(&self, settings: &MeshSettings, r: Ends<'_>) -> bool {
        let id = r.peer.identity;
        match self {
            Self::SourceIp(m) => !m.is_empty() && m.matches(|net| net.contains(&r.peer.address)),
            Self::SourceNamespace(m) => !m.is_empty() && namespace(m, id),
            Self::SourcePrincipal(m) => !m.is_empty() && principal(m, settings, &r.peer),
            Self::SourceServiceAccount(m) => !m.is_empty() && service_account(m, &r.peer),
            Self::SourceTrustDomain(m) => !m.is_empty() && trust_domain(m, settings, id),
            Self::DestinationIp(m) => !m.is_empty() && m.matches(|net| net.contains(&r.address)),
            Self::DestinationPort(m) => !m.is_empty() && m.matches(|p| *p == r.port),
            Self::L7(_) => true,
        }
    }
}

/// A waypoint that calls for another one counts only where it is named exactly, and never as one that must not match.
fn principal(m: &Match<PrincipalMatch>, settings: &MeshSettings, peer: &Peer<'_>) -> bool {
    m.matches_or(
        |t| peer.identity.is_some_and(|i| t.matches(settings, i)),
        |t| t.is_exact() && peer.via.is_some_and(|via| t.matches(settings, via.identity)),
    )
}

fn namespace(m: &Match<StringMatch>, id: Option<&Identity>) -> bool {
    m.matches(|t| id.is_some_and(|i| t.matches(i.namespace())))
}

fn trust_domain(m: &Match<StringMatch>, settings: &MeshSettings, id: Option<&Identity>) -> bool {
    m.matches(|t| id.is_some_and(|i| principal::trust_domain(t, settings, i.trust_domain())))
}

/// As of [`principal`]; a service account is always named exactly.
fn service_account(m: &Match<ServiceAccount>, peer: &Peer<'_>) -> bool {
    let is = |sa: &ServiceAccount, i: &Identity| i.namespace() == &*sa.namespace && i.service_account() == &*sa.name;
    m.matches_or(|sa| peer.identity.is_some_and(|i| is(sa, i)), |sa| peer.via.is_some_and(|via| is(sa, via.identity)))
}
