//! The indexes of a World, beside its facts and changed with them: a change costs what it touches. Everything here
//! follows from the facts and the trust domain alone.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use imbl::OrdMap;

use crate::{
    Few, Identity, ObjectName, TrustDomain,
    world::{Account, AuthorizationPolicy, Endpoint, Scope, Service, TargetKind, Uid, Workload},
};

/// A claimant of an address.
#[derive(Clone, Debug)]
pub(super) enum Claimant {
    /// A pod's own address.
    Workload(Arc<Workload>),
    /// A VIP.
    Service(Arc<Service>),
    /// An address that a service says is its own. By naming one it takes nothing away: what else claims it has it.
    External(Arc<Service>),
}

/// The claimants of one address that count, of all of them: an external address is a service's while nothing else claims
/// it, no other service either.
fn counting(claims: &Few<Claimant>) -> &[Claimant] {
    match &**claims {
        [one] => std::slice::from_ref(one),
        all => all.get(..all.partition_point(|claimant| !claimant.is_external())).unwrap_or_default(),
    }
}

impl Claimant {
    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Workload(a), Self::Workload(b)) => a.uid == b.uid,
            (Self::Service(a), Self::Service(b)) | (Self::External(a), Self::External(b)) => a.name == b.name,
            _ => false,
        }
    }

    const fn is_external(&self) -> bool {
        matches!(self, Self::External(_))
    }

    /// An order that no change leaves a trace in, external addresses last.
    fn key(&self) -> (bool, Option<&Uid>, Option<&ObjectName>) {
        match self {
            Self::Workload(w) => (false, Some(&w.uid), None),
            Self::Service(s) => (false, None, Some(&s.name)),
            Self::External(s) => (true, None, Some(&s.name)),
        }
    }
}

/// One endpoint of a service, in the order in which they are told: by address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct EndpointKey {
    service: ObjectName,
    address: IpAddr,
    uid: Uid,
    /// Its place among the workload's endpoints.
    at: u32,
}

/// An identity, and how many workloads have it.
#[derive(Clone, Debug)]
struct Identified {
    identity: Identity,
    workloads: usize,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    /// All claimants of each address, in order: more than one only by mistake.
    claims: OrdMap<IpAddr, Few<Claimant>>,
    endpoints: OrdMap<EndpointKey, Arc<Workload>>,
    /// By service: its endpoints that are in the mesh.
    enrolled: OrdMap<ObjectName, usize>,
    identities: OrdMap<Account, Identified>,
    /// By namespace: the policies about all of it, by name.
    wide: OrdMap<Arc<str>, Policies>,
    /// By namespace and name, of whichever kind: the policies of the namespace that name it in `targetRefs`, by name.
    targets: OrdMap<ObjectName, Policies>,
    /// By GatewayClass: the policies, of any namespace, that name it, by name.
    classes: OrdMap<Arc<str>, Policies>,
}

/// Policies, by name.
type Policies = Arc<[Arc<AuthorizationPolicy>]>;

