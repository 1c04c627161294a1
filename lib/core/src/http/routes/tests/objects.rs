//! Objects in short.

use crate::{
    http::{Host, TextMatch},
    objects::*,
    testing::{ambient, labels, name},
};

/// `namespace/name host,host [@created]`.
pub(in crate::http) fn virtual_service(text: &str, http: Vec<HttpRoute>) -> VirtualService {
    let mut words = text.split_whitespace();
    let full = name(words.next().unwrap());
    let hosts = words.next().filter(|w| *w != "-").map_or_else(Vec::new, |w| w.split(',').map(Host::parse).collect());
    let created = words.next().map_or(Created::UNKNOWN, |w| Created(w.strip_prefix('@').unwrap().parse().unwrap()));
    VirtualService {
        name: full,
        created,
        hosts,
        gateways: Vec::new(),
        export_to: ExportTo::All,
        http,
        tls: Vec::new(),
        tcp: Vec::new(),
    }
}

/// `namespace/name host subset:key=value ... [@created]`.
pub(in crate::http) fn destination_rule(text: &str) -> DestinationRule {
    let words: Vec<_> = text.split_whitespace().collect();
    let created =
        words.iter().find_map(|w| w.strip_prefix('@')).map_or(Created::UNKNOWN, |at| Created(at.parse().unwrap()));
    let subsets = words[2..].iter().filter_map(|w| w.split_once(':'));
    DestinationRule {
        name: name(words[0]),
        created,
        host: Host::parse(words[1]),
        policy: TrafficPolicy::default(),
        subsets: subsets
            .map(|(name, of)| Subset { name: name.into(), labels: labels(of), policy: TrafficPolicy::default() })
            .collect(),
        export_to: ExportTo::All,
        callers: None,
    }
}

pub(in crate::http) fn rule(matches: Vec<HttpMatch>, action: HttpAction) -> HttpRoute {
    HttpRoute { name: None, matches, action, policy: HttpPolicy::default() }
}

/// `host[/subset][:port]`.
pub(in crate::http) fn target(text: &str) -> RouteTarget {
    let (rest, port) = text.split_once(':').map_or((text, None), |(rest, port)| (rest, Some(port.parse().unwrap())));
    let (host, subset) = rest.split_once('/').map_or((rest, None), |(host, subset)| (host, Some(subset.into())));
    RouteTarget { host: Host::parse(host), subset, port }
}

/// All to one [`target`].
pub(in crate::http) fn to(text: &str) -> HttpAction {
    HttpAction::Forward(vec![WeightedTarget { target: target(text), weight: 1, headers: HeaderOperations::default() }])
}

pub(in crate::http) fn match_uri(uri: TextMatch) -> HttpMatch {
    HttpMatch { uri: Some(uri), ..HttpMatch::default() }
}

pub(in crate::http) fn exact(text: &str) -> TextMatch {
    TextMatch::Exact(text.into())
}

pub(in crate::http) fn prefix(text: &str) -> TextMatch {
    TextMatch::Prefix(text.into())
}

pub(in crate::http) fn pod_of(full_name: &str, address: &str, of: &str) -> Object {
    ambient(full_name, address, of).into()
}

/// `namespace/name HTTP|GRPC|TLS|TCP parent[:port][#section],... [@created]`; a parent is `namespace/name`.
pub(in crate::http) fn gateway_route(text: &str, rules: Vec<RouteRule>) -> GatewayRoute {
    let mut words = text.split_whitespace();
    let full = name(words.next().unwrap());
    let protocol = match words.next() {
        Some("GRPC") => RouteProtocol::Grpc,
        Some("TLS") => RouteProtocol::Tls,
        Some("TCP") => RouteProtocol::Tcp,
        _ => RouteProtocol::Http,
    };
    let parent = |text: &str| {
        let (rest, section) = text.split_once('#').map_or((text, None), |(rest, s)| (rest, Some(s.into())));
        let (rest, port) =
            rest.split_once(':').map_or((rest, None), |(rest, port)| (rest, Some(port.parse().unwrap())));
        ParentRef { target: referent(rest), section, port }
    };
    let parents = words.next().unwrap().split(',').map(parent).collect();
    let created = words.next().map_or(Created::UNKNOWN, |w| Created(w.strip_prefix('@').unwrap().parse().unwrap()));
    GatewayRoute { name: full, protocol, created, parents, hostnames: Vec::new(), rules }
}

/// A Service, `namespace/name`, of `shop` where it has no namespace.
fn referent(text: &str) -> Referent {
    let full = if text.contains('/') { name(text) } else { name(&format!("shop/{text}")) };
    Referent { group: "".into(), kind: "Service".into(), name: full }
}

/// `[namespace/]name[:port][=weight]`; without a port 80.
pub(in crate::http) fn backend(text: &str) -> Backend {
    let (rest, weight) = text.split_once('=').map_or((text, 1), |(rest, w)| (rest, w.parse().unwrap()));
    let (rest, port) = rest.split_once(':').map_or((rest, 80), |(rest, p)| (rest, p.parse().unwrap()));
    let to = BackendRef { target: referent(rest), port: Some(port) };
    Backend { to, weight, headers: HeaderOperations::default() }
}

/// A rule with these matches, to [`backend`]s.
pub(in crate::http) fn to_backends(matches: Vec<RouteMatch>, all: &[&str]) -> RouteRule {
    RouteRule { matches, backends: all.iter().map(|text| backend(text)).collect(), ..RouteRule::default() }
}

pub(in crate::http) fn elements(text: &str) -> TextMatch {
    TextMatch::Elements(text.into())
}

pub(in crate::http) fn asked(condition: HttpMatch) -> RouteMatch {
    RouteMatch { condition, method: None }
}

/// A method of gRPC, as the door reads it.
pub(in crate::http) fn grpc(service: Option<&str>, method: Option<&str>) -> RouteMatch {
    let uri = match (service, method) {
        (Some(service), Some(method)) => Some(exact(&format!("/{service}/{method}"))),
        (Some(service), None) => Some(prefix(&format!("/{service}/"))),
        (None, Some(method)) => {
            Some(TextMatch::Regex(crate::http::Pattern::parse(&format!("/[^/]+/{method}")).unwrap()))
        }
        (None, None) => None,
    };
    let method = GrpcMethod { service: service.map(Into::into), method: method.map(Into::into) };
    RouteMatch { condition: HttpMatch { uri, ..HttpMatch::default() }, method: Some(method) }
}
