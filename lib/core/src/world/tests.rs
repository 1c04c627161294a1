//! Owners of addresses; and deltas of any two Worlds, which cost what differs.

use std::{cell::Cell, collections::BTreeSet, net::IpAddr};

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{
    objects::{Batch, Object, Pod},
    testing::{model, name, pod, service, some_batch, some_model, workload},
};

thread_local! {
    /// The count of how often keys of workloads were compared on this thread.
    static COMPARED: Cell<usize> = const { Cell::new(0) };
}

/// Called where two uids are compared.
pub(super) fn compared() {
    COMPARED.set(COMPARED.get() + 1);
}

/// The older World with the changes of a delta.
fn follow(old: &World, delta: &Delta<'_>) -> World {
    let mut facts = Facts::default();
    fn each<T>(facts: &mut Facts, all: &[Difference<'_, T>], fact: impl Fn(Arc<T>) -> Fact) {
        for Difference { old, new } in all {
            match (old, new) {
                (_, Some(new)) => facts.put(fact(Arc::clone(new))),
                (Some(old), None) => facts.remove(fact(Arc::clone(old)).key()),
                (None, None) => panic!("neither before nor after"),
            }
        }
    }
    each(&mut facts, &delta.workloads, Fact::Workload);
    each(&mut facts, &delta.services, Fact::Service);
    each(&mut facts, &delta.policies, Fact::Policy);
    each(&mut facts, &delta.mtls, Fact::Mtls);
    old.apply(facts)
}

proptest! {
    #[test]
    fn the_workloads_of_a_namespace_are_its_own(model in some_model()) {
        let world = model.world();
        let namespaces: BTreeSet<_> = world.workloads().map(|w| w.name.namespace()).collect();
        for namespace in namespaces.into_iter().chain(["d", "default/"]) {
            let own: Vec<_> = world.workloads().filter(|w| w.name.namespace() == namespace).map(|w| &w.uid).collect();
            prop_assert_eq!(world.workloads_of(namespace).map(|w| &w.uid).collect::<Vec<_>>(), own);
        }
    }

    #[test]
    fn a_delta_leads_from_any_world_to_any_later_one(start in some_model(), batches in vec(some_batch(), 1..6), skip in any::<prop::sample::Index>()) {
        let (mut now, mut worlds) = (start.clone(), vec![start.world().clone()]);
        for batch in &batches {
            now.apply(batch);
            worlds.push(now.world().clone());
        }
        let at = skip.index(worlds.len());
        let (old, new) = (&worlds[at], now.world());
        let delta = Delta::between(old, new);
        prop_assert_eq!(&follow(old, &delta), new);
        prop_assert_eq!(delta.is_empty(), old == new);
        prop_assert_eq!(Delta::is_any(old, new), old != new);
        prop_assert!(delta.workloads.iter().all(|w| w.old.map(|w| &**w) != w.new.map(|w| &**w)), "an equal fact is no change");
        // And between Worlds that share nothing.
        let other = model(now.sources().objects().map(|(_, object)| object.clone()));
        prop_assert!(Delta::between(new, other.world()).is_empty());
    }
}

/// Facts may come from elsewhere than objects: no fact takes an address away by naming it as external.
#[test]
fn an_external_address_is_claimed_after_everything_else() {
    let ip: IpAddr = "198.51.100.7".parse().unwrap();
    let external = |text: &str| {
        let model = model([service(text).into()]);
        let fact = model.world().services().next().map(|s| Service { external: vec![ip], ..Service::clone(s) });
        Fact::Service(Arc::new(fact.unwrap()))
    };
    let check = |facts: &[Fact], expect: &str| {
        let (mut forward, mut back) = (Facts::default(), Facts::default());
        facts.iter().for_each(|fact| forward.put(fact.clone()));
        facts.iter().rev().for_each(|fact| back.put(fact.clone()));
        for facts in [forward, back] {
            let world = World::empty(MeshSettings::default()).apply(facts);
            let got = match world.addressed(ip) {
                Addressed::Workload(w) => w.name.to_string(),
                Addressed::Service(s) => s.name.to_string(),
                other => format!("{other:?}"),
            };
            assert_eq!(got, expect);
            assert_eq!(world.addresses().any(|one| one == ip), expect != "Unknown");
            let none =
                world.services().map(|s| FactKey::Service(s.name.clone())).fold(Facts::default(), |mut all, key| {
                    all.remove(key);
                    all
                });
            assert!(!matches!(world.apply(none).addressed(ip), Addressed::Service(_)));
        }
    };
    let (a, b) = (external("default/a - 10.96.0.1 80"), external("default/b - 10.96.0.2 80"));
    let there = Fact::Workload(workload(&pod("default/p", "198.51.100.7")));
    let vip = model([service("default/v - 198.51.100.7 80").into()]);
    let vip = Fact::Service(Arc::clone(vip.world().service(&name("default/v")).unwrap()));
    check(std::slice::from_ref(&a), "default/a");
    check(&[a.clone(), b.clone()], "Unknown");
    check(&[a.clone(), there.clone()], "default/p");
    check(&[a.clone(), vip.clone()], "default/v");
    check(&[a, b, vip, there], "Ambiguous([Service default/v, Pod default/p])");
}

#[test]
fn a_delta_costs_what_differs() {
    let some = |n: u32| pod(&format!("default/pod-{n}"), &std::net::Ipv4Addr::from(0x0a00_0000 + n).to_string());
    let compared = |pods: u32| {
        let mut now = model((0..pods).map(|n| Object::from(some(n))));
        let before = now.world().clone();
        let changed = [7, pods / 2, pods - 1].map(some).map(|mut pod| {
            pod.ready = false;
            Object::from(pod)
        });
        now.apply(&changed.into_iter().collect::<Batch>());
        COMPARED.set(0);
        assert_eq!(Delta::between(&before, now.world()).workloads.len(), 3);
        COMPARED.get()
    };
    let (small, large) = (compared(100), compared(10_000));
    assert!((1..=small * 4).contains(&large), "{small} comparisons among 100 pods, {large} among 10,000");
}

#[test]
fn addresses_that_a_workload_has_no_longer_are_given_up() {
    let check = |before: &[Object], after: &[Object], expected: &[&str]| {
        let [before, after] = [before, after].map(|objects| model(objects.iter().cloned()));
        let given_up: Vec<_> = Delta::between(before.world(), after.world()).given_up().collect();
        let expected: Vec<IpAddr> = expected.iter().map(|ip| ip.parse().unwrap()).collect();
        assert_eq!(given_up, expected, "{before:?} {after:?}");
    };
    let at = |name: &str, addresses: &str| Object::from(pod(name, addresses));
    let a = at("default/a", "10.0.0.1 fd00::1");
    check(&[], std::slice::from_ref(&a), &[]);
    check(std::slice::from_ref(&a), &[], &["10.0.0.1", "fd00::1"]);
    check(std::slice::from_ref(&a), &[at("default/a", "10.0.0.1 fd00::2")], &["fd00::1"]);
    check(std::slice::from_ref(&a), &[at("default/b", "10.0.0.1 fd00::1")], &["10.0.0.1", "fd00::1"]);
    let unready = Pod { ready: false, ..pod("default/a", "10.0.0.1 fd00::1") };
    check(std::slice::from_ref(&a), &[unready.into()], &[]);
    let on_host = || Pod { host_network: true, ..pod("default/a", "10.0.0.1") };
    check(&[on_host().into()], &[], &[]);
}
