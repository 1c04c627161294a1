//! Connections that are no HTTP: the route, where it leads, and what is no question.

use expect_test::{Expect, expect};

use super::explain_connection;
use crate::{
    authz::Rule,
    explain::{Answer, Asked, explain_request},
    http::Host,
    objects::{
        Backend, BackendRef, ConnectionMatch, Created, ExportTo, GatewayRoute, HeaderOperations, Object, ParentRef,
        Referent, RouteProtocol, RouteRule, RouteTarget, Service, TcpRoute, TlsRoute, VirtualService, WeightedTarget,
    },
    resolve::Model,
    testing::{ambient, gateway, labels, model, name, pod, policy, service},
    world::{Action, AppProtocol, AuthorizationPolicy, PolicyTarget, Scope, TargetKind},
};

fn target(host: &str, weight: u32) -> WeightedTarget {
    let port = (host == "b").then_some(80);
    let target = RouteTarget { host: Host::parse(host), subset: None, port };
    WeightedTarget { target, weight, headers: HeaderOperations::default() }
}

/// `shop/db` with ports of each protocol behind a waypoint, and routes of a VirtualService.
fn mesh(more: impl IntoIterator<Item = Object>) -> Model {
    let mut db = Service {
        labels: labels("istio.io/use-waypoint=w"),
        ..service("shop/db app=db 10.96.0.1 80=8080 443=8443 70=7070 60=6060 50=5050")
    };
    let protocols = [AppProtocol::Http11, AppProtocol::Tls, AppProtocol::Tcp, AppProtocol::Unknown, AppProtocol::Tcp];
    db.ports.iter_mut().zip(protocols).for_each(|(port, protocol)| port.protocol = protocol);
    let mut instance = pod("shop/w1", "10.0.0.8");
    (instance.labels, instance.service_account) = (labels("app=w"), "w".into());
    let names = ConnectionMatch { server_names: vec![Host::parse("*.example")], ..ConnectionMatch::default() };
    let at = |port| ConnectionMatch { port: Some(port), ..ConnectionMatch::default() };
    let routes = VirtualService {
        name: name("shop/v"),
        created: Created::UNKNOWN,
        hosts: vec![Host::parse("db")],
        gateways: Vec::new(),
        export_to: ExportTo::All,
        http: Vec::new(),
        tls: vec![TlsRoute { matches: vec![names], targets: vec![target("b", 1)] }],
        tcp: vec![TcpRoute { matches: vec![at(70), at(60)], targets: vec![target("b", 3), target("db", 1)] }],
    };
    let backend = |of: &str| {
        let target = Referent { group: "".into(), kind: "Service".into(), name: name(of) };
        Backend { to: BackendRef { target, port: Some(80) }, weight: 1, headers: HeaderOperations::default() }
    };
    let parent = Referent { group: "".into(), kind: "Service".into(), name: name("shop/db") };
    let gone = GatewayRoute {
        name: name("shop/gone"),
        protocol: RouteProtocol::Tcp,
        created: Created::UNKNOWN,
        parents: vec![ParentRef { target: parent, section: None, port: Some(50) }],
        hostnames: Vec::new(),
        rules: vec![RouteRule { backends: vec![backend("shop/none")], ..RouteRule::default() }],
    };
    let all: [Object; 10] = [
        ambient("shop/web", "10.0.0.1", "app=web").into(),
        ambient("shop/db-1", "10.0.0.2", "app=db").into(),
        ambient("shop/b-1", "10.0.0.3", "app=b").into(),
        db.into(),
        service("shop/b app=b 10.96.0.2 80=8080 90=9090").into(),
        gateway("shop/w").into(),
        service("shop/w app=w 10.96.0.9 15008").into(),
        instance.into(),
        routes.into(),
        gone.into(),
    ];
    model(all.into_iter().chain(more))
}

/// The steps about the route, and what follows; or why there is no answer.
fn check(destination: &str, server_name: Option<&str>, expect: &Expect) {
    said(&mesh([]), destination, server_name, expect);
}

fn said(model: &Model, destination: &str, server_name: Option<&str>, expect: &Expect) {
    let said = explain_connection(model.world(), model.sources(), "shop/web", destination, server_name);
    let text = match said {
        Err(e) => e.to_string(),
        Ok(e) => {
            let steps = e.steps.iter().filter(|step| step.stage.as_str() == "tcp");
            let steps: String = steps
                .map(|s| {
                    let object = s.object.as_ref().map_or_else(String::new, |o| format!("{o}: "));
                    format!("  {object}{}\n", s.says)
                })
                .collect();
            let tcp = e.tcp.map_or_else(
                || "-".to_owned(),
                |tcp| {
                    let objects: Vec<_> = tcp.objects.iter().map(|o| format!("{} {}", o.object, o.field)).collect();
                    format!("{} {:?} {:?} {objects:?} {}", tcp.action, tcp.cluster, tcp.endpoints, tcp.enforced)
                },
            );
            format!("{:?}: {}\n{tcp}\n{steps}", e.verdict, e.reason)
        }
    };
    expect.assert_eq(&text);
}

