//! Several objects for one host: their order, their subsets and policies, delegation, visibility.

use super::{
    objects::{destination_rule, exact, match_uri, pod_of, prefix, rule, to, virtual_service},
    *,
};
use crate::{
    http::{Cluster, PolicyLevel, Unresolved},
    testing::name,
};

/// A VirtualService that sends `path` to a subset of its name, and everything else to `rest`.
fn one(text: &str, path: &str, subset: &str, rest: Option<&str>) -> VirtualService {
    let first = rule(vec![match_uri(exact(path))], to(&format!("cart.shop.svc.cluster.local/{subset}")));
    let rest = rest.map(|rest| rule(vec![], to(&format!("cart.shop.svc.cluster.local/{rest}"))));
    virtual_service(text, std::iter::once(first).chain(rest).collect())
}

#[test]
fn the_oldest_first_then_by_name_and_what_matches_everything_last() {
    let all = || {
        vec![
            one("shop/b cart @5", "/b", "b", Some("rest-b")).into(),
            one("shop/a cart", "/a", "a", Some("rest-a")).into(),
            one("other/z cart.shop.svc.cluster.local @5", "/b", "z", None).into(),
        ]
    };
    let names = |all: Vec<Object>| {
        let (compiled, _) = compiled(all);
        compiled.routes.sources.iter().map(|source| source.object.name.to_string()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(names(all()), "other/z shop/b shop/a");
    check(all(), &[("GET /a", "cart.shop:80/a"), ("GET /b", "cart.shop:80/z"), ("GET /x", "cart.shop:80/rest-b")]);
}

#[test]
fn what_stands_behind_a_rule_for_everything_stays_unreachable() {
    let first = virtual_service(
        "shop/a cart",
        vec![rule(vec![], to("cart/all")), rule(vec![match_uri(exact("/x"))], to("cart/never"))],
    );
    let second = one("shop/b cart", "/x", "second", None);
    check(vec![first.into(), second.into()], &[("GET /x", "cart.shop:80/second"), ("GET /y", "cart.shop:80/all")]);
}

#[test]
fn the_most_precise_host_counts() {
    let of = |name: &str, host: &str| one(&format!("shop/{name} {host}"), "/x", name, None).into();
    let all = |names: &[(&str, &str)]| names.iter().map(|(name, host)| of(name, host)).collect::<Vec<Object>>();
    let (whole, short) = ("cart.shop.svc.cluster.local", "cart");
    let (near, far, any) = ("*.shop.svc.cluster.local", "*.cluster.local", "*");
    let x = |names: &[(&str, &str)]| ask(&compiled(all(names)).0.routes, "GET /x", 0);
    assert_eq!(x(&[("a", any), ("b", far), ("c", near), ("d", whole)]), "cart.shop:80/d");
    assert_eq!(x(&[("a", any), ("b", far), ("c", near), ("d", short)]), "cart.shop:80/d");
    assert_eq!(x(&[("a", any), ("b", far), ("c", near)]), "cart.shop:80/c");
    assert_eq!(x(&[("a", any), ("b", far)]), "cart.shop:80/b");
    assert_eq!(x(&[("a", any)]), "cart.shop:80/a");
    assert_eq!(x(&[("a", "cart.other.svc.cluster.local"), ("b", "stock")]), "cart.shop:80");
}

#[test]
fn gateways_and_namespaces_that_one_is_for() {
    let mut v = one("shop/v cart", "/x", "v", None);
    v.gateways = vec!["front".into()];
    check(vec![v.clone().into()], &[("GET /x", "cart.shop:80"), ("GET /y", "cart.shop:80")]);
    v.gateways.push("mesh".into());
    check(vec![v.clone().into()], &[("GET /x", "cart.shop:80/v"), ("GET /y", "404")]);
    let exported = |own, others: &[&str]| {
        let others = others.iter().map(|o| (*o).into()).collect();
        VirtualService { export_to: ExportTo::Namespaces { own, others }, ..v.clone() }
    };
    // callers elsewhere go where they went without it
    check(vec![exported(true, &[]).into()], &[("GET /x", "cart.shop:80"), ("GET /y", "cart.shop:80")]);
    check(vec![exported(true, &["front"]).into()], &[("GET /x", "cart.shop:80/v"), ("GET /y", "404")]);
}

#[test]
fn delegates() {
    let mut outer = rule(vec![match_uri(prefix("/api"))], HttpAction::Delegate(name("shop/inner")));
    outer.policy.timeout = Some(Some(Duration::from_secs(7)));
    let root = virtual_service("shop/root cart", vec![outer, rule(vec![], to("cart/rest"))]);
    let mut own = rule(vec![match_uri(exact("/api/a"))], to("cart/a"));
    own.policy.timeout = Some(Some(Duration::from_secs(3)));
    let inner_rules = vec![own, rule(vec![match_uri(exact("/b"))], to("cart/b")), rule(vec![], to("cart/inner"))];
    let inner = virtual_service("shop/inner -", inner_rules);
    check(
        vec![root.clone().into(), inner.clone().into()],
        &[
            ("GET /api/a", "cart.shop:80/a, within 3s"),
            ("GET /api/x", "cart.shop:80/inner, within 7s"),
            // both conditions must hold
            ("GET /b", "cart.shop:80/rest"),
            ("GET /x", "cart.shop:80/rest"),
        ],
    );
    // a delegate that is not there, or has hosts of its own, or is not for that namespace: as if the route were not there
    check(vec![root.clone().into()], &[("GET /api/a", "cart.shop:80/rest")]);
    let with_hosts = VirtualService { hosts: vec![Host::parse("x")], ..inner.clone() };
    check(vec![root.clone().into(), with_hosts.into()], &[("GET /api/a", "cart.shop:80/rest")]);
    let export_to = ExportTo::Namespaces { own: false, others: vec!["other".into()] };
    check(vec![root.into(), VirtualService { export_to, ..inner }.into()], &[("GET /api/a", "cart.shop:80/rest")]);
}

#[test]
fn one_without_a_rule_for_the_port_is_not_for_its_requests() {
    let at = |port| HttpMatch { port: Some(port), ..match_uri(exact("/x")) };
    let with = |matches| virtual_service("shop/v cart", vec![rule(matches, to("cart/v"))]).into();
    check(vec![with(vec![at(81)])], &[("GET /x", "cart.shop:80")]);
    check(vec![with(vec![at(81), at(80)])], &[("GET /x", "cart.shop:80/v"), ("GET /y", "404")]);
    let lost = rule(vec![], HttpAction::Delegate(name("shop/none")));
    check(vec![virtual_service("shop/v cart", vec![lost]).into()], &[("GET /x", "cart.shop:80")]);
}

/// The endpoints of a cluster of `cart`, and the DestinationRules behind it.
fn cluster(all: Vec<Object>, subset: &str) -> (Cluster, Vec<String>) {
    let v = virtual_service("shop/v cart", vec![rule(vec![], to(&format!("cart/{subset}")))]);
    let (compiled, model) = compiled(all.into_iter().chain([v.into()]).collect());
    let key = ClusterKey { host: "cart.shop.svc.cluster.local".into(), subset: Some(subset.into()), port: 80 };
    let cluster = compiled.clusters.get(&key).unwrap().clone();
    let labels = |w: &crate::world::Workload| model.sources().pod(&w.name).map(|pod| &pod.labels);
    let endpoints = cluster.endpoints(model.world(), 80, true, labels);
    (cluster, endpoints.iter().map(|e| format!("{} {}", e.workload.name.name(), e.target)).collect())
}

#[test]
fn endpoints_of_subsets() {
    let dr = || destination_rule("shop/d cart v1:version=v1 v2:version=v2 none:version=v9 all:");
    let of = |subset: &str| cluster(vec![dr().into()], subset).1;
    assert_eq!(of("v1"), ["cart-1 10.0.0.1:8080"]);
    assert_eq!(of("v2"), ["cart-2 10.0.0.2:8080"]);
    assert_eq!(of("all").len(), 2);
    // one that selects nothing has nothing, and is no other version
    assert_eq!(of("none"), [""; 0]);
    assert_eq!(cluster(vec![dr().into()], "none").0.service.map(|n| n.to_string()), Ok("shop/cart".into()));
    let (undefined, endpoints) = cluster(vec![dr().into()], "v3");
    assert_eq!((undefined.service, endpoints.len()), (Err(Unresolved::Subset), 0));
    // a pod that is not ready takes nothing while another one is
    let mut slow = crate::testing::ambient("shop/cart-9", "10.0.0.9", "app=cart version=v9");
    slow.ready = false;
    assert_eq!(cluster(vec![dr().into(), slow.into()], "none").1, [""; 0]);
    assert_eq!(cluster(vec![dr().into(), pod_of("shop/cart-9", "10.0.0.9", "app=cart version=v9")], "none").1.len(), 1);
}

fn balanced(method: Balancing) -> PortPolicy {
    PortPolicy { load_balancer: Some(LoadBalancer { method, ..LoadBalancer::default() }), ..PortPolicy::default() }
}

#[test]
fn several_rules_of_one_host() {
    let mut old = destination_rule("shop/old cart v1:version=v1 @1");
    let mut new = destination_rule("shop/new cart v1:version=v2 v2:version=v2 @2");
    new.policy.own = balanced(Balancing::Random);
    let (v1, endpoints) = cluster(vec![old.clone().into(), new.clone().into()], "v1");
    // subsets are united, of two with one name the older counts, and so does the first policy
    assert_eq!(endpoints, ["cart-1 10.0.0.1:8080"]);
    let levels = |cluster: &Cluster| {
        let line = |l: &PolicyLevel| format!("{} {} {}", l.rule, l.field, l.parts.join(","));
        cluster.levels.iter().map(line).collect::<Vec<_>>()
    };
    assert_eq!(v1.defined_by, Some((name("shop/old"), 0)));
    assert_eq!(levels(&v1), ["shop/new spec.trafficPolicy loadBalancer"]);
    assert_eq!(v1.policy.port, balanced(Balancing::Random));
    old.policy.own = balanced(Balancing::RoundRobin);
    let (v2, endpoints) = cluster(vec![old.clone().into(), new.into()], "v2");
    assert_eq!((endpoints.len(), &v2.defined_by), (1, &Some((name("shop/new"), 1))));
    assert_eq!(levels(&v2), ["shop/old spec.trafficPolicy loadBalancer"]);
    assert_eq!(v2.policy.port, balanced(Balancing::RoundRobin));
}

#[test]
fn levels_of_a_policy() {
    let mut dr = destination_rule("shop/d cart v1:version=v1 v2:version=v2");
    let outliers = OutlierDetection { consecutive_5xx: Some(3), ..OutlierDetection::default() };
    dr.policy.own = PortPolicy { outlier_detection: Some(outliers.clone()), ..balanced(Balancing::Random) };
    dr.subsets[1].policy.own = balanced(Balancing::LeastRequest);
    // the subset's parts in the place of the host's, part by part
    let policy = |dr: &DestinationRule, subset: &str| cluster(vec![dr.clone().into()], subset).0.policy.port;
    assert_eq!(policy(&dr, "v1"), dr.policy.own);
    let want = PortPolicy { outlier_detection: Some(outliers), ..balanced(Balancing::LeastRequest) };
    assert_eq!(policy(&dr, "v2"), want);
    // a port's settings in the place of all that their level says, and of that port alone
    dr.policy.ports.insert(80, balanced(Balancing::RoundRobin));
    dr.policy.ports.insert(81, balanced(Balancing::Passthrough));
    assert_eq!(policy(&dr, "v1"), balanced(Balancing::RoundRobin));
    assert_eq!(policy(&dr, "v2"), balanced(Balancing::LeastRequest));
}

#[test]
fn rules_of_other_namespaces() {
    let of = |all: Vec<DestinationRule>| cluster(all.into_iter().map(Into::into).collect(), "v1").0;
    let (host, v1) = ("cart.shop.svc.cluster.local", "v1:version=v1");
    let root = || destination_rule(&format!("istio-system/d {host} {v1}"));
    assert_eq!(of(vec![root()]).defined_by, Some((name("istio-system/d"), 0)));
    assert_eq!(of(vec![destination_rule(&format!("other/d {host} {v1}"))]).service, Err(Unresolved::Subset));
    // with one of its own namespace the root's does not count
    let own = destination_rule("shop/d cart v2:version=v2");
    assert_eq!(of(vec![root(), own]).service, Err(Unresolved::Subset));
    let hidden = DestinationRule { export_to: ExportTo::Namespaces { own: true, others: vec![] }, ..root() };
    assert_eq!(of(vec![hidden]).service, Err(Unresolved::Subset));
    let some = DestinationRule { callers: Some(labels("app=web")), ..destination_rule(&format!("shop/d cart {v1}")) };
    assert_eq!(of(vec![some]).service, Err(Unresolved::Subset));
    let wide = destination_rule("shop/wide *.shop.svc.cluster.local v1:version=v2");
    assert_eq!(of(vec![wide.clone()]).defined_by, Some((name("shop/wide"), 0)));
    let narrow = destination_rule(&format!("shop/z cart {v1}"));
    assert_eq!(of(vec![wide, narrow]).defined_by, Some((name("shop/z"), 0)));
}

#[test]
fn hosts_and_ports_that_are_not_there() {
    let to_all = ["nothing", "stock", "stock:9001", "example.com", "cart:81"].map(|text| rule(vec![], to(text)));
    let service = |text: &str| {
        let at = to_all.iter().position(|r| r.action == to(text)).unwrap();
        let v = virtual_service("shop/v cart", vec![to_all[at].clone()]);
        let (compiled, _) = compiled(vec![v.into()]);
        let rule = compiled.routes.rules().next().unwrap();
        let key = rule.clusters().next().unwrap().clone();
        (key.port, compiled.clusters.get(&key).unwrap().service.clone())
    };
    assert_eq!(service("nothing"), (80, Err(Unresolved::Host)));
    // its only port, as none is said
    assert_eq!(service("stock"), (9000, Ok(name("shop/stock"))));
    assert_eq!(service("stock:9001"), (9001, Err(Unresolved::Port)));
    assert_eq!(service("example.com"), (80, Err(Unresolved::Host)));
    assert_eq!(service("cart:81"), (81, Err(Unresolved::Port)));
}
