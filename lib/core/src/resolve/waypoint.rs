//! The waypoints that Services and pods attach to, from labels to facts: the own label, else the namespace's, and the
//! Gateway of that name.
//!
//! | Gateway | attached |
//! |---|---|
//! | none is named, or `none` is | no |
//! | it is no waypoint, or there is none of this name | as missing: what it would stand before is not known |
//! | it stands before others than these | no |
//! | no listener admits the namespace | as missing |
//! | else | to the instances behind the Service of the Gateway's name |
//!
//! What must hold: a waypoint's own Service and instances have none, or its calls would never end.

use std::sync::Arc;

use super::{Resolver, dirty::Dirty};
use crate::{
    Kind, ObjectKey, ObjectName,
    addr::HBONE_PORT,
    enrol::EnrolledBy,
    labels::Labels,
    objects::{Gateway, Object, Pod, Service, WaypointFor},
    provision,
    world::{Endpoint, Waypoint, WaypointAt},
};

/// The label that names a waypoint, or `none`.
pub(super) const USE_WAYPOINT: &str = "istio.io/use-waypoint";
/// The label with its namespace, where that is another one.
const USE_WAYPOINT_NAMESPACE: &str = "istio.io/use-waypoint-namespace";
/// The value that ends the search.
const NONE: &str = "none";

/// What attaches.
#[derive(Clone, Copy, Debug)]
enum Of {
    Services,
    Pods,
}

impl Of {
    const fn is_served_by(self, waypoint_for: WaypointFor) -> bool {
        match self {
            Self::Services => waypoint_for.services(),
            Self::Pods => waypoint_for.workloads(),
        }
    }
}

/// The reason why an attachment is missing.
enum Refusal {
    Absent,
    OtherClass(Arc<str>),
    NotAdmitted,
}

/// The Gateway that labels of an object in `namespace` name. None: they say nothing; none within: `none`.
fn named(labels: &Labels, namespace: &str) -> Option<Option<ObjectName>> {
    let name = labels.get(USE_WAYPOINT)?;
    let namespace = labels.get(USE_WAYPOINT_NAMESPACE).unwrap_or(namespace);
    Some((name != NONE).then(|| ObjectName::new(namespace, name)))
}

/// The Gateway that labels name.
pub(super) fn gateway_in(labels: &Labels, namespace: &str) -> Option<ObjectName> {
    named(labels, namespace).flatten()
}

impl Resolver {
    /// The waypoint that calls of a Service pass.
    pub(super) fn waypoint_of_service(&self, service: &Service) -> Option<Waypoint> {
        if self.waypoint(&service.name).is_some() {
            return None;
        }
        self.attached(&service.labels, service.name.namespace(), Of::Services)
    }

    /// The waypoint that calls of a pod's own addresses pass. `endpoints` are the pod's.
    pub(super) fn waypoint_of_pod(&self, pod: &Pod, endpoints: &[Endpoint]) -> Option<Waypoint> {
        let own = pod.name.namespace();
        // A slice of another namespace may list any address.
        let is_instance = |e: &Endpoint| e.service.namespace() == own && self.waypoint(&e.service).is_some();
        if endpoints.iter().any(is_instance) {
            return None;
        }
        self.attached(&pod.labels, own, Of::Pods)
    }

    fn attached(&self, labels: &Labels, namespace: &str, of: Of) -> Option<Waypoint> {
        let of_namespace = || named(&self.sources.namespace(namespace)?.labels, namespace);
        let name = named(labels, namespace).or_else(of_namespace).flatten()?;
        // One text for all that attach.
        let name = self.gateway(&name).map_or(name, |gateway| gateway.name.clone());
        if self.waypoint(&name).is_some_and(|gateway| !of.is_served_by(gateway.waypoint_for)) {
            return None;
        }
        Some(match self.admitted(&name, namespace) {
            Ok(port) => Waypoint { at: WaypointAt::Service(name), port },
            Err(_) => Waypoint { at: WaypointAt::Missing(name), port: HBONE_PORT },
        })
    }

    /// The port of the waypoint of this name, for what attaches from `namespace`.
    fn admitted(&self, name: &ObjectName, namespace: &str) -> Result<u16, Refusal> {
        let gateway = self.gateway(name).ok_or(Refusal::Absent)?;
        if !gateway.is_waypoint() {
            return Err(Refusal::OtherClass(Arc::clone(&gateway.class)));
        }
        let none = Labels::new();
        let labels = self.sources.namespace(namespace).map_or(&none, |n| &n.labels);
        gateway.port_for(namespace, labels).ok_or(Refusal::NotAdmitted)
    }

