//! Answers in one line each: sources and destinations of every kind, and who answers.

use super::*;

/// Path, verdict and reason, or why there is no answer; and what the steps contain.
fn answer(model: &Model, source: &str, destination: &str) -> String {
    match explain(model, source, destination) {
        Ok(e) => format!("{:?} {:?} {}", e.path, e.verdict, e.reason).to_lowercase(),
        Err(e) => e.to_string(),
    }
}

fn from_block(block: &str) -> Rule {
    let ip_blocks = authz::Match { values: vec![block.parse().unwrap()], not_values: Vec::new() };
    Rule { from: vec![authz::Source { ip_blocks, ..Default::default() }], ..Rule::default() }
}

#[test]
fn the_source_has_an_address_of_each_family() {
    let about = |name: &str, app: &str, action, rule| AuthorizationPolicy {
        scope: Scope::Selector(labels(app)),
        ..policy(name, action, vec![rule])
    };
    let mesh = model([
        ambient("ring/alpha", "10.0.0.4 fd00::4", "").into(),
        ambient("ring/beta", "10.0.0.5 fd00::5", "").into(),
        ambient("ring/gamma", "10.0.0.6 fd00::6", "").into(),
        ambient("ring/four", "10.0.0.7", "").into(),
        service("ring/beta6 app=beta fd96::1 80").into(),
        about("ring/beta", "app=beta", Action::Allow, from_block("fd00::/64")).into(),
        about("ring/gamma", "app=gamma", Action::Deny, from_block("fd00::4/128")).into(),
    ]);
    let check = |source: &str, destination: &str, expect: &str| {
        let got = answer(&mesh, source, destination);
        assert!(got.starts_with(expect), "{source} {destination}: {got}");
    };
    for source in ["ring/alpha", "10.0.0.4", "fd00::4"] {
        check(source, "[fd00::5]:80", "hbone allow");
        check(source, "beta6.ring:80", "hbone allow");
        check(source, "10.0.0.5:80", "hbone deny");
        check(source, "[fd00::6]:80", "hbone deny");
        check(source, "10.0.0.6:80", "hbone allow");
    }
    check("ring/four", "[fd00::6]:80", "refused deny unreachable");
    check("ring/four", "10.0.0.6:80", "hbone allow");
    check("ring/four", "[::1]:80", "untouched allow");
    // the address of a source that is no pod is as written
    check("192.0.2.1", "[fd00::6]:80", "plaintext allow");
}

#[test]
fn node_ports_and_addresses_of_nodes() {
    let at = |ip: &str| Node { addresses: vec![ip.parse().unwrap()], ..node("node-1", "") };
    let mut api = service("shop/api app=api 10.96.0.1 80=8080");
    api.node_ports = [(80, 30080)].into();
    api.external = vec!["172.28.0.1".parse().unwrap()];
    let mesh = |more: Object| {
        model([
            at("172.28.0.1").into(),
            ambient("shop/web", "10.0.0.1", "").into(),
            ambient("shop/api", "10.0.0.2", "").into(),
            api.clone().into(),
            more,
        ])
    };
    let strict = mesh(peer_authentication("shop/s - STRICT").into());
    // by port, by an external address that is a node's, and from outside
    for source in ["shop/web", "192.0.2.1"] {
        for destination in ["172.28.0.1:30080", "172.28.0.1:80"] {
            assert_eq!(
                answer(&strict, source, destination),
                "plaintext deny plaintext_refused",
                "{source} {destination}"
            );
        }
    }
    assert_eq!(answer(&strict, "shop/web", "api:80"), "hbone allow no policy forbids it");
    assert_eq!(answer(&strict, "shop/web", "172.28.0.1:22"), "untouched allow the mesh does not touch this connection");
    // the node's address is what is judged
    let by_address = mesh(policy("shop/p", Action::Allow, vec![from_block("172.28.0.0/16")]).into());
    assert_eq!(answer(&by_address, "shop/web", "172.28.0.1:30080"), "plaintext allow allowed by shop/p");
}

/// What an agent answers that is given facts and no objects.
#[test]
fn facts_alone() {
    let member =
        Pod { hostname: Some(Box::new(("db-0".into(), "db".into()))), ..ambient("shop/db-0", "10.0.0.2", "app=db") };
    let mut api = service("shop/api app=db 10.96.0.1 80=5432");
    api.node_ports = [(80, 30080)].into();
    let node = Node { addresses: vec!["172.28.0.1".parse().unwrap()], ..node("node-1", "") };
    let mesh = model([
        node.into(),
        ambient("shop/web", "10.0.0.1", "").into(),
        member.into(),
        service("shop/db app=db - 5432").into(),
        api.into(),
        peer_authentication("shop/s - STRICT").into(),
    ]);
    let facts = |destination: &str| crate::explain::explain(mesh.world(), None, "shop/web", destination);
    let objects = |destination: &str| explain(&mesh, "shop/web", destination);
    for destination in ["db:5432", "api:80", "shop/db-0:5432", "172.28.0.1:22"] {
        assert!(objects(destination).is_ok(), "{destination}");
        assert_eq!(facts(destination), objects(destination));
    }
    assert_eq!(objects("172.28.0.1:30080").map(|e| e.path), Ok(Path::Plaintext));
    assert_eq!(facts("172.28.0.1:30080").map(|e| e.path), Ok(Path::Untouched));
    assert!(objects("db-0.db:5432").is_ok());
    assert!(matches!(facts("db-0.db:5432"), Err(Unknown::Destination { .. })));
}

