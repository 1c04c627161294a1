//! A World that was encoded and decoded is the one before in its normal form, and answers alike.

use std::{net::SocketAddr, sync::Arc};

use ipnet::IpNet;
use proptest::prelude::*;
use underpass_core::{
    World, admit,
    authz::{Operation, OperationL7, PathMatch, Peer, Request, Rule, Source, SourceL7, StringMatch},
    capture,
    resolve::Model,
    route::{self, Plan},
    testing::{peer_authentication, some_model, some_world},
    world::{AuthorizationPolicy, Fact, MeshSettings, Mtls, Scope, Workload},
};

use super::{decode, encode, map};

/// As the table in the module's documents says.
pub(super) fn normal(world: &World) -> World {
    map(world, |fact| match fact {
        Fact::Workload(w) => {
            Some(Fact::Workload(Arc::new(Workload { mtls: folded(world, &w), ..Workload::clone(&w) })))
        }
        Fact::Policy(p) if matches!(p.scope, Scope::Targets(_)) => None,
        Fact::Policy(p) => {
            let rules = p.rules.iter().map(without_l7_values).collect();
            Some(Fact::Policy(Arc::new(AuthorizationPolicy { rules, ..AuthorizationPolicy::clone(&p) })))
        }
        Fact::Service(s) => Some(Fact::Service(s)),
        Fact::Mtls(_) => None,
    })
}

fn folded(world: &World, workload: &Workload) -> Mtls {
    let unnamed = (1..=u16::MAX).find(|port| workload.mtls.of_port(*port).is_none()).unwrap();
    let default = world.mtls(workload, unnamed).cloned();
    let ports = workload.mtls.ports().map(|(port, _)| (port, world.mtls(workload, port).unwrap().clone()));
    let ports = ports.filter(|(_, mode)| default.as_ref() != Some(mode)).collect();
    Mtls::new(default, ports)
}

fn without_l7_values(rule: &Rule) -> Rule {
    let there = |all: usize| vec![StringMatch::Present; all.min(1)];
    let any: IpNet = "0.0.0.0/0".parse().unwrap();
    let source = |source: &Source| {
        let l7 = source.l7.as_ref().and_then(|l7| {
            let mut new = SourceL7::default();
            new.request_principals.values = there(l7.request_principals.values.len());
            new.request_principals.not_values = there(l7.request_principals.not_values.len());
            new.remote_ip_blocks.values = vec![any; l7.remote_ip_blocks.values.len().min(1)];
            new.remote_ip_blocks.not_values = vec![any; l7.remote_ip_blocks.not_values.len().min(1)];
            new.boxed()
        });
        Source { l7, ..source.clone() }
    };
    let operation = |operation: &Operation| {
        let l7 = operation.l7.as_ref().and_then(|l7| {
            let paths = |n| there(n).into_iter().map(PathMatch::Text).collect();
            let mut new = OperationL7::default();
            new.hosts.values = there(l7.hosts.values.len());
            new.hosts.not_values = there(l7.hosts.not_values.len());
            new.methods.values = there(l7.methods.values.len());
            new.methods.not_values = there(l7.methods.not_values.len());
            new.paths.values = paths(l7.paths.values.len());
            new.paths.not_values = paths(l7.paths.not_values.len());
            new.boxed()
        });
        Operation { l7, ..operation.clone() }
    };
    Rule {
        from: rule.from.iter().map(source).collect(),
        to: rule.to.iter().map(operation).collect(),
        when: rule.when.clone(),
    }
}

/// The answers for all pairs of workloads and all addresses.
pub(super) fn answers(world: &World) -> Vec<String> {
    let mut all = Vec::new();
    for from in world.workloads() {
        for ip in world.addresses() {
            all.push(format!("{} {ip} {:?}", from.uid, capture::decide(world, from, ip, &mut ())));
            for port in [80, 443, 8080] {
                for roll in [0, 1, u64::MAX] {
                    let plan = route::plan(world, from, SocketAddr::new(ip, port), roll, &mut ());
                    all.push(format!("{} {ip}:{port} {}", from.uid, planned(&plan)));
                }
            }
        }
        for to in world.workloads() {
            let addresses = || from.addresses.iter().flat_map(|a| to.addresses.iter().map(move |b| (*a, *b)));
            for (source, address) in addresses() {
                for port in [80, 443, 8080, 9000] {
                    for identity in [world.identity(from), None] {
                        let peer = Peer::itself(source, identity);
                        let request = Request { peer, workload: to, address, port };
                        let verdict = admit::admit(world, &request, &mut ());
                        let dry = underpass_core::authz::dry_run_denials(world, &request);
                        all.push(format!("{} {} {source} {port} {verdict:?} {dry:?}", from.uid, to.uid));
                    }
                }
            }
        }
    }
    all
}

/// A plan without the facts of the workload that it names.
fn planned(plan: &Plan) -> String {
    let (destination, rest) = match plan {
        Plan::Hbone { destination, hop } => (destination, format!("{hop:?}")),
        Plan::Plain { destination } => (destination, "plain".into()),
        Plan::Refuse { .. } => return format!("{plan:?}"),
    };
    let workload = destination.workload.as_ref().map(|w| &w.uid);
    format!("{} {workload:?} {:?} {rest}", destination.target, destination.service)
}

