//! Routes, rules and tokens that nothing enforces, because no waypoint stands before their Services or no port of these carries what
//! they are for; and calls that a waypoint does not serve yet.

use std::sync::Arc;

use super::{Known, Level, Say};
use crate::{
    ObjectName,
    http::{Host, service_of},
    labels::selects,
    objects::{DestinationRule, Gateway, GatewayRoute, RequestAuthentication, VirtualService},
    provision,
    world::{AppProtocol, Scope, Service, TargetKind},
};

/// The remedy, as the end of a sentence.
const REMEDY: &str = "name one with the label istio.io/use-waypoint";

impl Known<'_> {
    pub(super) fn unenforced_virtual_service(&self, v: &VirtualService, say: Say<'_>) {
        if !v.is_for_mesh() {
            let says = "names gateways alone, and no gateway runs: no request follows these routes".to_owned();
            return say(Level::Notice, "spec.gateways", says);
        }
        for (i, host) in v.hosts.iter().enumerate() {
            self.unenforced_host(v.name.namespace(), host, &format!("spec.hosts[{i}]"), say);
        }
        let is_tls = |protocol| protocol == AppProtocol::Tls;
        let is_no_http = |protocol| matches!(protocol, AppProtocol::Tcp | AppProtocol::Tls | AppProtocol::Unknown);
        if !v.tls.is_empty() {
            self.without_port(v, is_tls, ("spec.tls", "TLS"), say);
        }
        if !v.tcp.is_empty() {
            self.without_port(v, is_no_http, ("spec.tcp", "anything but HTTP"), say);
        }
    }

    /// Routes of connections for a Service that has no port which carries such.
    fn without_port(&self, v: &VirtualService, is_such: impl Fn(AppProtocol) -> bool, of: (&str, &str), say: Say<'_>) {
        let (world, (field, what)) = (self.model.world(), of);
        for host in &v.hosts {
            let Host::Name(host) = &*host.qualified(v.name.namespace(), &world.settings().cluster_domain) else {
                continue;
            };
            let Some(service) = service_of(world, host) else { continue };
            if !service.ports.iter().any(|port| is_such(port.protocol)) {
                let name = &service.name;
                let says = format!(
                    "by name and appProtocol no port of Service {name} carries {what}: no connection follows these routes"
                );
                say(Level::Notice, field, says);
            }
        }
    }

    pub(super) fn unenforced_destination_rule(&self, rule: &DestinationRule, say: Say<'_>) {
        self.unenforced_host(rule.name.namespace(), &rule.host, "spec.host", say);
    }

    pub(super) fn unenforced_gateway_route(&self, route: &GatewayRoute, say: Say<'_>) {
        for (i, parent) in route.parents.iter().enumerate() {
            let service = parent.target.service().and_then(|name| self.model.world().service(name));
            unenforced(service, &format!("spec.parentRefs[{i}]"), say);
        }
    }

    /// Calls that pass a waypoint of ours and are not served there yet.
    pub(super) fn calls_of_pods(&self, gateway: &Gateway, say: Say<'_>) {
        if gateway.waypoint_for.workloads() && provision::instance(self.model.sources(), &gateway.name).is_some() {
            let says = "a waypoint that an agent runs takes no calls of pods' own addresses yet: they are refused";
            say(Level::Warning, "metadata.labels[istio.io/waypoint-for]", says.to_owned());
        }
    }

    fn unenforced_host(&self, namespace: &str, host: &Host, at: &str, say: Say<'_>) {
        let world = self.model.world();
        if let Host::Name(host) = &*host.qualified(namespace, &world.settings().cluster_domain) {
            unenforced(service_of(world, host), at, say);
        }
    }

    pub(super) fn unchecked_requests(&self, r: &RequestAuthentication, say: Say<'_>) {
        let (world, namespace) = (self.model.world(), r.name.namespace());
        let selector = match &r.scope {
            Scope::Targets(targets) => {
                for (i, target) in targets.iter().enumerate().filter(|(_, target)| target.kind == TargetKind::Service) {
                    let name = ObjectName::new(namespace, &target.name);
                    if world.service(&name).is_some_and(|service| service.waypoint.is_none()) {
                        let says = format!(
                            "no waypoint stands before Service {name}: tokens of its requests are not checked; {REMEDY}"
                        );
                        say(Level::Warning, &format!("spec.targetRefs[{i}]"), says);
                    }
                }
                return;
            }
            Scope::Selector(selector) => Some(selector),
            Scope::Namespace => None,
        };
        let is_selected = |namespace_of: &str| namespace == self.root() || namespace_of == namespace;
        let without = self.running.iter().filter(|running| {
            let pod = &running.pod;
            is_selected(pod.name.namespace())
                && selector.is_none_or(|selector| selects(selector, &pod.labels))
                && !running.fact.endpoints.is_empty()
                && world.waypoints_before(&running.fact).next().is_none()
        });
        if let Some(first) = without.map(|running| &running.pod.name).min() {
            let says = format!("no waypoint stands before {first}: tokens of requests to it are not checked; {REMEDY}");
            say(Level::Warning, if selector.is_some() { "spec.selector" } else { "spec" }, says);
        }
    }
}

