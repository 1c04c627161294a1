//! Views of a small World, as they are sent.

use expect_test::{Expect, expect};
use serde::{Serialize, de::DeserializeOwned};
use underpass_core::{
    ObjectName,
    authz::Rule,
    labels::Labels,
    objects::{Namespace, Object, Service as CoreService},
    testing::{self, ambient, by_method, labels, model, peer_authentication, pod, policy, service, world},
    world::{Action, Affinity, AuthorizationPolicy, Distribution, PolicyTarget, Scope, TargetKind},
};

use super::*;

fn objects() -> Vec<Object> {
    let mut slow = ambient("shop/cart-2", "10.0.2.3", "app=cart");
    slow.ready = false;
    let by_method = Rule { to: vec![by_method("GET")], ..Rule::default() };
    vec![
        ambient("shop/cart-1", "10.0.2.2 fd00::2", "app=cart").into(),
        slow.into(),
        pod("shop/old", "10.0.2.9").into(),
        service("shop/cart app=cart 10.96.0.10,fd96::10 80=http").into(),
        CoreService { labels: labels("istio.io/use-waypoint=w"), ..service("shop/old app=old 10.96.0.11 80") }.into(),
        CoreService {
            labels: labels("istio.io/use-waypoint=w"),
            waypoint_optional: true,
            affinity: Affinity::ClientIp,
            ..service("near/own - 10.96.0.12 80")
        }
        .into(),
        CoreService { distribution: Some(Distribution::Any), ..service("near/far - 10.96.0.13 80") }.into(),
        Namespace {
            name: ObjectName::cluster("near"),
            labels: Labels::new(),
            distribution: Some(Distribution::SameNode),
        }
        .into(),
        service("shop/headless app=cart - 80").into(),
        AuthorizationPolicy {
            scope: Scope::Selector(labels("app=cart")),
            dry_run: true,
            ..policy("shop/readers", Action::Allow, vec![by_method.clone(), by_method.clone(), Rule::default()])
        }
        .into(),
        policy("istio-system/no-rules", Action::Deny, Vec::new()).into(),
        AuthorizationPolicy {
            scope: Scope::Targets(vec![PolicyTarget::new(TargetKind::Gateway, "w")]),
            ..policy("shop/at-waypoint", Action::Allow, vec![by_method])
        }
        .into(),
        AuthorizationPolicy {
            scope: Scope::Selector(labels("app=cart")),
            ..policy("istio-system/everywhere", Action::Allow, vec![Rule::default()])
        }
        .into(),
        policy("near/others", Action::Allow, vec![Rule::default()]).into(),
        peer_authentication("istio-system/ignored app=cart STRICT").into(),
        peer_authentication("shop/strict app=cart STRICT 9090=DISABLE").into(),
        peer_authentication("istio-system/all - PERMISSIVE").into(),
    ]
}

/// One line each, and the same after a round trip as JSON.
fn check<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(views: &[T], want: &Expect) {
    let lines: Vec<_> = views.iter().map(|view| serde_json::to_string(view).unwrap()).collect();
    want.assert_eq(&(lines.join("\n") + "\n"));
    for (view, line) in views.iter().zip(&lines) {
        assert_eq!(&serde_json::from_str::<T>(line).unwrap(), view);
    }
}

