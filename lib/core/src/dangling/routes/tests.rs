//! Remarks about routes, and above all routes without any.

use super::super::{Level, Remark, dangling};
use crate::{
    http::{Host, TextMatch},
    labels::Labels,
    objects::*,
    testing::{gateway, labels, model, name, pod, service},
    world::AppProtocol,
};

fn target(text: &str) -> RouteTarget {
    let (rest, port) = text.split_once(':').map_or((text, None), |(rest, port)| (rest, Some(port.parse().unwrap())));
    let (host, subset) = rest.split_once('/').map_or((rest, None), |(host, subset)| (host, Some(subset.into())));
    RouteTarget { host: Host::parse(host), subset, port }
}

/// A route under a path, or for everything, to targets with weights.
fn route(path: Option<&str>, targets: &[(&str, u32)]) -> HttpRoute {
    let uri = |path: &str| HttpMatch { uri: Some(TextMatch::Exact(path.into())), ..HttpMatch::default() };
    let weighted = |(text, weight): &(&str, u32)| WeightedTarget {
        target: target(text),
        weight: *weight,
        headers: HeaderOperations::default(),
    };
    HttpRoute {
        name: None,
        matches: path.map(uri).into_iter().collect(),
        action: HttpAction::Forward(targets.iter().map(weighted).collect()),
        policy: HttpPolicy::default(),
    }
}

fn virtual_service(full: &str, hosts: &[&str], http: Vec<HttpRoute>) -> Object {
    VirtualService {
        name: name(full),
        created: Created::UNKNOWN,
        hosts: hosts.iter().map(|h| Host::parse(h)).collect(),
        gateways: Vec::new(),
        export_to: ExportTo::All,
        http,
        tls: Vec::new(),
        tcp: Vec::new(),
    }
    .into()
}

fn destination_rule(full: &str, host: &str, subsets: &[(&str, &str)]) -> DestinationRule {
    let subset = |(name, of): &(&str, &str)| Subset {
        name: (*name).into(),
        labels: labels(of),
        policy: TrafficPolicy::default(),
    };
    DestinationRule {
        name: name(full),
        created: Created::UNKNOWN,
        host: Host::parse(host),
        policy: TrafficPolicy::default(),
        subsets: subsets.iter().map(subset).collect(),
        export_to: ExportTo::All,
        callers: None,
    }
}

/// What is said about routes beside a Service with two versions.
fn said(all: Vec<Object>) -> Vec<String> {
    let of = |version: &str| {
        let mut pod = pod(&format!("shop/cart-{version}"), "");
        pod.labels = labels(&format!("app=cart version={version}"));
        Object::from(pod)
    };
    let mut cart = Service { labels: labels("istio.io/use-waypoint=w"), ..service("shop/cart app=cart 10.96.0.1 80") };
    cart.ports[0].protocol = AppProtocol::Http11;
    let base = [cart.into(), gateway("shop/w").into(), of("v1"), of("v2")];
    let remarks = dangling(&model(base.into_iter().chain(all)), Vec::new(), Vec::new());
    let line = |Remark { level, finding: f }: Remark| {
        let mark = if level == Level::Notice { "~ " } else { "" };
        format!("{mark}{} {}: {}", f.object.name.name(), f.field, f.says)
    };
    remarks.into_iter().map(line).collect()
}

fn versions() -> Object {
    destination_rule("shop/d", "cart", &[("v1", "version=v1"), ("v2", "version=v2")]).into()
}

#[test]
fn nothing_is_said_about_what_is_whole() {
    let split = route(None, &[("cart/v1", 90), ("cart.shop.svc.cluster.local/v2:80", 10)]);
    let v = virtual_service("shop/v", &["cart", "*.example.com"], vec![route(Some("/a"), &[("cart", 1)]), split]);
    assert_eq!(said(vec![v, versions()]), [""; 0]);
    // other hosts, and Services of a namespace of which nothing is known, are not this directory's business
    let outside =
        vec![route(Some("/a"), &[("api.example.com", 1)]), route(None, &[("x.other.svc.cluster.local/v9", 1)])];
    assert_eq!(
        said(vec![virtual_service("shop/v", &["api.example.com", "y.other.svc.cluster.local"], outside)]),
        [""; 0]
    );
    assert_eq!(said(vec![virtual_service("other/v", &["cart"], vec![route(None, &[("cart", 1)])])]), [""; 0]);
}

