//! Objects for tests, from one-line descriptions, and a generator of Worlds. Behind the feature `testing`, for the
//! crates above too: what compiles a World must be tested against the same generated ones.

pub mod walk;
mod waypoints;

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use proptest::{collection::vec, prelude::*, sample::select};

pub use self::waypoints::{gateway, request_authentication};
use crate::{
    Connection, Few, ObjectName, Reason, World,
    authz::{Condition, Match, Operation, OperationL7, PrincipalMatch, Rule, Source, SourceL7, StringMatch},
    connection::{Direction, Party, Path},
    enrol::DATAPLANE_MODE,
    labels::Labels,
    objects::{
        Admits, Batch, Created, DEFAULT_WEIGHT, EndpointSlice, Gateway, HboneListener, MtlsMode, Must, Namespace, Node,
        Object, OwnProxy, PeerAuthentication, Phase, Pod, Requirement, Service, SliceEndpoint, SlicePort, WaypointFor,
    },
    resolve::Model,
    world::{
        Action, Affinity, AppProtocol, AuthorizationPolicy, Distribution, Hints, InternalTraffic, Locality,
        MeshSettings, PolicyTarget, Scope, ServicePort, TargetKind, TargetPort, Version, Workload,
    },
};

/// `namespace/name`.
#[must_use]
pub fn name(text: &str) -> ObjectName {
    let (namespace, name) = text.split_once('/').expect("namespace/name");
    ObjectName::new(namespace, name)
}

/// `key=value key=value`.
#[must_use]
pub fn labels(text: &str) -> Labels {
    let pair = |p: &str| p.split_once('=').map(|(k, v)| (Arc::from(k), Arc::from(v))).expect("key=value");
    text.split_whitespace().map(pair).collect()
}

/// A namespace without labels.
#[must_use]
pub fn namespace(name: &str) -> Namespace {
    Namespace { name: ObjectName::cluster(name), labels: Labels::new(), distribution: None }
}

/// `region/zone/subzone`, each as far as it is known.
#[must_use]
pub fn locality(text: &str) -> Locality {
    let mut parts = text.split('/').map(|p| Some(p).filter(|p| !p.is_empty()).map(Arc::from));
    let mut next = || parts.next().flatten();
    Locality { region: next(), zone: next(), subzone: next() }
}

/// A node without addresses, at this [`locality`].
#[must_use]
pub fn node(name: &str, place: &str) -> Node {
    let Locality { region, zone, subzone } = locality(place);
    let keys = ["topology.kubernetes.io/region", "topology.kubernetes.io/zone", "topology.istio.io/subzone"];
    let labels = keys.into_iter().zip([region, zone, subzone]).filter_map(|(key, value)| Some((key, value?)));
    Node {
        name: ObjectName::cluster(name),
        addresses: Vec::new(),
        labels: labels.collect(),
        awaits_agent: false,
        waypoint_ranges: Vec::new(),
    }
}

/// An endpoint of a slice that is ready.
#[must_use]
pub fn slice_endpoint(addresses: &str) -> SliceEndpoint {
    SliceEndpoint {
        addresses: addresses.split_whitespace().map(|a| a.parse().expect("address")).collect(),
        target: None,
        ready: true,
        draining: false,
        node: None,
        zone: None,
        hints: None,
    }
}

/// A running, ready pod that is not enrolled, with these addresses and its own name as `app` label.
#[must_use]
pub fn pod(full_name: &str, addresses: &str) -> Pod {
    let name = name(full_name);
    Pod {
        uid: format!("uid-{}-{}", name.namespace(), name.name()).into(),
        addresses: addresses.split_whitespace().map(|a| a.parse().expect("address")).collect(),
        node: Some("node-1".into()),
        hostname: None,
        host_network: false,
        phase: Phase::Running,
        ready: true,
        draining: false,
        deleted: false,
        weight: DEFAULT_WEIGHT,
        labels: labels(&format!("app={}", name.name())),
        annotations: Labels::new(),
        service_account: name.name().into(),
        ports: Vec::new(),
        probes: Few::new(),
        owner: None,
        proxy: None,
        name,
    }
}

/// A pod that its own label enrols.
#[must_use]
pub fn ambient(full_name: &str, addresses: &str, more: &str) -> Pod {
    let mut w = pod(full_name, addresses);
    w.labels.extend(labels(more));
    w.labels.insert(DATAPLANE_MODE.into(), "ambient".into());
    w
}

