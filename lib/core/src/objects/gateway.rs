//! Gateways of the Gateway API, as far as waypoints need them: what one stands before, and who may attach to it. Gateways
//! of other classes are known by their class alone.

use std::sync::Arc;

use serde::Serialize;

use crate::{ObjectName, labels::Labels};

/// The classes of Gateways that are waypoints.
pub const WAYPOINT_CLASSES: [&str; 2] = ["istio-waypoint", "underpass-waypoint"];

/// The label that Kubernetes gives each namespace: its name.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// `gateway.networking.k8s.io Gateway`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Gateway {
    /// namespace/name.
    pub name: ObjectName,
    /// `spec.gatewayClassName`.
    pub class: Arc<str>,
    /// The label `istio.io/waypoint-for`.
    pub waypoint_for: WaypointFor,
    /// The listeners with protocol HBONE, in order: at least one of a waypoint, none of another class.
    pub listeners: Vec<HboneListener>,
}

/// What a waypoint stands before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum WaypointFor {
    /// Calls of Services.
    #[default]
    Service,
    /// Calls of pods' own addresses.
    Workload,
    /// Both.
    All,
    /// Neither.
    None,
}

/// A listener of a waypoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HboneListener {
    /// `port`, of each instance.
    pub port: u16,
    /// `allowedRoutes.namespaces`.
    pub admits: Admits,
}

/// The namespaces whose Services and pods may attach to a listener.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub enum Admits {
    /// The Gateway's own.
    #[default]
    Same,
    /// Every one.
    All,
    /// Those with labels that all of these match; none given: every one.
    Selector(Vec<Requirement>),
}

/// One requirement of a label selector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Requirement {
    /// The label's key.
    pub key: Arc<str>,
    /// What its value must be.
    pub must: Must,
}

/// What the value of a label must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Must {
    /// One of these.
    In(Vec<Arc<str>>),
    /// None of these; a label that is not there is none of them.
    NotIn(Vec<Arc<str>>),
    /// There.
    Exist,
    /// Not there.
    NotExist,
}

impl Gateway {
    /// It is of a waypoint's class.
    #[must_use]
    pub fn is_waypoint(&self) -> bool {
        WAYPOINT_CLASSES.contains(&&*self.class)
    }

    /// The port of all its listeners; none: they have several, or there are none.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        let first = self.listeners.first()?.port;
        self.listeners.iter().all(|listener| listener.port == first).then_some(first)
    }

    /// The port at which it admits Services and pods of a namespace, whose labels are `labels` as far as they are known.
    #[must_use]
    pub fn port_for(&self, namespace: &str, labels: &Labels) -> Option<u16> {
        let admits = |listener: &&HboneListener| match &listener.admits {
            Admits::Same => self.name.namespace() == namespace,
            Admits::All => true,
            Admits::Selector(all) => all.iter().all(|one| one.matches(namespace, labels)),
        };
        self.listeners.iter().find(admits).map(|listener| listener.port)
    }
}

impl WaypointFor {
    /// It stands before Services.
    #[must_use]
    pub const fn services(self) -> bool {
        matches!(self, Self::Service | Self::All)
    }

    /// It stands before pods' own addresses.
    #[must_use]
    pub const fn workloads(self) -> bool {
        matches!(self, Self::Workload | Self::All)
    }

    /// As written in a manifest.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Workload => "workload",
            Self::All => "all",
            Self::None => "none",
        }
    }
}

impl Requirement {
    /// Of a file's namespace the label with its name may be left out, as an API server always has it.
    fn matches(&self, namespace: &str, labels: &Labels) -> bool {
        let own = (&*self.key == NAMESPACE_NAME).then_some(namespace);
        let value = labels.get(&self.key).or(own);
        match &self.must {
            Must::In(all) => value.is_some_and(|value| all.iter().any(|one| **one == *value)),
            Must::NotIn(all) => value.is_none_or(|value| all.iter().all(|one| **one != *value)),
            Must::Exist => value.is_some(),
            Must::NotExist => value.is_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{gateway, labels};

    #[test]
    fn namespaces_that_may_attach() {
        let check = |admits: Admits, namespace: &str, of_namespace: &str, expect| {
            let gateway = Gateway { listeners: vec![HboneListener { port: 15008, admits }], ..gateway("infra/w") };
            let port = gateway.port_for(namespace, &labels(of_namespace));
            assert_eq!(port.is_some(), expect, "{gateway:?} {namespace} {of_namespace}");
        };
        check(Admits::Same, "infra", "", true);
        check(Admits::Same, "shop", "", false);
        check(Admits::All, "shop", "", true);
        let selector = |key: &str, must| Admits::Selector(vec![Requirement { key: key.into(), must }]);
        let values = || vec!["a".into(), "b".into()];
        for (of, is_in, is_there) in [("tier=a", true, true), ("tier=c", false, true), ("", false, false)] {
            check(selector("tier", Must::In(values())), "shop", of, is_in);
            check(selector("tier", Must::NotIn(values())), "shop", of, !is_in);
            check(selector("tier", Must::Exist), "shop", of, is_there);
            check(selector("tier", Must::NotExist), "shop", of, !is_there);
        }
        check(selector(NAMESPACE_NAME, Must::In(values())), "a", "", true);
        check(selector(NAMESPACE_NAME, Must::In(values())), "shop", "", false);
        check(Admits::Selector(Vec::new()), "shop", "", true);
    }

    #[test]
    fn the_first_listener_that_admits_has_the_port() {
        let listener = |port, admits| HboneListener { port, admits };
        let listeners = vec![listener(1, Admits::Same), listener(2, Admits::All)];
        let gateway = Gateway { listeners, ..gateway("infra/w") };
        assert_eq!(["infra", "shop"].map(|ns| gateway.port_for(ns, &Labels::new())), [Some(1), Some(2)]);
    }
}
