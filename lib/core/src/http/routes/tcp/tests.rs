//! Connections that take routes of VirtualServices.

use super::{
    super::tests::objects::{target, virtual_service},
    *,
};
use crate::{
    http::{Compiled, compile},
    objects::{ExportTo, HeaderOperations, Object, TcpRoute, TlsRoute},
    testing::{labels, model, name, service},
};

/// The routes of `shop/cart` port 70.
fn compiled(all: impl IntoIterator<Item = VirtualService>) -> Compiled {
    let services: [Object; 2] = [
        service("shop/cart app=cart 10.96.0.1 70=7070").into(),
        service("shop/stock app=stock 10.96.0.2 9000=9000").into(),
    ];
    let model = model(services.into_iter().chain(all.into_iter().map(Into::into)));
    let service = model.world().service(&name("shop/cart")).unwrap();
    compile(model.world(), model.sources(), service, 70)
}

/// `host=weight,...`
fn targets(text: &str) -> Vec<WeightedTarget> {
    let one = |text: &str| {
        let (of, weight) = text.split_once('=').unwrap_or((text, "1"));
        WeightedTarget { target: target(of), weight: weight.parse().unwrap(), headers: HeaderOperations::default() }
    };
    text.split(',').map(one).collect()
}

pub(super) fn tcp(matches: Vec<ConnectionMatch>, to: &str) -> TcpRoute {
    TcpRoute { matches, targets: targets(to) }
}

pub(super) fn tls(hosts: &[&str], to: &str) -> TlsRoute {
    let server_names = hosts.iter().map(|host| Host::parse(host)).collect();
    TlsRoute { matches: vec![ConnectionMatch { server_names, ..ConnectionMatch::default() }], targets: targets(to) }
}

fn with(name: &str, tls: Vec<TlsRoute>, tcp: Vec<TcpRoute>) -> VirtualService {
    VirtualService { tls, tcp, ..virtual_service(name, Vec::new()) }
}

/// From a pod of namespace `front` with the label `app=web` at 10.0.0.7.
fn ask(compiled: &Compiled, server_name: Option<&str>, dice: u64) -> String {
    let of_web = labels("app=web");
    let head = ConnectionHead {
        called: "10.96.0.1".parse().unwrap(),
        client: "10.0.0.7".parse().unwrap(),
        server_name,
        source: Source { namespace: Some("front"), labels: Some(&of_web) },
    };
    way(compiled.tcp.find(&head, Dice(dice)))
}

pub(super) fn way(found: TcpWay<'_>) -> String {
    match found {
        TcpWay::Own => "own".into(),
        TcpWay::To(rule, key) => {
            let host = key.host.trim_end_matches(".svc.cluster.local");
            let subset = key.subset.as_ref().map_or(String::new(), |subset| format!("/{subset}"));
            format!("{}[{}] {host}{subset}:{}", rule.object.name, rule.position, key.port)
        }
        TcpWay::NoRule(object) => format!("no rule of {object}"),
        TcpWay::NoBackend(rule, Some(why)) => format!("{}: {why}", rule.field()),
        TcpWay::NoBackend(rule, None) => format!("{}: no backend", rule.field()),
    }
}

#[test]
fn the_first_rule_that_matches() {
    let check = |m: ConnectionMatch, holds: bool| {
        let v = with("shop/v cart", Vec::new(), vec![tcp(vec![m.clone()], "stock"), tcp(Vec::new(), "cart/v2")]);
        let expect = if holds { "shop/v[0] stock.shop:9000" } else { "shop/v[1] cart.shop/v2:70" };
        assert_eq!(ask(&compiled([v]), None, 0), expect, "{m:?}");
    };
    let any = ConnectionMatch::default;
    check(any(), true);
    check(ConnectionMatch { port: Some(70), ..any() }, true);
    check(ConnectionMatch { port: Some(71), ..any() }, false);
    check(ConnectionMatch { destinations: vec!["10.96.0.0/16".parse().unwrap()], ..any() }, true);
    check(ConnectionMatch { destinations: vec!["10.97.0.0/16".parse().unwrap()], ..any() }, false);
    check(ConnectionMatch { source: Some("10.0.0.0/24".parse().unwrap()), ..any() }, true);
    check(ConnectionMatch { source: Some("10.0.1.0/24".parse().unwrap()), ..any() }, false);
    check(ConnectionMatch { source_labels: labels("app=web"), ..any() }, true);
    check(ConnectionMatch { source_labels: labels("app=other"), ..any() }, false);
    check(ConnectionMatch { source_namespace: Some("front".into()), ..any() }, true);
    check(ConnectionMatch { source_namespace: Some("back".into()), ..any() }, false);
    check(ConnectionMatch { gateways: vec!["mesh".into()], ..any() }, true);
    check(ConnectionMatch { gateways: vec!["shop/in".into()], ..any() }, false);
    // All conditions of one, and one of several.
    let [port, other] = [70, 71].map(Some);
    check(ConnectionMatch { port, source_namespace: Some("back".into()), ..any() }, false);
    let several = vec![ConnectionMatch { port: other, ..any() }, ConnectionMatch { port, ..any() }];
    assert_eq!(
        ask(&compiled([with("shop/v cart", Vec::new(), vec![tcp(several, "stock")])]), None, 0),
        "shop/v[0] stock.shop:9000"
    );
}

