//! Plans, as data.

mod traffic;
mod waypoints;

use proptest::prelude::*;

use super::*;
use crate::{
    objects::{ContainerPort, EndpointSlice, Object, Service, SliceEndpoint, SlicePort},
    testing::{
        ambient, labels, name, namespace, pod, service, slice_endpoint, some_address, some_world, workload, world,
    },
};

fn objects() -> Vec<Object> {
    let mut r2 = ambient("default/r2", "10.0.0.2 fd00::2", "app=reviews");
    r2.ports.push(ContainerPort { name: "http".into(), port: 9081 });
    let mut r1 = ambient("default/r1", "10.0.0.1", "app=reviews");
    r1.ports.push(ContainerPort { name: "http".into(), port: 9080 });
    let mut slow = ambient("default/slow", "10.0.0.3", "app=slow");
    slow.ready = false;
    vec![
        r1.into(),
        r2.into(),
        slow.clone().into(),
        pod("default/legacy", "10.0.0.4").into(),
        service("default/reviews app=reviews 10.96.0.1,fd96::1 80=http 81=9090").into(),
        service("default/slow app=slow 10.96.0.2 80").into(),
        service("default/legacy app=legacy 10.96.0.3 80=8080").into(),
        Service { publish_not_ready: true, ..service("default/eager app=slow 10.96.0.4 80") }.into(),
        Service { external_name: Some("example.org".into()), ..service("default/ext - 10.96.0.5 80") }.into(),
        Service { labels: labels("istio.io/use-waypoint=w"), ..service("default/wp app=reviews 10.96.0.6 81=9090") }
            .into(),
        Service {
            labels: labels("istio.io/use-waypoint=w"),
            waypoint_optional: true,
            ..service("default/wpo app=reviews 10.96.0.7 81=9090")
        }
        .into(),
        service("default/sliced - 10.96.0.8 80=1").into(),
        EndpointSlice {
            name: name("default/sliced-1"),
            service: name("default/sliced"),
            ports: vec![SlicePort { name: "p80".into(), port: 7777 }],
            endpoints: vec![
                slice_endpoint("10.0.0.1"),
                SliceEndpoint { ready: false, ..slice_endpoint("10.0.0.2") },
                slice_endpoint("192.0.2.7"),
            ],
        }
        .into(),
        Service {
            external: vec!["198.51.100.7".parse().unwrap()],
            ..service("default/ex app=reviews 10.96.0.9 80=http")
        }
        .into(),
        ambient("default/wpod", "10.0.0.5", "istio.io/use-waypoint=w").into(),
    ]
}

/// Every plan for `to`, in one line each.
fn check(to: &str, expect: &[&str]) {
    let world = world(objects());
    let line = |plan: Plan| match plan {
        Plan::Hbone { destination, hop } => {
            assert_eq!((hop.kind, &hop.authority), (HopKind::Workload, &Authority::Address(destination.target)));
            let account = hop.identities.only().expect("one identity").service_account();
            format!("{} via {} as {account}", destination.target, hop.address)
        }
        Plan::Plain { destination } => format!("plain {}", destination.target),
        Plan::Refuse { reason, .. } => format!("refuse {reason}"),
    };
    let got: Vec<_> = plans(&world, &workload(&pod("default/caller", "10.0.0.77")), to.parse().unwrap())
        .into_iter()
        .map(line)
        .collect();
    assert_eq!(got, expect, "{to}");
}

