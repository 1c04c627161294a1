//! Connections that a waypoint carries on: the source that it names is judged, and the waypoint counts only where it is
//! named exactly.

use proptest::{prelude::*, sample::select};

use super::*;
use crate::{
    NamedSource, TrustDomain,
    objects::{EndpointSlice, SlicePort},
    testing::{by_method, gateway, service, slice_endpoint, some_address, some_model},
};

const FRONTEND: &str = "cluster.local/ns/front/sa/frontend";
const WAYPOINT: &str = "cluster.local/ns/default/sa/w";

fn identity(text: &str) -> Identity {
    format!("spiffe://{text}").parse().unwrap()
}

/// The verdict about frontend through the waypoint, at the default/a of the other tests.
fn through(policies: Vec<AuthorizationPolicy>) -> Verdict {
    let a = pod("default/a", "10.0.0.1");
    let world = world(policies.into_iter().map(Object::from).chain([a.into()]));
    let a = world.pod(&name("default/a")).unwrap();
    let named = NamedSource { identity: identity(FRONTEND), address: "10.0.0.3:40000".parse().unwrap() };
    let waypoint = identity(WAYPOINT);
    let peer = Peer::of_tunnel("10.0.0.2".parse().unwrap(), &waypoint, Some(&named));
    judge(&world, &Request { peer, workload: a, address: "10.0.0.1".parse().unwrap(), port: 80 }, &mut ())
}

#[test]
fn the_named_source_is_judged_and_the_waypoint_where_it_is_named() {
    for (text, matches) in [
        ("from principals=cluster.local/ns/front/sa/frontend", true),
        ("from principals=cluster.local/ns/front/*", true),
        ("from serviceAccounts=front/frontend", true),
        ("from namespaces=front", true),
        ("from trustDomains=cluster.local", true),
        ("from ipBlocks=10.0.0.3/32", true),
        ("when source.ip=10.0.0.3/32", true),
        ("when source.namespace=front", true),
        // the waypoint, exactly
        ("from principals=cluster.local/ns/default/sa/w", true),
        ("from serviceAccounts=default/w", true),
        ("when source.principal=cluster.local/ns/default/sa/w", true),
        ("when source.serviceAccount=default/w", true),
        // and by nothing that others have as well
        ("from principals=cluster.local/ns/default/*", false),
        ("from principals=*/sa/w", false),
        ("from namespaces=default", false),
        ("from ipBlocks=10.0.0.2/32", false),
        ("when source.ip=10.0.0.2/32", false),
        ("when source.namespace=default", false),
        ("when source.principal=*/sa/w", false),
        // nor among those that must not match
        ("from notPrincipals=cluster.local/ns/default/sa/w", true),
        ("from notServiceAccounts=default/w", true),
        ("from notPrincipals=cluster.local/ns/front/sa/frontend", false),
        ("from notNamespaces=default", true),
        ("from notNamespaces=front", false),
        ("from notIpBlocks=10.0.0.2/32", true),
        ("from notIpBlocks=10.0.0.3/32", false),
        ("when !source.principal=cluster.local/ns/default/sa/w", true),
        // both in one list
        ("from principals=cluster.local/ns/default/sa/w notNamespaces=front", false),
    ] {
        let allow = through(vec![policy("default/p", Action::Allow, vec![rule(text)])]);
        assert_eq!(allow.is_allow(), matches, "ALLOW {text}: {allow:?}");
        let deny = through(vec![policy("default/p", Action::Deny, vec![rule(text)])]);
        assert_eq!(deny.is_allow(), !matches, "DENY {text}: {deny:?}");
    }
}

#[test]
fn what_a_waypoint_of_ours_carries_on_has_been_judged_there() {
    let gets = |action, text: &str| {
        let to = vec![by_method("GET")];
        policy("default/p", action, vec![Rule { to, ..rule(text) }])
    };
    let any = |action| policy("default/p", action, vec![Rule { to: vec![by_method("GET")], ..Rule::default() }]);
    assert!(through(vec![any(Action::Allow)]).is_allow());
    assert!(through(vec![any(Action::Deny)]).is_allow());
    // The rest of an ALLOW rule holds for the source.
    assert!(through(vec![gets(Action::Allow, "from namespaces=front")]).is_allow());
    assert!(!through(vec![gets(Action::Allow, "from namespaces=other")]).is_allow());
    // A caller past it, or a waypoint that names none, is judged without.
    let needs = |verdict: Verdict| matches!(verdict, Verdict::Deny { reason: Reason::NeedsWaypoint(_), .. });
    for identity in [FRONTEND, WAYPOINT, "-"] {
        assert!(needs(ask(vec![any(Action::Allow)], identity)), "{identity}");
        assert!(needs(ask(vec![any(Action::Deny)], identity)), "{identity}");
    }
}

