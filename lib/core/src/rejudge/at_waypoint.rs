//! What is open at a waypoint, judged again after a change: the gates that it passed are asked once more, where the change may
//! concern them. Its own file because a waypoint carries others' connections: what it depends on are a Service's, its own and
//! an endpoint's policies, and never a pod of its node.
//!
//! | it goes | it ends where the World now says that |
//! |---|---|
//! | anywhere | a gate denies it |
//! | through a tunnel | the owner of the endpoint's address has another identity |
//! | plain | the endpoint is in the mesh now and would not take it as plaintext |
//!
//! As at a node, what was chosen once stays chosen. An endpoint that is gone says nothing: its own end closes what is open.
//!
//! What must hold: where [`GateChanges`] says that something is not concerned, its gates answer as before.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use super::{ALLOW, deny};
use crate::{
    Identity, ObjectName, Reason, World, admit,
    authz::{Peer, Request, Verdict, WaypointTargets},
    world::{Delta, Difference, PolicyTarget, Scope, TargetKind, Uid, Workload},
};

/// What differs between Worlds, as far as the gates of a waypoint rest on it. Owned, and small: it is kept while what is open is
/// gone through in slices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GateChanges {
    everything: bool,
    /// Objects that policies name, with the namespace of those.
    targets: BTreeSet<(Arc<str>, PolicyTarget)>,
    /// Namespaces all of whose workloads other policies apply to, or other modes of mutual TLS.
    namespaces: BTreeSet<Arc<str>>,
    /// Policies that apply to the workloads which name them.
    selecting: BTreeSet<ObjectName>,
    workloads: BTreeSet<Uid>,
    addresses: BTreeSet<IpAddr>,
}

impl GateChanges {
    /// Those of this difference to `new`.
    #[must_use]
    pub fn of(delta: &Delta<'_>, new: &World) -> Self {
        let mut changes = Self { everything: delta.settings.is_some(), ..Self::default() };
        for policy in delta.policies.iter().flat_map(Difference::both) {
            let namespace = policy.name.namespace();
            match &policy.scope {
                Scope::Namespace => drop(changes.namespaces.insert(namespace.into())),
                Scope::Selector(_) => drop(changes.selecting.insert(policy.name.clone())),
                Scope::Targets(targets) => {
                    changes.targets.extend(targets.iter().map(|target| (namespace.into(), target.clone())));
                }
            }
        }
        changes.namespaces.extend(delta.mtls.iter().flat_map(Difference::both).map(|mtls| Arc::clone(&mtls.namespace)));
        changes.everything |= changes.namespaces.contains(&new.settings().root_namespace);
        for workload in delta.workloads.iter().filter(|workload| differs(workload)).flat_map(Difference::both) {
            changes.workloads.insert(workload.uid.clone());
            changes.addresses.extend(workload.addresses.iter().copied().filter(|_| workload.owns_addresses()));
        }
        changes
    }

    /// Nothing is concerned.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds what has changed after it.
    pub fn extend(&mut self, later: Self) {
        self.everything |= later.everything;
        self.targets.extend(later.targets);
        self.namespaces.extend(later.namespaces);
        self.selecting.extend(later.selecting);
        self.workloads.extend(later.workloads);
        self.addresses.extend(later.addresses);
    }

    /// Gate 1 of what was called through these may answer otherwise.
    #[must_use]
    pub fn concern_targets(&self, of: &WaypointTargets<'_>) -> bool {
        let is_of =
            |name: &ObjectName, namespace: &str, target: &str| name.namespace() == namespace && name.name() == target;
        let is_named = |(namespace, target): &(Arc<str>, PolicyTarget)| match target.kind {
            TargetKind::Service => of.service.is_some_and(|service| is_of(service, namespace, &target.name)),
            TargetKind::Gateway => is_of(of.gateway, namespace, &target.name),
            TargetKind::GatewayClass => of.class == &*target.name,
            TargetKind::ServiceEntry => false,
        };
        self.everything || self.targets.iter().any(is_named)
    }

    /// Gate 2 of this endpoint, or [`check_endpoint`], may answer otherwise. `new`: the World after the changes.
    #[must_use]
    pub fn concern_endpoint(&self, new: &World, endpoint: &Reached<'_>) -> bool {
        let is_judged_otherwise = |workload: &Arc<Workload>| {
            self.namespaces.contains(workload.name.namespace())
                || workload.policies.iter().any(|policy| self.selecting.contains(policy))
        };
        self.everything
            || self.workloads.contains(endpoint.workload)
            || self.addresses.contains(&endpoint.target.ip())
            || new.workload(endpoint.workload).is_some_and(is_judged_otherwise)
            || new.workload_at(endpoint.target.ip()).is_some_and(is_judged_otherwise)
    }
}

/// A verdict may rest on what differs: not so for readiness, Services and labels that no policy selects by.
fn differs(workload: &Difference<'_, Workload>) -> bool {
    let (Some(old), Some(new)) = (workload.old, workload.new) else { return true };
    old.account != new.account
        || old.addresses != new.addresses
        || old.owns_addresses() != new.owns_addresses()
        || old.is_enrolled() != new.is_enrolled()
        || old.policies != new.policies
        || old.mtls != new.mtls
}

/// An endpoint, as a waypoint has called it.
#[derive(Clone, Copy, Debug)]
pub struct Reached<'a> {
    /// The waypoint's own address.
    pub from: IpAddr,
    /// The workload that was chosen.
    pub workload: &'a Uid,
    /// The called address.
    pub target: SocketAddr,
    /// Who answered; none: it was called in plaintext.
    pub identity: Option<&'a Identity>,
}

