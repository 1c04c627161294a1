//! The owner of an address among all pods whose objects name it. Objects come and go later than the pods that they
//! describe: one that is being deleted, or whose node is gone, may name an address that the network gave to another pod
//! long ago.
//!
//! What must hold: a pod that leaves never takes an address away from a pod that stays, and two pods that stay never
//! share one. Only where all that name an address leave does it stay theirs.

use std::{borrow::Cow, net::IpAddr};

use super::Resolver;
use crate::{
    Kind, ObjectName,
    objects::{Pod, SliceEndpoint},
};

/// The pod that an endpoint of a slice means, seen from a pod that has its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EndpointTarget {
    /// This pod.
    ThisPod,
    /// A pod that has the address no longer, or one of several, and the slice does not say which.
    Outdated,
    /// Another one of several.
    OtherPod,
}

impl Resolver {
    /// The pods that have an address: more than one only by a mistake or an attack.
    pub(super) fn holders(&self, ip: IpAddr) -> Cow<'_, [ObjectName]> {
        let named = self.index.owners.get(&ip);
        if named.len() <= 1 {
            return named.into();
        }
        let staying: Vec<_> = named.iter().filter(|name| !self.leaves(name)).cloned().collect();
        if staying.is_empty() { named.into() } else { staying.into() }
    }

    /// Whether the pod still owns this address of its.
    pub(super) fn holds(&self, pod: &Pod, ip: IpAddr) -> bool {
        self.holders(ip).contains(&pod.name)
    }

    /// It is being deleted, or nodes are known and its own is not among them.
    fn leaves(&self, name: &ObjectName) -> bool {
        let Some(pod) = self.sources.pod(name) else { return true };
        let is_gone = |node: &std::sync::Arc<str>| self.knows_nodes() && self.sources.node(node).is_none();
        pod.deleted || pod.node.as_ref().is_some_and(is_gone)
    }

    /// Some node is declared: pods of undeclared nodes are gone.
    pub(super) fn knows_nodes(&self) -> bool {
        self.sources.of_kind(Kind::Node, None).next().is_some()
    }

    /// The pod that an endpoint means which lists an address of `pod`.
    pub(super) fn meant(&self, pod: &Pod, ip: IpAddr, endpoint: &SliceEndpoint) -> EndpointTarget {
        let holders = self.holders(ip);
        match &endpoint.target {
            Some(target) if *target == pod.name => EndpointTarget::ThisPod,
            Some(target) if holders.contains(target) => EndpointTarget::OtherPod,
            None if holders.len() == 1 => EndpointTarget::ThisPod,
            _ => EndpointTarget::Outdated,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        objects::{Object, Phase},
        testing::{ambient, model, node},
        world::Addressed,
    };

    /// Checks the owner of 10.0.0.1 among the pods old and new, changed by these.
    fn check(old: fn(&mut Pod), new: fn(&mut Pod), nodes: &[&str], expect: Option<&str>) {
        let pod = |name: &str, change: fn(&mut Pod)| {
            let mut pod = ambient(name, "10.0.0.1", "");
            change(&mut pod);
            Object::from(pod)
        };
        let nodes = nodes.iter().map(|n| Object::from(node(n, "")));
        let model = model(nodes.chain([pod("default/old", old), pod("default/new", new)]));
        let addressed = model.world().addressed("10.0.0.1".parse().unwrap());
        let got = match &addressed {
            Addressed::Workload(w) => Some(w.name.name()),
            _ => None,
        };
        assert_eq!(got, expect, "{addressed:?}");
        let findings: Vec<_> = model.sources().findings().collect();
        let told = findings.iter().any(|f| f.says.contains("10.0.0.1"));
        assert_eq!(told, model.sources().pods().all(|pod| pod.has_own_addresses()), "{findings:?}");
    }

    #[test]
    fn a_leaving_pod_takes_no_address_along() {
        check(|_| {}, |_| {}, &[], None);
        check(|w| w.deleted = true, |_| {}, &[], Some("new"));
        check(|w| w.deleted = true, |w| w.deleted = true, &[], None);
        check(|w| w.phase = Phase::Terminal, |_| {}, &[], Some("new"));
        check(|w| w.phase = Phase::Terminal, |w| w.deleted = true, &[], Some("new"));
        check(|w| w.node = Some("gone".into()), |_| {}, &["node-1"], Some("new"));
        check(|w| w.node = Some("gone".into()), |w| w.deleted = true, &["node-1"], None);
        // nothing is known about nodes, or it has none yet
        check(|w| w.node = Some("gone".into()), |_| {}, &[], None);
        check(|w| w.node = None, |_| {}, &["node-1"], None);
    }
}