#[test]
fn what_does_not_exist() {
    let routes = vec![
        route(Some("/a"), &[("crat", 1)]),
        route(Some("/b"), &[("cart/v3", 1)]),
        route(Some("/c"), &[("cart:81", 1)]),
        HttpRoute { action: HttpAction::Delegate(name("shop/inner")), ..route(Some("/d"), &[]) },
        HttpRoute { action: HttpAction::Delegate(name("shop/v")), ..route(Some("/e"), &[]) },
    ];
    assert_eq!(
        said(vec![virtual_service("shop/v", &["cart", "crat"], routes), versions()]),
        [
            "v spec.hosts[1]: no Service has the host crat: no request follows these routes (IST0101)",
            "v spec.http[0].route[0].destination.host: no Service has the host crat: requests get 503 (IST0101)",
            "v spec.http[1].route[0].destination.subset: no DestinationRule of shop/cart defines the subset v3: requests get 503 (IST0101)",
            "v spec.http[2].route[0].destination.port.number: Service shop/cart has no port 81: requests get 503 (IST0101)",
            "v spec.http[3].delegate: VirtualService shop/inner does not exist: the route is left out (IST0101)",
            "v spec.http[4].delegate: VirtualService shop/v has hosts of its own, and takes no requests of others: the route is left out",
        ]
    );
    let none = destination_rule("shop/d", "cart", &[("v1", "version=v1"), ("v9", "version=v9")]);
    assert_eq!(
        said(vec![none.into()]),
        ["d spec.subsets[1].labels: selects none of the pods of Service shop/cart: requests to it get 503 (IST0173)"]
    );
    assert_eq!(
        said(vec![destination_rule("shop/d", "crat", &[]).into()]),
        ["d spec.host: no Service has the host crat: the rule has no effect (IST0101)"]
    );
    let mut several = service("shop/api app=cart 10.96.0.2 80 81");
    several.ports.iter_mut().for_each(|port| port.name = format!("http-{}", port.port).into());
    let to = |target| virtual_service("shop/v", &["cart"], vec![route(None, &[(target, 1)])]);
    let of_routes = |all: Vec<Object>| said(all).into_iter().filter(|line| line.contains(" v ")).collect::<Vec<_>>();
    assert_eq!(
        of_routes(vec![several.clone().into(), to("api")]),
        [
            "~ v spec.http[0].route[0].destination.port: Service shop/api has several ports, and none is named: the called one counts (IST0112)"
        ]
    );
    assert_eq!(of_routes(vec![several.into(), to("api:81")]), [""; 0]);
    let callers = DestinationRule { callers: Some(Labels::new()), ..destination_rule("shop/d", "cart", &[]) };
    assert_eq!(said(vec![callers.into()]).len(), 1);
}

#[test]
fn routes_that_are_never_reached_and_weights() {
    let routes = vec![
        route(Some("/a"), &[("cart/v1", 50), ("cart/v2", 40)]),
        route(Some("/a"), &[("cart", 1)]),
        route(None, &[("cart", 1)]),
        route(Some("/b"), &[("cart", 1)]),
    ];
    assert_eq!(
        said(vec![virtual_service("shop/v", &["cart"], routes), versions()]),
        [
            "~ v spec.http[0].route: the weights add up to 90, not 100: each is a share of 90",
            "v spec.http[1]: is never reached: spec.http[0] matches the same requests (IST0130)",
            "v spec.http[3]: is never reached: spec.http[2] matches every request (IST0130)",
        ]
    );
    let several = |paths: &[&str]| {
        let matches = paths.iter().flat_map(|path| route(Some(path), &[]).matches);
        HttpRoute { matches: matches.collect(), ..route(None, &[("cart", 1)]) }
    };
    let twice = vec![several(&["/a", "/b"]), several(&["/c", "/a"]), several(&["/d"])];
    assert_eq!(
        said(vec![virtual_service("shop/v", &["cart"], twice)]),
        ["~ v spec.http[1].match[1]: never counts: spec.http[0] matches the same requests (IST0131)"]
    );
}