fn unenforced(service: Option<&Arc<Service>>, at: &str, say: Say<'_>) {
    if let Some(service) = service.filter(|service| service.waypoint.is_none()) {
        let says = format!("no waypoint stands before Service {}: nothing enforces this there; {REMEDY}", service.name);
        say(Level::Notice, at, says);
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        Kind,
        dangling::{Remark, dangling},
        http::Host,
        labels::Labels,
        objects::{Created, ExportTo, Object, Service, TcpRoute, TlsRoute, TrafficPolicy, WaypointFor},
        testing::{ambient, gateway, labels, model, name, request_authentication, service},
        world::PolicyTarget,
    };

    use super::*;

    /// What is said of these objects, with a waypoint before the Service `default/s` or without.
    fn said(with: bool, object: Object) -> Vec<String> {
        let of = if with { labels("istio.io/use-waypoint=w") } else { Labels::new() };
        let s = Service { labels: of, ..service("default/s app=a 10.96.0.1 80") };
        let pod = ambient("default/a", "10.0.0.1", "app=a");
        let remarks = dangling(&model([s.into(), gateway("default/w").into(), pod.into(), object]), [], []);
        let of_routes = |r: &Remark| r.finding.object.kind != Kind::Service;
        let line = |r: Remark| format!("{:?} {}: {}", r.level, r.finding.field, r.finding.says);
        remarks.into_iter().filter(of_routes).map(line).collect()
    }

    fn routes() -> VirtualService {
        VirtualService {
            name: name("default/v"),
            created: Created::UNKNOWN,
            hosts: vec![Host::parse("s")],
            gateways: Vec::new(),
            export_to: ExportTo::All,
            http: Vec::new(),
            tls: Vec::new(),
            tcp: Vec::new(),
        }
    }

    #[test]
    fn what_no_waypoint_enforces() {
        let check = |object: Object, expect: &str| {
            assert_eq!(said(false, object.clone()), [expect]);
            assert_eq!(said(true, object), [""; 0]);
        };
        let nothing = "no waypoint stands before Service default/s: nothing enforces this there; name one with the label \
                       istio.io/use-waypoint";
        check(routes().into(), &format!("Notice spec.hosts[0]: {nothing}"));
        let rule = DestinationRule {
            name: name("default/d"),
            created: Created::UNKNOWN,
            host: Host::parse("s"),
            policy: TrafficPolicy::default(),
            subsets: Vec::new(),
            export_to: ExportTo::All,
            callers: None,
        };
        check(rule.into(), &format!("Notice spec.host: {nothing}"));
        let of = |at: &str, what: &str| {
            format!(
                "Warning {at}: no waypoint stands before {what} are not checked; name one with the label istio.io/use-waypoint"
            )
        };
        check(
            request_authentication("default/r app=a i").into(),
            &of("spec.selector", "default/a: tokens of requests to it"),
        );
        check(request_authentication("default/r - i").into(), &of("spec", "default/a: tokens of requests to it"));
        let scope = Scope::Targets(vec![PolicyTarget::new(TargetKind::Service, "s")]);
        let named = RequestAuthentication { scope, ..request_authentication("default/r - i") };
        check(named.into(), &of("spec.targetRefs[0]", "Service default/s: tokens of its requests"));
    }

    #[test]
    fn calls_that_a_waypoint_of_ours_does_not_take() {
        let says = |waypoint_for, range: &str| {
            let mut node = crate::testing::node("n", "");
            node.waypoint_ranges = range.split_whitespace().map(|r| r.parse().unwrap()).collect();
            let given: Vec<Object> = vec![Gateway { waypoint_for, ..gateway("default/w") }.into(), node.into()];
            let derived = provision::derived(&given, |_| false).into_values();
            let all: Vec<_> = given.iter().cloned().chain(derived).collect();
            dangling(&model(all), [], []).into_iter().map(|r| r.finding.field).collect::<Vec<_>>()
        };
        let label = ["metadata.labels[istio.io/waypoint-for]"];
        assert_eq!(says(WaypointFor::All, "10.9.1.0/24"), label);
        assert_eq!(says(WaypointFor::Workload, "10.9.1.0/24"), label);
        assert_eq!(says(WaypointFor::Service, "10.9.1.0/24"), [""; 0]);
        assert_eq!(says(WaypointFor::All, ""), [""; 0], "another's may take them");
    }

    #[test]
    fn what_is_not_enforced_with_one_either() {
        let tcp = vec![TcpRoute { matches: Vec::new(), targets: Vec::new() }];
        assert_eq!(said(true, VirtualService { tcp, ..routes() }.into()), [""; 0], "its port may carry anything");
        let tls = vec![TlsRoute { matches: Vec::new(), targets: Vec::new() }];
        let says = "Notice spec.tls: by name and appProtocol no port of Service default/s carries TLS: no connection follows these routes";
        assert_eq!(said(true, VirtualService { tls, ..routes() }.into()), [says]);
        let gateways = vec!["front".into()];
        let says = "Notice spec.gateways: names gateways alone, and no gateway runs: no request follows these routes";
        for with in [false, true] {
            assert_eq!(said(with, VirtualService { gateways: gateways.clone(), ..routes() }.into()), [says]);
        }
    }
}
