//! Remarks about routes of the Gateway API, and above all routes without any.

use super::super::{Level, Remark, dangling};
use crate::{
    http::{Host, TextMatch},
    objects::*,
    testing::{gateway, labels, model, name, service},
    world::AppProtocol,
};

fn referent(group: &str, kind: &str, full: &str) -> Referent {
    Referent { group: group.into(), kind: kind.into(), name: name(full) }
}

/// A rule under a path, or for everything, to Services `namespace/name:port` with weights.
fn rule(path: Option<&str>, to: &[(&str, u32)]) -> RouteRule {
    let asked = |path: &str| RouteMatch {
        condition: HttpMatch { uri: Some(TextMatch::Elements(path.into())), ..HttpMatch::default() },
        method: None,
    };
    let backend = |(text, weight): &(&str, u32)| {
        let (full, port) = text.split_once(':').unwrap();
        let to = BackendRef { target: referent("", "Service", full), port: Some(port.parse().unwrap()) };
        Backend { to, weight: *weight, headers: HeaderOperations::default() }
    };
    RouteRule {
        matches: path.map(asked).into_iter().collect(),
        backends: to.iter().map(backend).collect(),
        ..RouteRule::default()
    }
}

fn route(full: &str, parent: &str, rules: Vec<RouteRule>) -> GatewayRoute {
    let parents = vec![ParentRef { target: referent("", "Service", parent), section: None, port: None }];
    let (protocol, created) = (RouteProtocol::Http, Created::UNKNOWN);
    GatewayRoute { name: name(full), protocol, created, parents, hostnames: Vec::new(), rules }
}

fn at_gateway(mut route: GatewayRoute) -> GatewayRoute {
    route.parents[0].target = referent("gateway.networking.k8s.io", "Gateway", "front/gate");
    route
}

/// What is said of these objects beside the Services `shop/cart` and `shop/stock`; notices with `~` first.
fn said(all: Vec<Object>) -> Vec<String> {
    let services = ["shop/cart app=cart 10.96.0.1 80=8080", "shop/stock app=stock 10.96.0.2 80=8080"];
    let named = |text: &str| {
        let mut service = Service { labels: labels("istio.io/use-waypoint=w"), ..service(text) };
        service.ports.iter_mut().for_each(|port| port.protocol = AppProtocol::Http11);
        service.into()
    };
    let model = model(services.map(named).into_iter().chain([gateway("shop/w").into()]).chain(all));
    let line = |Remark { level, finding }: Remark| {
        let mark = if level == Level::Notice { "~ " } else { "" };
        format!("{mark}{} {}: {}", finding.object.name.name(), finding.field, finding.says)
    };
    dangling(&model, [], []).into_iter().map(line).collect()
}

fn good() -> GatewayRoute {
    let rules =
        vec![rule(Some("/a"), &[("shop/cart:80", 1), ("shop/stock:80", 0)]), rule(None, &[("shop/stock:80", 9)])];
    route("shop/r", "shop/cart", rules)
}

#[test]
fn routes_of_which_nothing_is_said() {
    assert_eq!(said(vec![good().into()]), [""; 0]);
    // namespaces of which nothing is known
    assert_eq!(said(vec![route("shop/r", "other/x", vec![rule(None, &[("other/y:80", 1)])]).into()]), [""; 0]);
    // a consumer's route beside a producer's
    assert_eq!(said(vec![good().into(), GatewayRoute { name: name("front/r"), ..good() }.into()]), [""; 0]);
}

#[test]
fn what_does_not_exist() {
    let rules = vec![
        rule(Some("/a"), &[("shop/crat:80", 1)]),
        rule(Some("/b"), &[("shop/cart:81", 1)]),
        rule(Some("/c"), &[]),
        rule(Some("/d"), &[("shop/cart:80", 0)]),
    ];
    assert_eq!(
        said(vec![route("shop/r", "shop/crat", rules.clone()).into()]),
        [
            "r spec.parentRefs[0]: Service shop/crat does not exist: the route has no effect there (IST0101)",
            "r spec.rules[0].backendRefs[0]: Service shop/crat does not exist: requests of its share get 500 (IST0101)",
            "r spec.rules[1].backendRefs[0]: Service shop/cart has no port 81: requests of its share get 500 (IST0101)",
            "r spec.rules[2].backendRefs: no backend is named: requests are refused",
            "r spec.rules[3].backendRefs: every weight is 0: requests are refused",
        ]
    );
    let mut other = route("shop/r", "shop/cart", vec![rule(None, &[("shop/cart:80", 1)])]);
    other.protocol = RouteProtocol::Grpc;
    other.parents[0].port = Some(81);
    other.rules[0].backends[0].to.target.kind = "Secret".into();
    assert_eq!(
        said(vec![other.into()]),
        [
            "r spec.parentRefs[0]: Service shop/cart has no such port: the route has no effect there (IST0101)",
            "r spec.rules[0].backendRefs[0]: Secret shop/cart cannot be a backend: Services can: calls of its share get UNAVAILABLE",
        ]
    );
}