/// `namespace/name selector vip[,vip] port[=target] ...`; `-` for no selector or no VIP.
#[must_use]
pub fn service(text: &str) -> Service {
    let mut words = text.split_whitespace();
    let name = name(words.next().expect("name"));
    let selector = words.next().filter(|s| *s != "-").map(labels);
    let vips = words
        .next()
        .filter(|s| *s != "-")
        .map_or_else(Vec::new, |s| s.split(',').map(|a| a.parse().expect("address")).collect());
    let ports = words.map(|p| {
        let (port, target) = p.split_once('=').unwrap_or((p, p));
        let target = target.parse().map_or_else(|_| TargetPort::Name(target.into()), TargetPort::Number);
        let (port, protocol) = (port.parse().expect("port"), AppProtocol::default());
        ServicePort { name: format!("p{port}").into(), port, target, protocol }
    });
    Service {
        ports: ports.collect(),
        name,
        vips,
        external: Vec::new(),
        node_ports: BTreeMap::new(),
        selector,
        external_name: None,
        publish_not_ready: false,
        internal_traffic: InternalTraffic::Cluster,
        distribution: None,
        affinity: Affinity::None,
        labels: Labels::new(),
        waypoint_optional: false,
    }
}

/// `namespace/name selector MODE [port=MODE ...] [@created]`; `-` for no selector.
#[must_use]
pub fn peer_authentication(text: &str) -> PeerAuthentication {
    let mode = |m: &str| match m {
        "STRICT" => MtlsMode::Strict,
        "PERMISSIVE" => MtlsMode::Permissive,
        "DISABLE" => MtlsMode::Disable,
        "UNSET" => MtlsMode::Unset,
        other => panic!("mode {other}"),
    };
    let words: Vec<_> = text.split_whitespace().collect();
    let [full_name, selector, all, rest @ ..] = &words[..] else { panic!("name selector MODE: {text}") };
    let created = rest.iter().find_map(|w| w.strip_prefix('@')).map(|t| Created(t.parse().expect("seconds")));
    let ports = rest.iter().filter_map(|w| w.split_once('=')).map(|(p, m)| (p.parse().expect("port"), mode(m)));
    PeerAuthentication {
        name: name(full_name),
        selector: (*selector != "-").then(|| labels(selector)),
        mode: mode(all),
        ports: ports.collect(),
        created: created.unwrap_or(Created::UNKNOWN),
    }
}

/// A policy about its whole namespace.
#[must_use]
pub fn policy(full_name: &str, action: Action, rules: Vec<Rule>) -> AuthorizationPolicy {
    AuthorizationPolicy {
        name: name(full_name),
        scope: Scope::Namespace,
        action,
        provider: None,
        rules,
        dry_run: false,
    }
}

/// Any of these, and nothing that must not match.
#[must_use]
pub fn any_of<T>(values: impl IntoIterator<Item = T>) -> Match<T> {
    Match { values: values.into_iter().collect(), not_values: Vec::new() }
}

/// An operation that only a waypoint can judge.
#[must_use]
pub fn by_method(method: &str) -> Operation {
    let l7 = OperationL7 { methods: any_of([StringMatch::parse(method)]), ..OperationL7::default() };
    Operation { l7: l7.boxed(), ..Operation::default() }
}

/// These objects under default settings, and what follows from them.
#[must_use]
pub fn model(objects: impl IntoIterator<Item = Object>) -> Model {
    let mut model = Model::empty(MeshSettings::default());
    model.apply(&objects.into_iter().collect());
    model
}

/// The World that follows from these objects under default settings.
#[must_use]
pub fn world(objects: impl IntoIterator<Item = Object>) -> World {
    model(objects).world().clone()
}

/// A pod as a fact, where no other object is.
#[must_use]
pub fn workload(pod: &Pod) -> Arc<Workload> {
    Arc::clone(world([pod.clone().into()]).pod(&pod.name).expect("a pod that has not ended"))
}

/// An inbound connection over HBONE that has finished, between addresses that no workload has.
#[must_use]
pub fn connection(source: &str, destination: &str) -> Connection {
    let party = |address: &str| Party { address: address.parse().expect("address"), workload: None, identity: None };
    Connection {
        id: 1,
        direction: Direction::Inbound,
        path: Path::Hbone,
        source: party(source),
        destination: party(destination),
        via: None,
        service: None,
        service_host: None,
        vip: None,
        bytes_received: 0,
        bytes_sent: 0,
        opened_unix_ms: 0,
        duration_us: 0,
        policy: None,
        dry_run_denied_by: Vec::new(),
        reason: Some(Reason::Finished),
        world: Version(1),
    }
}

