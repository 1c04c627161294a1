//! Which routes of the Gateway API count for calls of a Service's port, and for which callers (GEP-1294, "Namespace
//! boundaries" and "Route types").
//!
//! ```text
//! routes in the Service's namespace:  producer routes, for every caller
//! routes elsewhere:                   consumer routes, for callers of their own namespace, in the place of producer routes
//! ```
//!
//! What must hold: at one port, for the same callers, one kind counts, the most specific of those that it can carry.

use std::{collections::BTreeMap, sync::Arc};

use super::rule::ForCallers;
use crate::{
    objects::{ExportTo, GatewayRoute, ParentRef, RouteProtocol},
    resolve::Sources,
    world::{AppProtocol, Service},
};

/// The routes of one port of a Service, each list of one kind and in order: the oldest first, then by name.
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
        for route in here.filter(|route| is_attached(route, service, port)) {
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

    /// Those of requests, and those of connections that are no HTTP.
    pub(crate) fn by_layer(self) -> (Self, Self) {
        let is_of_requests = |routes: &[&Arc<GatewayRoute>]| routes.iter().any(|route| route.protocol.is_of_requests());
        let (of_requests, of_connections) =
            self.consumers.into_iter().partition(|(_, routes): &(_, Vec<_>)| is_of_requests(routes));
        let (for_requests, for_connections) = match is_of_requests(&self.producers) {
            true => (self.producers, Vec::new()),
            false => (Vec::new(), self.producers),
        };
        let requests = Self { producers: for_requests, consumers: of_requests };
        (requests, Self { producers: for_connections, consumers: of_connections })
    }

    /// Each list, with the callers that it is for: consumers first.
    pub(super) fn each(&self, mut add: impl FnMut(&[&'s Arc<GatewayRoute>], &ForCallers<'_>)) {
        for (namespace, routes) in &self.consumers {
            let only = ExportTo::Namespaces { own: false, others: vec![Arc::clone(namespace)] };
            add(routes, &ForCallers { only: &only, except: &[].into() });
        }
        if !self.producers.is_empty() {
            add(&self.producers, &ForCallers { only: &ExportTo::All, except: &self.namespaces() });
        }
    }

    /// The namespaces with routes of their own.
    pub(super) fn namespaces(&self) -> Arc<[Arc<str>]> {
        self.consumers.keys().cloned().collect()
    }
}

/// The route to which one at this port of a Service gives way: of a more specific kind, for the same callers.
pub(super) fn instead_of<'s>(
    sources: &'s Sources,
    route: &GatewayRoute,
    service: &'s Service,
    port: u16,
) -> Option<&'s Arc<GatewayRoute>> {
    let is_one = |other: &&Arc<GatewayRoute>| {
        other.protocol > route.protocol
            && other.name.namespace() == route.name.namespace()
            && is_attached(other, service, port)
    };
    sources.routes_of(&service.name).find(is_one)
}

/// Sorted, and without those that give way to another protocol's.
fn of_one_protocol(routes: &mut Vec<&Arc<GatewayRoute>>) {
    let first = routes.iter().map(|route| route.protocol).max();
    routes.retain(|route| Some(route.protocol) == first);
    routes.sort_by_key(|route| (route.created, &route.name));
}

/// A route is attached to the port of the Service, which can carry what it routes.
fn is_attached(route: &GatewayRoute, service: &Service, port: u16) -> bool {
    let is_carried = || service.port(port).is_some_and(|port| can_carry(port.protocol, route.protocol));
    route.parents.iter().any(|parent| is_at(parent, service, port)) && is_carried()
}

/// A port can carry what a route is for. One that says no protocol can carry each; TLS is bytes as well.
pub(super) const fn can_carry(port: AppProtocol, route: RouteProtocol) -> bool {
    match route {
        RouteProtocol::Http | RouteProtocol::Grpc => port.is_http() || matches!(port, AppProtocol::Unknown),
        RouteProtocol::Tls => matches!(port, AppProtocol::Tls | AppProtocol::Unknown),
        RouteProtocol::Tcp => !port.is_http(),
    }
}

/// A route with this parent is attached to the port of the Service, where that can carry what it routes.
pub(super) fn is_at(parent: &ParentRef, service: &Service, port: u16) -> bool {
    let name = || service.port(port).map(|port| &*port.name);
    parent.target.service() == Some(&service.name)
        && parent.port.is_none_or(|number| number == port)
        && parent.section.as_deref().is_none_or(|section| name() == Some(section))
}
