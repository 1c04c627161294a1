//! What people read, and that the answer is the connection's own.

use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;
use crate::{
    authz::Rule,
    testing::{ambient, node, peer_authentication, pod, policy, service, some_address, some_world, world},
    world::{Action, Affinity, Distribution, InternalTraffic, Object},
};

fn mesh() -> World {
    world([
        ambient("default/a", "10.0.0.1 fd00::1", "app=a").into(),
        ambient("default/b", "10.0.0.2 fd00::2", "app=b").into(),
        pod("legacy/old", "10.0.0.3").into(),
        service("default/b app=b 10.96.0.1 80=8080").into(),
        service("default/pods app=b - 80=8080").into(),
        Service { external_name: Some("example.org".into()), ..service("default/ext - - 80") }.into(),
        peer_authentication("default/strict - STRICT").into(),
        policy("istio-system/all", Action::Allow, vec![Rule::default()]).into(),
    ])
}

fn check(source: &str, destination: &str, expect: &Expect) {
    let text = match explain(&mesh(), source, destination) {
        Err(e) => e.to_string(),
        Ok(e) => {
            let steps = e.steps.iter().map(|s| {
                let object = s.object.as_ref().map_or_else(String::new, |o| format!("{o}: "));
                format!("  {:20} {object}{}\n", s.stage.as_str(), s.says)
            });
            let head = format!("{:?} {:?} {:?}: {}\n", e.path, e.verdict, e.policy, e.reason);
            head + &steps.collect::<String>()
        }
    };
    expect.assert_eq(&text);
}

