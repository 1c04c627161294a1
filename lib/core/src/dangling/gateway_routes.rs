//! Routes of the Gateway API: parents and backends that do not exist, rules that are never reached, fields without an effect
//! at a Service, and routes that give way to others.

use std::{collections::BTreeMap, sync::Arc};

use super::{Known, Level, Remark, Say};
use crate::{
    ObjectKey, ObjectName,
    http::{AcceptedReason, Attached, BrokenRef, broken_backends, is_catch_all, parent_statuses},
    objects::{BackendRef, GatewayRoute, HttpMatch, RouteProtocol, VirtualService},
    resolve::Finding,
};

impl Known<'_> {
    pub(super) fn gateway_route(&self, route: &GatewayRoute, say: Say<'_>) {
        self.parents(route, say);
        let refused = match route.protocol {
            RouteProtocol::Http => "requests of its share get 500",
            RouteProtocol::Grpc => "calls of its share get UNAVAILABLE",
            RouteProtocol::Tls | RouteProtocol::Tcp => "connections of its share are refused",
        };
        for (field, why) in broken_backends(self.model.world(), route) {
            match &why {
                BrokenRef::NotFound(name) if !self.knows_services_of(name.namespace()) => {}
                BrokenRef::NotFound(_) | BrokenRef::Port { .. } => {
                    say(Level::Warning, &field, format!("{why}: {refused} (IST0101)"));
                }
                BrokenRef::Kind { .. } => say(Level::Warning, &field, format!("{why}: {refused}")),
            }
        }
        for (i, rule) in route.rules.iter().enumerate() {
            let total: u64 = rule.backends.iter().map(|one| u64::from(one.weight)).sum();
            if rule.redirect.is_none() && total == 0 {
                let says = match rule.backends.is_empty() {
                    true => "no backend is named",
                    false => "every weight is 0",
                };
                let says = format!("{says}: {} are refused", carried(route));
                say(Level::Warning, &format!("spec.rules[{i}].backendRefs"), says);
            }
            if i > 0 && !route.protocol.is_of_requests() {
                let says =
                    format!("is never reached: rules of a {} ask for nothing, so the first counts", route.kind());
                say(Level::Warning, &format!("spec.rules[{i}]"), format!("{says} (IST0130)"));
            }
        }
        self.grants(route, say);
    }

    fn parents(&self, route: &GatewayRoute, say: Say<'_>) {
        for (i, parent) in route.parents.iter().enumerate() {
            let at = format!("spec.parentRefs[{i}]");
            if parent.target.is_gateway() {
                let says = "no gateway runs: the route has no effect there".to_owned();
                say(Level::Notice, &at, says);
            } else if parent.target.service().is_none() {
                let says = match &*parent.target.kind {
                    "Service" => {
                        format!("{} has no Service: write group: '' for one of Kubernetes", parent.target.group)
                    }
                    kind => format!("{kind} is not a kind that routes are attached to: Service is"),
                };
                say(Level::Warning, &at, says);
            }
        }
        let services = route.parents.iter().filter_map(|parent| parent.target.service());
        let are_read = route.hostnames.is_empty() || route.protocol == RouteProtocol::Tls;
        if let Some(service) = services.into_iter().next().filter(|_| !are_read) {
            let says = format!("is of gateways alone: calls of Service {service} match by any name");
            say(Level::Notice, "spec.hostnames", says);
        }
        for status in parent_statuses(self.model.world(), self.model.sources(), route) {
            let at = format!("spec.parentRefs[{}]", status.parent);
            let parent = route.parents.get(status.parent).and_then(|parent| parent.target.service());
            let is_elsewhere = parent.is_some_and(|name| !self.knows_services_of(name.namespace()));
            match status.accepted {
                AcceptedReason::NoMatchingParent if !is_elsewhere => {
                    let says = format!("{}: the route has no effect there (IST0101)", status.accepted_says);
                    say(Level::Warning, &at, says);
                }
                AcceptedReason::UnsupportedValue => {
                    say(Level::Warning, &at, format!("{}: the route has no effect there", status.accepted_says));
                }
                AcceptedReason::Conflicted => say(Level::Warning, &at, status.accepted_says),
                AcceptedReason::NoMatchingParent | AcceptedReason::Accepted => {}
            }
        }
    }

    /// Matches that another one has, which comes before it: of the same route or of one that is older.
    pub(super) fn repeated_matches(&self) -> Vec<Remark> {
        let mut all = BTreeMap::new();
        for service in self.model.world().services() {
            for port in &service.ports {
                let Attached { producers, consumers } = Attached::of(self.model.sources(), service, port.port);
                for routes in consumers.into_values().chain([producers]) {
                    let mut known: BTreeMap<String, (ObjectKey, String)> = BTreeMap::new();
                    for route in routes {
                        for (field, asked) in matches(route) {
                            let Some((first, place)) = known.get(&asked) else {
                                known.insert(asked, (route.key(), field));
                                continue;
                            };
                            let of = if *first == route.key() { String::new() } else { format!("{first} ") };
                            let what = carried(route);
                            let says = format!("is never reached: {of}{place} matches the same {what} (IST0130)");
                            all.entry((route.key(), field)).or_insert(says);
                        }
                    }
                }
            }
        }
        let remark =
            |((object, field), says)| Remark { level: Level::Warning, finding: Finding { object, field, says } };
        all.into_iter().map(remark).collect()
    }

    /// At a gateway a backend of another namespace needs a grant of that namespace; at a Service it does not.
    fn grants(&self, route: &GatewayRoute, say: Say<'_>) {
        if !route.parents.iter().any(|parent| parent.target.is_gateway()) {
            return;
        }
        let is_allowed = |to: &BackendRef| {
            let namespace = to.target.name.namespace();
            let mut grants = self.model.sources().reference_grants(namespace);
            namespace == route.name.namespace() || grants.any(|grant| grant.allows(&route.key(), &to.target))
        };
        for (i, rule) in route.rules.iter().enumerate() {
            for (j, one) in rule.backends.iter().enumerate().filter(|(_, one)| !is_allowed(&one.to)) {
                let name = &one.to.target.name;
                let refused = if route.protocol.is_of_requests() { "get 500" } else { "are refused" };
                let says = format!(
                    "no ReferenceGrant of namespace {} allows {name} to routes of {}: through a gateway {} of its share {refused} (RefNotPermitted)",
                    name.namespace(),
                    route.name.namespace(),
                    carried(route)
                );
                say(Level::Warning, &format!("spec.rules[{i}].backendRefs[{j}]"), says);
            }
        }
    }

    /// A VirtualService whose host is a Service with routes of the Gateway API.
    pub(super) fn gives_way(&self, v: &VirtualService, service: &ObjectName, at: &str, say: Say<'_>) {
        let Some(service) = self.model.world().service(service) else { return };
        let has_connections = !v.tls.is_empty() || !v.tcp.is_empty();
        let first = service.ports.iter().find_map(|port| {
            let attached = Attached::of(self.model.sources(), service, port.port);
            let is_same = |route: &&&Arc<GatewayRoute>| match route.protocol.is_of_requests() {
                true => !v.http.is_empty(),
                false => has_connections,
            };
            attached.producers.first().filter(is_same).map(|route| (route.key(), port.port))
        });
        if let Some((route, port)) = first {
            let says = format!(
                "{route} is attached to Service {}: on port {port} its rules count, not this one's",
                service.name
            );
            say(Level::Warning, at, says);
        }
    }

    /// Some Service of the namespace is there, so that others would be too.
    pub(super) fn knows_services_of(&self, namespace: &str) -> bool {
        self.model.sources().services().any(|s| s.name.namespace() == namespace)
    }
}

/// What the rules of a route are for.
const fn carried(route: &GatewayRoute) -> &'static str {
    if route.protocol.is_of_requests() { "requests" } else { "connections" }
}

/// The matches of a route, each as a text that is equal for those that ask for the same.
fn matches(route: &GatewayRoute) -> Vec<(String, String)> {
    let text = |condition: &HttpMatch| match is_catch_all(condition) {
        true => String::new(),
        false => format!("{condition:?}"),
    };
    let mut all = Vec::new();
    if !route.protocol.is_of_requests() {
        let names = route.hostnames.iter().enumerate();
        all.extend(names.map(|(i, name)| (format!("spec.hostnames[{i}]"), name.to_string())));
        all.extend(route.hostnames.is_empty().then(|| ("spec.rules[0]".to_owned(), String::new())));
        return all;
    }
    for (i, rule) in route.rules.iter().enumerate() {
        let at = format!("spec.rules[{i}]");
        for (j, asked) in rule.matches.iter().enumerate() {
            all.push((format!("{at}.matches[{j}]"), text(&asked.condition)));
        }
        all.extend(rule.matches.is_empty().then(|| (at, String::new())));
    }
    all
}

#[cfg(test)]
mod tests;