const NAMESPACES: [&str; 3] = ["istio-system", "default", "other"];
const NODES: [&str; 2] = ["node-1", "node-2"];
const APPS: [&str; 3] = ["a", "b", "c"];

/// Addresses that generated objects use. Few, so that they collide.
pub fn some_address() -> impl Strategy<Value = IpAddr> {
    let v4 = (1u8..12).prop_map(|n| IpAddr::from([10, 0, 0, n]));
    let v6 = (1u16..12).prop_map(|n| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, n]));
    let vip = prop_oneof![
        2 => (1u8..4).prop_map(|n| IpAddr::from([10, 96, 0, n])),
        1 => (1u16..4).prop_map(|n| IpAddr::from([0xfd96, 0, 0, 0, 0, 0, 0, n])),
    ];
    let odd = select(vec!["127.0.0.1", "::1", "0.0.0.0", "::", "192.0.2.1", "2001:db8::1"]);
    prop_oneof![4 => v4, 4 => v6, 2 => vip, 1 => odd.prop_map(|a| a.parse().expect("address"))]
}

fn some_name() -> impl Strategy<Value = ObjectName> {
    (select(&NAMESPACES[..]), select(vec!["x1", "x2", "x3", "x4"])).prop_map(|(ns, n)| ObjectName::new(ns, n))
}

fn some_labels() -> impl Strategy<Value = Labels> {
    let app = select(&APPS[..]).prop_map(|a| format!("app={a} "));
    let mode = select(vec!["", "", "istio.io/dataplane-mode=ambient", "istio.io/dataplane-mode=none"]);
    (app, mode, some_attachment()).prop_map(|(a, m, w)| labels(&(a + m + w)))
}

/// Mostly nothing; `x1` to `x4` may be Gateways, and Services that their instances are behind.
fn some_attachment() -> impl Strategy<Value = &'static str> {
    let x1 = " istio.io/use-waypoint=x1";
    let elsewhere = " istio.io/use-waypoint=x2 istio.io/use-waypoint-namespace=other";
    select(vec!["", "", "", "", x1, elsewhere, " istio.io/use-waypoint=none"])
}

/// Mostly a waypoint.
fn some_gateway() -> impl Strategy<Value = Gateway> {
    let before = select(vec![WaypointFor::Service, WaypointFor::Workload, WaypointFor::All, WaypointFor::None]);
    let requirement = |key: &str| Requirement { key: key.into(), must: Must::Exist };
    let admits = select(vec![Admits::Same, Admits::All, Admits::Selector(vec![requirement("istio-injection")])]);
    let class = select(vec!["istio-waypoint", "istio-waypoint", "istio"]);
    (some_name(), before, vec((select(vec![15008, 15009]), admits), 1..3), class).prop_map(
        |(name, waypoint_for, listeners, class)| {
            let listeners = listeners.into_iter().map(|(port, admits)| HboneListener { port, admits });
            let listeners = listeners.filter(|_| class != "istio").collect();
            Gateway { name, class: class.into(), waypoint_for, listeners }
        },
    )
}

fn some_pod() -> impl Strategy<Value = Pod> {
    let addresses = (any::<bool>(), 1u8..12, any::<bool>(), 1u16..12);
    let state = (select(vec![Phase::Running, Phase::Running, Phase::Pending, Phase::Terminal]), any::<bool>());
    let proxy = prop::option::weighted(0.15, select(vec![OwnProxy::Sidecar, OwnProxy::Gateway, OwnProxy::Waypoint]));
    let odd = (prop::bool::weighted(0.1), proxy, prop::bool::weighted(0.2), some_weight());
    let probes = select(vec![vec![], vec![], vec![80], vec![80, 8080]]);
    (some_name(), addresses, some_labels(), state, odd, (select(&NODES[..]), probes)).prop_map(
        |(
            name,
            (has4, n4, has6, n6),
            labels,
            (phase, ready),
            (host_network, proxy, deleted, weight),
            (node, probes),
        )| {
            let mut w = pod(&name.to_string(), "");
            let v4 = has4.then(|| IpAddr::from([10, 0, 0, n4]));
            let v6 = has6.then(|| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, n6]));
            w.addresses = v4.into_iter().chain(v6).collect();
            w.labels = labels;
            w.node = Some(node.into());
            let (ready, draining) = (ready && !deleted, ready && deleted);
            Pod { phase, ready, draining, deleted, weight, host_network, proxy, probes: probes.into(), ..w }
        },
    )
}