#[test]
fn matches_that_are_never_reached() {
    let again = vec![rule(Some("/a"), &[("shop/cart:80", 1)]), rule(Some("/"), &[("shop/cart:80", 1)])];
    assert_eq!(
        said(vec![good().into(), route("shop/s", "shop/cart", again).into()]),
        [
            "s spec.rules[0].matches[0]: is never reached: HTTPRoute shop/r spec.rules[0].matches[0] matches the same requests (IST0130)",
            "s spec.rules[1].matches[0]: is never reached: HTTPRoute shop/r spec.rules[1] matches the same requests (IST0130)",
        ]
    );
    let twice = vec![rule(None, &[("shop/cart:80", 1)]), rule(None, &[("shop/stock:80", 1)])];
    assert_eq!(
        said(vec![route("shop/r", "shop/cart", twice).into()]),
        ["r spec.rules[1]: is never reached: spec.rules[0] matches the same requests (IST0130)"]
    );
}

#[test]
fn what_gives_way() {
    let grpc = GatewayRoute { protocol: RouteProtocol::Grpc, ..good() };
    assert_eq!(
        said(vec![good().into(), grpc.into()]),
        ["r spec.parentRefs[0]: GRPCRoute shop/r is attached to Service shop/cart too, and takes its place"]
    );
    let target = RouteTarget { host: Host::parse("cart"), subset: None, port: None };
    let to = HttpAction::Forward(vec![WeightedTarget { target, weight: 1, headers: HeaderOperations::default() }]);
    let v = VirtualService {
        name: name("shop/v"),
        created: Created::UNKNOWN,
        hosts: vec![Host::parse("cart")],
        gateways: Vec::new(),
        export_to: ExportTo::All,
        http: vec![HttpRoute { name: None, matches: Vec::new(), action: to, policy: HttpPolicy::default() }],
        tls: Vec::new(),
        tcp: Vec::new(),
    };
    assert_eq!(
        said(vec![good().into(), v.clone().into()]),
        [
            "v spec.hosts[0]: HTTPRoute shop/r is attached to Service shop/cart: on port 80 its rules count, not this one's"
        ]
    );
    let consumer = GatewayRoute { name: name("front/r"), ..good() };
    assert_eq!(said(vec![consumer.into(), v.into()]), [""; 0]);
}

#[test]
fn what_gateways_alone_have() {
    let hosts = GatewayRoute { hostnames: vec![Host::parse("a.example")], ..good() };
    assert_eq!(
        said(vec![hosts.into()]),
        ["~ r spec.hostnames: is of gateways alone: calls of Service shop/cart match by any name"]
    );
    let no_gateway = "~ r spec.parentRefs[0]: no gateway runs: the route has no effect there".to_owned();
    assert_eq!(said(vec![at_gateway(good()).into()]), std::slice::from_ref(&no_gateway));
    let other = || GatewayRoute { name: name("front/r"), ..at_gateway(good()) };
    let refused = said(vec![other().into()]);
    assert_eq!(refused.len(), 4, "{refused:#?}");
    assert_eq!(
        refused[1],
        "r spec.rules[0].backendRefs[0]: no ReferenceGrant of namespace shop allows shop/cart to routes of front: through a gateway requests of its share get 500 (RefNotPermitted)"
    );
    let grant = ReferenceGrant {
        name: name("shop/grant"),
        from: vec![GrantFrom {
            group: "gateway.networking.k8s.io".into(),
            kind: "HTTPRoute".into(),
            namespace: "front".into(),
        }],
        to: vec![GrantTo { group: "".into(), kind: "Service".into(), name: None }],
    };
    assert_eq!(said(vec![other().into(), grant.into()]), [no_gateway]);
    let mut elsewhere = good();
    elsewhere.parents[0].target.kind = "ConfigMap".into();
    let says = "r spec.parentRefs[0]: ConfigMap is not a kind that routes are attached to: Service is";
    assert_eq!(said(vec![elsewhere.into()]), [says]);
    let mut group = good();
    group.parents[0].target.group = "gateway.networking.k8s.io".into();
    let says = "r spec.parentRefs[0]: gateway.networking.k8s.io has no Service: write group: '' for one of Kubernetes";
    assert_eq!(said(vec![group.into()]), [says]);
}

