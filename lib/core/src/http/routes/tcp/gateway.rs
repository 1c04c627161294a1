//! Rules of connections from TLSRoutes and TCPRoutes that are attached to a Service's port.
//!
//! What must hold: of the server names that a connection's fits, the most precise counts, as the API has it.

use std::{cmp::Reverse, sync::Arc};

use super::{TcpRoutes, TcpRule, TcpTarget};
use crate::{
    World,
    http::{Host, backend, rule::ForCallers},
    objects::{ConnectionMatch, GatewayRoute, RouteRule},
};

/// Appends the rules of these routes, which are of one kind and in order, for these callers.
pub(super) fn add(world: &World, routes: &[&Arc<GatewayRoute>], callers: &ForCallers<'_>, all: &mut TcpRoutes) {
    let mut rules = Vec::new();
    for route in routes {
        let source = all.source(route.key(), callers);
        for (position, rule) in route.rules.iter().enumerate() {
            let targets = targets(world, rule);
            let one = |name: Option<&Host>| {
                let matches =
                    name.map(|name| ConnectionMatch { server_names: vec![name.clone()], ..Default::default() });
                let (matches, targets) = (matches.into_iter().collect(), Arc::clone(&targets));
                let rule = TcpRule { object: route.key(), list: "rules", position, source, matches, targets };
                (name.map_or((0, 0), precision), rule)
            };
            rules.extend(route.hostnames.iter().map(|name| one(Some(name))));
            rules.extend(route.hostnames.is_empty().then(|| one(None)));
        }
    }
    // Stable: among equals the older route, then the earlier rule.
    rules.sort_by_key(|(precision, _)| Reverse(*precision));
    all.extend(rules.into_iter().map(|(_, rule)| rule));
}

/// The greater, the fewer names it stands for.
fn precision(name: &Host) -> (u8, usize) {
    match name {
        Host::Name(name) => (2, name.len()),
        Host::Below(end) => (1, end.len()),
        Host::Any => (0, 0),
    }
}

