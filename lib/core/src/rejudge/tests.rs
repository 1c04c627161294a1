//! Every kind of change against every kind of open connection, in both families: what ends is named, all else stays.

use proptest::prelude::*;

use super::*;
use crate::{
    Kind, ObjectKey, TrustDomain,
    authz::{Match, PrincipalMatch, Rule, Source},
    objects::{Batch, Change, Object, Phase, Pod, Service},
    resolve::Model,
    route::{self, Plan},
    testing::{
        ambient, gateway, labels, model, name, namespace, peer_authentication, pod, policy, service, some_address,
        some_batch, some_model,
    },
    world::{Action, AuthorizationPolicy, MeshSettings, PolicyTarget, Scope, TargetKind},
};

/// Pods a and b in the mesh, z outside; services `b` (of b), `z` (of z), and `other` (of no pod).
fn objects() -> Vec<Object> {
    vec![
        namespace("default").into(),
        a().into(),
        b().into(),
        pod("default/z", Z).into(),
        service("default/b app=b 10.96.0.1,fd96::1 80").into(),
        service("default/z app=z 10.96.0.2,fd96::2 80").into(),
        service("default/other app=other 10.96.0.3,fd96::3 80").into(),
    ]
}

const A: &str = "10.0.0.1 fd00::1";
const B: &str = "10.0.0.2 fd00::2";
const Z: &str = "10.0.0.9 fd00::9";

fn a() -> Pod {
    ambient("default/a", A, "app=a")
}

fn b() -> Pod {
    ambient("default/b", B, "app=b")
}

/// The addresses of both ends of one family.
fn ip(addresses: &str, v4: bool) -> IpAddr {
    addresses.split(' ').map(|a| a.parse().unwrap()).find(|ip: &IpAddr| ip.is_ipv4() == v4).unwrap()
}

fn uid(pod: &str) -> Uid {
    Uid::of_pod(&MeshSettings::default().cluster, &name(pod))
}

fn identity(account: &str) -> Identity {
    Identity::new(&TrustDomain::default(), "default", account)
}

/// A's tunnel to what may answer as one of these.
fn through(hop: HopKind, accounts: &[&str]) -> OutboundPath {
    let identities = Identities::new(accounts.iter().map(|account| identity(account)));
    OutboundPath::Tunnel { own: identity("a"), hop, identities }
}