#[test]
fn plans_of_calls() {
    check("10.0.0.1:80", &["10.0.0.1:80 via 10.0.0.1:15008 as r1"]);
    check("[fd00::2]:80", &["[fd00::2]:80 via [fd00::2]:15008 as r2"]);
    check("10.0.0.4:80", &["plain 10.0.0.4:80"]);
    check("10.0.0.5:80", &["refuse waypoint_missing"]);
    check("192.0.2.1:80", &["plain 192.0.2.1:80"]);
    // an external address is the service's, but only at the service's ports
    check("198.51.100.7:80", &["10.0.0.1:9080 via 10.0.0.1:15008 as r1", "10.0.0.2:9081 via 10.0.0.2:15008 as r2"]);
    check("198.51.100.7:22", &["plain 198.51.100.7:22"]);
    check("10.96.0.9:22", &["refuse unknown_port"]);
    // a named target port is another number on every pod
    check("10.96.0.1:80", &["10.0.0.1:9080 via 10.0.0.1:15008 as r1", "10.0.0.2:9081 via 10.0.0.2:15008 as r2"]);
    check("10.96.0.1:81", &["10.0.0.1:9090 via 10.0.0.1:15008 as r1", "10.0.0.2:9090 via 10.0.0.2:15008 as r2"]);
    // only endpoints of the called family
    check("[fd96::1]:81", &["[fd00::2]:9090 via [fd00::2]:15008 as r2"]);
    check("10.96.0.1:82", &["refuse unknown_port"]);
    check("10.96.0.2:80", &["refuse no_endpoint"]);
    check("10.96.0.4:80", &["10.0.0.3:80 via 10.0.0.3:15008 as slow"]);
    check("10.96.0.3:80", &["plain 10.0.0.4:8080"]);
    check("10.96.0.5:80", &["refuse external_name"]);
    check("10.96.0.6:81", &["refuse waypoint_missing"]);
    check("10.96.0.7:81", &["10.0.0.1:9090 via 10.0.0.1:15008 as r1", "10.0.0.2:9090 via 10.0.0.2:15008 as r2"]);
    check("10.96.0.8:80", &["10.0.0.1:7777 via 10.0.0.1:15008 as r1", "plain 192.0.2.7:7777"]);
}

#[test]
fn a_service_may_lead_back_to_its_caller() {
    let world = world(objects());
    let r1 = world.pod(&name("default/r1")).unwrap();
    let plans = plans(&world, r1, "10.96.0.1:81".parse().unwrap());
    assert!(matches!(&plans[..], [Plan::Plain { .. }, Plan::Hbone { .. }]), "{plans:?}");
}

#[test]
fn a_namespace_may_want_a_waypoint() {
    let mut all = objects();
    let mut ns = namespace("default");
    ns.labels = labels("istio.io/use-waypoint=w");
    all.push(ns.into());
    let world = world(all);
    let caller = workload(&pod("default/caller", "10.0.0.77"));
    let ask = |to: &str| plan(&world, &caller, to.parse().unwrap(), 0, &mut ());
    let refused = |service| Plan::Refuse { service, reason: Reason::WaypointMissing };
    assert_eq!(ask("10.96.0.1:80"), refused(Some(name("default/reviews"))));
    assert_eq!(ask("10.0.0.1:80"), refused(None), "it may be for pods' own addresses as well: nothing is known of it");
}

proptest! {
    /// HBONE only to enrolled pods that own the address; a plain connection never to one of them.
    #[test]
    fn plans_are_safe(world in some_world(), ip in some_address(), port in proptest::sample::select(vec![80u16, 443]), roll in any::<u64>()) {
        let caller = workload(&pod("default/caller", "10.0.0.77"));
        match plan(&world, &caller, SocketAddr::new(ip, port), roll, &mut ()) {
            Plan::Hbone { hop, .. } if hop.kind == HopKind::Waypoint => {
                let to = SocketAddr::new(ip, port);
                prop_assert_eq!((hop.address.is_ipv4(), hop.authority), (ip.is_ipv4(), Authority::Address(to)));
                let instance = world.workload_at(hop.address.ip()).expect("a pod's address");
                prop_assert!(hop.identities.contains(world.identity(instance).expect("a pod")));
                let is_named = match world.addressed(ip) {
                    Addressed::Service(s) => s.waypoint.is_some(),
                    Addressed::Workload(w) => w.waypoint.is_some(),
                    _ => false,
                };
                prop_assert!(is_named);
            }
            Plan::Hbone { destination: Destination { target, workload, .. }, hop } => {
                let w = workload.expect("a workload");
                prop_assert!(w.is_enrolled() && w.addresses.contains(&target.ip()));
                prop_assert_eq!(hop.address, SocketAddr::new(target.ip(), 15008));
                prop_assert_eq!(hop.identities.only(), world.identity(&w));
                prop_assert_eq!(hop.authority.to_string(), target.to_string());
            }
            Plan::Plain { destination: Destination { target, .. } } => {
                prop_assert!(!world.workload_at(target.ip()).is_some_and(|w| w.is_enrolled()));
            }
            Plan::Refuse { .. } => {}
        }
    }
}
