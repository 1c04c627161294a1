//! Objects for properties: core's, which collide, and some that use every field.

use std::{net::IpAddr, sync::Arc};

use ipnet::IpNet;
use proptest::{collection::vec, prelude::*, sample::select};
use underpass_core::{
    ObjectName,
    authz::{
        ClaimPath, Condition, L7Condition, Match, Operation, OperationL7, PathMatch, PrincipalMatch, Rule,
        ServiceAccount, Source, SourceL7, StringMatch,
    },
    objects::{ContainerPort, EndpointSlice, Node, Object, Pod, Service, SliceEndpoint, SlicePort},
    testing::some_object,
    world::{Action, AppProtocol, AuthorizationPolicy, PolicyTarget, Scope, ServicePort, TargetKind, TargetPort},
};

fn some_name() -> impl Strategy<Value = ObjectName> {
    (select(vec!["default", "other"]), "[a-z][a-z0-9]{0,3}(-[a-z0-9]{1,3})?").prop_map(|(ns, n)| ObjectName::new(ns, n))
}

fn some_addresses() -> impl Strategy<Value = Vec<IpAddr>> {
    (1u8..250, 1u16..)
        .prop_map(|(a, b)| vec![IpAddr::from([10, 244, 1, a]), IpAddr::from([0xfd00, 10, 244, 1, 0, 0, 0, b])])
}

fn word() -> impl Strategy<Value = Arc<str>> {
    prop_oneof![
        Just("true".into()),
        Just("80".into()),
        "[A-Za-z0-9]([-_.A-Za-z0-9]{0,6}[A-Za-z0-9])?".prop_map(Arc::from)
    ]
}

fn some_match<T: std::fmt::Debug + Clone>(one: impl Strategy<Value = T> + Clone) -> impl Strategy<Value = Match<T>> {
    prop_oneof![
        2 => Just(Match::default()),
        1 => (vec(one.clone(), 0..3), vec(one, 0..2)).prop_map(|(values, not_values)| Match { values, not_values }),
    ]
}

fn full<T: std::fmt::Debug + Clone>(one: impl Strategy<Value = T> + Clone) -> impl Strategy<Value = Match<T>> {
    (vec(one.clone(), 1..3), vec(one, 0..2)).prop_map(|(values, not_values)| Match { values, not_values })
}

fn pattern() -> impl Strategy<Value = StringMatch> + Clone {
    select(vec!["*", "a*", "*b", "cluster.local/ns/a/sa/b", "yes", "7"]).prop_map(StringMatch::parse)
}

fn principal() -> impl Strategy<Value = PrincipalMatch> + Clone {
    select(vec!["*", "a*", "*b", "cluster.local/ns/a/sa/b", "*/ns/a/sa/b", "a.b/ns/*"]).prop_map(PrincipalMatch::parse)
}

fn account() -> impl Strategy<Value = ServiceAccount> + Clone {
    select(vec!["a", "b"]).prop_map(|n| ServiceAccount { namespace: "default".into(), name: n.into() })
}

fn net() -> impl Strategy<Value = IpNet> + Clone {
    select(vec!["10.0.0.0/8", "10.1.2.3/32", "fd00::/64", "::/0"]).prop_map(|n| n.parse().unwrap())
}

fn port() -> impl Strategy<Value = u16> + Clone {
    1u16..
}

fn path() -> impl Strategy<Value = PathMatch> + Clone {
    let texts = vec!["*", "/a", "/a/*", "*.txt", "/a*b", "/{*}", "/a/{*}/b/{**}", "/{**}/c/"];
    select(texts).prop_map(|text| text.parse().unwrap())
}

fn host() -> impl Strategy<Value = StringMatch> + Clone {
    select(vec!["*", "example.org", "*.example.org", "a:8080", "a*"]).prop_map(StringMatch::parse)
}

fn source_l7() -> impl Strategy<Value = Option<Box<SourceL7>>> {
    (some_match(pattern()), some_match(net()))
        .prop_map(|(request_principals, remote_ip_blocks)| SourceL7 { request_principals, remote_ip_blocks }.boxed())
}