/// Mostly the usual one.
fn some_weight() -> impl Strategy<Value = u16> {
    prop_oneof![3 => Just(DEFAULT_WEIGHT), 1 => 0u16..4]
}

fn some_distribution() -> impl Strategy<Value = Option<Distribution>> {
    select(vec![None, Some(Distribution::Any), Some(Distribution::SameZone), Some(Distribution::SameNode)])
}

fn some_node() -> impl Strategy<Value = Node> {
    let places = ["", "r1", "r1/z1", "r1/z1/s1", "r1/z1/s2", "r1/z2", "r2/z1", "/z1"];
    let addresses = prop::option::of((1u8..4).prop_map(|n| IpAddr::from([198, 51, 100, n])));
    let range = prop::option::weighted(0.2, select(vec!["10.9.1.0/24", "fd09::/64"]));
    (select(&NODES[..]), select(places.to_vec()), addresses, range).prop_map(|(name, place, ip, range)| Node {
        addresses: ip.into_iter().collect(),
        waypoint_ranges: range.into_iter().map(|range| range.parse().expect("CIDR")).collect(),
        ..node(name, place)
    })
}

fn some_service() -> impl Strategy<Value = Service> {
    let flags = (any::<bool>(), any::<bool>(), prop::bool::weighted(0.1));
    let traffic = (prop::bool::weighted(0.2), some_distribution(), any::<bool>());
    let external = prop_oneof![3 => Just(Vec::new()), 1 => some_external().prop_map(|ip| vec![ip])];
    (some_name(), select(&APPS[..]), 1u8..4, flags, some_labels(), traffic, external).prop_map(
        |(name, app, vip, (not_ready, optional, external), labels, (local, distribution, affine), addresses)| Service {
            external: if external { Vec::new() } else { addresses },
            publish_not_ready: not_ready,
            waypoint_optional: optional,
            external_name: external.then(|| "example.com".into()),
            vips: if external { Vec::new() } else { vips(vip) },
            internal_traffic: if local { InternalTraffic::Local } else { InternalTraffic::Cluster },
            distribution,
            affinity: if affine { Affinity::ClientIp } else { Affinity::None },
            labels,
            ..service(&format!("{name} app={app} - 80=8080 443=https"))
        },
    )
}

/// Of its own, or one that a pod or a service may have.
fn some_external() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        2 => (1u8..4).prop_map(|n| IpAddr::from([198, 51, 100, n])),
        1 => (1u16..12).prop_map(|n| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, n])),
        1 => (1u8..4).prop_map(|n| IpAddr::from([10, 96, 0, n])),
    ]
}

fn vips(n: u8) -> Vec<IpAddr> {
    vec![IpAddr::from([10, 96, 0, n]), IpAddr::from([0xfd96, 0, 0, 0, 0, 0, 0, n.into()])]
}

/// A slice of one address family, of one of the few services.
fn some_slice() -> impl Strategy<Value = EndpointSlice> {
    let names =
        |all: &'static [&'static str]| vec(select(all), 0..2).prop_map(|n| n.into_iter().map(Arc::from).collect());
    let hints = (names(&["z1", "z2"]), names(&NODES)).prop_map(|(zones, nodes)| Hints { zones, nodes });
    let hints = hints.prop_map(|hints| (hints != Hints::default()).then(|| Arc::new(hints)));
    let place = (select(vec![None, Some("z1"), Some("z2")]), select(vec![None, Some(NODES[0]), Some(NODES[1])]));
    let endpoint = (1u8..12, any::<bool>(), any::<bool>(), place, hints, prop::option::weighted(0.3, some_name()));
    (some_name(), any::<bool>(), vec(endpoint, 0..4), proptest::sample::subsequence(vec!["p80", "p443"], 1..=2))
        .prop_map(|(service, v4, all, ports)| {
            let address =
                |n: u8| if v4 { [10, 0, 0, n].into() } else { IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, n.into()]) };
            let endpoints = all.into_iter().map(|(n, ready, draining, (zone, node), hints, target)| SliceEndpoint {
                addresses: Few::one(address(n)),
                target,
                ready,
                draining,
                node: node.map(Arc::from),
                zone: zone.map(Arc::from),
                hints,
            });
            EndpointSlice {
                name: ObjectName::new(service.namespace(), format!("{}-{}", service.name(), if v4 { 4 } else { 6 })),
                service,
                ports: ports.into_iter().map(|name| SlicePort { name: name.into(), port: 8080 }).collect(),
                endpoints: endpoints.collect(),
            }
        })
}

