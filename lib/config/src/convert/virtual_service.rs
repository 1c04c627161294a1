//! VirtualServices: hosts, and the routes of connections. Those of HTTP have rooms of their own beside this one.

use underpass_core::{
    Kind,
    objects::{ConnectionMatch, HeaderOperations, RouteTarget, TcpRoute, TlsRoute, VirtualService, WeightedTarget},
};

use super::{Converted, Faults, Rejected, http_route, meta, syntax, traffic_value as value};
use crate::{Fault, RouteFault, path::At, shapes};

/// The most hosts, and the most routes of each protocol. A list of a million would hold up who compiles it.
const MAX_ENTRIES: usize = 10_000;

/// `networking.istio.io VirtualService`.
///
/// # Errors
/// Everything that is wrong with it.
pub fn virtual_service(shape: &shapes::VirtualService) -> Result<Converted<VirtualService>, Rejected> {
    let mut faults = Faults::default();
    let (spec, at) = (&shape.spec, At::ROOT.field("spec"));
    let name = meta::object_name(Kind::VirtualService, &shape.metadata, &mut faults);
    meta::labels(&shape.metadata, &mut faults);
    let created = meta::created(&shape.metadata, &mut faults);
    let (hosts_at, http_at, tls_at, tcp_at) = (at.field("hosts"), at.field("http"), at.field("tls"), at.field("tcp"));
    let lists = [(spec.hosts.len(), &hosts_at), (spec.http.len(), &http_at)];
    let lists = lists.into_iter().chain([(spec.tls.len(), &tls_at), (spec.tcp.len(), &tcp_at)]);
    if let Some((_, at)) = lists.into_iter().find(|(len, _)| *len > MAX_ENTRIES) {
        faults.push(at, RouteFault::TooManyEntries { max: MAX_ENTRIES }.into());
        return faults.finish(None);
    }
    if spec.http.is_empty() && spec.tls.is_empty() && spec.tcp.is_empty() {
        faults.push(&at, RouteFault::OneOf { of: "http, tls and tcp" }.into());
    }
    let hosts = spec.hosts.iter().enumerate();
    let hosts = hosts.filter_map(|(i, text)| faults.check(&hosts_at.index(i), value::host(text))).collect();
    let gateways = value::gateways(&spec.gateways, &at.field("gateways"), &mut faults);
    let export_to = value::export_to(&spec.export_to, &at.field("exportTo"), &mut faults);
    let namespace = shape.metadata.namespace.as_deref().unwrap_or("default");
    let http = spec.http.iter().enumerate();
    let http = http.filter_map(|(i, r)| http_route::route(r, namespace, &http_at.index(i), &mut faults)).collect();
    let tls = spec.tls.iter().enumerate().filter_map(|(i, r)| tls_route(r, &tls_at.index(i), &mut faults)).collect();
    let tcp = spec.tcp.iter().enumerate().filter_map(|(i, r)| tcp_route(r, &tcp_at.index(i), &mut faults)).collect();
    let object = || Some(VirtualService { name: name?, created: created?, hosts, gateways, export_to, http, tls, tcp });
    let object = object();
    faults.finish(object)
}

/// A place to go to.
pub(super) fn target(shape: Option<&shapes::Destination>, at: &At<'_>, faults: &mut Faults) -> Option<RouteTarget> {
    let at = at.field("destination");
    destination(faults.check(&at, shape.ok_or(Fault::Missing))?, &at, faults)
}

/// What stands at `destination` or `mirror`.
pub(super) fn destination(shape: &shapes::Destination, at: &At<'_>, faults: &mut Faults) -> Option<RouteTarget> {
    let host_at = at.field("host");
    let host = faults.check(&host_at, value::host(&shape.host));
    if shape.host.starts_with('*') {
        faults.push(&host_at, value::malformed(&shape.host, "one host: requests go to one place"));
    }
    let subset = shape.subset.as_deref().filter(|s| !s.is_empty());
    let subset = subset.map(|name| faults.check(&at.field("subset"), subset_name(name)));
    let port = shape.port.as_ref().map(|port| value::port_of(Some(port), at, faults));
    Some(RouteTarget {
        host: host?,
        subset: match subset {
            Some(name) => Some(name?),
            None => None,
        },
        port: match port {
            Some(port) => Some(port?),
            None => None,
        },
    })
}

/// The name of a subset: a label's rules, without upper case.
pub(super) fn subset_name(text: &str) -> Result<std::sync::Arc<str>, Fault> {
    match syntax::label_value(text) {
        _ if text.is_empty() => Err(Fault::Missing),
        Ok(name) => Ok(name),
        Err(_) => Err(value::malformed(text, "a subset's name: up to 63 of A-Z a-z 0-9 - _ .")),
    }
}