fn operation_l7() -> impl Strategy<Value = Option<Box<OperationL7>>> {
    (some_match(host()), some_match(pattern()), some_match(path()))
        .prop_map(|(hosts, methods, paths)| OperationL7 { hosts, methods, paths }.boxed())
}

fn some_source() -> impl Strategy<Value = Source> {
    let l4 =
        (some_match(principal()), some_match(pattern()), some_match(account()), some_match(net()), full(pattern()));
    (l4, source_l7()).prop_map(|((principals, namespaces, service_accounts, ip_blocks, trust_domains), l7)| Source {
        principals,
        namespaces,
        service_accounts,
        ip_blocks,
        trust_domains,
        l7,
    })
}

fn l7_condition() -> impl Strategy<Value = L7Condition> {
    let header = select(vec!["x-a", "User-Agent", ":path"]).prop_map(|name| name.parse().unwrap());
    let claim = select(vec!["iss", "a][b", "https://example.org/a", "a]b"])
        .prop_map(|path| ClaimPath::parse(path).expect("a path"));
    let filter = select(vec!["experimental.envoy.filters.a.b[c]", "experimental.envoy.filters.x"]);
    let value = select(vec!["[v]", "v*", "*"]).prop_map(Arc::from);
    prop_oneof![
        full(net()).prop_map(L7Condition::RemoteIp),
        full(host()).prop_map(L7Condition::ConnectionSni),
        (header, full(pattern())).prop_map(|(name, values)| L7Condition::RequestHeader(name, values)),
        full(pattern()).prop_map(L7Condition::RequestPrincipal),
        full(pattern()).prop_map(L7Condition::RequestAudiences),
        full(pattern()).prop_map(L7Condition::RequestPresenter),
        (claim, full(pattern())).prop_map(|(path, values)| L7Condition::RequestClaim(path, values)),
        (filter, full(value)).prop_map(|(key, values)| L7Condition::EnvoyFilter { key: key.into(), values }),
    ]
}

fn some_condition() -> impl Strategy<Value = Condition> {
    prop_oneof![
        1 => full(net()).prop_map(Condition::SourceIp),
        1 => full(pattern()).prop_map(Condition::SourceNamespace),
        1 => full(principal()).prop_map(Condition::SourcePrincipal),
        1 => full(account()).prop_map(Condition::SourceServiceAccount),
        1 => full(pattern()).prop_map(Condition::SourceTrustDomain),
        1 => full(net()).prop_map(Condition::DestinationIp),
        1 => full(port()).prop_map(Condition::DestinationPort),
        4 => l7_condition().prop_map(|condition| Condition::L7(condition.into())),
    ]
}

fn some_policy() -> impl Strategy<Value = AuthorizationPolicy> {
    let operation = (full(port()), operation_l7()).prop_map(|(ports, l7)| Operation { ports, l7 });
    let rule = (vec(some_source(), 0..3), vec(operation, 0..2), vec(some_condition(), 0..3))
        .prop_map(|(from, to, when)| Rule { from, to, when });
    let scope = prop_oneof![
        Just(Scope::Namespace),
        word().prop_map(|w| Scope::Selector([("a.b/c".into(), w)].into())),
        Just(Scope::Targets(vec![
            PolicyTarget::new(TargetKind::Service, "a"),
            PolicyTarget::new(TargetKind::Gateway, "b"),
        ])),
    ];
    let action = select(vec![Action::Allow, Action::Deny, Action::Custom, Action::Audit]);
    (some_name(), scope, action, vec(rule, 0..3), any::<bool>()).prop_map(|(name, scope, action, rules, dry_run)| {
        AuthorizationPolicy {
            name,
            scope,
            action,
            provider: (action == Action::Custom).then(|| "opa".into()),
            rules,
            dry_run,
        }
    })
}