#[test]
fn headless_endpoints_of_two_families() {
    let both = |n: u8| ambient(&format!("data/both-{n}"), &format!("10.0.0.{n} fd00::{n}"), "app=db").into();
    let mesh = model([
        both(1),
        both(2),
        ambient("data/six", "fd00::3", "app=db").into(),
        ambient("data/app", "10.0.0.9 fd00::9", "").into(),
        ambient("data/app6", "fd00::8", "").into(),
        service("data/db app=db - 5432").into(),
    ]);
    let check = |source: &str, first: &str| {
        let said = explain(&mesh, source, "db:5432").unwrap();
        assert!(said.destination.contains(first), "{}", said.destination);
        let step = format!("headless: its callers connect to one of its 3 endpoints; {first} is explained");
        assert!(said.steps.iter().any(|s| s.says == step), "{:?}", said.steps);
    };
    check("data/app", "10.0.0.1");
    check("data/app6", "fd00::1");
}

#[test]
fn sidecars_judge_for_themselves() {
    let with_sidecar = |name: &str, ip: &str| Pod { proxy: Some(OwnProxy::Sidecar), ..pod(name, ip) };
    let mesh = |mode: &str| {
        model([
            ambient("new/web", "10.0.0.1", "").into(),
            ambient("new/db", "10.0.0.4", "").into(),
            pod("new/plain", "10.0.0.5").into(),
            with_sidecar("old/api", "10.0.0.2").into(),
            with_sidecar("old/other", "10.0.0.3").into(),
            service("old/api app=api 10.96.0.1 80=8080").into(),
            peer_authentication(&format!("old/s - {mode}")).into(),
            peer_authentication("new/s - STRICT").into(),
        ])
    };
    let refused = "untouched deny plaintext_refused: by the sidecar of old/api";
    for destination in ["old/api:8080", "api.old:80"] {
        assert_eq!(answer(&mesh("STRICT"), "new/web", destination), refused);
        assert_eq!(answer(&mesh("STRICT"), "new/plain", destination), refused);
        assert!(answer(&mesh("PERMISSIVE"), "new/web", destination).starts_with("untouched allow"));
        assert!(answer(&mesh("STRICT"), "old/other", destination).starts_with("untouched allow"));
    }
    // its mutual TLS is plaintext to the mesh
    assert_eq!(answer(&mesh("STRICT"), "old/api", "new/db:5432"), "plaintext deny plaintext_refused");
}

#[test]
fn names_below_a_headless_service() {
    let member = |n: u8| Pod {
        hostname: Some(Box::new((format!("ledger-{n}").into(), "ledger".into()))),
        ..ambient(&format!("data/ledger-{n}"), &format!("10.0.0.{n}"), "app=ledger")
    };
    let only_second = AuthorizationPolicy {
        scope: Scope::Selector(labels("second=yes")),
        ..policy("data/p", Action::Deny, vec![Rule::default()])
    };
    let mut second = member(2);
    let mesh = |second: &Pod| {
        model([
            member(1).into(),
            second.clone().into(),
            ambient("data/app", "10.0.0.9", "").into(),
            ambient("far/app", "10.0.0.8", "").into(),
            service("data/ledger app=ledger - 5432").into(),
            service("data/none app=none - 5432").into(),
            only_second.clone().into(),
        ])
    };
    let all = mesh(&second);
    for destination in [
        "ledger-1.ledger:5432",
        "ledger-1.ledger.data:5432",
        "ledger-1.ledger.data.svc:5432",
        "ledger-1.ledger.data.svc.cluster.local:5432",
        "ledger-1.ledger.data.svc.cluster.local.:5432",
        "ledger:5432",
        "ledger.data:5432",
        "data/ledger:5432",
    ] {
        let e = explain(&all, "data/app", destination).unwrap();
        assert_eq!(
            (e.verdict, e.destination.as_str()),
            (Answer::Allow, "pod data/ledger-1 (10.0.0.1) port 5432"),
            "{destination}"
        );
        assert!(!e.steps.iter().any(|s| s.says.contains("differ")), "{destination}");
    }
    assert!(answer(&all, "far/app", "ledger-1.ledger:5432").contains("no pod or service of that name"));
    assert!(answer(&all, "data/app", "ledger-3.ledger:5432").contains("no pod or service of that name"));
    assert!(answer(&all, "data/app", "ledger-1.ledger.svc:5432").contains("no pod or service of that name"));
    assert!(answer(&all, "data/app", "none:5432").contains("is headless and has no endpoint"));
    second.labels.extend(labels("second=yes"));
    let e = explain(&mesh(&second), "data/app", "ledger:5432").unwrap();
    assert!(
        e.steps.iter().any(|s| s.says == "the verdict depends on the endpoint (10.0.0.1: allow, 10.0.0.2: deny)"),
        "{:?}",
        e.steps
    );
}