    fn gateway(&self, name: &ObjectName) -> Option<&Gateway> {
        match self.sources.get(&ObjectKey::new(Kind::Gateway, name.clone())) {
            Some(Object::Gateway(gateway)) => Some(gateway),
            _ => None,
        }
    }

    /// The waypoint of this name.
    fn waypoint(&self, name: &ObjectName) -> Option<&Gateway> {
        self.gateway(name).filter(|gateway| gateway.is_waypoint())
    }

    /// What is surprising about a label of this object, in `namespace`, that names a waypoint.
    pub(super) fn find_attachment(&self, labels: &Labels, namespace: &str, say: &mut impl FnMut(String, String)) {
        let Some(name) = gateway_in(labels, namespace) else { return };
        let Err(refusal) = self.admitted(&name, namespace) else { return };
        let why = match refusal {
            Refusal::Absent => format!("there is no Gateway {name}"),
            Refusal::OtherClass(class) => format!("Gateway {name} is of class {class}, which is no waypoint"),
            Refusal::NotAdmitted => format!("no HBONE listener of Gateway {name} admits namespace {namespace}"),
        };
        say(format!("metadata.labels[{USE_WAYPOINT}]"), format!("{why}: calls that would pass it are refused"));
    }

    /// A waypoint without instances. Where the labels enrol, no controller makes them.
    pub(super) fn find_waypoint(&self, gateway: &Gateway, say: &mut impl FnMut(String, String)) {
        let name = &gateway.name;
        if gateway.is_waypoint() && self.sources.service(name).is_none() {
            let mut says = format!("there is no Service {name}, behind which its instances would be");
            if self.settings.enrolled_by == EnrolledBy::Labels {
                says = format!("{says}, and {}", provision::lacks(gateway, self.sources.nodes()));
            }
            say(String::new(), format!("{says}: calls that pass it are refused"));
        }
    }

    /// The labels of an object, or of a namespace, named a Gateway and name another one.
    pub(super) fn mark_naming(&mut self, key: &ObjectKey, old: Option<&Labels>, new: Option<&Labels>) {
        let namespace = if key.kind == Kind::Namespace { key.name.name() } else { key.name.namespace() };
        let of = |labels: Option<&Labels>| labels.and_then(|labels| gateway_in(labels, namespace));
        let (before, after) = (of(old), of(new));
        if before != after {
            before.iter().for_each(|gateway| self.index.naming.remove(gateway, key));
            after.into_iter().for_each(|gateway| self.index.naming.insert(gateway, key.clone()));
        }
    }

    /// A Gateway is another one: those that name it, and the Service of its name with what is behind that.
    pub(super) fn mark_gateway(&self, name: &ObjectName, dirty: &mut Dirty) {
        for key in self.index.naming.get(name) {
            dirty.findings.insert(key.clone());
            match key.kind {
                Kind::Namespace => self.mark_inheriting(key.name.name(), dirty),
                Kind::Service => drop(dirty.services.insert(key.name.clone())),
                _ => drop(dirty.pods.insert(key.name.clone())),
            }
        }
        if self.sources.service(name).is_some() {
            dirty.services.insert(name.clone());
        }
        self.mark_behind(name, dirty);
    }

    /// Nodes run waypoints, or run none any more.
    pub(super) fn mark_ranges(&self, dirty: &mut Dirty) {
        let gateways = self.sources.of_kind(Kind::Gateway, None);
        dirty.findings.extend(gateways.map(Object::key));
    }

    /// The labels of a namespace differ: a listener may admit its Services and pods, or not any more.
    pub(super) fn mark_labelled(&self, namespace: &str, dirty: &mut Dirty) {
        let services = self.sources.of_kind(Kind::Service, Some(namespace)).filter_map(|object| match object {
            Object::Service(service) => Some((Kind::Service, &service.name, &service.labels)),
            _ => None,
        });
        let pods = self.pods_of(namespace).map(|pod| (Kind::Pod, &pod.name, &pod.labels));
        let naming = services.chain(pods).filter(|(.., labels)| gateway_in(labels, namespace).is_some());
        dirty.findings.extend(naming.map(|(kind, name, _)| ObjectKey::new(kind, name.clone())));
    }

    /// The Services and pods of a namespace that have no label of their own.
    fn mark_inheriting(&self, namespace: &str, dirty: &mut Dirty) {
        let inherits = |labels: &Labels| labels.get(USE_WAYPOINT).is_none();
        for object in self.sources.of_kind(Kind::Service, Some(namespace)) {
            if let Object::Service(service) = object
                && inherits(&service.labels)
            {
                dirty.services.insert(service.name.clone());
            }
        }
        let pods = self.pods_of(namespace).filter(|pod| inherits(&pod.labels));
        dirty.pods.extend(pods.map(|pod| pod.name.clone()));
    }
}
