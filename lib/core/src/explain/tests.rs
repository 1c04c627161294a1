//! What people read, and that the answer is the connection's own.

mod kinds;

use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;
use crate::{
    authz::Rule,
    objects::{Node, Object, OwnProxy, Pod, Service},
    resolve::Model,
    testing::{
        ambient, by_method, gateway, labels, model, node, peer_authentication, pod, policy, service, some_address,
        some_model,
    },
    world::{Action, Affinity, AuthorizationPolicy, Distribution, InternalTraffic, Scope},
};

fn mesh() -> Model {
    model([
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

fn explain(model: &Model, source: &str, destination: &str) -> Result<Explanation, Unknown> {
    super::explain(model.world(), Some(model.sources()), source, destination)
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
              peer-authentication  PeerAuthentication default/strict: port 8080 accepts mutual TLS only
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
              peer-authentication  PeerAuthentication default/strict: port 8080 accepts mutual TLS only
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
            Plaintext Deny Some(default/strict): plaintext_refused
              resolve              source is pod legacy/old (10.0.0.3)
              resolve              destination is pod default/b (10.0.0.2), port 8080
              enrolment            Pod legacy/old: not in the mesh: no label of the pod or its namespace enrols it
              capture              not captured: the source is not in the mesh
              capture              the connection arrives in plaintext, and the destination's node hands it to the tunnel
              peer-authentication  PeerAuthentication default/strict: port 8080 accepts mutual TLS only
        "#]],
    );
    check(
        "192.0.2.1",
        "b.default:80",
        &expect![[r#"
            Plaintext Deny Some(default/strict): plaintext_refused
              resolve              source is 192.0.2.1
              resolve              destination is service b.default.svc.cluster.local (10.96.0.1), port 80
              capture              192.0.2.1 is not a pod known to the mesh: its connections are not captured
              route                10.96.0.1:80 leads to 10.0.0.2:8080
              capture              the connection arrives in plaintext, and the destination's node hands it to the tunnel
              peer-authentication  PeerAuthentication default/strict: port 8080 accepts mutual TLS only
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
          capture              not captured: 10.0.0.3 is not in the mesh
    "#]],
    );
    check(
        "default/a",
        "[::1]:80",
        &expect![[r#"
            Untouched Allow None: the mesh does not touch this connection
              resolve              source is pod default/a (fd00::1)
              resolve              destination is ::1, port 80
              enrolment            Pod default/a: in the mesh: pod label istio.io/dataplane-mode
              capture              not captured: ::1 is the pod itself
        "#]],
    );
    check(
        "192.0.2.1",
        "legacy/old:80",
        &expect![[r#"
            Untouched Allow None: neither end is in the mesh
              resolve              source is 192.0.2.1
              resolve              destination is pod legacy/old (10.0.0.3), port 80
              capture              192.0.2.1 is not a pod known to the mesh: its connections are not captured
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
        &expect![[r#"
            Hbone Allow Some(istio-system/all): allowed by istio-system/all
              resolve              source is pod default/a (10.0.0.1)
              resolve              destination is pod default/b (10.0.0.2), port 80
              resolve              Service default/pods: headless: its callers connect to its endpoint, 10.0.0.2
              resolve              Service default/pods: ports of a headless service are not translated: port 80 of the pod is called
              enrolment            Pod default/a: in the mesh: pod label istio.io/dataplane-mode
              enrolment            Pod default/b: in the mesh: pod label istio.io/dataplane-mode
              capture              the kernel hands the connection to the tunnel
              route                HBONE to 10.0.0.2:15008 for 10.0.0.2:80 (default/b), expecting spiffe://cluster.local/ns/default/sa/b
              peer-authentication  PeerAuthentication default/strict: port 80 accepts mutual TLS only
              authorization        AuthorizationPolicy istio-system/all: ALLOW matches
        "#]],
    );
}

#[test]
fn a_waypoint_that_is_missing() {
    let all = |waypoint_optional| {
        let labels = labels("istio.io/use-waypoint=w");
        model([
            ambient("default/a", "10.0.0.1", "").into(),
            ambient("default/b", "10.0.0.2", "app=b").into(),
            Service { labels, waypoint_optional, ..service("default/b app=b 10.96.0.1 80") }.into(),
        ])
    };
    let check = |optional, expect: &Expect| {
        let explained = explain(&all(optional), "default/a", "b:80").unwrap();
        let steps = explained.steps.iter().filter(|s| s.stage == Stage::Route).map(|s| format!("  {}\n", s.says));
        expect.assert_eq(&(explained.reason + "\n" + &steps.collect::<String>()));
    };
    check(
        false,
        &expect![[r#"
        waypoint_missing
          waypoint default/w is missing: calls are refused
          10.96.0.1:80 is refused: waypoint_missing
    "#]],
    );
    check(
        true,
        &expect![[r#"
        no policy forbids it
          waypoint default/w is missing: calls bypass it, as underpass.dev/waypoint-failure allows
          10.96.0.1:80 -> endpoint 10.0.0.2:80 (default/b)
          HBONE to 10.0.0.2:15008 for 10.0.0.2:80 (default/b), expecting spiffe://cluster.local/ns/default/sa/b
    "#]],
    );
}

#[test]
fn through_a_waypoint() {
    let instance = |account: &str| {
        let mut pod = pod("default/w1", "10.0.0.8");
        (pod.labels, pod.service_account) = (labels("app=w"), account.into());
        pod
    };
    let check = |account: &str, expect: &Expect| {
        let gets = policy("default/gets", Action::Allow, vec![Rule { to: vec![by_method("GET")], ..Rule::default() }]);
        let all = model([
            ambient("default/a", "10.0.0.1", "").into(),
            ambient("default/b", "10.0.0.2", "app=b").into(),
            Service { labels: labels("istio.io/use-waypoint=w"), ..service("default/b app=b 10.96.0.1 80") }.into(),
            gateway("default/w").into(),
            service("default/w app=w 10.96.0.9 15008").into(),
            instance(account).into(),
            gets.into(),
        ]);
        let explained = explain(&all, "default/a", "b:80").unwrap();
        let steps =
            explained.steps.iter().filter(|s| !matches!(s.stage, Stage::Resolve | Stage::Enrolment | Stage::Capture));
        let steps: String = steps.map(|s| format!("  {}\n", s.says)).collect();
        expect.assert_eq(&format!("{:?}: {}\n{steps}", explained.verdict, explained.reason));
    };
    check(
        "w",
        &expect![[r#"
        Allow: allowed by default/gets
          HBONE to 10.0.0.8:15008, of waypoint default/w, for 10.96.0.1:80, expecting spiffe://cluster.local/ns/default/sa/w
          the waypoint judges requests and chooses the endpoint: 10.0.0.2:80 is explained
          spiffe://cluster.local/ns/default/sa/w is believed to name its source: spiffe://cluster.local/ns/default/sa/a is judged
          no PeerAuthentication applies: port 80 accepts mutual TLS and plaintext
          ALLOW matches
    "#]],
    );
    // An ordinary pod has the waypoint's account.
    check(
        "a",
        &expect![[r#"
        Deny: needs a waypoint: methods
          HBONE to 10.0.0.8:15008, of waypoint default/w, for 10.96.0.1:80, expecting spiffe://cluster.local/ns/default/sa/a
          the waypoint judges requests and chooses the endpoint: 10.0.0.2:80 is explained
          spiffe://cluster.local/ns/default/sa/a is not believed to name its source, and is judged itself
          no PeerAuthentication applies: port 80 accepts mutual TLS and plaintext
          ALLOW does not match: needs a waypoint: methods
    "#]],
    );
}

#[test]
fn a_policy_that_is_tried_out() {
    let all = model([
        ambient("default/a", "10.0.0.1", "").into(),
        ambient("default/b", "10.0.0.2", "").into(),
        AuthorizationPolicy { dry_run: true, ..policy("default/no-callers", Action::Allow, Vec::new()) }.into(),
        AuthorizationPolicy { dry_run: true, ..policy("default/no-one", Action::Deny, vec![Rule::default()]) }.into(),
        AuthorizationPolicy { dry_run: true, ..policy("other/no-callers", Action::Allow, Vec::new()) }.into(),
    ]);
    let explained = explain(&all, "default/a", "default/b:80").unwrap();
    assert_eq!((explained.verdict, explained.policy), (Answer::Allow, None));
    let steps = explained.steps.iter().filter(|s| s.stage == Stage::Authorization);
    let steps: String = steps.map(|s| format!("{:?} {}\n", s.object, s.says)).collect();
    expect![[r#"
        None no ALLOW policy applies: allowed
        Some(AuthorizationPolicy default/no-one) dry run: it would be denied
        Some(AuthorizationPolicy default/no-callers) dry run: it would be denied
    "#]]
    .assert_eq(&steps);
}

/// A reason that explain gives can be searched for in the access log.
#[test]
fn reasons_are_those_of_the_log() {
    let about = |app: &str, p: AuthorizationPolicy| {
        Object::from(AuthorizationPolicy { scope: Scope::Selector(labels(app)), ..p })
    };
    let by_method = Rule { to: vec![by_method("GET")], ..Rule::default() };
    let all = model([
        ambient("default/a", "10.0.0.1", "").into(),
        ambient("default/b", "10.0.0.2", "app=b").into(),
        ambient("default/shut", "10.0.0.3", "app=shut").into(),
        ambient("default/l7", "10.0.0.4", "app=l7").into(),
        ambient("default/one", "10.0.0.5", "").into(),
        ambient("default/two", "10.0.0.5", "").into(),
        pod("legacy/old", "10.0.0.9").into(),
        service("default/b app=b 10.96.0.1 80").into(),
        Service { labels: labels("istio.io/use-waypoint=w"), ..service("default/w app=b 10.96.0.3 80") }.into(),
        Service { internal_traffic: InternalTraffic::Local, ..service("default/local app=far 10.96.0.4 80") }.into(),
        Pod { node: Some("node-2".into()), ..ambient("default/far", "10.0.0.6", "app=far") }.into(),
        peer_authentication("default/strict app=shut STRICT").into(),
        about("app=shut", policy("default/no-callers", Action::Allow, Vec::new())),
        about("app=b", policy("default/no", Action::Deny, vec![Rule::default()])),
        about("app=l7", policy("default/gets", Action::Deny, vec![by_method])),
    ]);
    for (source, destination, want) in [
        ("default/a", "b:80", Reason::Denied),
        ("default/a", "default/shut:80", Reason::NotAllowed),
        ("legacy/old", "default/shut:80", Reason::PlaintextRefused),
        ("default/a", "default/one:80", Reason::AmbiguousAddress),
        ("default/a", "b:81", Reason::UnknownPort),
        ("default/a", "w:80", Reason::WaypointMissing),
        ("default/a", "local:80", Reason::NoLocalEndpoint),
    ] {
        let explained = explain(&all, source, destination).unwrap();
        assert_eq!((explained.verdict, &*explained.reason), (Answer::Deny, want.as_str()), "{explained:#?}");
    }
    // where the word is not all, the log has the rest beside it
    let explained = explain(&all, "default/a", "default/l7:80").unwrap();
    assert_eq!(explained.reason, "needs a waypoint: methods");
}

/// Several endpoints, and all that can be said about choosing one of them.
#[test]
fn choice_of_an_endpoint() {
    let pod = |n: u8, on: &str, change: fn(&mut Pod)| {
        let mut pod = ambient(&format!("default/s{n}"), &format!("10.0.1.{n}"), "app=s");
        pod.node = Some(on.into());
        change(&mut pod);
        Object::from(pod)
    };
    let all = |service: Service| {
        model([
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
        ready endpoints before terminating ones: 4 of 5
        endpoints of weight 0 left out: 3 of 4
        one by weight of 3 endpoints: 10.0.1.1:80 (default/s1, weight 1), 10.0.1.2:80 (default/s2, weight 3), 10.0.1.3:80 (default/s3, weight 1)
        10.96.0.2:80 -> endpoint 10.0.1.1:80 (default/s1)
        HBONE to 10.0.1.1:15008 for 10.0.1.1:80 (default/s1), expecting spiffe://cluster.local/ns/default/sa/s1
    "#]],
    );
    check(
        Service { distribution: Some(Distribution::SameZone), affinity: Affinity::ClientIp, ..s() },
        &expect![[r#"
            ready endpoints before terminating ones: 4 of 5
            endpoints of weight 0 left out: 3 of 4
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
        ready endpoints before terminating ones: 3 of 4
        endpoints of weight 0 left out: 2 of 3
        one by weight of 2 endpoints: 10.0.1.2:80 (default/s2, weight 3), 10.0.1.3:80 (default/s3, weight 1)
        10.96.0.2:80 -> endpoint 10.0.1.2:80 (default/s2)
        HBONE to 10.0.1.2:15008 for 10.0.1.2:80 (default/s2), expecting spiffe://cluster.local/ns/default/sa/s2
    "#]],
    );
}

#[test]
fn suggestions() {
    let check = |source: &str, destination: &str, want: &str| {
        let mut objects: Vec<Object> = vec![
            ambient("a/web-7d9f-x", "10.0.0.1", "app=web").into(),
            ambient("b/web", "10.0.0.2", "app=web").into(),
            ambient("b/website", "10.0.0.3", "").into(),
            service("a/web app=web 10.96.0.1 80").into(),
            service("b/web app=web 10.96.0.2 80").into(),
        ];
        objects.extend((0..6).map(|n| ambient(&format!("many/m-{n}"), &format!("10.0.1.{n}"), "").into()));
        let says = explain(&model(objects), source, destination).unwrap_err().to_string();
        assert!(says.ends_with(want), "{says}");
    };
    check("web", "b/web:80", "write namespace/pod or an IP address, such as a/web-7d9f-x, b/web");
    check("c/web", "b/web:80", "or an IP address, such as a/web-7d9f-x, b/web");
    check("m", "b/web:80", "or an IP address, such as many/m-0, many/m-1, many/m-2, many/m-3 and 2 more");
    check("unknown", "b/web:80", "or an IP address");
    check("", "b/web:80", "or an IP address");
    check("many/m-1", "web:80", "or an IP address, such as a/web, a/web-7d9f-x, b/web");
    check("many/m-1", "web.c.svc.cluster.local:80", "or an IP address, such as a/web, a/web-7d9f-x, b/web");
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
    fn explains_what_happens(model in some_model(), from in some_address(), to in some_address(), port in proptest::sample::select(vec![80u16, 8080])) {
        let world = model.world();
        let Some(source) = world.workload_at(from).cloned() else { return Ok(()) };
        let to = SocketAddr::new(to, port);
        let said = explain(&model, &from.to_string(), &to.to_string()).unwrap();
        // What a sidecar or a node's own rules do is no decision of the mesh's.
        let others = said.steps.iter().any(|s| s.says.contains("its sidecar") || s.says.contains("the node leads it"));
        let address = source.addresses.iter().copied().find(|a| a.is_ipv4() == to.is_ipv4());
        let allowed = match capture::decide(world, &source, to.ip(), &mut ()) {
            Capture::Refuse(_) => false,
            Capture::Leave(capture::LeaveReason::SourceNotEnrolled) => return Ok(()),
            Capture::Leave(capture::LeaveReason::DestinationNotEnrolled) if others => return Ok(()),
            Capture::Leave(capture::LeaveReason::Itself) => true,
            Capture::Leave(_) => address.is_some(),
            Capture::Tunnel if address.is_none() => false,
            Capture::Tunnel => match route::plan(world, &source, to, 0, &mut ()) {
                Plan::Refuse { .. } => false,
                Plan::Plain { .. } if others => return Ok(()),
                Plan::Plain { .. } => true,
                Plan::Hbone { hop, .. } if hop.kind == HopKind::Waypoint => return Ok(()),
                Plan::Hbone { destination, .. } => {
                    let id = world.identity(&source).cloned();
                    let peer = Peer::itself(address.unwrap_or(from), id.as_ref());
                    let (w, target) = (destination.workload.unwrap(), destination.target);
                    let request = Request { peer, workload: &w, address: target.ip(), port: target.port() };
                    admit(world, &request, &mut ()).is_allow()
                }
            },
        };
        prop_assert_eq!(said.verdict == Answer::Allow, allowed, "{:?}", said);
    }
}