#[test]
fn by_server_name() {
    check(
        "db:443",
        Some("A.example"),
        &expect![[r#"
        Allow: no policy forbids it
        forward Some("outbound|80||b.shop.svc.cluster.local") ["10.0.0.3:8080 (shop/b-1)"] ["VirtualService shop/v spec.tls[0]"] true
          VirtualService shop/v: spec.tls[0] matches: server name *.example
          outbound|80||b.shop.svc.cluster.local: 1 endpoint: 10.0.0.3:8080 (shop/b-1)
          waypoint shop/w does this
    "#]],
    );
    check(
        "db:60",
        Some("a.example"),
        &expect![[r#"
        Allow: no policy forbids it
        forward Some("outbound|80||b.shop.svc.cluster.local") ["10.0.0.3:8080 (shop/b-1)"] ["VirtualService shop/v spec.tls[0]"] true
          VirtualService shop/v: spec.tls[0] matches: server name *.example
          outbound|80||b.shop.svc.cluster.local: 1 endpoint: 10.0.0.3:8080 (shop/b-1)
          waypoint shop/w does this
    "#]],
    );
    check(
        "db:443",
        Some("a.other"),
        &expect![[r#"
        Allow: no policy forbids it
        forward Some("outbound|443||db.shop.svc.cluster.local") ["10.0.0.2:8443 (shop/db-1)"] [] true
          no route is for it: it goes to the Service itself
          outbound|443||db.shop.svc.cluster.local: 1 endpoint: 10.0.0.2:8443 (shop/db-1)
          waypoint shop/w does this
    "#]],
    );
    check(
        "db:443",
        None,
        &expect![[r#"
        Allow: no policy forbids it
        forward Some("outbound|443||db.shop.svc.cluster.local") ["10.0.0.2:8443 (shop/db-1)"] [] true
          no route is for it: it goes to the Service itself
          outbound|443||db.shop.svc.cluster.local: 1 endpoint: 10.0.0.2:8443 (shop/db-1)
          waypoint shop/w does this
    "#]],
    );
}

#[test]
fn by_weight() {
    check(
        "db:70",
        None,
        &expect![[r#"
        Allow: no policy forbids it
        forward Some("outbound|70||db.shop.svc.cluster.local") ["10.0.0.2:7070 (shop/db-1)"] ["VirtualService shop/v spec.tcp[0]"] true
          VirtualService shop/v: spec.tcp[0] matches: every connection
          VirtualService shop/v: by weight one of outbound|80||b.shop.svc.cluster.local 3/4, outbound|70||db.shop.svc.cluster.local 1/4: outbound|70||db.shop.svc.cluster.local
          outbound|70||db.shop.svc.cluster.local: 1 endpoint: 10.0.0.2:7070 (shop/db-1)
          waypoint shop/w does this
    "#]],
    );
}

#[test]
fn to_a_backend_that_is_not_there() {
    check(
        "db:50",
        None,
        &expect![[r#"
        Deny: refused by the waypoint: Service shop/none does not exist
        refuse None [] ["TCPRoute shop/gone spec.rules[0]"] true
          TCPRoute shop/gone: spec.rules[0] matches: every connection
          TCPRoute shop/gone: spec.rules[0]: Service shop/none does not exist: it is refused
          waypoint shop/w does this
    "#]],
    );
}

#[test]
fn past_a_policy_that_denies_it() {
    let scope = Scope::Targets(vec![PolicyTarget::new(TargetKind::Service, "db")]);
    let closed = AuthorizationPolicy { scope, ..policy("shop/closed", Action::Deny, vec![Rule::default()]) };
    said(
        &mesh([closed.into()]),
        "db:70",
        None,
        &expect![[r#"
        Deny: the connection is refused by policy at the waypoint
        deny Some("outbound|70||db.shop.svc.cluster.local") ["10.0.0.2:7070 (shop/db-1)"] ["VirtualService shop/v spec.tcp[0]"] true
          VirtualService shop/v: spec.tcp[0] matches: every connection
          VirtualService shop/v: by weight one of outbound|80||b.shop.svc.cluster.local 3/4, outbound|70||db.shop.svc.cluster.local 1/4: outbound|70||db.shop.svc.cluster.local
          outbound|70||db.shop.svc.cluster.local: 1 endpoint: 10.0.0.2:7070 (shop/db-1)
          waypoint shop/w does this
    "#]],
    );
}

#[test]
fn questions_that_do_not_fit_the_port() {
    check(
        "db:80",
        Some("a.example"),
        &expect!["port 80 of Service shop/db carries http: no server name is read there; ask without --sni"],
    );
    check(
        "db:70",
        Some("a.example"),
        &expect!["port 70 of Service shop/db carries tcp: no server name is read there; ask without --sni"],
    );
    // Nothing is to be said of requests that are not asked about, nor where there is no route.
    check(
        "db:80",
        None,
        &expect![[r#"
        Allow: no policy forbids it
        -
    "#]],
    );
    check(
        "b:90",
        None,
        &expect![[r#"
        Allow: no policy forbids it
        -
    "#]],
    );
    check(
        "10.0.0.2:1",
        Some("a"),
        &expect![[r#"
        Allow: no policy forbids it
        -
          routes are of Services: the call of an address follows none
    "#]],
    );
    let asked = Asked { method: "GET".into(), path: "/".into(), authority: None, headers: Vec::new() };
    let model = mesh([]);
    let ask = |to: &str| explain_request(model.world(), model.sources(), "shop/web", to, &asked);
    let none =
        "port 70 of Service shop/db carries tcp, not HTTP: ask without --method, --path, --header and --authority";
    assert_eq!(ask("db:70").unwrap_err().to_string(), none);
    assert!(ask("db:443").is_err());
    // A port that says no protocol may carry either.
    assert!(ask("db:60").unwrap().http.is_some());
    assert_eq!(ask("db:80").unwrap().verdict, Answer::Allow);
}