/// The open connections, by name: a's to b at b's node, z's to b, and at a's node those to b, to b and to z by their
/// services, and to z by that of none.
fn open(v4: bool) -> [(&'static str, Judged); 5] {
    let (from, b, z) = (ip(A, v4), ip(B, v4), ip(Z, v4));
    let to_b = |peer, identity| ("default/b", Basis::Inbound { address: b, port: 80, peer, identity, named: None });
    let hbone = || through(HopKind::Workload, &["b"]);
    let from_a = |target, service: Option<&str>, path| {
        let (service, target) = (service.map(name), SocketAddr::new(target, 80));
        ("default/a", Basis::Outbound { from, service, target, path })
    };
    let all = [
        ("inbound", to_b(from, Some(identity("a")))),
        ("plaintext", to_b(z, None)),
        ("direct", from_a(b, None, hbone())),
        ("service", from_a(b, Some("default/b"), hbone())),
        ("plain", from_a(z, Some("default/z"), OutboundPath::Plain)),
    ];
    all.map(|(what, (pod, basis))| (what, Judged { pod: uid(pod), basis, judged_at: Version(1) }))
}

/// After `changes` exactly these end: name, reason, policy.
fn check_world(what: &str, change: impl Fn(&mut Model), ends: &[(&str, Reason, &str)]) {
    let before = model(objects());
    let mut after = before.clone();
    change(&mut after);
    let (before, after) = (before.world(), after.world());
    for v4 in [true, false] {
        for (connection, judged) in open(v4) {
            assert!(check(before, &judged).is_allow(), "{connection} is open");
            let expected = ends.iter().find(|(c, ..)| *c == connection).map(|(_, reason, policy)| Verdict::Deny {
                policy: (!policy.is_empty()).then(|| name(policy)),
                reason: reason.clone(),
            });
            let got = check(after, &judged);
            match expected {
                Some(expected) => assert_eq!(got, expected, "{what}: {connection}, IPv4 {v4}"),
                None => assert!(got.is_allow(), "{what}: {connection} stays, IPv4 {v4}: {got:?}"),
            }
            let concerned = Changes::new(before, after).may_concern(&judged);
            assert!(concerned || got.is_allow(), "{what}: {connection} is looked at");
        }
    }
}

fn ends(what: &str, changes: impl IntoIterator<Item = Object>, expected: &[(&str, Reason, &str)]) {
    let batch: Batch = changes.into_iter().collect();
    check_world(what, |model| drop(model.apply(&batch)), expected);
}

fn goes(what: &str, kind: Kind, full_name: &str, expected: &[(&str, Reason, &str)]) {
    let of_namespace = full_name.contains('/').then(|| name(full_name));
    let key = ObjectKey::new(kind, of_namespace.unwrap_or_else(|| ObjectName::cluster(full_name)));
    let batch = Batch { changes: vec![Change::Remove(key)] };
    check_world(what, |model| drop(model.apply(&batch)), expected);
}

/// A rule about an identity.
fn from(principal: &str) -> Rule {
    let principals = Match { values: vec![PrincipalMatch::parse(principal)], not_values: Vec::new() };
    Rule { from: vec![Source { principals, ..Source::default() }], ..Rule::default() }
}

const OF_A: &str = "cluster.local/ns/default/sa/a";
const OF_X: &str = "cluster.local/ns/default/sa/x";

fn selecting(app: &str, policy: AuthorizationPolicy) -> AuthorizationPolicy {
    AuthorizationPolicy { scope: Scope::Selector(labels(&format!("app={app}"))), ..policy }
}

#[test]
fn policies() {
    let allow = |rules| policy("default/p", Action::Allow, rules);
    let denies = |rules| policy("default/p", Action::Deny, rules);
    let (not_allowed, denied) = (Reason::NotAllowed, Reason::Denied);
    let both = [("inbound", not_allowed.clone(), "default/p"), ("plaintext", not_allowed.clone(), "default/p")];
    ends("ALLOW of none", [allow(vec![]).into()], &both);
    ends("ALLOW of all", [allow(vec![Rule::default()]).into()], &[]);
    ends("ALLOW of a", [allow(vec![from(OF_A)]).into()], &[("plaintext", not_allowed.clone(), "default/p")]);
    ends("ALLOW of x", [allow(vec![from(OF_X)]).into()], &both);
    ends("DENY of a", [denies(vec![from(OF_A)]).into()], &[("inbound", denied.clone(), "default/p")]);
    ends("DENY of x", [denies(vec![from(OF_X)]).into()], &[]);
    ends("DENY without rules", [denies(vec![]).into()], &[]);
    let dry = AuthorizationPolicy { dry_run: true, ..denies(vec![Rule::default()]) };
    ends("dry run", [dry.into()], &[]);
    ends("selects b", [selecting("b", allow(vec![])).into()], &both);
    ends("selects a", [selecting("a", allow(vec![])).into()], &[]);
    ends("another namespace", [policy("other/p", Action::Deny, vec![Rule::default()]).into()], &[]);
    let root = |policy| AuthorizationPolicy { name: name("istio-system/p"), ..policy };
    let all_denied = [("inbound", denied.clone(), "istio-system/p"), ("plaintext", denied, "istio-system/p")];
    ends("the mesh", [root(denies(vec![Rule::default()])).into()], &all_denied);
    ends("the mesh's b", [root(selecting("b", denies(vec![Rule::default()]))).into()], &all_denied);
    ends("the mesh's a", [root(selecting("a", denies(vec![Rule::default()]))).into()], &[]);
    let targets = AuthorizationPolicy {
        scope: Scope::Targets(vec![PolicyTarget::new(TargetKind::Gateway, "w")]),
        ..allow(vec![])
    };
    ends("a waypoint's", [targets.into()], &[]);
}

#[test]
fn edits_and_removals_of_policies() {
    let only_a = selecting("b", policy("default/p", Action::Allow, vec![from(OF_A)]));
    let mut with = objects();
    with.push(only_a.clone().into());
    let before = model(with);
    let inbound = || open(true)[0].1.clone();
    let after = |change: Change| {
        let mut after = before.clone();
        after.apply(&Batch { changes: vec![change] });
        check(after.world(), &inbound())
    };
    assert!(check(before.world(), &inbound()).is_allow());
    let edited = AuthorizationPolicy { rules: vec![from(OF_X)], ..only_a.clone() };
    let denied = Verdict::Deny { policy: Some(name("default/p")), reason: Reason::NotAllowed };
    assert_eq!(after(Change::Put(edited.into())), denied, "edited");
    let now_denies = AuthorizationPolicy { action: Action::Deny, ..only_a };
    let by_deny = Verdict::Deny { policy: Some(name("default/p")), reason: Reason::Denied };
    assert_eq!(after(Change::Put(now_denies.into())), by_deny, "ALLOW becomes DENY");
    let key = ObjectKey::new(Kind::AuthorizationPolicy, name("default/p"));
    assert!(after(Change::Remove(key.clone())).is_allow(), "the only one is removed");
    // One of two ALLOWs goes: what it alone allowed is denied by the other.
    let other = policy("default/q", Action::Allow, vec![from(OF_X)]);
    let mut both = before.clone();
    both.apply(&[other.into()].into_iter().collect());
    assert!(check(both.world(), &inbound()).is_allow());
    both.apply(&Batch { changes: vec![Change::Remove(key)] });
    let by_other = Verdict::Deny { policy: Some(name("default/q")), reason: Reason::NotAllowed };
    assert_eq!(check(both.world(), &inbound()), by_other);
}

#[test]
fn mutual_tls() {
    let refused = |by| [("plaintext", Reason::PlaintextRefused, by)];
    let one = |text: &str| [Object::from(peer_authentication(text))];
    ends("namespace", one("default/s - STRICT"), &refused("default/s"));
    ends("mesh", one("istio-system/s - STRICT"), &refused("istio-system/s"));
    ends("workload", one("default/s app=b STRICT"), &refused("default/s"));
    ends("another workload", one("default/s app=a STRICT"), &[]);
    ends("another namespace", one("other/s - STRICT"), &[]);
    ends("the port", one("default/s app=b PERMISSIVE 80=STRICT"), &refused("default/s"));
    ends("another port", one("default/s app=b PERMISSIVE 81=STRICT"), &[]);
    ends("all but the port", one("default/s app=b STRICT 80=PERMISSIVE"), &[]);
    ends("permissive", one("default/s - PERMISSIVE"), &[]);
}

#[test]
fn labels_of_pods_and_namespaces() {
    let strict = || Object::from(peer_authentication("default/s app=hard STRICT"));
    let closed = || Object::from(selecting("hard", policy("default/p", Action::Allow, vec![])));
    let hard = || ambient("default/b", B, "app=hard");
    let (n, p) = (Reason::NotAllowed, "default/p");
    ends(
        "a selector that starts to match",
        [closed(), hard().into()],
        &[("inbound", n.clone(), p), ("plaintext", n, p)],
    );
    let refused = [("plaintext", Reason::PlaintextRefused, "default/s")];
    ends("and of mutual TLS", [strict(), hard().into()], &refused);
    ends("one that does not", [strict(), closed()], &[]);
    // Leaving the mesh: the release ends them.
    ends("b leaves by its label", [ambient("default/b", B, "app=b istio.io/dataplane-mode=none").into()], &[]);
    ends("b leaves by losing its label", [pod("default/b", B).into()], &[]);
    ends("a leaves", [pod("default/a", A).into()], &[]);
    let ns = |text: &str| Object::from(crate::objects::Namespace { labels: labels(text), ..namespace("default") });
    ends("the namespace says no", [ns("istio.io/dataplane-mode=none")], &[]);
    ends("the namespace takes z in", [ns("istio.io/dataplane-mode=ambient")], &[]);
    // Where z takes no plaintext, and its node has never seen the connection.
    let z = || Object::from(ambient("default/z", Z, "app=z"));
    let by = |reason, policy| [("plain", reason, policy)];
    ends("z comes in", [z()], &[]);
    ends(
        "z comes in, strict",
        [z(), peer_authentication("default/s app=z STRICT").into()],
        &by(Reason::PlaintextRefused, "default/s"),
    );
    let only_a = selecting("z", policy("default/p", Action::Allow, vec![from(OF_A)]));
    ends("z comes in, and requires an identity", [z(), only_a.clone().into()], &by(Reason::NotAllowed, "default/p"));
    ends("the twin: z stays out", [peer_authentication("default/s app=z STRICT").into(), only_a.into()], &[]);
}

#[test]
fn identities() {
    let with = |mut w: Pod, account: &str| {
        w.service_account = account.into();
        Object::from(w)
    };
    let another_identity = [("direct", Reason::Identity, ""), ("service", Reason::Identity, "")];
    ends("a has another identity", [with(a(), "x")], &another_identity);
    ends("b has another identity", [with(b(), "x")], &another_identity);
    ends("z is", [with(pod("default/z", Z), "x")], &[]);
    // Another trust domain is another identity, an alias is not.
    let settings = |domain: &str, alias: Option<&str>| MeshSettings {
        trust_domain: domain.parse().unwrap(),
        trust_domain_aliases: alias.into_iter().map(|a| a.parse().unwrap()).collect(),
        ..MeshSettings::default()
    };
    let under = |s: MeshSettings| move |model: &mut Model| drop(model.set_settings(s.clone()));
    check_world("trust domain", under(settings("td.example", None)), &another_identity);
    check_world("alias", under(settings("cluster.local", Some("td.example"))), &[]);
}

/// Whether a's connection to b stays over each kind of hop where `change` happens: to the target's node, a waypoint, a
/// gateway.
fn stay_over(accounts: &[&str], service: Option<&str>, change: impl Fn(&mut Model)) -> [bool; 3] {
    let before = model(objects());
    let mut after = before.clone();
    change(&mut after);
    [HopKind::Workload, HopKind::Waypoint, HopKind::Gateway].map(|kind| {
        let stays = [true, false].map(|v4| {
            let (from, target) = (ip(A, v4), SocketAddr::new(ip(B, v4), 80));
            let basis = Basis::Outbound { from, service: service.map(name), target, path: through(kind, accounts) };
            let judged = Judged { pod: uid("default/a"), basis, judged_at: before.world().version() };
            let verdict = check(after.world(), &judged);
            let concerned = Changes::new(before.world(), after.world()).may_concern(&judged);
            assert!(concerned || verdict.is_allow(), "{kind:?} is looked at");
            verdict.is_allow()
        });
        assert_eq!(stays[0], stays[1], "both families, {kind:?}");
        stays[0]
    })
}

#[test]
fn kinds_of_hops() {
    let put = |objects: Vec<Object>| move |model: &mut Model| drop(model.apply(&objects.iter().cloned().collect()));
    let account = |mut w: Pod, account: &str| {
        w.service_account = account.into();
        Object::from(w)
    };
    let moved = || vec![ambient("default/b", "10.0.0.7 fd00::7", "app=b").into(), ambient("default/c", B, "").into()];
    let (all, via_proxy, none) = ([true; 3], [false, true, true], [false; 3]);
    assert_eq!(stay_over(&["b"], None, |_| {}), all);
    // Who has the target's address is the end of a tunnel to its node alone.
    assert_eq!(stay_over(&["b"], None, put(vec![account(b(), "x")])), via_proxy);
    assert_eq!(stay_over(&["b"], None, put(moved())), via_proxy);
    // Any of the set will do.
    assert_eq!(stay_over(&["b", "x"], None, put(vec![account(b(), "x")])), all);
    assert_eq!(stay_over(&["b", "c"], None, put(moved())), all);
    // The pod itself counts over all of them.
    assert_eq!(stay_over(&["b"], None, put(vec![account(a(), "x")])), none);
    assert_eq!(stay_over(&["b"], None, put(vec![ambient("default/a", "10.0.0.7 fd00::7", "app=a").into()])), none);
    // A waypoint that is wanted is passed by over all but one.
    let wants = |s: Service| Object::from(Service { labels: labels("istio.io/use-waypoint=w"), ..s });
    let by_service = put(vec![wants(service("default/b app=b 10.96.0.1,fd96::1 80"))]);
    assert_eq!(stay_over(&["b"], Some("default/b"), by_service), [false, true, false]);
    let by_pod = put(vec![ambient("default/b", B, "app=b istio.io/use-waypoint=w").into()]);
    assert_eq!(stay_over(&["b"], None, by_pod), [false, true, false]);
}

#[test]
fn addresses_and_objects() {
    let at_b = ["inbound", "plaintext"].map(|what| (what, Reason::PodGone, ""));
    let of_a = |reason: Reason| ["direct", "service", "plain"].map(|what| (what, reason.clone(), ""));
    goes("b's object", Kind::Pod, "default/b", &at_b);
    goes("a's object", Kind::Pod, "default/a", &of_a(Reason::PodGone));
    goes("z's object", Kind::Pod, "default/z", &[]);
    ends("b's address", [ambient("default/b", "10.0.0.7 fd00::7", "app=b").into()], &at_b);
    ends("a's address", [ambient("default/a", "10.0.0.7 fd00::7", "app=a").into()], &of_a(Reason::BadSource));
    // One address of another family more or less is none of theirs.
    ends("b's other addresses", [ambient("default/b", &format!("{B} fd00::77"), "app=b").into()], &[]);
    // Claimed twice: the other end is as it was.
    for addresses in [A, B, Z] {
        ends("claimed twice", [ambient("default/thief", addresses, "").into()], &[]);
    }
    ends("by a service", [service("default/thief - 10.0.0.2,fd00::2 80").into()], &[]);
    // The address of b is another pod's now.
    let moved = [ambient("default/b", "10.0.0.7 fd00::7", "app=b").into(), ambient("default/c", B, "").into()];
    let identity = ["direct", "service"].map(|what| (what, Reason::Identity, ""));
    ends("b's address is c's", moved, &[&at_b[..], &identity].concat());
    ends("b has ended", [Pod { phase: Phase::Terminal, ..b() }.into()], &at_b);
    goes("the namespace's object", Kind::Namespace, "default", &[]);
}

#[test]
fn services_and_waypoints() {
    let change = |f: fn(&mut Service)| {
        let mut s = service("default/b app=b 10.96.0.1,fd96::1 80");
        f(&mut s);
        [Object::from(s)]
    };
    goes("the service", Kind::Service, "default/b", &[]);
    ends("another endpoint", change(|s| s.selector = Some(labels("app=other"))), &[]);
    ends("another port", change(|s| s.ports.clear()), &[]);
    ends("another VIP", change(|s| s.vips.clear()), &[]);
    ends("a name elsewhere", change(|s| s.external_name = Some("example.org".into())), &[]);
    ends("b is not ready", [Pod { ready: false, ..b() }.into()], &[]);
    let missing = |what| [(what, Reason::WaypointMissing, "")];
    ends("a waypoint", change(|s| s.labels = labels("istio.io/use-waypoint=w")), &missing("service"));
    ends("none", change(|s| s.labels = labels("istio.io/use-waypoint=none")), &[]);
    let optional = |s: &mut Service| {
        s.labels = labels("istio.io/use-waypoint=w");
        s.waypoint_optional = true;
    };
    ends("a waypoint that may be missing", change(optional), &[]);
    let there = |instances: &str| {
        let own = service(&format!("default/w app={instances} 10.96.0.9,fd96::9 15008"));
        change(|s| s.labels = labels("istio.io/use-waypoint=w"))
            .into_iter()
            .chain([gateway("default/w").into(), own.into()])
    };
    ends("a waypoint that is there", there("w"), &[("service", Reason::WaypointBypassed, "")]);
    ends("of which the caller is an instance", there("a"), &[]);
    let ns = crate::objects::Namespace { labels: labels("istio.io/use-waypoint=w"), ..namespace("default") };
    ends("the namespace's", [ns.into()], &[missing("service"), missing("plain"), missing("direct")].concat());
    ends("the pod's", [ambient("default/b", B, "app=b istio.io/use-waypoint=w").into()], &missing("direct"));
    let z = Service { labels: labels("istio.io/use-waypoint=w"), ..service("default/z app=z 10.96.0.2,fd96::2 80") };
    ends("of a pod outside", [z.into()], &missing("plain"));
}

proptest! {
    /// What is not looked at would have stayed; what was just opened is open.
    #[test]
    fn nothing_is_overlooked(
        start in some_model(),
        batch in some_batch(),
        from in some_address(),
        to in some_address(),
        plaintext in any::<bool>(),
    ) {
        let mut next = start.clone();
        next.apply(&batch);
        let (before, after) = (start.world(), next.world());
        let changes = Changes::new(before, after);
        let mut open = Vec::new();
        for w in before.workloads() {
            for address in w.addresses.iter().filter(|_| w.is_pod()) {
                let identity = (!plaintext).then(|| identity("x1"));
                let basis = Basis::Inbound { address: *address, port: 80, peer: from, identity, named: None };
                open.push(Judged { pod: w.uid.clone(), basis, judged_at: before.version() });
            }
            let Some(from) = w.addresses.first().copied().filter(|_| w.is_pod()) else { continue };
            let to = SocketAddr::new(to, 80);
            let (destination, path) = match route::plan(before, w, to, 0, &mut ()) {
                Plan::Hbone { destination, hop } => {
                    (destination, OutboundPath::tunnel(before.identity(w).expect("a pod").clone(), &hop))
                }
                Plan::Plain { destination } => (destination, OutboundPath::Plain),
                Plan::Refuse { .. } => continue,
            };
            let basis = Basis::Outbound { from, service: destination.service, target: destination.target, path };
            let judged = Judged { pod: w.uid.clone(), basis, judged_at: before.version() };
            prop_assert!(check(before, &judged).is_allow(), "just opened: {judged:?}");
            open.push(judged);
        }
        for judged in open {
            if !changes.may_concern(&judged) {
                prop_assert_eq!(check(before, &judged), check(after, &judged), "{:?}", judged);
            }
        }
    }
}