impl Index {
    pub(super) fn claims(&self, ip: IpAddr) -> &[Claimant] {
        self.claims.get(&ip).map_or(&[], counting)
    }

    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.claims.iter().filter(|(_, claims)| !counting(claims).is_empty()).map(|(ip, _)| *ip)
    }

    pub(super) fn identity(&self, account: &Account) -> Option<&Identity> {
        self.identities.get(account).map(|known| &known.identity)
    }

    /// The workloads that have this account.
    pub(super) fn count_of(&self, account: &Account) -> usize {
        self.identities.get(account).map_or(0, |known| known.workloads)
    }

    pub(super) fn identities(&self) -> impl Iterator<Item = &Identity> {
        self.identities.values().map(|known| &known.identity)
    }

    pub(super) fn enrolled(&self, service: &ObjectName) -> usize {
        self.enrolled.get(service).copied().unwrap_or_default()
    }

    pub(super) fn wide(&self, namespace: &str) -> &[Arc<AuthorizationPolicy>] {
        self.wide.get(namespace).map_or(&[], |all| all)
    }

    pub(super) fn of_target(&self, name: &ObjectName) -> &[Arc<AuthorizationPolicy>] {
        self.targets.get(name).map_or(&[], |all| all)
    }

    pub(super) fn of_class(&self, class: &str) -> &[Arc<AuthorizationPolicy>] {
        self.classes.get(class).map_or(&[], |all| all)
    }

    /// The endpoints of a service, by address.
    pub(super) fn endpoints<'a>(
        &'a self,
        service: &'a ObjectName,
    ) -> impl Iterator<Item = (&'a Arc<Workload>, &'a Endpoint)> + 'a {
        // No address is before this one.
        let address = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let first = EndpointKey { service: service.clone(), address, uid: Uid::new(""), at: 0 };
        let all = self.endpoints.range(first..).take_while(move |(key, _)| key.service == *service);
        all.filter_map(|(key, workload)| Some((workload, workload.endpoints.get(key.at as usize)?)))
    }

    /// A workload was `old` and is `new`, of one uid. What is the same in both is looked up once and keeps its place.
    pub(super) fn change_workload(
        &mut self,
        old: Option<&Arc<Workload>>,
        new: Option<&Arc<Workload>>,
        trust_domain: &TrustDomain,
    ) {
        self.change_addresses(old, new);
        self.change_endpoints(old, new);
        let account = |workload: Option<&Arc<Workload>>| workload.and_then(|workload| workload.account.clone());
        let (before, after) = (account(old), account(new));
        if before != after {
            before.iter().for_each(|account| self.remove_account(account));
            after.into_iter().for_each(|account| self.add_account(account, trust_domain));
        }
    }

    fn change_addresses(&mut self, old: Option<&Arc<Workload>>, new: Option<&Arc<Workload>>) {
        let (before, after) = (owned(old), owned(new));
        if let Some(old) = old {
            let gone = before.iter().filter(|ip| !after.contains(ip));
            gone.for_each(|ip| self.disclaim(*ip, &Claimant::Workload(Arc::clone(old))));
        }
        if let Some(new) = new {
            after.iter().for_each(|ip| self.claim(*ip, Claimant::Workload(Arc::clone(new))));
        }
    }

    fn change_endpoints(&mut self, old: Option<&Arc<Workload>>, new: Option<&Arc<Workload>>) {
        let (before, after) = (served(old), served(new));
        let stays = |at: usize| before.get(at).zip(after.get(at)).is_some_and(|(a, b)| a.is_at(b));
        if let Some(old) = old {
            let gone = before.iter().enumerate().filter(|(at, _)| !stays(*at));
            gone.for_each(|(at, endpoint)| drop(self.endpoints.remove(&endpoint_key(old, endpoint, at))));
        }
        if let Some(new) = new {
            for (at, endpoint) in after.iter().enumerate() {
                self.endpoints.insert(endpoint_key(new, endpoint, at), Arc::clone(new));
            }
        }
        let enrolled = |workload: Option<&Arc<Workload>>| workload.is_some_and(|workload| workload.is_enrolled());
        let is_same = before.len() == after.len() && (0..before.len()).all(stays);
        if is_same && enrolled(old) == enrolled(new) {
            return;
        }
        for endpoint in before.iter().filter(|_| enrolled(old)) {
            if let Some(count) = self.enrolled.get_mut(&endpoint.service) {
                *count -= 1;
                if *count == 0 {
                    self.enrolled.remove(&endpoint.service);
                }
            }
        }
        for endpoint in after.iter().filter(|_| enrolled(new)) {
            *self.enrolled.entry(endpoint.service.clone()).or_default() += 1;
        }
    }

    fn add_account(&mut self, account: Account, trust_domain: &TrustDomain) {
        let identified = || identified(trust_domain, &account, 0);
        self.identities.entry(account.clone()).or_insert_with(identified).workloads += 1;
    }

    fn remove_account(&mut self, account: &Account) {
        if let Some(known) = self.identities.get_mut(account) {
            known.workloads -= 1;
            if known.workloads == 0 {
                self.identities.remove(account);
            }
        }
    }

    pub(super) fn add_service(&mut self, service: &Arc<Service>) {
        service.vips.iter().for_each(|ip| self.claim(*ip, Claimant::Service(Arc::clone(service))));
        service.external.iter().for_each(|ip| self.claim(*ip, Claimant::External(Arc::clone(service))));
    }

    pub(super) fn remove_service(&mut self, service: &Arc<Service>) {
        service.vips.iter().for_each(|ip| self.disclaim(*ip, &Claimant::Service(Arc::clone(service))));
        service.external.iter().for_each(|ip| self.disclaim(*ip, &Claimant::External(Arc::clone(service))));
    }

    pub(super) fn add_policy(&mut self, policy: &Arc<AuthorizationPolicy>) {
        self.rewrite_policies(policy, |all| {
            let at = all.partition_point(|other| other.name < policy.name);
            all.insert(at, Arc::clone(policy));
        });
    }

    pub(super) fn remove_policy(&mut self, policy: &AuthorizationPolicy) {
        self.rewrite_policies(policy, |all| all.retain(|other| other.name != policy.name));
    }

    /// Other identities for the same accounts.
    pub(super) fn rename(&mut self, trust_domain: &TrustDomain) {
        let renamed = |(account, known): (&Account, &Identified)| {
            (account.clone(), identified(trust_domain, account, known.workloads))
        };
        self.identities = self.identities.iter().map(renamed).collect();
    }

    /// Changes each list that a policy stands in, once.
    fn rewrite_policies(&mut self, policy: &AuthorizationPolicy, change: impl Fn(&mut Vec<Arc<AuthorizationPolicy>>)) {
        let namespace = policy.name.namespace();
        if policy.scope == Scope::Namespace {
            rewrite(&mut self.wide, namespace.into(), &change);
        }
        let of = |is_class: bool| {
            let targets = policy.targets().iter().filter(move |t| (t.kind == TargetKind::GatewayClass) == is_class);
            targets.map(|target| Arc::clone(&target.name)).collect::<BTreeSet<_>>()
        };
        of(true).into_iter().for_each(|class| rewrite(&mut self.classes, class, &change));
        of(false).into_iter().for_each(|name| rewrite(&mut self.targets, ObjectName::new(namespace, name), &change));
    }

    /// It takes the place of the one that it [is](Claimant::is).
    fn claim(&mut self, ip: IpAddr, claimant: Claimant) {
        match self.claims.get_mut(&ip) {
            None => drop(self.claims.insert(ip, Few::one(claimant))),
            Some(claims) if matches!(&**claims, [one] if one.is(&claimant)) => *claims = Few::one(claimant),
            Some(claims) => {
                let mut all = claims.to_vec();
                let at = all.partition_point(|other| other.key() < claimant.key());
                match all.get_mut(at).filter(|other| other.is(&claimant)) {
                    Some(former) => *former = claimant,
                    None => all.insert(at, claimant),
                }
                *claims = all.into();
            }
        }
    }

    fn disclaim(&mut self, ip: IpAddr, claimant: &Claimant) {
        let Some(claims) = self.claims.get(&ip) else { return };
        let rest: Few<_> = claims.iter().filter(|other| !other.is(claimant)).cloned().collect();
        match rest.is_empty() {
            true => drop(self.claims.remove(&ip)),
            false => drop(self.claims.insert(ip, rest)),
        }
    }
}

