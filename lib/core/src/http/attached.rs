//! Which routes of the Gateway API count for calls of a Service's port, and for which callers (GEP-1294, "Namespace
//! boundaries" and "Route types").
//!
//! ```text
//! routes in the Service's namespace:  producer routes, for every caller
//! routes elsewhere:                   consumer routes, for callers of their own namespace, in the place of producer routes
//! ```

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    Kind,
    objects::{GatewayRoute, ParentRef, RouteProtocol},
    resolve::Sources,
    world::Service,
};

/// The routes of one port of a Service, each list in order: the oldest first, then by name. GRPCRoutes take the place of
/// HTTPRoutes.
pub(crate) struct Attached<'s> {
    /// For callers of namespaces without routes of their own.
    pub(crate) producers: Vec<&'s Arc<GatewayRoute>>,
    /// By the callers' namespace.
    pub(crate) consumers: BTreeMap<Arc<str>, Vec<&'s Arc<GatewayRoute>>>,
}

impl<'s> Attached<'s> {
    pub(crate) fn of(sources: &'s Sources, service: &'s Service, port: u16) -> Self {
        let mut attached = Self { producers: Vec::new(), consumers: BTreeMap::new() };
        let here = sources.routes_of(&service.name);
        for route in here.filter(|route| route.parents.iter().any(|parent| is_at(parent, service, port))) {
            let namespace = route.name.namespace();
            match namespace == service.name.namespace() {
                true => attached.producers.push(route),
                false => attached.consumers.entry(namespace.into()).or_default().push(route),
            }
        }
        let lists = attached.consumers.values_mut().chain([&mut attached.producers]);
        lists.for_each(of_one_protocol);
        attached
    }
}

/// The GRPCRoute to which an HTTPRoute at this port of a Service gives way: one for the same callers.
pub(super) fn instead_of<'s>(
    sources: &'s Sources,
    route: &GatewayRoute,
    service: &'s Service,
    port: u16,
) -> Option<&'s Arc<GatewayRoute>> {
    let mut others = sources.routes_of_kind(&service.name, Kind::GrpcRoute);
    let is_at = |other: &GatewayRoute| other.parents.iter().any(|parent| is_at(parent, service, port));
    let is_one = |other: &&Arc<GatewayRoute>| other.name.namespace() == route.name.namespace() && is_at(other);
    others.find(is_one).filter(|_| route.protocol == RouteProtocol::Http)
}

/// Sorted, and without those that give way to another protocol's.
fn of_one_protocol(routes: &mut Vec<&Arc<GatewayRoute>>) {
    if routes.iter().any(|route| route.protocol == RouteProtocol::Grpc) {
        routes.retain(|route| route.protocol == RouteProtocol::Grpc);
    }
    routes.sort_by_key(|route| (route.created, &route.name));
}

/// A route with this parent is attached to the port of the Service.
pub(super) fn is_at(parent: &ParentRef, service: &Service, port: u16) -> bool {
    let name = || service.port(port).map(|port| &*port.name);
    parent.target.service() == Some(&service.name)
        && parent.port.is_none_or(|number| number == port)
        && parent.section.as_deref().is_none_or(|section| name() == Some(section))
}
