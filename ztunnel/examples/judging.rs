//! The cost of a change for a worker with 10,000 open connections, by kind of change: comparing Worlds, and judging again the
//! connections that it concerns.
//! `cargo run --release -p underpass-ztunnel --example judging`

use std::{hint::black_box, net::SocketAddr, time::Instant};

use underpass_core::{
    Identity, TrustDomain, World,
    authz::{Match, PrincipalMatch, Rule, Source},
    objects::{Batch, Object},
    rejudge::{self, Basis, Changes, Judged, OutboundPath},
    route::HopKind,
    testing::{ambient, model, name, policy, service},
    world::{Action, Uid},
};

const CONNECTIONS: usize = 10_000;
const PODS: usize = 1_000;
const LOCAL: usize = 50;
const POLICIES: usize = 20;

/// A policy whose principal is none of the callers.
fn unrelated(full_name: &str, action: Action) -> Object {
    let principals = Match { values: vec![PrincipalMatch::parse("cluster.local/ns/x/sa/y")], not_values: Vec::new() };
    let rule = Rule { from: vec![Source { principals, ..Source::default() }], ..Rule::default() };
    policy(full_name, action, vec![rule]).into()
}

fn address(n: usize) -> String {
    format!("10.0.{}.{}", n / 250, n % 250 + 1)
}

fn connection(world: &World, n: usize) -> Judged {
    let (local, remote) = (n % LOCAL, LOCAL + n % (PODS - LOCAL));
    let identity = |n: usize| Identity::new(&TrustDomain::default(), "default", &format!("p{n}"));
    let ip = |n: usize| address(n).parse().expect("address");
    let basis = if n.is_multiple_of(2) {
        Basis::Inbound { address: ip(local), port: 80, peer: ip(remote), identity: Some(identity(remote)), named: None }
    } else {
        Basis::Outbound {
            from: ip(local),
            service: Some(name("default/s")),
            target: SocketAddr::new(ip(remote), 80),
            path: OutboundPath::Tunnel {
                own: identity(local),
                hop: HopKind::Workload,
                identities: identity(remote).into(),
            },
        }
    };
    let pod = Uid::of_pod(&world.settings().cluster, &name(&format!("default/p{local}")));
    Judged { pod, basis, judged_at: world.version() }
}

fn main() {
    let pods = (0..PODS).map(|n| Object::from(ambient(&format!("default/p{n}"), &address(n), "")));
    let policies = (0..POLICIES).map(|n| unrelated(&format!("default/d{n}"), Action::Deny));
    let model = model(pods.chain(policies).chain([service("default/s app=s 10.96.0.1 80").into()]));
    let before = model.world();
    let open: Vec<Judged> = (0..CONNECTIONS).map(|n| connection(before, n)).collect();
    for (what, object) in [
        ("a pod elsewhere", Object::from(ambient("other/new", "10.9.0.1", ""))),
        ("one of this node's pods", ambient("default/p1", &address(1), "changed=yes").into()),
        ("a policy of another namespace", unrelated("other/p", Action::Deny)),
        ("a policy of their namespace", unrelated("default/p", Action::Deny)),
        ("a policy of the mesh", unrelated("istio-system/p", Action::Deny)),
    ] {
        let mut batch = Batch::default();
        batch.put(object);
        let mut next = model.clone();
        let at = Instant::now();
        next.apply(&batch);
        let after = next.world();
        let applied = at.elapsed();
        let at = Instant::now();
        let changes = Changes::new(before, after);
        let compared = at.elapsed();
        let concerned: Vec<&Judged> = open.iter().filter(|judged| changes.may_concern(judged)).collect();
        let at = Instant::now();
        let denied = concerned.iter().filter(|judged| !black_box(rejudge::check(after, judged)).is_allow()).count();
        let judged = at.elapsed();
        println!(
            "{what}: World {applied:?}, compared {compared:?}, {} judged again {judged:?} ({denied} denied)",
            concerned.len()
        );
    }
}
