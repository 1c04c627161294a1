//! A walk through changes of Services, routes and rules: what a change leaves uncompiled is as if all had been compiled anew.

use std::sync::Arc;

use proptest::{collection::vec, prelude::*, sample::select};
use underpass_core::{
    Identity, TrustDomain,
    http::Host,
    objects::{
        self, Backend, BackendRef, Batch, Created, DestinationRule, ExportTo, GatewayRoute, HeaderOperations,
        HttpAction, HttpPolicy, HttpRoute, Object, ParentRef, Referent, RouteProtocol, RouteRule, RouteTarget, Subset,
        TcpRoute, TrafficPolicy, VirtualService, WeightedTarget,
    },
    testing::{ambient, gateway, labels, model, name, pod, service},
};

use super::Configuration;
use crate::Own;

const NAMES: [&str; 4] = ["shop/a", "shop/b", "other/a", "istio-system/a"];
const HOSTS: [&str; 6] = ["cart", "stock", "cart.shop.svc.cluster.local", "stock.other.svc.cluster.local", "*", "none"];

fn some_name() -> impl Strategy<Value = &'static str> {
    select(&NAMES[..])
}

fn some_host() -> impl Strategy<Value = Host> {
    select(&HOSTS[..]).prop_map(Host::parse)
}

fn some_service() -> impl Strategy<Value = Object> {
    let which = select(vec![
        "shop/cart app=cart 10.96.0.10",
        "shop/stock app=stock 10.96.0.11",
        "other/stock app=stock 10.96.0.12",
    ]);
    (which, select(vec!["80", "80=8080", "80 81"]), prop::bool::weighted(0.7)).prop_map(|(text, ports, is_behind)| {
        let of_waypoint = if is_behind { "istio.io/use-waypoint=w" } else { "a=b" };
        objects::Service { labels: labels(of_waypoint), ..service(&format!("{text} {ports}")) }.into()
    })
}

fn some_http() -> impl Strategy<Value = HttpRoute> {
    let target = (some_host(), prop::option::of(Just("v1")), prop::option::of(select(vec![80_u16, 81])));
    (target, prop::option::weighted(0.2, some_name())).prop_map(|((host, subset, port), delegate)| {
        let target = RouteTarget { host, subset: subset.map(Into::into), port };
        let action = match delegate {
            Some(to) => HttpAction::Delegate(name(to)),
            None => {
                HttpAction::Forward(vec![WeightedTarget { target, weight: 1, headers: HeaderOperations::default() }])
            }
        };
        HttpRoute { name: None, matches: Vec::new(), action, policy: HttpPolicy::default() }
    })
}

fn some_virtual_service() -> impl Strategy<Value = Object> {
    let tcp = prop::option::of((some_host(), prop::option::of(select(vec![80_u16, 81]))));
    (some_name(), vec(some_host(), 0..3), vec(some_http(), 0..3), tcp).prop_map(|(of, hosts, http, tcp)| {
        let tcp = tcp.map(|(host, port)| {
            let target = RouteTarget { host, subset: None, port };
            let targets = vec![WeightedTarget { target, weight: 1, headers: HeaderOperations::default() }];
            TcpRoute { matches: Vec::new(), targets }
        });
        VirtualService {
            name: name(of),
            created: Created::UNKNOWN,
            hosts,
            gateways: Vec::new(),
            export_to: ExportTo::All,
            http,
            tls: Vec::new(),
            tcp: tcp.into_iter().collect(),
        }
        .into()
    })
}

fn some_destination_rule() -> impl Strategy<Value = Object> {
    (some_name(), some_host(), any::<bool>(), prop::option::of(1_u32..4)).prop_map(|(of, host, has_subset, limit)| {
        let mut policy = TrafficPolicy::default();
        if limit.is_some() {
            policy.own.connection_pool.get_or_insert_default().tcp.max_connections = limit;
        }
        let subset = Subset { name: "v1".into(), labels: labels("version=v1"), policy: TrafficPolicy::default() };
        DestinationRule {
            name: name(of),
            created: Created::UNKNOWN,
            host,
            policy,
            subsets: has_subset.then_some(subset).into_iter().collect(),
            export_to: ExportTo::All,
            callers: None,
        }
        .into()
    })
}

fn some_gateway_route() -> impl Strategy<Value = Object> {
    let referent = || {
        let of = select(vec!["shop/cart", "shop/stock", "other/stock", "shop/none"]);
        of.prop_map(|of| Referent { group: "".into(), kind: "Service".into(), name: name(of) })
    };
    let port = || prop::option::of(select(vec![80_u16, 81]));
    let protocol = || select(vec![RouteProtocol::Http, RouteProtocol::Tcp, RouteProtocol::Tls]);
    let parts = (some_name(), protocol(), referent(), port(), vec((referent(), port()), 0..3));
    parts.prop_map(|(of, protocol, target, port, backends)| {
        let backend = |(target, port)| {
            let to = BackendRef { target, port };
            Backend { to, weight: 1, headers: HeaderOperations::default() }
        };
        let backends = backends.into_iter().map(backend).collect();
        GatewayRoute {
            name: name(of),
            protocol,
            created: Created::UNKNOWN,
            parents: vec![ParentRef { target, section: None, port }],
            hostnames: Vec::new(),
            rules: vec![RouteRule { backends, ..RouteRule::default() }],
        }
        .into()
    })
}

fn some_pod() -> impl Strategy<Value = Object> {
    let of = select(vec!["app=cart version=v1", "app=cart", "app=stock version=v1"]);
    (1..4_u8, of).prop_map(|(n, of)| ambient(&format!("shop/p{n}"), &format!("10.0.0.{n}"), of).into())
}

/// An object that comes, or another one of which this has the key that goes.
fn some_change() -> impl Strategy<Value = (Object, bool)> {
    let object = prop_oneof![
        2 => some_service(),
        3 => some_virtual_service(),
        2 => some_destination_rule(),
        2 => some_gateway_route(),
        1 => some_pod(),
    ];
    (object, prop::bool::weighted(0.25))
}

/// The routes of every port.
fn routes(of: &Configuration) -> Vec<String> {
    of.routes.iter().map(|(port, compiled)| format!("{port:?} {compiled:?}")).collect()
}

proptest! {
    #[test]
    fn what_a_change_leaves_is_as_if_it_were_compiled_anew(walk in vec(vec(some_change(), 1..4), 1..24)) {
        let mut model = model([
            gateway("shop/w").into(),
            service("shop/w app=w 10.96.0.1 15008").into(),
            pod("shop/w-1", "10.0.0.100").into(),
        ]);
        let identity = Identity::new(&TrustDomain::default(), "shop", "w");
        let own = Own { gateway: name("shop/w"), class: "istio-waypoint".into(), identity, addresses: vec![] };
        let world = |model: &underpass_core::resolve::Model| Arc::new(model.world().clone());
        let mut current = Configuration::new(&own, world(&model), model.sources().clone());
        for changes in walk {
            let mut batch = Batch::default();
            for (object, goes) in changes {
                match goes {
                    true => batch.remove(object.key()),
                    false => batch.put(object),
                }
            }
            model.apply(&batch);
            current = current.next(&own, world(&model), model.sources().clone());
            let anew = Configuration::new(&own, world(&model), model.sources().clone());
            prop_assert_eq!(routes(&current), routes(&anew), "after {:?}", batch);
        }
    }
}