pub(super) fn some_settings() -> impl Strategy<Value = MeshSettings> {
    let other = MeshSettings {
        cluster: "west".into(),
        root_namespace: "default".into(),
        trust_domain: "mesh.example".parse().unwrap(),
        trust_domain_aliases: vec!["old.example".parse().unwrap()],
        cluster_domain: "k8s.example".into(),
        ..MeshSettings::default()
    };
    prop_oneof![3 => Just(MeshSettings::default()), 1 => Just(other)]
}

fn under(settings: MeshSettings, model: &Model) -> World {
    let mut model = model.clone();
    model.set_settings(settings);
    model.world().clone()
}

proptest! {
    #[test]
    fn a_decoded_world_is_the_normal_form_and_answers_alike(model in some_model(), settings in some_settings()) {
        let world = under(settings, &model);
        let resources = encode(&world);
        let decoded = decode(world.settings(), &resources);
        let expect = normal(&world);
        prop_assert_eq!(&decoded, &expect);
        prop_assert_eq!(answers(&decoded), answers(&world));
        // Encoded again it is the same.
        let again = encode(&decoded);
        prop_assert_eq!(&again.addresses, &resources.addresses);
        let l4 = |name: &Arc<str>| world.policies().all(|p| format!("{}", p.name) != **name || !p.rules.iter().any(|r| !r.l7_fields().is_empty()));
        prop_assert!(again.authorizations.keys().eq(resources.authorizations.keys()));
        for (name, resource) in &resources.authorizations {
            prop_assert!(!l4(name) || again.authorizations.get(name) == Some(resource));
        }
        prop_assert_eq!(decode(world.settings(), &again), decoded);
    }

    #[test]
    fn equal_facts_have_equal_bytes(world in some_world()) {
        let (a, b) = (encode(&world), encode(&map(&world, Some).apply(mtls_of(&world))));
        prop_assert_eq!(a.addresses, b.addresses);
        prop_assert_eq!(a.authorizations, b.authorizations);
    }
}

/// The facts about namespaces, which cannot be listed: found by a workload in each.
fn mtls_of(world: &World) -> underpass_core::world::Facts {
    use underpass_core::world::{Delta, Facts};
    let mut facts = Facts::default();
    let empty = World::empty(world.settings().clone());
    for one in Delta::between(&empty, world).mtls {
        one.new.iter().for_each(|mtls| facts.put(Fact::Mtls(Arc::clone(mtls))));
    }
    facts
}

/// Workloads that one PeerAuthentication means differently name different policies, and each has its own ports.
#[test]
fn peer_authentications_that_overlap() {
    use underpass_core::testing::{ambient, model, name};
    let objects = |all: &[&str]| {
        let pods =
            [ambient("default/x", "10.0.0.1", "app=x both=yes"), ambient("default/y", "10.0.0.2", "app=y both=yes")];
        let policies = all.iter().map(|text| peer_authentication(text).into());
        model(policies.chain(pods.map(Into::into))).world().clone()
    };
    let check = |all: &[&str], of: &str, expect: &[&str]| {
        let world = objects(all);
        let resources = encode(&world);
        let uid = format!("Kubernetes//Pod/{of}");
        let address =
            <crate::contract::istio::workload::Address as prost::Message>::decode(&*resources.addresses[&*uid].body);
        let Some(crate::contract::istio::workload::address::Type::Workload(message)) = address.unwrap().r#type else {
            panic!()
        };
        assert_eq!(message.authorization_policies, expect, "{all:?}");
        assert!(message.authorization_policies.iter().all(|name| resources.authorizations.contains_key(&**name)));
        let decoded = decode(world.settings(), &resources);
        assert_eq!(decoded, normal(&world));
        let (a, b) = (world.pod(&name(of)).unwrap(), decoded.pod(&name(of)).unwrap());
        for port in [79, 80, 81, 90] {
            assert_eq!(world.mtls(a, port), decoded.mtls(b, port), "{all:?} {of} {port}");
        }
    };
    let strict = "istio-system/istio_converted_static_strict";
    check(&[], "default/x", &[]);
    check(&["istio-system/m - STRICT"], "default/x", &[strict]);
    check(&["istio-system/m - STRICT", "default/n - PERMISSIVE"], "default/x", &[]);
    check(&["default/w both=yes STRICT"], "default/x", &[strict]);
    check(&["default/w both=yes STRICT 80=PERMISSIVE"], "default/x", &["default/converted_peer_authentication_w"]);
    check(&["default/w both=yes STRICT 80=STRICT"], "default/x", &[strict]);
    check(&["default/w both=yes PERMISSIVE 80=STRICT"], "default/x", &["default/converted_peer_authentication_w"]);
    check(
        &["istio-system/m - STRICT", "default/w both=yes UNSET 80=DISABLE"],
        "default/x",
        &["default/converted_peer_authentication_w"],
    );
    // The older one takes port 80 from what the other says about x, and not about y.
    let overlap = ["default/w both=yes STRICT 80=PERMISSIVE 90=PERMISSIVE @2", "default/a app=x UNSET 80=STRICT @1"];
    check(&overlap, "default/y", &["default/converted_peer_authentication_w"]);
    let hashed = objects(&overlap);
    let of_x: Vec<_> = encode(&hashed).authorizations.keys().map(ToString::to_string).collect();
    assert_eq!(of_x.len(), 2, "{of_x:?}");
    assert!(of_x[1].starts_with("default/converted_peer_authentication_w_"), "{of_x:?}");
    check(&overlap, "default/x", &[&of_x[1]]);
}