/// Whether `account` speaks for the callers of a pod behind a service with a waypoint, beside these pods.
fn speaks(identity: &str, more: Vec<Object>) -> bool {
    let instance = |name: &str, ip: &str| {
        let mut pod = pod(name, ip);
        (pod.labels, pod.service_account) = (labels("app=w"), "w".into());
        Object::from(pod)
    };
    let objects = [
        gateway("default/w").into(),
        service("default/w app=w 10.96.0.9 15008").into(),
        instance("default/w1", "10.0.0.8"),
        instance("default/w2", "10.0.0.9"),
        Object::from(crate::objects::Service {
            labels: labels("istio.io/use-waypoint=w"),
            ..service("default/a app=a 10.96.0.1 80")
        }),
        pod("default/a", "10.0.0.1").into(),
    ];
    let world = world(objects.into_iter().chain(more));
    let a = world.pod(&name("default/a")).unwrap();
    world.speaks_for_callers_of(&self::identity(identity), a)
}

#[test]
fn a_waypoint_is_believed_where_it_stands_and_only_while_its_account_is_its_own() {
    let ordinary = |namespace: &str, account: &str| {
        let mut pod = pod(&format!("{namespace}/x"), "10.0.0.7");
        pod.service_account = account.into();
        vec![Object::from(pod)]
    };
    assert!(speaks(WAYPOINT, vec![]));
    assert!(speaks(WAYPOINT, ordinary("default", "x")));
    assert!(speaks(WAYPOINT, ordinary("other", "w")), "an account of the same name elsewhere is another one");
    assert!(!speaks(WAYPOINT, ordinary("default", "w")), "an ordinary pod could name anyone");
    for other in [FRONTEND, "cluster.local/ns/default/sa/a", "other.org/ns/default/sa/w"] {
        assert!(!speaks(other, vec![]), "{other}");
    }
    let detached = crate::objects::Service {
        labels: labels("istio.io/use-waypoint=none"),
        ..service("default/a app=a 10.96.0.1 80")
    };
    assert!(!speaks(WAYPOINT, vec![detached.into()]), "no waypoint stands before it");
}

#[test]
fn another_namespace_puts_no_waypoint_before_a_pod() {
    let mut instance = pod("evil/w1", "10.0.0.66");
    (instance.labels, instance.service_account) = (labels("app=w"), "w".into());
    let slice = |service: &str, address: &str| EndpointSlice {
        name: name(&format!("{service}-1")),
        service: name(service),
        ports: vec![SlicePort { name: "p80".into(), port: 80 }],
        endpoints: vec![slice_endpoint(address)],
    };
    let attached =
        crate::objects::Service { labels: labels("istio.io/use-waypoint=w"), ..service("evil/s - 10.96.0.66 80") };
    let theirs = || {
        vec![
            gateway("evil/w").into(),
            service("evil/w app=w 10.96.0.67 15008").into(),
            instance.clone().into(),
            attached.clone().into(),
            slice("evil/s", "10.0.0.1").into(),
        ]
    };
    assert!(!speaks("cluster.local/ns/evil/sa/w", theirs()), "its slice lists default/a");
    assert!(speaks(WAYPOINT, theirs()));
    // Nor is a pod an instance whose address such a slice lists.
    assert!(!speaks(
        "cluster.local/ns/evil/sa/w",
        vec![slice("default/w", "10.0.0.66").into(), instance.clone().into()]
    ));
}

proptest! {
    /// Where a verdict through a waypoint differs from that about the source itself, a policy names the waypoint exactly,
    /// or asks for what only a waypoint judges.
    #[test]
    fn a_waypoint_adds_nothing_that_is_not_named(
        model in some_model(),
        from in some_address(),
        via in some_address(),
        (source, waypoint) in (select(vec!["x1", "x2"]), select(vec!["x3", "x4"])),
        namespace in select(vec!["default", "other"]),
    ) {
        let world = model.world();
        let of = |account: &str, namespace: &str| Identity::new(&TrustDomain::default(), namespace, account);
        let (source, waypoint) = (of(source, "default"), of(waypoint, namespace));
        let named = NamedSource { identity: source.clone(), address: std::net::SocketAddr::new(from, 1) };
        let exact: Vec<_> = world.policies().flat_map(|p| &p.rules).flat_map(|r| &r.from)
            .filter(|s| s.principals.values.iter().any(PrincipalMatch::is_exact) || s.l7.is_some()).collect();
        prop_assume!(exact.is_empty() && world.policies().all(|p| p.action != Action::Custom));
        for w in world.workloads() {
            let Some(address) = w.addresses.first().copied() else { continue };
            let verdict = |peer| judge(world, &Request { peer, workload: w, address, port: 80 }, &mut ());
            let itself = verdict(Peer::itself(from, Some(&source)));
            let through = verdict(Peer::of_tunnel(via, &waypoint, Some(&named)));
            prop_assert_eq!(itself, through);
        }
    }
}