#[test]
fn a_service_over_the_tunnel() {
    check(
        "default/a",
        "b:80",
        &expect![[r#"
            Hbone Allow Some(istio-system/all): allowed by istio-system/all
              resolve              source is pod default/a (10.0.0.1)
              resolve              destination is service b.default.svc.cluster.local (10.96.0.1), port 80
              enrolment            Pod default/a: in the mesh: pod label istio.io/dataplane-mode
              capture              the kernel hands the connection to the tunnel
              route                Service default/b: 10.96.0.1:80 -> endpoint 10.0.0.2:8080 (default/b)
              route                HBONE to 10.0.0.2:15008 for 10.0.0.2:8080 (default/b), expecting spiffe://cluster.local/ns/default/sa/b
              peer-authentication  PeerAuthentication default/strict: port 8080 takes mutual TLS only
              authorization        AuthorizationPolicy istio-system/all: ALLOW matches
        "#]],
    );
    check(
        "10.0.0.1",
        "b.default.svc.cluster.local:80",
        &expect![[r#"
            Hbone Allow Some(istio-system/all): allowed by istio-system/all
              resolve              source is pod default/a (10.0.0.1)
              resolve              destination is service b.default.svc.cluster.local (10.96.0.1), port 80
              enrolment            Pod default/a: in the mesh: pod label istio.io/dataplane-mode
              capture              the kernel hands the connection to the tunnel
              route                Service default/b: 10.96.0.1:80 -> endpoint 10.0.0.2:8080 (default/b)
              route                HBONE to 10.0.0.2:15008 for 10.0.0.2:8080 (default/b), expecting spiffe://cluster.local/ns/default/sa/b
              peer-authentication  PeerAuthentication default/strict: port 8080 takes mutual TLS only
              authorization        AuthorizationPolicy istio-system/all: ALLOW matches
        "#]],
    );
}

#[test]
fn from_outside() {
    check(
        "legacy/old",
        "default/b:8080",
        &expect![[r#"
            Plaintext Deny Some(default/strict): plaintext refused
              resolve              source is pod legacy/old (10.0.0.3)
              resolve              destination is pod default/b (10.0.0.2), port 8080
              enrolment            Pod legacy/old: not in the mesh: no label of the pod or its namespace enrols it
              capture              left alone: the source is not in the mesh
              capture              it arrives in plaintext and the destination's node hands it to the tunnel
              peer-authentication  PeerAuthentication default/strict: port 8080 takes mutual TLS only
        "#]],
    );
    check(
        "192.0.2.1",
        "b.default:80",
        &expect![[r#"
            Plaintext Deny Some(default/strict): plaintext refused
              resolve              source is 192.0.2.1
              resolve              destination is service b.default.svc.cluster.local (10.96.0.1), port 80
              capture              192.0.2.1 is no pod of this mesh: it connects as it is
              route                10.96.0.1:80 is 10.0.0.2:8080
              capture              it arrives in plaintext and the destination's node hands it to the tunnel
              peer-authentication  PeerAuthentication default/strict: port 8080 takes mutual TLS only
        "#]],
    );
}

#[test]
fn left_alone() {
    check(
        "default/a",
        "legacy/old:80",
        &expect![[r#"
        Untouched Allow None: the mesh does not touch this connection
          resolve              source is pod default/a (10.0.0.1)
          resolve              destination is pod legacy/old (10.0.0.3), port 80
          enrolment            Pod default/a: in the mesh: pod label istio.io/dataplane-mode
          enrolment            Pod legacy/old: not in the mesh: no label of the pod or its namespace enrols it
          capture              left alone: 10.0.0.3 is not in the mesh
    "#]],
    );
    check(
        "default/a",
        "[::1]:80",
        &expect![[r#"
        Untouched Allow None: the mesh does not touch this connection
          resolve              source is pod default/a (10.0.0.1)
          resolve              destination is ::1, port 80
          enrolment            Pod default/a: in the mesh: pod label istio.io/dataplane-mode
          capture              left alone: ::1 is the pod itself
    "#]],
    );
    check(
        "192.0.2.1",
        "legacy/old:80",
        &expect![[r#"
            Untouched Allow None: neither end is in the mesh
              resolve              source is 192.0.2.1
              resolve              destination is pod legacy/old (10.0.0.3), port 80
              capture              192.0.2.1 is no pod of this mesh: it connects as it is
        "#]],
    );
}

#[test]
fn services_without_an_address() {
    check(
        "default/a",
        "ext:80",
        &expect![
            "Service default/ext is an ExternalName and has no address: its callers connect to example.org; ask for that"
        ],
    );
    check(
        "default/a",
        "default/pods:80",
        &expect!["Service default/pods is headless: its callers connect to its pods; ask for one of them"],
    );
}

/// Several endpoints, and all that can be said about choosing one of them.
#[test]
fn why_this_endpoint() {
    let pod = |n: u8, on: &str, change: fn(&mut Workload)| {
        let mut pod = ambient(&format!("default/s{n}"), &format!("10.0.1.{n}"), "app=s");
        pod.node = Some(on.into());
        change(&mut pod);
        Object::from(pod)
    };
    let all = |service: Service| {
        world([
            ambient("default/a", "10.0.0.1", "").into(),
            node("node-1", "r/z1").into(),
            node("node-2", "r/z2").into(),
            pod(1, "node-2", |_| {}),
            pod(2, "node-1", |p| p.weight = 3),
            pod(3, "node-1", |_| {}),
            pod(4, "node-1", |p| p.weight = 0),
            pod(5, "node-1", |p| (p.ready, p.draining) = (false, true)),
            service.into(),
        ])
    };
    let check = |service: Service, expect: &Expect| {
        let explained = explain(&all(service), "default/a", "s:80").unwrap();
        let steps = explained.steps.iter().filter(|s| s.stage == Stage::Route);
        expect.assert_eq(&steps.map(|s| format!("{}\n", s.says)).collect::<String>());
    };
    let s = || service("default/s app=s 10.96.0.2 80");
    check(
        s(),
        &expect![[r#"
        ready before terminating: 4 of 5
        weight 0 gets nothing while others are there: 3 of 4
        one by weight of 3 endpoints: 10.0.1.1:80 (default/s1, weight 1), 10.0.1.2:80 (default/s2, weight 3), 10.0.1.3:80 (default/s3, weight 1)
        10.96.0.2:80 -> endpoint 10.0.1.1:80 (default/s1)
        HBONE to 10.0.1.1:15008 for 10.0.1.1:80 (default/s1), expecting spiffe://cluster.local/ns/default/sa/s1
    "#]],
    );
    check(
        Service { distribution: Some(Distribution::SameZone), affinity: Affinity::ClientIp, ..s() },
        &expect![[r#"
            ready before terminating: 4 of 5
            weight 0 gets nothing while others are there: 3 of 4
            PreferSameZone: in the same zone: 2 of 3
            sessionAffinity ClientIP: 10.0.0.1 always goes to the same of 2 endpoints: 10.0.1.2:80 (default/s2, weight 3), 10.0.1.3:80 (default/s3, weight 1)
            10.96.0.2:80 -> endpoint 10.0.1.2:80 (default/s2)
            HBONE to 10.0.1.2:15008 for 10.0.1.2:80 (default/s2), expecting spiffe://cluster.local/ns/default/sa/s2
        "#]],
    );
    check(
        Service { internal_traffic: InternalTraffic::Local, ..s() },
        &expect![[r#"
        internalTrafficPolicy Local: only endpoints on node-1: 4 of 5
        ready before terminating: 3 of 4
        weight 0 gets nothing while others are there: 2 of 3
        one by weight of 2 endpoints: 10.0.1.2:80 (default/s2, weight 3), 10.0.1.3:80 (default/s3, weight 1)
        10.96.0.2:80 -> endpoint 10.0.1.2:80 (default/s2)
        HBONE to 10.0.1.2:15008 for 10.0.1.2:80 (default/s2), expecting spiffe://cluster.local/ns/default/sa/s2
    "#]],
    );
}

#[test]
fn nothing_to_explain() {
    for (source, destination) in [
        ("default/z", "b:80"),
        ("a", "b:80"),
        ("default/a", "z:80"),
        ("default/a", "default/z:80"),
        ("default/a", "b"),
        ("default/a", "b:0"),
        ("default/a", "fd00::2:80"),
        ("default/a", "b.default.example.org:80"),
    ] {
        assert!(explain(&mesh(), source, destination).is_err(), "{source} {destination}");
    }
}

proptest! {
    /// The explained verdict is the one that the connection itself would get.
    #[test]
    fn explains_what_happens(world in some_world(), from in some_address(), to in some_address(), port in proptest::sample::select(vec![80u16, 8080])) {
        let Some(source) = world.workload_at(from).cloned() else { return Ok(()) };
        let to = SocketAddr::new(to, port);
        let said = explain(&world, &from.to_string(), &to.to_string()).unwrap();
        let allowed = match capture::decide(&world, &source, to.ip(), &mut ()) {
            Capture::Refuse(_) => false,
            Capture::Leave(capture::Left::SourceNotEnrolled) => return Ok(()),
            Capture::Leave(_) => true,
            Capture::Tunnel => match route::plan(&world, &source, to, 0, &mut ()) {
                Plan::Refuse { .. } => false,
                Plan::Plain { .. } => true,
                Plan::Hbone { hop, .. } => {
                    let id = source.identity(&world.settings().trust_domain);
                    let peer = Peer { address: from, identity: Some(&id) };
                    let w = hop.workload.unwrap();
                    let request = Request { peer, workload: &w, address: hop.target.ip(), port: hop.target.port() };
                    admit(&world, &request, &mut ()).is_allow()
                }
            },
        };
        prop_assert_eq!(said.verdict == Answer::Allow, allowed, "{:?}", said);
    }
}