#[test]
fn pods() {
    check(
        &workloads(&world(objects())),
        &expect![[r#"
        {"namespace":"shop","name":"cart-1","node":"node-1","addresses":["10.0.2.2","fd00::2"],"in_mesh":true,"because":"pod label istio.io/dataplane-mode","identity":"spiffe://cluster.local/ns/shop/sa/cart-1","ready":true,"state":null}
        {"namespace":"shop","name":"cart-2","node":"node-1","addresses":["10.0.2.3"],"in_mesh":true,"because":"pod label istio.io/dataplane-mode","identity":"spiffe://cluster.local/ns/shop/sa/cart-2","ready":false,"state":null}
        {"namespace":"shop","name":"old","node":"node-1","addresses":["10.0.2.9"],"in_mesh":false,"because":"no label of the pod or its namespace enrols it","identity":null,"ready":true,"state":null}
    "#]],
    );
}

#[test]
fn services_and_their_endpoints() {
    check(
        &services(&world(objects())),
        &expect![[r#"
            {"namespace":"near","name":"far","host":"far.near.svc.cluster.local","type":"ClusterIP","vips":["10.96.0.13"],"ports":[{"name":"p80","port":80,"target":"80"}],"endpoints":[],"in_mesh":false,"waypoint":null,"waypoint_ready":false,"waypoint_optional":false,"traffic":[]}
            {"namespace":"near","name":"own","host":"own.near.svc.cluster.local","type":"ClusterIP","vips":["10.96.0.12"],"ports":[{"name":"p80","port":80,"target":"80"}],"endpoints":[],"in_mesh":true,"waypoint":"near/w","waypoint_ready":false,"waypoint_optional":true,"traffic":["PreferSameNode","ClientIP"]}
            {"namespace":"shop","name":"cart","host":"cart.shop.svc.cluster.local","type":"ClusterIP","vips":["10.96.0.10","fd96::10"],"ports":[{"name":"p80","port":80,"target":"http"}],"endpoints":[{"addresses":["10.0.2.2","fd00::2"],"workload":"shop/cart-1","ready":true,"draining":false,"weight":1,"node":"node-1","zone":null,"in_mesh":true},{"addresses":["10.0.2.3"],"workload":"shop/cart-2","ready":false,"draining":false,"weight":1,"node":"node-1","zone":null,"in_mesh":true}],"in_mesh":true,"waypoint":null,"waypoint_ready":false,"waypoint_optional":false,"traffic":[]}
            {"namespace":"shop","name":"headless","host":"headless.shop.svc.cluster.local","type":"Headless","vips":[],"ports":[{"name":"p80","port":80,"target":"80"}],"endpoints":[{"addresses":["10.0.2.2","fd00::2"],"workload":"shop/cart-1","ready":true,"draining":false,"weight":1,"node":"node-1","zone":null,"in_mesh":true},{"addresses":["10.0.2.3"],"workload":"shop/cart-2","ready":false,"draining":false,"weight":1,"node":"node-1","zone":null,"in_mesh":true}],"in_mesh":true,"waypoint":null,"waypoint_ready":false,"waypoint_optional":false,"traffic":[]}
            {"namespace":"shop","name":"old","host":"old.shop.svc.cluster.local","type":"ClusterIP","vips":["10.96.0.11"],"ports":[{"name":"p80","port":80,"target":"80"}],"endpoints":[{"addresses":["10.0.2.9"],"workload":"shop/old","ready":true,"draining":false,"weight":1,"node":"node-1","zone":null,"in_mesh":false}],"in_mesh":true,"waypoint":"shop/w","waypoint_ready":false,"waypoint_optional":false,"traffic":[]}
        "#]],
    );
}

#[test]
fn policies_and_what_needs_a_waypoint() {
    check(
        &policies(model(objects()).world(), model(objects()).sources()),
        &expect![[r#"
            {"kind":"AuthorizationPolicy","namespace":"istio-system","name":"everywhere","scope":"selector app=cart","action":"ALLOW","rules":1,"dry_run":false,"selects":2,"needs_waypoint":[],"notes":[]}
            {"kind":"AuthorizationPolicy","namespace":"istio-system","name":"no-rules","scope":"mesh","action":"DENY","rules":0,"dry_run":false,"selects":2,"needs_waypoint":[],"notes":["spec.rules: no rules: this policy denies nothing"]}
            {"kind":"AuthorizationPolicy","namespace":"near","name":"others","scope":"namespace","action":"ALLOW","rules":1,"dry_run":false,"selects":0,"needs_waypoint":[],"notes":[]}
            {"kind":"AuthorizationPolicy","namespace":"shop","name":"at-waypoint","scope":"Gateway w","action":"ALLOW","rules":1,"dry_run":false,"selects":0,"needs_waypoint":["targetRefs"],"notes":["spec.targetRefs: applies at the waypoint of Gateway w: no node enforces it"]}
            {"kind":"AuthorizationPolicy","namespace":"shop","name":"readers","scope":"selector app=cart","action":"ALLOW","rules":3,"dry_run":true,"selects":2,"needs_waypoint":["methods"],"notes":["spec.rules[0].to[0].operation.methods: methods can only be judged by a waypoint: without one this rule allows nothing","spec.rules[1].to[0].operation.methods: methods can only be judged by a waypoint: without one this rule allows nothing"]}
            {"kind":"PeerAuthentication","namespace":"istio-system","name":"all","scope":"mesh","action":"PERMISSIVE","rules":0,"dry_run":false,"selects":2,"needs_waypoint":[],"notes":[]}
            {"kind":"PeerAuthentication","namespace":"istio-system","name":"ignored","scope":"selector app=cart","action":"STRICT","rules":0,"dry_run":false,"selects":0,"needs_waypoint":[],"notes":["spec.selector: a PeerAuthentication of the root namespace with a selector is ignored"]}
            {"kind":"PeerAuthentication","namespace":"shop","name":"strict","scope":"selector app=cart","action":"STRICT 9090=DISABLE","rules":0,"dry_run":false,"selects":2,"needs_waypoint":[],"notes":["spec.portLevelMtls.9090.mode: DISABLE is served as PERMISSIVE: mutual TLS is always accepted"]}
        "#]],
    );
}

#[test]
fn a_pod_and_all_that_concerns_it() {
    let world = model(objects());
    let described = |name| describe_pod(world.world(), world.sources(), &ObjectName::new("shop", name));
    let cart = described("cart-1").unwrap();
    let services: Vec<_> = cart.services.iter().map(|s| format!("{} {} {:?}", s.service, s.ready, s.ports)).collect();
    assert_eq!(services, ["shop/cart true []", "shop/headless true [(80, 80)]"]);
    let judged: Vec<_> = cart.policies.iter().map(|p| format!("{}/{}", p.namespace, p.name)).collect();
    assert_eq!(judged, ["istio-system/no-rules", "istio-system/everywhere", "shop/readers"]);
    // its own PeerAuthentication, and for one port another mode; the mesh's is behind both
    let mtls = |port| format!("{} {:?}", cart.mtls_of(port).mode, cart.mtls_of(port).by.as_deref());
    assert_eq!(mtls(80), "STRICT Some(\"shop/strict\")");
    assert_eq!(mtls(9090), "PERMISSIVE Some(\"shop/strict\")");
    let old = described("old").unwrap();
    assert_eq!((old.mtls.mode.as_str(), old.mtls.by.as_deref()), ("PERMISSIVE", Some("istio-system/all")));
    assert!(!old.workload.in_mesh);
    assert_eq!(described("unknown"), None);
    check(
        &[cart],
        &expect![[r#"
        {"namespace":"shop","name":"cart-1","node":"node-1","addresses":["10.0.2.2","fd00::2"],"in_mesh":true,"because":"pod label istio.io/dataplane-mode","identity":"spiffe://cluster.local/ns/shop/sa/cart-1","ready":true,"state":null,"host_network":false,"waypoint":null,"services":[{"service":"shop/cart","ready":true,"ports":[]},{"service":"shop/headless","ready":true,"ports":[[80,80]]}],"policies":[{"kind":"AuthorizationPolicy","namespace":"istio-system","name":"no-rules","scope":"mesh","action":"DENY","rules":0,"dry_run":false,"selects":2,"needs_waypoint":[],"notes":["spec.rules: no rules: this policy denies nothing"]},{"kind":"AuthorizationPolicy","namespace":"istio-system","name":"everywhere","scope":"selector app=cart","action":"ALLOW","rules":1,"dry_run":false,"selects":2,"needs_waypoint":[],"notes":[]},{"kind":"AuthorizationPolicy","namespace":"shop","name":"readers","scope":"selector app=cart","action":"ALLOW","rules":3,"dry_run":true,"selects":2,"needs_waypoint":["methods"],"notes":["spec.rules[0].to[0].operation.methods: methods can only be judged by a waypoint: without one this rule allows nothing","spec.rules[1].to[0].operation.methods: methods can only be judged by a waypoint: without one this rule allows nothing"]}],"mtls":{"mode":"STRICT","by":"shop/strict"},"ports":{"9090":{"mode":"PERMISSIVE","by":"shop/strict"}}}
    "#]],
    );
}

#[test]
fn a_service_and_its_pods() {
    let world = model(objects());
    let described = |name| describe_service(world.world(), world.sources(), &ObjectName::new("shop", name));
    let names: Vec<_> = described("cart").unwrap().pods.into_iter().map(|pod| pod.workload.name).collect();
    assert_eq!(names, ["cart-1", "cart-2"]);
    assert_eq!(described("none"), None);
}

#[test]
fn a_connection_is_read_as_core_writes_it() {
    use underpass_core::{Connection as CoreConnection, connection::Party as CoreParty};
    let party = |address: &str, workload: Option<&str>| CoreParty {
        address: address.parse().unwrap(),
        workload: workload.map(|name| testing::workload(&pod(name, "10.0.0.1"))),
        identity: workload.map(|_| "spiffe://cluster.local/ns/a/sa/b".parse().unwrap()),
    };
    let record = CoreConnection {
        id: 7,
        source: party("10.0.0.1:4000", Some("shop/web")),
        destination: party("[fd00::2]:80", None),
        service: Some(ObjectName::new("shop", "cart")),
        service_host: Some("cart.shop.svc.cluster.local".into()),
        bytes_received: 1,
        bytes_sent: 2,
        duration_us: 4,
        policy: Some(ObjectName::new("shop", "readers")),
        dry_run_denied_by: vec![ObjectName::new("shop", "tried")],
        reason: None,
        ..testing::connection("10.0.0.1:4000", "[fd00::2]:80")
    };
    let view: Connection = serde_json::from_str(&serde_json::to_string(&record).unwrap()).unwrap();
    expect![[r#"
        Connection {
            id: 7,
            direction: "inbound",
            path: "hbone",
            source: Party {
                address: 10.0.0.1:4000,
                workload: Some(
                    "shop/web",
                ),
                identity: Some(
                    "spiffe://cluster.local/ns/a/sa/b",
                ),
            },
            destination: Party {
                address: [fd00::2]:80,
                workload: None,
                identity: None,
            },
            via: None,
            service: Some(
                "shop/cart",
            ),
            service_host: Some(
                "cart.shop.svc.cluster.local",
            ),
            vip: None,
            bytes_received: 1,
            bytes_sent: 2,
            duration_us: 4,
            policy: Some(
                "shop/readers",
            ),
            dry_run_denied_by: [
                "shop/tried",
            ],
        }
    "#]]
    .assert_debug_eq(&view);
}