fn targets(world: &World, rule: &RouteRule) -> Arc<[TcpTarget]> {
    let target =
        |one: &crate::objects::Backend| TcpTarget { cluster: backend::cluster(world, &one.to), weight: one.weight };
    rule.backends.iter().map(target).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{
        super::tests::objects::{gateway_route, to_backends, virtual_service},
        tests::{tcp, tls, way},
    };
    use crate::{
        http::{Compiled, ConnectionHead, Dice, Host, Source, compile},
        objects::{GatewayRoute, Object, RouteRule, VirtualService},
        testing::{model, name, service},
        world::AppProtocol,
    };

    /// The routes of `shop/cart` port 70, which carries this.
    fn compiled(protocol: AppProtocol, all: impl IntoIterator<Item = Object>) -> Compiled {
        let mut cart = service("shop/cart app=cart 10.96.0.1 70=7070");
        cart.ports[0].protocol = protocol;
        let others = ["shop/a app=a 10.96.1.1 80=8080", "shop/b app=b 10.96.1.2 80=8080", "other/x app=x 10.96.1.3 80"];
        let others = others.map(|text| service(text).into());
        let model = model([cart.into()].into_iter().chain(others).chain(all));
        let service = model.world().service(&name("shop/cart")).unwrap();
        compile(model.world(), model.sources(), service, 70)
    }

    /// Of a pod of this namespace.
    fn ask(compiled: &Compiled, namespace: &str, server_name: Option<&str>, dice: u64) -> String {
        let source = Source { namespace: Some(namespace), labels: None };
        let [called, client] = ["10.96.0.1", "10.0.0.7"].map(|ip| ip.parse().unwrap());
        way(compiled.tcp.find(&ConnectionHead { called, client, server_name, source }, Dice(dice)))
    }

    fn all(backends: &[&str]) -> Vec<RouteRule> {
        vec![to_backends(Vec::new(), backends)]
    }

    fn names(text: &str, names: &[&str], backends: &[&str]) -> Object {
        let hostnames = names.iter().map(|name| Host::parse(name)).collect();
        GatewayRoute { hostnames, ..gateway_route(text, all(backends)) }.into()
    }

    #[test]
    fn a_route_counts_for_every_connection() {
        let one = |text: &str, to: &str| Object::from(gateway_route(text, all(&[to])));
        let check = |objects: Vec<Object>, namespace: &str, expect: &str| {
            assert_eq!(ask(&compiled(AppProtocol::Tcp, objects), namespace, None, 0), expect);
        };
        check(vec![one("shop/r TCP cart", "a")], "front", "shop/r[0] a.shop:80");
        check(vec![one("shop/r TCP cart:70", "a")], "front", "shop/r[0] a.shop:80");
        check(vec![one("shop/r TCP cart:71", "a")], "front", "own");
        check(vec![one("shop/r TCP a", "a")], "front", "own");
        // of several the oldest, and of its rules the first
        check(vec![one("shop/r TCP cart @2", "a"), one("shop/s TCP cart @1", "b")], "front", "shop/s[0] b.shop:80");
        let rules = [all(&["a"]), all(&["b"])].concat();
        check(vec![gateway_route("shop/r TCP cart", rules).into()], "front", "shop/r[0] a.shop:80");
        // a consumer's, for its own namespace
        let both = || vec![one("shop/r TCP cart", "a"), one("front/r TCP shop/cart", "other/x")];
        check(both(), "front", "front/r[0] x.other:80");
        check(both(), "back", "shop/r[0] a.shop:80");
        check(vec![one("front/r TCP shop/cart", "a")], "back", "own");
    }

    #[test]
    fn shares_of_what_cannot_be_served_are_refused() {
        let shares = |backends: &[&str], expect: &[(&str, u32)]| {
            let route = gateway_route("shop/r TCP cart", all(backends));
            let compiled = compiled(AppProtocol::Tcp, [route.into()]);
            let mut counts = std::collections::BTreeMap::<String, u32>::new();
            for dice in 0..4000 {
                *counts.entry(ask(&compiled, "front", None, dice)).or_default() += 1;
            }
            assert_eq!(counts.len(), expect.len(), "{counts:?}");
            for (way, share) in expect {
                // Six deviations of a binomial distribution.
                assert!(counts[*way].abs_diff(*share) < 165, "{counts:?}");
            }
            compiled.tcp.has_broken_targets()
        };
        let to_a = "shop/r[0] a.shop:80";
        assert!(!shares(&["a=1", "b=3"], &[(to_a, 1000), ("shop/r[0] b.shop:80", 3000)]));
        assert!(!shares(&["a=1", "b=0"], &[(to_a, 4000)]));
        let gone = "spec.rules[0]: Service shop/gone does not exist";
        assert!(shares(&["a=1", "gone=1"], &[(to_a, 2000), (gone, 2000)]));
        assert!(shares(&["a:81"], &[("spec.rules[0]: Service shop/a has no port 81", 4000)]));
        assert!(!shares(&["a=0"], &[("spec.rules[0]: no backend", 4000)]));
        assert!(!shares(&[], &[("spec.rules[0]: no backend", 4000)]));
    }

    #[test]
    fn the_most_precise_server_name_counts() {
        let all = compiled(
            AppProtocol::Tls,
            [
                names("shop/any TLS cart @3", &[], &["other/x"]),
                names("shop/below TLS cart @1", &["*.example"], &["a"]),
                names("shop/deep TLS cart @2", &["*.b.example", "c.example"], &["b"]),
            ],
        );
        assert!(all.tcp.read_server_names());
        for (name, expect) in [
            (Some("a.example"), "shop/below[0] a.shop:80"),
            (Some("a.b.example"), "shop/deep[0] b.shop:80"),
            (Some("c.example"), "shop/deep[0] b.shop:80"),
            (Some("example"), "shop/any[0] x.other:80"),
            (None, "shop/any[0] x.other:80"),
        ] {
            assert_eq!(ask(&all, "front", name, 0), expect, "{name:?}");
        }
        let of_equals = [
            names("shop/new TLS cart @2", &["a.example"], &["a"]),
            names("shop/old TLS cart @1", &["a.example"], &["b"]),
        ];
        let of_equals = compiled(AppProtocol::Tls, of_equals);
        assert_eq!(ask(&of_equals, "front", Some("a.example"), 0), "shop/old[0] b.shop:80");
        // Where none of them fits, the Service is no way around.
        assert_eq!(ask(&of_equals, "front", Some("b.example"), 0), "no rule of TLSRoute shop/old");
        assert_eq!(ask(&of_equals, "front", None, 0), "no rule of TLSRoute shop/old");
    }

    #[test]
    fn one_kind_counts_at_a_port_the_most_specific_that_it_can_carry() {
        use AppProtocol::{Http11, Tcp, Tls, Unknown};
        let routes = |kinds: &str| -> Vec<Object> {
            let one =
                |kind: &str| gateway_route(&format!("shop/{} {kind} cart", kind.to_lowercase()), all(&["a"])).into();
            kinds.split(' ').map(one).collect()
        };
        let check = |protocol, kinds: &str, request: Option<&str>, connection: &str| {
            let compiled = compiled(protocol, routes(kinds));
            let first = compiled.routes.rules().next().map(|rule| rule.place.key.name.name().to_owned());
            let connection = if connection == "own" { "own".into() } else { format!("shop/{connection}[0] a.shop:80") };
            assert_eq!((first.as_deref(), ask(&compiled, "front", None, 0)), (request, connection), "{kinds}");
        };
        check(Tcp, "TCP", None, "tcp");
        check(Tls, "TCP", None, "tcp");
        check(Unknown, "TCP", None, "tcp");
        check(Http11, "TCP", None, "own");
        check(Tcp, "TLS TCP", None, "tcp");
        check(Tls, "TCP TLS", None, "tls");
        check(Unknown, "TCP TLS", None, "tls");
        check(Unknown, "TCP TLS HTTP", Some("http"), "own");
        check(Unknown, "HTTP GRPC TCP", Some("grpc"), "own");
        check(Http11, "TCP HTTP TLS", Some("http"), "own");
        check(Tls, "TCP HTTP", None, "tcp");
        check(Tcp, "HTTP", None, "own");
    }

    #[test]
    fn virtual_services_give_way_each_layer_by_itself() {
        let connections = || VirtualService {
            tls: vec![tls(&["a.example"], "b")],
            tcp: vec![tcp(Vec::new(), "b")],
            ..virtual_service("shop/v cart", Vec::new())
        };
        let with = |text: &str, name: Option<&str>, namespace: &str| {
            let route = gateway_route(text, all(&["a"]));
            ask(&compiled(AppProtocol::Unknown, [route.into(), connections().into()]), namespace, name, 0)
        };
        assert_eq!(with("shop/r TCP cart", Some("a.example"), "front"), "shop/r[0] a.shop:80");
        assert_eq!(with("shop/r TCP cart:71", Some("a.example"), "front"), "shop/v[0] b.shop:80");
        assert_eq!(with("shop/r HTTP cart", None, "front"), "shop/v[0] b.shop:80");
        assert_eq!(with("front/r TCP shop/cart", None, "front"), "front/r[0] a.shop:80");
        assert_eq!(with("front/r TCP shop/cart", None, "back"), "shop/v[0] b.shop:80");
    }
}