#[test]
fn what_no_rule_is_for_goes_to_the_service_itself() {
    assert_eq!(ask(&compiled([]), None, 0), "own");
    let elsewhere = tcp(vec![ConnectionMatch { port: Some(71), ..ConnectionMatch::default() }], "stock");
    assert_eq!(ask(&compiled([with("shop/v cart", Vec::new(), vec![elsewhere])]), None, 0), "own");
    let mut hidden = with("shop/v cart", Vec::new(), vec![tcp(Vec::new(), "stock")]);
    hidden.export_to = ExportTo::Namespaces { own: true, others: Vec::new() };
    assert_eq!(ask(&compiled([hidden]), None, 0), "own", "the client's namespace does not see it");
    let requests = virtual_service(
        "shop/v cart",
        vec![super::super::tests::objects::rule(Vec::new(), super::super::tests::objects::to("stock"))],
    );
    assert_eq!(ask(&compiled([requests]), None, 0), "own", "a route of requests is none of connections");
}

#[test]
fn server_names_come_first() {
    let names = vec![tls(&["a.example", "b.example"], "stock"), tls(&["*.example"], "cart/v1")];
    let all = compiled([with("shop/v cart", names, vec![tcp(Vec::new(), "cart/v2")])]);
    assert!(all.tcp.read_server_names());
    for (server_name, expect) in [
        (Some("a.example"), "shop/v[0] stock.shop:9000"),
        (Some("b.example"), "shop/v[0] stock.shop:9000"),
        (Some("c.example"), "shop/v[1] cart.shop/v1:70"),
        (Some("example"), "shop/v[0] cart.shop/v2:70"),
        (None, "shop/v[0] cart.shop/v2:70"),
    ] {
        assert_eq!(ask(&all, server_name, 0), expect, "{server_name:?}");
    }
    let without = compiled([with("shop/v cart", Vec::new(), vec![tcp(Vec::new(), "stock")])]);
    assert!(!without.tcp.read_server_names());
}

#[test]
fn targets_by_weight() {
    let all = compiled([with("shop/v cart", Vec::new(), vec![tcp(Vec::new(), "cart/v1=3,cart/v2=1,stock=0")])]);
    let mut counts = std::collections::BTreeMap::<String, u32>::new();
    for dice in 0..4000 {
        *counts.entry(ask(&all, None, dice)).or_default() += 1;
    }
    let [v1, v2] = ["cart.shop/v1:70", "cart.shop/v2:70"].map(|to| counts[&format!("shop/v[0] {to}")]);
    // Six deviations of a binomial distribution.
    assert!(v1 + v2 == 4000 && v1.abs_diff(3000) < 165, "{counts:?}");
    let keys: Vec<_> = all.clusters.iter().map(|(key, _)| key.to_string()).collect();
    assert_eq!(keys.len(), 4, "each that is named, and the Service's own: {keys:?}");
}

#[test]
fn of_several_objects_the_older_ones_rules_come_first() {
    let new = with("shop/a cart @2", Vec::new(), vec![tcp(Vec::new(), "stock")]);
    let old = with("shop/b cart @1", Vec::new(), vec![tcp(Vec::new(), "cart/v1")]);
    assert_eq!(ask(&compiled([new, old]), None, 0), "shop/b[0] cart.shop/v1:70");
}
