//! What the status of a route of the Gateway API says of each Service that it names as a parent. Pure: findings and
//! a writer of statuses say the same.

use std::fmt;

use super::{BrokenRef, attached, backend};
use crate::{
    World,
    objects::{BackendRef, GatewayRoute},
    resolve::Sources,
    world::{Service, ServicePort},
};

/// The conditions of a route at one parent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentStatus {
    /// The position in `spec.parentRefs`.
    pub parent: usize,
    /// `Accepted`: true only of [`AcceptedReason::Accepted`].
    pub accepted: AcceptedReason,
    /// Why, in words; empty where all is well.
    pub accepted_says: String,
    /// `ResolvedRefs`: true only of [`ResolvedReason::ResolvedRefs`].
    pub resolved: ResolvedReason,
    /// Why, in words, the first of several; empty where all is well.
    pub resolved_says: String,
}

/// The reason of `Accepted`, by the name that the API gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcceptedReason {
    /// The route is attached.
    Accepted,
    /// There is no such Service, or no such port.
    NoMatchingParent,
    /// The ports carry something else. As the API has it for a listener of another protocol.
    UnsupportedValue,
    /// A route of a more specific kind is attached to the same ports, and this one gives way.
    Conflicted,
}

/// The reason of `ResolvedRefs`, by the name that the API gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResolvedReason {
    /// Every backend is there.
    ResolvedRefs,
    /// One is no Service.
    InvalidKind,
    /// One does not exist, or has no such port.
    BackendNotFound,
}

impl fmt::Display for AcceptedReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl fmt::Display for ResolvedReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The status of a route at each Service that is its parent. Parents of other kinds are other controllers'.
#[must_use]
pub fn parent_statuses(world: &World, sources: &Sources, route: &GatewayRoute) -> Vec<ParentStatus> {
    let (resolved, resolved_says) = resolved(world, route);
    let mut all = Vec::new();
    for (parent, reference) in route.parents.iter().enumerate() {
        let Some(name) = reference.target.service() else { continue };
        let (accepted, accepted_says) = match world.service(name) {
            None => (AcceptedReason::NoMatchingParent, format!("Service {name} does not exist")),
            Some(service) => {
                let ports = service.ports.iter().filter(|port| attached::is_at(reference, service, port.port));
                accepted(sources, route, service, &ports.collect::<Vec<_>>())
            }
        };
        all.push(ParentStatus { parent, accepted, accepted_says, resolved, resolved_says: resolved_says.clone() });
    }
    all
}

fn accepted(
    sources: &Sources,
    route: &GatewayRoute,
    service: &Service,
    ports: &[&ServicePort],
) -> (AcceptedReason, String) {
    if ports.is_empty() {
        return (AcceptedReason::NoMatchingParent, format!("Service {} has no such port", service.name));
    }
    let carrying = ports.iter().filter(|port| attached::can_carry(port.protocol, route.protocol));
    let instead: Vec<_> = carrying.map(|port| attached::instead_of(sources, route, service, port.port)).collect();
    if let ([first, ..], []) = (ports, &*instead) {
        let (number, carries) = (first.port, first.protocol.as_str().unwrap_or("anything"));
        let says = format!(
            "port {number} of Service {} carries {carries} by its name or appProtocol, not {}",
            service.name,
            route.protocol.carried()
        );
        return (AcceptedReason::UnsupportedValue, says);
    }
    match instead.first() {
        Some(Some(other)) if instead.iter().all(Option::is_some) => {
            let says = format!("{} is attached to Service {} too, and takes its place", other.key(), service.name);
            (AcceptedReason::Conflicted, says)
        }
        _ => (AcceptedReason::Accepted, String::new()),
    }
}

/// Each backend that cannot be served, with its field.
pub(crate) fn broken(world: &World, route: &GatewayRoute) -> Vec<(String, BrokenRef)> {
    let mut all = Vec::new();
    let mut look =
        |field: String, to: &BackendRef| all.extend(backend::cluster(world, to).err().map(|why| (field, why)));
    for (i, rule) in route.rules.iter().enumerate() {
        for (j, one) in rule.backends.iter().enumerate() {
            look(format!("spec.rules[{i}].backendRefs[{j}]"), &one.to);
        }
        rule.mirrors.iter().for_each(|mirror| look(format!("spec.rules[{i}].filters"), &mirror.to));
    }
    all
}

fn resolved(world: &World, route: &GatewayRoute) -> (ResolvedReason, String) {
    match broken(world, route).into_iter().next() {
        None => (ResolvedReason::ResolvedRefs, String::new()),
        Some((field, why)) => {
            let reason = match &why {
                BrokenRef::Kind { .. } => ResolvedReason::InvalidKind,
                BrokenRef::NotFound(_) | BrokenRef::Port { .. } => ResolvedReason::BackendNotFound,
            };
            (reason, format!("{field}: {why}"))
        }
    }
}
