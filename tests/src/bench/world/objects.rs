//! The things of a layout as objects of the product.

use std::{net::IpAddr, sync::Arc};

use underpass_core::{
    Few, ObjectName,
    authz::{Match, PrincipalMatch, Rule, Source},
    enrol::DATAPLANE_MODE,
    labels::Labels,
    objects::{
        Created, DEFAULT_WEIGHT, EndpointSlice, MtlsMode, Namespace, Node, Object, PeerAuthentication, Phase, Pod,
        Service, SliceEndpoint, SlicePort,
    },
    world::{Action, Affinity, AppProtocol, AuthorizationPolicy, InternalTraffic, Scope, ServicePort, TargetPort},
};

use super::layout::{Name, Thing};

/// The name of an object of a namespace.
pub fn object_name(Name { namespace, name }: &Name) -> ObjectName {
    ObjectName::new(namespace.as_str(), name.as_str())
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(key, value)| (Arc::from(*key), Arc::from(*value))).collect()
}

/// The product's object.
pub fn object(thing: Thing) -> Object {
    match thing {
        Thing::Namespace { name, enrolled } => {
            let labels = if enrolled { labels(&[(DATAPLANE_MODE, "ambient")]) } else { Labels::new() };
            Namespace { name: ObjectName::cluster(name), labels, distribution: None }.into()
        }
        Thing::Node { name, zone } => {
            let labels = labels(&[("topology.kubernetes.io/region", "r"), ("topology.kubernetes.io/zone", &zone)]);
            Node {
                name: ObjectName::cluster(name),
                addresses: Vec::new(),
                labels,
                awaits_agent: false,
                waypoint_ranges: Vec::new(),
            }
            .into()
        }
        Thing::Pod { name, addresses, node, app, turn } => pod(&name, addresses, &node, &app, turn).into(),
        Thing::Service { name, vips, app } => service(&name, vips, &app).into(),
        Thing::Slice { name, service, endpoints } => slice(&name, &service, endpoints).into(),
        Thing::Policy { name, app, allow, principals } => {
            let principals = Match {
                values: principals.iter().map(|text| PrincipalMatch::parse(text)).collect(),
                not_values: Vec::new(),
            };
            let from = vec![Source { principals, ..Source::default() }];
            AuthorizationPolicy {
                name: object_name(&name),
                scope: app.map_or(Scope::Namespace, |app| Scope::Selector(labels(&[("app", &app)]))),
                action: if allow { Action::Allow } else { Action::Deny },
                provider: None,
                rules: vec![Rule { from, ..Rule::default() }],
                dry_run: false,
            }
            .into()
        }
        Thing::PeerAuthentication { name, strict } => PeerAuthentication {
            name: object_name(&name),
            selector: None,
            mode: if strict { MtlsMode::Strict } else { MtlsMode::Permissive },
            ports: Default::default(),
            created: Created(0),
        }
        .into(),
    }
}

fn pod(name: &Name, addresses: Vec<IpAddr>, node: &str, app: &str, turn: usize) -> Pod {
    let turn = turn.to_string();
    Pod {
        name: object_name(name),
        uid: format!("uid-{}-{}", name.namespace, name.name).into(),
        addresses: addresses.into(),
        node: Some(node.into()),
        host_network: false,
        phase: Phase::Running,
        ready: true,
        draining: false,
        deleted: false,
        weight: DEFAULT_WEIGHT,
        labels: labels(&[("app", app), ("version", "v1"), ("pod-template-hash", "6c8f7d9b54"), ("turn", &turn)]),
        annotations: Labels::new(),
        service_account: app.into(),
        owner: None,
        ports: Vec::new(),
        probes: Few::new(),
        proxy: None,
        hostname: None,
    }
}

fn service(name: &Name, vips: Vec<IpAddr>, app: &str) -> Service {
    Service {
        name: object_name(name),
        vips,
        external: Vec::new(),
        node_ports: Default::default(),
        ports: vec![ServicePort {
            name: "http".into(),
            port: 80,
            target: TargetPort::Number(8080),
            protocol: AppProtocol::Http11,
        }],
        selector: Some(labels(&[("app", app)])),
        external_name: None,
        publish_not_ready: false,
        internal_traffic: InternalTraffic::Cluster,
        distribution: None,
        affinity: Affinity::None,
        labels: labels(&[("app", app)]),
        waypoint_optional: false,
    }
}

fn slice(name: &Name, service: &Name, endpoints: Vec<(IpAddr, String, bool)>) -> EndpointSlice {
    let endpoint = |(address, node, ready): (IpAddr, String, bool)| SliceEndpoint {
        addresses: Few::one(address),
        target: None,
        ready,
        draining: false,
        node: Some(node.into()),
        zone: None,
        hints: None,
    };
    EndpointSlice {
        name: object_name(name),
        service: object_name(service),
        ports: vec![SlicePort { name: "http".into(), port: 8080 }],
        endpoints: endpoints.into_iter().map(endpoint).collect(),
    }
}