fn rewrite<K: Ord + Clone>(
    lists: &mut OrdMap<K, Policies>,
    key: K,
    change: &impl Fn(&mut Vec<Arc<AuthorizationPolicy>>),
) {
    let mut all = lists.get(&key).map_or_else(Vec::new, |all| all.to_vec());
    change(&mut all);
    match all.is_empty() {
        true => drop(lists.remove(&key)),
        false => drop(lists.insert(key, all.into())),
    }
}

/// The addresses that are a workload's.
fn owned(workload: Option<&Arc<Workload>>) -> &[IpAddr] {
    workload.filter(|workload| workload.owns_addresses()).map_or(&[], |workload| &workload.addresses)
}

fn served(workload: Option<&Arc<Workload>>) -> &[Endpoint] {
    workload.map_or(&[], |workload| &workload.endpoints)
}

fn endpoint_key(workload: &Workload, endpoint: &Endpoint, at: usize) -> EndpointKey {
    let at = u32::try_from(at).unwrap_or(u32::MAX);
    EndpointKey { service: endpoint.service.clone(), address: endpoint.address, uid: workload.uid.clone(), at }
}

fn identified(trust_domain: &TrustDomain, account: &Account, workloads: usize) -> Identified {
    Identified { identity: Identity::new(trust_domain, &account.namespace, &account.name), workloads }
}