/// A TCPRoute, or with names a TLSRoute.
fn of_connections(full: &str, names: &[&str], rules: Vec<RouteRule>) -> GatewayRoute {
    let protocol = if names.is_empty() { RouteProtocol::Tcp } else { RouteProtocol::Tls };
    let hostnames = names.iter().map(|name| Host::parse(name)).collect();
    GatewayRoute { protocol, hostnames, ..route(full, "shop/db", rules) }
}

#[test]
fn routes_of_connections() {
    let service_of = |protocol: AppProtocol| {
        let mut db = Service { labels: labels("istio.io/use-waypoint=w"), ..service("shop/db app=db 10.96.0.3 5432") };
        db.ports.iter_mut().for_each(|port| port.protocol = protocol);
        Object::from(db)
    };
    let to = |port: u16| vec![rule(None, &[(&format!("shop/db:{port}"), 1)])];
    let check = |protocol, routes: Vec<GatewayRoute>, expect: &[&str]| {
        let routes = routes.into_iter().map(Into::into);
        assert_eq!(said([service_of(protocol)].into_iter().chain(routes).collect()), expect);
    };
    let tcp = |name: &str, rules| of_connections(name, &[], rules);
    check(AppProtocol::Tcp, vec![tcp("shop/r", to(5432))], &[]);
    check(AppProtocol::Tls, vec![of_connections("shop/r", &["a.example", "*.example"], to(5432))], &[]);
    check(
        AppProtocol::Http11,
        vec![tcp("shop/r", to(5432))],
        &[
            "r spec.parentRefs[0]: port 5432 of Service shop/db carries http by its name or appProtocol, not bytes: the \
           route has no effect there",
        ],
    );
    check(
        AppProtocol::Tcp,
        vec![of_connections("shop/r", &["a.example"], to(5432))],
        &["r spec.parentRefs[0]: port 5432 of Service shop/db carries tcp by its name or appProtocol, not TLS: the \
           route has no effect there"],
    );
    check(
        AppProtocol::Tcp,
        vec![tcp("shop/r", [to(5433), vec![rule(None, &[("shop/dba:1", 0)])]].concat()), tcp("shop/s", to(5432))],
        &[
            "r spec.rules[0].backendRefs[0]: Service shop/db has no port 5433: connections of its share are refused (IST0101)",
            "r spec.rules[1]: is never reached: rules of a TCPRoute ask for nothing, so the first counts (IST0130)",
            "r spec.rules[1].backendRefs: every weight is 0: connections are refused",
            "r spec.rules[1].backendRefs[0]: Service shop/dba does not exist: connections of its share are refused (IST0101)",
            "s spec.rules[0]: is never reached: TCPRoute shop/r spec.rules[0] matches the same connections (IST0130)",
        ],
    );
    check(
        AppProtocol::Unknown,
        vec![of_connections("shop/r", &["a.example"], to(5432)), tcp("shop/s", to(5432))],
        &["s spec.parentRefs[0]: TLSRoute shop/r is attached to Service shop/db too, and takes its place"],
    );
    check(
        AppProtocol::Tls,
        vec![
            of_connections("shop/r", &["a.example", "b.example"], to(5432)),
            of_connections("shop/s", &["b.example"], to(5432)),
        ],
        &[
            "s spec.hostnames[0]: is never reached: TLSRoute shop/r spec.hostnames[1] matches the same connections (IST0130)",
        ],
    );
    let over = at_gateway(tcp("shop/r", vec![rule(None, &[("other/x:1", 1)])]));
    let [no_gateway, no_grant] = [
        "~ r spec.parentRefs[0]: no gateway runs: the route has no effect there",
        "r spec.rules[0].backendRefs[0]: no ReferenceGrant of namespace other allows other/x to routes of shop: through a \
         gateway connections of its share are refused (RefNotPermitted)",
    ];
    check(AppProtocol::Tcp, vec![over], &[no_gateway, no_grant]);
}
