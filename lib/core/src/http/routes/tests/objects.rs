//! Objects in short.

use crate::{
    http::{Host, TextMatch},
    objects::*,
    testing::{ambient, labels, name},
};

/// `namespace/name host,host [@created]`.
pub(super) fn virtual_service(text: &str, http: Vec<HttpRoute>) -> VirtualService {
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
pub(super) fn destination_rule(text: &str) -> DestinationRule {
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

pub(super) fn rule(matches: Vec<HttpMatch>, action: HttpAction) -> HttpRoute {
    HttpRoute { name: None, matches, action, policy: HttpPolicy::default() }
}

/// `host[/subset][:port]`.
pub(super) fn target(text: &str) -> RouteTarget {
    let (rest, port) = text.split_once(':').map_or((text, None), |(rest, port)| (rest, Some(port.parse().unwrap())));
    let (host, subset) = rest.split_once('/').map_or((rest, None), |(host, subset)| (host, Some(subset.into())));
    RouteTarget { host: Host::parse(host), subset, port }
}

/// All to one [`target`].
pub(super) fn to(text: &str) -> HttpAction {
    HttpAction::Forward(vec![WeightedTarget { target: target(text), weight: 1, headers: HeaderOperations::default() }])
}

pub(super) fn match_uri(uri: TextMatch) -> HttpMatch {
    HttpMatch { uri: Some(uri), ..HttpMatch::default() }
}

pub(super) fn exact(text: &str) -> TextMatch {
    TextMatch::Exact(text.into())
}

pub(super) fn prefix(text: &str) -> TextMatch {
    TextMatch::Prefix(text.into())
}

pub(super) fn pod_of(full_name: &str, address: &str, of: &str) -> Object {
    ambient(full_name, address, of).into()
}
