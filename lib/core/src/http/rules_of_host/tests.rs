//! What is found by name is what reading every object finds.

use proptest::{collection::vec, prelude::*, sample::select};

use super::*;
use crate::{
    Kind, ObjectKey,
    http::{
        Host,
        routes::tests::objects::{destination_rule, gateway_route, rule, to, virtual_service},
    },
    objects::{Batch, ExportTo, Object, RouteRule},
    resolve::Model,
    testing::{labels, model, name, service},
    world::Service,
};

const HOSTS: [&str; 8] = [
    "cart",
    "stock",
    "cart.shop.svc.cluster.local",
    "*.shop.svc.cluster.local",
    "*.cluster.local",
    "*t.shop.svc.cluster.local",
    "*",
    "x.y",
];
const NAMESPACES: [&str; 3] = ["shop", "back", "istio-system"];

/// Orders hosts that match one name: the greater one says more about it.
fn precision(host: &Host) -> usize {
    match host {
        Host::Any => 0,
        Host::Below(end) => end.len(),
        Host::Name(_) => usize::MAX,
    }
}

fn all<T>(model: &Model, of: impl Fn(&Object) -> Option<T>) -> Vec<T> {
    model.sources().objects().filter_map(|(_, object)| of(object)).collect()
}

/// Every VirtualService is looked at.
fn scanned(model: &Model, host: &str) -> Vec<String> {
    let domain = &model.world().settings().cluster_domain;
    let all = all(model, |object| match object {
        Object::VirtualService(v) => Some(Arc::clone(v)),
        _ => None,
    });
    let best_of = |v: &VirtualService| {
        let hosts = v.hosts.iter().map(|host| host.qualified(v.name.namespace(), domain));
        hosts.filter(|own| own.matches(host)).map(|own| precision(&own)).max()
    };
    let counts = all.iter().filter(|v| v.is_for_mesh() && !v.http.is_empty());
    let mut all: Vec<_> = counts.filter_map(|v| Some((best_of(v)?, v))).collect();
    let best = all.iter().map(|(precision, _)| *precision).max();
    all.retain(|(precision, _)| Some(*precision) == best);
    all.sort_by_key(|(_, v)| (v.created, &v.name));
    all.into_iter().map(|(_, v)| v.name.to_string()).collect()
}

/// Every DestinationRule is looked at.
fn scanned_rules(model: &Model, service: &Service) -> Vec<String> {
    let settings = model.world().settings();
    let all = all(model, |object| match object {
        Object::DestinationRule(rule) => Some(Arc::clone(rule)),
        _ => None,
    });
    let own = service.name.namespace();
    let of_namespace = |namespace: &str| {
        let host_of =
            |rule: &DestinationRule| rule.host.qualified(rule.name.namespace(), &settings.cluster_domain).into_owned();
        let mut found: Vec<_> = (all.iter())
            .filter(|rule| rule.name.namespace() == namespace && rule.callers.is_none())
            .filter(|rule| rule.export_to.includes(namespace, Some(own)) && host_of(rule).matches(&service.hostname))
            .collect();
        let best = found.iter().map(|rule| precision(&host_of(rule))).max();
        found.retain(|rule| Some(precision(&host_of(rule))) == best);
        found.sort_by_key(|rule| (rule.created, &rule.name));
        found.into_iter().map(|rule| rule.name.to_string()).collect::<Vec<_>>()
    };
    let found = of_namespace(own);
    if found.is_empty() { of_namespace(&settings.root_namespace) } else { found }
}

/// Every route is looked at.
fn scanned_routes(model: &Model, service: &Service) -> Vec<String> {
    all(model, |object| match object {
        Object::GatewayRoute(route) => {
            let is_parent = route.parents.iter().any(|parent| parent.target.service() == Some(&service.name));
            is_parent.then(|| route.key().to_string())
        }
        _ => None,
    })
}

#[derive(Clone, Debug)]
enum Step {
    Put(Object),
    Remove(ObjectKey),
}