/// Several targets with their weights. One alone gets everything, also where its weight is 0.
pub(super) fn weighted(
    all: impl Iterator<Item = (Option<RouteTarget>, Option<i64>, HeaderOperations)>,
    at: &At<'_>,
    faults: &mut Faults,
) -> Option<Vec<WeightedTarget>> {
    let mut targets = Vec::new();
    let mut is_whole = true;
    for (i, (target, weight, headers)) in all.enumerate() {
        let weight_at = at.index(i);
        let weight =
            value::number(Some(weight.unwrap_or(0)), 0, i32::MAX.unsigned_abs(), &weight_at.field("weight"), faults);
        match target.zip(weight) {
            Some((target, weight)) => targets.push(WeightedTarget { target, weight, headers }),
            None => is_whole = false,
        }
    }
    match &mut targets[..] {
        [one] if is_whole => one.weight = 1,
        many if is_whole && !many.is_empty() && many.iter().all(|t| t.weight == 0) => {
            faults.push(at, RouteFault::NoWeight.into())
        }
        _ => {}
    }
    is_whole.then_some(targets)
}

fn connection_targets(
    all: &[shapes::ConnectionTarget],
    at: &At<'_>,
    faults: &mut Faults,
) -> Option<Vec<WeightedTarget>> {
    let at = at.field("route");
    if all.is_empty() {
        faults.push(&at, Fault::Missing);
    }
    let read: Vec<_> = (all.iter().enumerate())
        .map(|(i, one)| {
            (target(one.destination.as_ref(), &at.index(i), faults), one.weight, HeaderOperations::default())
        })
        .collect();
    weighted(read.into_iter(), &at, faults)
}

fn tls_route(shape: &shapes::TlsRoute, at: &At<'_>, faults: &mut Faults) -> Option<TlsRoute> {
    let matches_at = at.field("match");
    if shape.r#match.is_empty() {
        faults.push(&matches_at, Fault::Missing);
    }
    let mut matches = Vec::new();
    for (i, one) in shape.r#match.iter().enumerate() {
        let at = matches_at.index(i);
        let names_at = at.field("sniHosts");
        if one.sni_hosts.is_empty() {
            faults.push(&names_at, Fault::Missing);
        }
        let names = one.sni_hosts.iter().enumerate();
        let server_names = names.filter_map(|(i, text)| faults.check(&names_at.index(i), value::host(text))).collect();
        let common = Common {
            destinations: &one.destination_subnets,
            port: one.port,
            labels: &one.source_labels,
            namespace: one.source_namespace.as_deref(),
            gateways: &one.gateways,
        };
        matches.extend(common.read(&at, faults).map(|m| ConnectionMatch { server_names, ..m }));
    }
    Some(TlsRoute { matches, targets: connection_targets(&shape.route, at, faults)? })
}

fn tcp_route(shape: &shapes::TcpRoute, at: &At<'_>, faults: &mut Faults) -> Option<TcpRoute> {
    let matches_at = at.field("match");
    let mut matches = Vec::new();
    for (i, one) in shape.r#match.iter().enumerate() {
        let at = matches_at.index(i);
        let source = one.source_subnet.as_deref().filter(|s| !s.is_empty());
        let source = source.and_then(|text| faults.check(&at.field("sourceSubnet"), syntax::cidr(text)));
        let common = Common {
            destinations: &one.destination_subnets,
            port: one.port,
            labels: &one.source_labels,
            namespace: one.source_namespace.as_deref(),
            gateways: &one.gateways,
        };
        matches.extend(common.read(&at, faults).map(|m| ConnectionMatch { source, ..m }));
    }
    Some(TcpRoute { matches, targets: connection_targets(&shape.route, at, faults)? })
}

/// The conditions that TLS and TCP have in common.
struct Common<'s> {
    destinations: &'s [String],
    port: Option<i64>,
    labels: &'s std::collections::BTreeMap<String, String>,
    namespace: Option<&'s str>,
    gateways: &'s [String],
}

impl Common<'_> {
    fn read(&self, at: &At<'_>, faults: &mut Faults) -> Option<ConnectionMatch> {
        let nets_at = at.field("destinationSubnets");
        let nets = self.destinations.iter().enumerate();
        let destinations = nets.filter_map(|(i, text)| faults.check(&nets_at.index(i), syntax::cidr(text))).collect();
        let labels = meta::label_map(self.labels, &at.field("sourceLabels"), faults);
        let namespace = self.namespace.filter(|n| !n.is_empty());
        let source_namespace =
            namespace.and_then(|text| faults.check(&at.field("sourceNamespace"), syntax::dns_label(text)));
        let gateways = value::gateways(self.gateways, &at.field("gateways"), faults);
        Some(ConnectionMatch {
            server_names: Vec::new(),
            destinations,
            source: None,
            port: value::port(self.port, &at.field("port"), faults),
            source_labels: labels?,
            source_namespace,
            gateways,
        })
    }
}