fn some_rule() -> impl Strategy<Value = Rule> {
    let principal = select(vec!["*", "cluster.local/ns/default/sa/*", "*/sa/x1", "cluster.local/ns/other/sa/x2"]);
    let source = (principal, any::<bool>(), prop::bool::weighted(0.2)).prop_map(|(p, not, needs_token)| {
        let (mut principals, value) = (Match::default(), PrincipalMatch::parse(p));
        if not {
            principals.not_values.push(value)
        } else {
            principals.values.push(value)
        }
        let l7 = SourceL7 { request_principals: any_of([StringMatch::parse("*")]), ..SourceL7::default() };
        Source { principals, l7: l7.boxed().filter(|_| needs_token), ..Source::default() }
    });
    let operation = select(vec![80u16, 8080, 9000]).prop_map(|p| Operation { ports: any_of([p]), l7: None });
    let condition = some_address()
        .prop_map(|a| Condition::SourceIp(Match { values: Vec::new(), not_values: vec![ipnet::IpNet::from(a)] }));
    (vec(source, 0..2), vec(operation, 0..2), vec(condition, 0..2)).prop_map(|(from, to, when)| Rule { from, to, when })
}

fn some_policy() -> impl Strategy<Value = AuthorizationPolicy> {
    let scope = prop_oneof![
        Just(Scope::Namespace),
        some_labels().prop_map(Scope::Selector),
        select(vec![TargetKind::Service, TargetKind::Gateway, TargetKind::GatewayClass])
            .prop_map(|kind| Scope::Targets(vec![PolicyTarget::new(kind, "x1")])),
    ];
    let action = select(vec![Action::Allow, Action::Deny, Action::Allow, Action::Deny, Action::Custom, Action::Audit]);
    (some_name(), scope, action, vec(some_rule(), 0..3), prop::bool::weighted(0.1)).prop_map(
        |(name, scope, action, rules, dry_run)| AuthorizationPolicy {
            name,
            scope,
            action,
            provider: (action == Action::Custom).then(|| "p".into()),
            rules,
            dry_run,
        },
    )
}

fn some_peer_authentication() -> impl Strategy<Value = PeerAuthentication> {
    let mode = || select(vec!["STRICT", "PERMISSIVE", "UNSET", "DISABLE"]);
    (some_name(), select(vec!["-", "app=a", "app=b"]), mode(), mode(), 0i64..3).prop_map(
        |(name, selector, all, port, at)| peer_authentication(&format!("{name} {selector} {all} 80={port} @{at}")),
    )
}

fn some_namespace() -> impl Strategy<Value = Namespace> {
    let keys = ["", "istio.io/dataplane-mode=ambient", "istio-injection=enabled", "istio.io/dataplane-mode=none"];
    let of = (select(&NAMESPACES[..]), select(keys.to_vec()), some_attachment(), some_distribution());
    of.prop_map(|(n, l, w, distribution)| Namespace {
        labels: labels(&format!("{l}{w}")),
        distribution,
        ..namespace(n)
    })
}

/// Any object. Names are few, so that objects replace each other.
pub fn some_object() -> impl Strategy<Value = Object> {
    prop_oneof![
        6 => some_pod().prop_map(Object::from),
        3 => some_service().prop_map(Object::from),
        1 => some_slice().prop_map(Object::from),
        1 => some_node().prop_map(Object::from),
        2 => some_gateway().prop_map(Object::from),
        2 => some_namespace().prop_map(Object::from),
        3 => some_policy().prop_map(Object::from),
        2 => some_peer_authentication().prop_map(Object::from),
    ]
}

/// Any objects, up to 24, and what follows from them.
pub fn some_model() -> impl Strategy<Value = Model> {
    vec(some_object(), 0..24).prop_map(model)
}

/// Any World of up to 24 objects.
pub fn some_world() -> impl Strategy<Value = World> {
    some_model().prop_map(|model| model.world().clone())
}

/// Any changes to such Worlds.
pub fn some_batch() -> impl Strategy<Value = Batch> {
    vec((some_object(), prop::bool::weighted(0.3)), 0..8).prop_map(|changes| {
        let mut batch = Batch::default();
        for (object, remove) in changes {
            if remove { batch.remove(object.key()) } else { batch.put(object) }
        }
        batch
    })
}