fn some_pod() -> impl Strategy<Value = Pod> {
    let port = ("[a-z]{1,8}", port()).prop_map(|(name, port)| ContainerPort { name: name.into(), port });
    let probes = proptest::collection::btree_set(1u16.., 0..3);
    (some_name(), some_addresses(), vec(port, 0..3), probes, word(), any::<bool>()).prop_map(
        |(name, addresses, ports, probes, w, has)| {
            let mut pod = underpass_core::testing::pod(&name.to_string(), "");
            pod.labels.insert("app.kubernetes.io/name".into(), w);
            pod.annotations.extend(has.then_some(("sidecar.istio.io/inject", "false")).into_iter().collect());
            pod.node = has.then(|| "node-1.example.com".into());
            pod.hostname = has.then(|| Box::new(("h-0".into(), "sub".into())));
            Pod { addresses: addresses.into(), ports, probes: probes.into_iter().collect(), ..pod }
        },
    )
}

fn some_service() -> impl Strategy<Value = Service> {
    let port = (0u16..2000, any::<bool>()).prop_map(|(n, named)| (n, named));
    let ports = proptest::collection::btree_map(1u16.., port, 1..4);
    (some_name(), ports, any::<bool>(), any::<bool>()).prop_map(|(name, ports, headless, external)| {
        let mut s = underpass_core::testing::service(&format!("{name} -"));
        let target = |(n, named): (u16, bool)| match named {
            true => TargetPort::Name(format!("p{n}").into()),
            false => TargetPort::Number(n + 1),
        };
        s.node_ports = ports.keys().filter(|n| *n % 2 == 0).map(|n| (*n, *n)).collect();
        s.ports = (ports.into_iter())
            .map(|(port, t)| ServicePort {
                name: format!("p{port}").into(),
                port,
                target: target(t),
                protocol: AppProtocol::default(),
            })
            .collect();
        s.vips.extend((!headless && !external).then(|| IpAddr::from([10, 96, 0, 9])));
        s.external_name = external.then(|| "example.com".into());
        s.selector = headless.then(|| [("app".into(), "no".into())].into());
        s
    })
}

fn some_slice() -> impl Strategy<Value = EndpointSlice> {
    let endpoint = (some_addresses(), any::<bool>()).prop_map(|(addresses, ready)| {
        let zone = Some("zone.a".into());
        SliceEndpoint { addresses: addresses.into(), ready, zone, ..underpass_core::testing::slice_endpoint("") }
    });
    (some_name(), vec(endpoint, 0..3), port()).prop_map(|(name, endpoints, port)| {
        let ports = vec![SlicePort { name: "".into(), port }, SlicePort { name: "http".into(), port: 80 }];
        EndpointSlice { service: ObjectName::new(name.namespace(), "x1"), name, ports, endpoints }
    })
}

fn some_node() -> impl Strategy<Value = Node> {
    let names = select(vec!["node-1", "node-2.example.com"]);
    (names, some_addresses(), word(), any::<bool>()).prop_map(|(name, addresses, zone, awaits_agent)| {
        let labels = [("topology.kubernetes.io/zone".into(), zone)].into();
        let waypoint_ranges = if awaits_agent { vec!["10.9.0.0/24".parse().expect("CIDR")] } else { Vec::new() };
        Node { name: ObjectName::cluster(name), addresses, labels, awaits_agent, waypoint_ranges }
    })
}

/// Any object that a manifest can say.
pub fn some_manifest() -> impl Strategy<Value = Object> {
    prop_oneof![
        // Of a Gateway of another class nothing is read from a file.
        6 => some_object().prop_filter("a waypoint", |o| !matches!(o, Object::Gateway(g) if !g.is_waypoint())),
        2 => some_policy().prop_map(Object::from),
        1 => some_pod().prop_map(Object::from),
        1 => some_service().prop_map(Object::from),
        1 => some_slice().prop_map(Object::from),
        1 => some_node().prop_map(Object::from),
    ]
}

/// Objects with different keys.
pub fn some_manifests() -> impl Strategy<Value = Vec<Object>> {
    vec(some_manifest(), 0..12).prop_map(|objects| {
        let unique: std::collections::BTreeMap<_, _> = objects.into_iter().map(|o| (o.key(), o)).collect();
        unique.into_values().collect()
    })
}