fn some_object() -> impl Strategy<Value = Object> {
    let full = (select(NAMESPACES.to_vec()), select(vec!["a", "b", "c"]));
    let hosts = vec(select(HOSTS.to_vec()), 0..3);
    (full, hosts, 0_i64..3, 0..4_u8, any::<bool>(), any::<bool>()).prop_map(
        |((ns, short), hosts, at, kind, some, hidden)| {
            let full = format!("{ns}/{short}");
            let export_to = if hidden { ExportTo::Namespaces { own: true, others: vec![] } } else { ExportTo::All };
            let first = hosts.first().copied().unwrap_or("cart");
            match kind {
                0 | 1 => {
                    let listed = if hosts.is_empty() { "-".to_owned() } else { hosts.join(",") };
                    let routes = if some { vec![rule(vec![], to("cart"))] } else { vec![] };
                    let mut v = virtual_service(&format!("{full} {listed} @{at}"), routes);
                    v.gateways = if hidden { vec!["front".into()] } else { vec![] };
                    v.into()
                }
                2 => {
                    let mut rule = destination_rule(&format!("{full} {first} @{at}"));
                    (rule.export_to, rule.callers) = (export_to, some.then(|| labels("app=web")));
                    rule.into()
                }
                _ => {
                    let protocol = if some { "GRPC" } else { "HTTP" };
                    let parents = if hidden { "shop/cart,shop/stock,shop/cart:80" } else { "shop/cart" };
                    gateway_route(&format!("{full} {protocol} {parents} @{at}"), vec![RouteRule::default()]).into()
                }
            }
        },
    )
}

fn some_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => some_object().prop_map(Step::Put),
        1 => some_object().prop_map(|object| Step::Remove(object.key())),
    ]
}

proptest! {
    #[test]
    fn the_index_finds_what_a_scan_does(steps in vec(vec(some_step(), 1..4), 1..12)) {
        let services = ["shop/cart app=a 10.96.0.1 80=80", "shop/stock app=b 10.96.0.2 80=80", "istio-system/cart app=c 10.96.0.3 80=80"];
        let mut model = model(services.map(|text| service(text).into()));
        for changes in steps {
            let mut batch = Batch::default();
            for step in changes {
                match step {
                    Step::Put(object) => batch.put(object),
                    Step::Remove(key) => batch.remove(key),
                }
            }
            model.apply(&batch);
            for of in ["shop/cart", "shop/stock", "istio-system/cart"] {
                let service = model.world().service(&name(of)).unwrap();
                let found = virtual_services(model.world(), model.sources(), &service.hostname);
                let found: Vec<_> = found.into_iter().map(|v| v.name.to_string()).collect();
                prop_assert_eq!(found, scanned(&model, &service.hostname));
                let found = HostRules::of(model.world(), model.sources(), &service.hostname).0;
                let found: Vec<_> = found.into_iter().map(|rule| rule.name.to_string()).collect();
                prop_assert_eq!(found, scanned_rules(&model, service));
                let found: Vec<_> = model.sources().routes_of(&service.name).map(|r| r.key().to_string()).collect();
                prop_assert_eq!(found, scanned_routes(&model, service));
            }
            for host in ["x.y", "z.y", "example.com"] {
                let found = virtual_services(model.world(), model.sources(), host);
                let found: Vec<_> = found.into_iter().map(|v| v.name.to_string()).collect();
                prop_assert_eq!(found, scanned(&model, host));
            }
        }
    }
}

#[test]
fn nothing_of_what_is_gone_stays() {
    let objects: Vec<Object> = vec![
        virtual_service("shop/v cart,*.shop.svc.cluster.local", vec![rule(vec![], to("cart"))]).into(),
        destination_rule("shop/d cart").into(),
        gateway_route("shop/r HTTP shop/cart", vec![RouteRule::default()]).into(),
    ];
    let mut model = model(objects.clone().into_iter().chain([service("shop/cart app=a 10.96.0.1 80=80").into()]));
    let host = "cart.shop.svc.cluster.local";
    let counts = |model: &Model| {
        let (world, sources) = (model.world(), model.sources());
        let routes = sources.routes_of(&name("shop/cart")).count();
        [virtual_services(world, sources, host).len(), HostRules::of(world, sources, host).0.len(), routes]
    };
    assert_eq!(counts(&model), [1, 1, 1]);
    let mut batch = Batch::default();
    objects.iter().for_each(|object| batch.remove(object.key()));
    model.apply(&batch);
    assert_eq!(counts(&model), [0, 0, 0]);
    assert!(model.sources().get(&ObjectKey::new(Kind::Service, name("shop/cart"))).is_some());
}