/// Whether what is open to an endpoint still leads where it led.
#[must_use]
pub fn check_endpoint(world: &World, reached: &Reached<'_>) -> Verdict {
    // No owner, or more than one: that says nothing about the owner at the time it was opened.
    let Some(owner) = world.workload_at(reached.target.ip()) else { return ALLOW };
    match reached.identity {
        Some(identity) if world.identity(owner).is_some_and(|found| found != identity) => deny(Reason::Identity),
        Some(_) => ALLOW,
        None if owner.is_enrolled() => {
            let peer = Peer::itself(reached.from, None);
            let (address, port) = (reached.target.ip(), reached.target.port());
            admit::admit(world, &Request { peer, workload: owner, address, port }, &mut ())
        }
        None => ALLOW,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        TrustDomain,
        authz::Rule,
        objects::Batch,
        resolve::Model,
        testing::{ambient, model, name, peer_authentication, pod, policy},
        world::{Action, AuthorizationPolicy, MeshSettings},
    };

    const TARGET: &str = "10.0.0.2:80";

    fn mesh() -> Model {
        model([
            ambient("shop/a", "10.0.0.2", "app=a").into(),
            ambient("shop/b", "10.0.0.3", "app=b").into(),
            pod("out/z", "10.0.0.9").into(),
        ])
    }

    /// Whether gate 1 and gate 2 of something open to pod a may be concerned by this change.
    fn concerned(change: impl FnOnce(&mut Batch)) -> [bool; 2] {
        let mut model = mesh();
        let old = model.world().clone();
        let mut batch = Batch::default();
        change(&mut batch);
        model.apply(&batch);
        let changes = GateChanges::of(&Delta::between(&old, model.world()), model.world());
        let (service, gateway) = (name("shop/s"), name("shop/w"));
        let targets = WaypointTargets { service: Some(&service), gateway: &gateway, class: "istio-waypoint" };
        let uid = Uid::of_pod(&MeshSettings::default().cluster, &name("shop/a"));
        let from = "10.0.0.100".parse().unwrap();
        let endpoint = Reached { from, workload: &uid, target: TARGET.parse().unwrap(), identity: None };
        [changes.concern_targets(&targets), changes.concern_endpoint(model.world(), &endpoint)]
    }

    #[test]
    fn a_change_concerns_what_rests_on_it() {
        let scoped =
            |name: &str, scope| AuthorizationPolicy { scope, ..policy(name, Action::Deny, vec![Rule::default()]) };
        let targets = |kind, target: &str| Scope::Targets(vec![PolicyTarget::new(kind, target)]);
        let selects = |app: &str| Scope::Selector(crate::testing::labels(&format!("app={app}")));
        let check = |policy: AuthorizationPolicy, expect| {
            assert_eq!(concerned(|batch| batch.put(policy.clone())), expect, "{policy:?}");
        };
        check(scoped("shop/p", targets(TargetKind::Service, "s")), [true, false]);
        check(scoped("shop/p", targets(TargetKind::Service, "other")), [false; 2]);
        check(scoped("other/p", targets(TargetKind::Service, "s")), [false; 2]);
        check(scoped("shop/p", targets(TargetKind::Gateway, "w")), [true, false]);
        check(scoped("istio-system/p", targets(TargetKind::GatewayClass, "istio-waypoint")), [true, false]);
        check(scoped("istio-system/p", targets(TargetKind::GatewayClass, "other")), [false; 2]);
        check(scoped("shop/p", selects("a")), [false, true]);
        check(scoped("shop/p", selects("b")), [false; 2]);
        check(scoped("shop/p", Scope::Namespace), [false, true]);
        check(scoped("other/p", Scope::Namespace), [false; 2]);
        check(scoped("istio-system/p", Scope::Namespace), [true, true]);
        assert_eq!(concerned(|batch| batch.put(peer_authentication("shop/p - STRICT"))), [false, true]);
        assert_eq!(
            concerned(|batch| batch.put(ambient("shop/a", "10.0.0.2", "app=x"))),
            [false; 2],
            "selected by none"
        );
        assert_eq!(concerned(|batch| batch.put(ambient("shop/a", "10.0.0.4", "app=a"))), [false, true]);
        assert_eq!(concerned(|batch| batch.put(pod("out/z", "10.0.0.8"))), [false; 2]);
    }

    #[test]
    fn an_endpoint_is_still_who_answered() {
        let uid = Uid::of_pod(&MeshSettings::default().cluster, &name("shop/a"));
        let check = |world: &World, target: &str, account: Option<&str>, expect: Option<Reason>| {
            let identity = account.map(|account| Identity::new(&TrustDomain::default(), "shop", account));
            let from = "10.0.0.100".parse().unwrap();
            let (target, identity) = (target.parse().unwrap(), identity.as_ref());
            let reached = Reached { from, workload: &uid, target, identity };
            let reason = match check_endpoint(world, &reached) {
                Verdict::Allow { .. } => None,
                Verdict::Deny { reason, .. } => Some(reason),
            };
            assert_eq!(reason, expect, "{target} {account:?}");
        };
        let mut model = mesh();
        check(model.world(), TARGET, Some("a"), None);
        check(model.world(), TARGET, Some("b"), Some(Reason::Identity));
        check(model.world(), "10.0.0.7:80", Some("b"), None);
        check(model.world(), TARGET, None, None);
        check(model.world(), "10.0.0.9:80", None, None);
        let mut batch = Batch::default();
        batch.put(peer_authentication("shop/p - STRICT"));
        model.apply(&batch);
        check(model.world(), TARGET, Some("a"), None);
        check(model.world(), TARGET, None, Some(Reason::PlaintextRefused));
    }
}