#[test]
fn objects_that_another_one_hides() {
    let of = |name: &str, path: Option<&str>| virtual_service(name, &["cart"], vec![route(path, &[("cart", 1)])]);
    assert_eq!(
        said(vec![of("shop/a", None), of("shop/b", None)]),
        [
            "b spec.hosts[0]: VirtualService shop/a is for this host too, and comes first: its route for every request counts, not this one's (IST0109)"
        ]
    );
    // conditions of both count
    assert_eq!(said(vec![of("shop/a", None), of("shop/b", Some("/b"))]), [""; 0]);
    assert_eq!(said(vec![of("shop/a", Some("/a")), of("shop/b", None)]), [""; 0]);
    let with_policy = |full: &str, subset: &str| {
        let mut rule = destination_rule(full, "cart", &[(subset, "version=v1")]);
        rule.policy.own.connection_pool = Some(ConnectionPool::default());
        Object::from(rule)
    };
    assert_eq!(
        said(vec![with_policy("shop/a", "v1"), with_policy("shop/b", "v1")]),
        [
            "b spec.subsets[0]: DestinationRule shop/a defines the subset v1 of this host too, and comes first",
            "b spec.trafficPolicy: DestinationRule shop/a is for this host too, and comes first: its trafficPolicy counts, not this one",
        ]
    );
    let without = destination_rule("shop/b", "cart", &[("v2", "version=v2")]);
    assert_eq!(said(vec![with_policy("shop/a", "v1"), without.into()]), [""; 0]);
}

#[test]
fn tls_without_an_authority() {
    let tls = |mode, change: &dyn Fn(&mut ClientTls)| {
        let mut tls = ClientTls {
            mode,
            client_certificate: None,
            private_key: None,
            ca_certificates: None,
            ca_crl: None,
            credential_name: None,
            subject_alt_names: Vec::new(),
            sni: None,
            skips_verification: false,
        };
        change(&mut tls);
        PortPolicy { tls: Some(tls), ..PortPolicy::default() }
    };
    let check = |policy: PortPolicy, says: Option<&str>| {
        let mut rule = destination_rule("shop/d", "cart", &[("v1", "version=v1")]);
        rule.policy.own = policy.clone();
        rule.policy.ports = [(80, policy.clone())].into();
        rule.subsets[0].policy.own = policy;
        let want = says.map(|says| {
            [
                format!("d spec.subsets[0].trafficPolicy.tls{says} (IST0128)"),
                format!("d spec.trafficPolicy.portLevelSettings: port 80{} (IST0129)", says.trim_start_matches(':')),
                format!("d spec.trafficPolicy.tls{says} (IST0128)"),
            ]
        });
        assert_eq!(said(vec![rule.into()]), want.as_ref().map_or(&[][..], |want| want));
    };
    let open = Some(
        ": begins TLS without caCertificates: every authority that the waypoint's machine believes says who may answer",
    );
    check(tls(TlsMode::Simple, &|_| {}), open);
    check(tls(TlsMode::Mutual, &|_| {}), open);
    check(tls(TlsMode::Disable, &|_| {}), None);
    check(tls(TlsMode::IstioMutual, &|_| {}), None);
    check(tls(TlsMode::Simple, &|tls| tls.ca_certificates = Some("/ca".into())), None);
    check(tls(TlsMode::Simple, &|tls| tls.skips_verification = true), None);
    check(PortPolicy::default(), None);
}

#[test]
fn tls_by_a_secret() {
    let mut rule = destination_rule("shop/d", "cart", &[("v1", "version=v1")]);
    let tls = ClientTls {
        mode: TlsMode::Simple,
        client_certificate: None,
        private_key: None,
        ca_certificates: None,
        ca_crl: None,
        credential_name: Some("ca".into()),
        subject_alt_names: Vec::new(),
        sni: None,
        skips_verification: false,
    };
    rule.policy.own.tls = Some(tls.clone());
    rule.policy.ports = [(80, rule.policy.own.clone())].into();
    let says = "waypoints read no Secrets yet: calls are answered 503; name files instead";
    let want = [
        format!("d spec.trafficPolicy.portLevelSettings: port 80: tls.credentialName: {says}"),
        format!("d spec.trafficPolicy.tls.credentialName: {says}"),
    ];
    assert_eq!(said(vec![rule.clone().into()]), want);
    rule.policy.own.tls = Some(ClientTls { mode: TlsMode::Disable, ..tls });
    rule.policy.ports.clear();
    assert_eq!(said(vec![rule.into()]), [""; 0]);
}
