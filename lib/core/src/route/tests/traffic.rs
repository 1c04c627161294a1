//! The choice of endpoints of a service: policy, readiness, weight, hints, nearness, affinity.

use std::collections::BTreeSet;

use super::*;
use crate::{
    Few,
    objects::Pod,
    resolve::Model,
    testing::{self, some_model},
    world::{Affinity, Distribution, Endpoint, Hints, InternalTraffic},
};

/// One service with one endpoint on every node, and what changes about it.
struct Case {
    service: Service,
    pods: Vec<Pod>,
    slices: Vec<EndpointSlice>,
    namespace: Option<Distribution>,
}

impl Case {
    fn new() -> Self {
        let pod = |n: usize| Pod {
            node: Some(format!("n{n}").into()),
            ..ambient(&format!("default/p{n}"), &format!("10.0.0.{n} fd00::{n}"), "app=s")
        };
        Self {
            service: service("default/s app=s 10.96.0.1,fd96::1 80"),
            pods: (1..=5).map(pod).collect(),
            slices: Vec::new(),
            namespace: None,
        }
    }

    fn distribution(mut self, distribution: Distribution) -> Self {
        self.service.distribution = Some(distribution);
        self
    }

    fn local(mut self) -> Self {
        self.service.internal_traffic = InternalTraffic::Local;
        self
    }

    fn affine(mut self) -> Self {
        self.service.affinity = Affinity::ClientIp;
        self
    }

    /// Changes the pod of this number.
    fn pod(mut self, n: usize, change: impl FnOnce(&mut Pod)) -> Self {
        change(&mut self.pods[n - 1]);
        self
    }

    /// The pods of these numbers are all there are.
    fn only(mut self, all: &[usize]) -> Self {
        let mut n = 0;
        self.pods.retain(|_| {
            n += 1;
            all.contains(&n)
        });
        self
    }

    /// A slice of each family with these endpoints.
    fn slice(mut self, endpoints: Vec<SliceEndpoint>) -> Self {
        let of_family = |v4: bool| {
            let of = |e: &SliceEndpoint| e.addresses.iter().copied().filter(|ip| ip.is_ipv4() == v4).collect();
            let all = endpoints.iter().map(|e| SliceEndpoint { addresses: of(e), ..e.clone() });
            all.filter(|e| !e.addresses.is_empty()).collect::<Vec<_>>()
        };
        for endpoints in [of_family(true), of_family(false)] {
            self.slices.push(EndpointSlice {
                name: name(&format!("default/s-{}", self.slices.len())),
                service: name("default/s"),
                ports: vec![SlicePort { name: "p80".into(), port: 80 }],
                endpoints,
            });
        }
        self
    }

    /// With a caller on `node`.
    fn world(&self, node: &str) -> World {
        let places = [("n1", "r1/z1/s1"), ("n2", "r1/z1/s2"), ("n3", "r1/z2"), ("n4", "r2/z3"), ("n5", "")];
        let mut ns = namespace("default");
        ns.distribution = self.namespace;
        let mut objects: Vec<Object> = places.map(|(name, place)| testing::node(name, place).into()).into();
        let caller = Pod { node: Some(node.into()), ..pod("default/caller", "10.0.0.77 fd00::77") };
        objects.extend([ns.into(), self.service.clone().into(), caller.into()]);
        objects.extend(self.pods.iter().cloned().map(Object::from));
        objects.extend(self.slices.iter().cloned().map(Object::from));
        world(objects)
    }

    /// The endpoints that may be chosen for a caller on `node`, by the last part of their addresses; the same in both
    /// families.
    fn check(&self, node: &str, expect: &str) {
        let world = self.world(node);
        let caller = world.pod(&name("default/caller")).unwrap();
        for to in ["10.96.0.1:80", "[fd96::1]:80"] {
            let one = |plan: Plan| match plan {
                Plan::Hbone { destination, .. } | Plan::Plain { destination } => {
                    destination.target.ip().to_string().rsplit(['.', ':']).next().unwrap().to_owned()
                }
                Plan::Refuse { reason, .. } => reason.to_string(),
            };
            let got: Vec<_> = plans(&world, caller, to.parse().unwrap()).into_iter().map(one).collect();
            assert_eq!(got.join(" "), expect, "{to} from {node}");
        }
    }
}

#[test]
fn anywhere_unless_something_else_is_said() {
    Case::new().check("n1", "1 2 3 4 5");
    Case::new().distribution(Distribution::Any).check("n1", "1 2 3 4 5");
}

#[test]
fn near_ones_first() {
    let case = || Case::new().distribution(Distribution::SameZone);
    case().check("n1", "1");
    case().only(&[2, 3, 4, 5]).check("n1", "2");
    case().only(&[3, 4, 5]).check("n1", "3");
    case().only(&[4, 5]).check("n1", "4 5");
    case().check("n3", "3");
    // a node of unknown locality, and an unknown node: nothing is near
    case().check("n5", "1 2 3 4 5");
    case().check("n9", "1 2 3 4 5");
    let case = || Case::new().distribution(Distribution::SameNode);
    case().check("n2", "2");
    case().only(&[1, 3]).check("n2", "1");
    // the same node is near whether it has labels or not
    case().check("n5", "5");
    case().check("n9", "1 2 3 4 5");
}

#[test]
fn a_namespace_speaks_for_services_that_say_nothing() {
    let case = || Case { namespace: Some(Distribution::SameZone), ..Case::new() };
    case().check("n1", "1");
    case().distribution(Distribution::Any).check("n1", "1 2 3 4 5");
    case().distribution(Distribution::SameNode).check("n5", "5");
}

#[test]
fn the_nearest_are_those_that_can() {
    let case = || Case::new().distribution(Distribution::SameZone);
    case().pod(1, |p| p.ready = false).check("n1", "2");
    // one that is on its way out is no reason to stay near
    let going = |p: &mut Pod| (p.ready, p.draining) = (false, true);
    case().pod(1, going).check("n1", "2");
    case().pod(1, |p| p.weight = 0).check("n1", "2");
    case().pod(1, |p| p.addresses = Few::new()).check("n1", "2");
}

#[test]
fn local_is_local() {
    Case::new().local().check("n2", "2");
    Case::new().local().check("n9", "no_local_endpoint");
    Case::new().local().only(&[1, 3]).check("n2", "no_local_endpoint");
    Case::new().local().pod(2, |p| p.ready = false).check("n2", "no_local_endpoint");
    Case::new().local().only(&[]).check("n2", "no_endpoint");
    // one that is on its way out before none
    let going = |p: &mut Pod| (p.ready, p.draining) = (false, true);
    Case::new().local().pod(2, going).check("n2", "2");
    Case::new().local().pod(2, |p| p.weight = 0).check("n2", "2");
    // where a caller is that no node is known of, nothing is local
    let world = Case::new().local().world("n2");
    let caller = workload(&Pod { node: None, ..pod("default/caller", "10.0.0.77") });
    let refused = Plan::Refuse { service: Some(name("default/s")), reason: Reason::NoLocalEndpoint };
    assert_eq!(plan(&world, &caller, "10.96.0.1:80".parse().unwrap(), 0, &mut ()), refused);
}

#[test]
fn ready_before_terminating_before_none() {
    let going = |p: &mut Pod| (p.ready, p.draining) = (false, true);
    let down = |p: &mut Pod| p.ready = false;
    Case::new().only(&[1, 2]).pod(1, going).check("n1", "2");
    Case::new().only(&[1, 2]).pod(1, going).pod(2, down).check("n1", "1");
    Case::new().only(&[1, 2]).pod(1, down).pod(2, down).check("n1", "no_endpoint");
    let mut case = Case::new().only(&[1, 2]).pod(1, going).pod(2, down);
    case.service.publish_not_ready = true;
    case.check("n1", "1 2");
}

#[test]
fn weight_0_gets_nothing_while_others_are_there() {
    Case::new().pod(3, |p| p.weight = 0).check("n1", "1 2 4 5");
    Case::new().only(&[3]).pod(1, |p| p.weight = 0).check("n1", "3");
    let down = |p: &mut Pod| p.ready = false;
    Case::new().only(&[1, 3]).pod(1, down).pod(2, |p| p.weight = 0).check("n1", "3");
}

#[test]
fn weights_are_shares() {
    let case = Case::new().only(&[1, 2, 3]).pod(1, |p| p.weight = 3).pod(2, |p| p.weight = 0).pod(3, |p| p.weight = 2);
    let world = case.world("n1");
    let caller = workload(&pod("default/caller", "10.0.0.77"));
    let target = |roll| match plan(&world, &caller, "10.96.0.1:80".parse().unwrap(), roll, &mut ()) {
        Plan::Hbone { destination, .. } => destination.target.ip().to_string(),
        other => panic!("{other:?}"),
    };
    let rolled: Vec<_> = (0..10).map(target).collect();
    let (one, three) = ("10.0.0.1", "10.0.0.3");
    assert_eq!(rolled, [one, one, one, three, three, one, one, one, three, three]);
}

#[test]
fn slices_speak_for_themselves() {
    let at = |n: u8| slice_endpoint(&format!("10.0.0.{n} fd00::{n}"));
    let going = |e: SliceEndpoint| SliceEndpoint { ready: false, draining: true, ..e };
    let down = |e: SliceEndpoint| SliceEndpoint { ready: false, ..e };
    // a pod in no slice is no endpoint, even if the selector selects it
    Case::new().slice(vec![at(1), at(3)]).check("n1", "1 3");
    Case::new().slice(vec![]).check("n1", "no_endpoint");
    Case::new().slice(vec![down(at(1)), going(at(2)), at(3)]).check("n1", "3");
    Case::new().slice(vec![down(at(1)), going(at(2))]).check("n1", "2");
    Case::new().slice(vec![down(at(1))]).check("n1", "no_endpoint");
    // one that stands in two slices is one
    Case::new().slice(vec![at(1), at(2)]).slice(vec![down(at(2)), at(3)]).check("n1", "1 2 3");
    // weight and place are those of the pod that has the address
    Case::new().pod(1, |p| p.weight = 0).slice(vec![at(1), at(3)]).check("n1", "3");
    Case::new().distribution(Distribution::SameZone).slice(vec![at(1), at(2), at(3)]).check("n2", "2");
}

#[test]
fn a_slice_means_the_pod_that_it_names() {
    let at = |n: u8, target: &str| SliceEndpoint {
        target: Some(name(target)),
        ..slice_endpoint(&format!("10.0.0.{n} fd00::{n}"))
    };
    Case::new().slice(vec![at(1, "default/p1"), at(3, "default/p3")]).check("n1", "1 3");
    // p1's address was another pod's when the slice was written
    Case::new().slice(vec![at(1, "default/gone"), at(3, "default/p3")]).check("n1", "3");
    // what refuses stays the mesh's: nothing is carried to p1, nor past the mesh
    let outdated = || Case::new().slice(vec![at(1, "default/gone")]);
    outdated().check("n1", "no_endpoint");
    let mut eager = outdated();
    eager.service.publish_not_ready = true;
    eager.check("n1", "no_endpoint");
    // of two that have one address it is the one that is meant, and without a name neither
    let twins = |case: Case| case.pod(3, |p| p.addresses = ["10.0.0.1", "fd00::1"].map(|a| a.parse().unwrap()).into());
    twins(Case::new().slice(vec![at(1, "default/p3")])).check("n1", "1");
    twins(Case::new().slice(vec![slice_endpoint("10.0.0.1 fd00::1")])).check("n1", "no_endpoint");
    // an address that no pod has leads where it always led
    Case::new()
        .slice(vec![SliceEndpoint { target: Some(name("default/gone")), ..slice_endpoint("192.0.2.1 2001:db8::1") }])
        .check("n1", "1");
}

#[test]
fn a_leaving_pod_is_no_endpoint_at_an_address_of_another() {
    let leaves = |p: &mut Pod| (p.ready, p.draining, p.deleted) = (false, true, true);
    let alone = |second: fn(&mut Pod)| Case::new().pod(1, leaves).pod(2, second).only(&[1, 2]);
    alone(|p| p.labels = labels("app=other")).check("n1", "1");
    let taken = |p: &mut Pod| {
        p.labels = labels("app=other");
        p.addresses = ["10.0.0.1", "fd00::1"].map(|a| a.parse().unwrap()).into();
    };
    alone(taken).check("n1", "no_endpoint");
}

#[test]
fn a_slice_says_where_endpoints_are_that_no_pod_has() {
    let at = |n: u8, node: Option<&str>, zone: Option<&str>| SliceEndpoint {
        node: node.map(Arc::from),
        zone: zone.map(Arc::from),
        ..slice_endpoint(&format!("192.0.2.{n} 2001:db8::{n}"))
    };
    let case = |d| {
        let all = vec![at(1, Some("n1"), Some("wrong")), at(2, None, Some("z2")), at(3, Some("gone"), Some("z2"))];
        Case::new().distribution(d).slice(all)
    };
    case(Distribution::SameZone).check("n1", "1");
    case(Distribution::SameZone).check("n3", "2 3");
    case(Distribution::SameNode).check("gone", "3");
    case(Distribution::Any).local().check("n1", "1");
    case(Distribution::Any).local().check("n3", "no_local_endpoint");
}

#[test]
fn hints_count_where_all_endpoints_have_them() {
    let names = |text: &str| text.split_whitespace().map(Arc::from).collect();
    let at = |n: u8, zones: &str, nodes: &str| SliceEndpoint {
        hints: Some(Hints { zones: names(zones), nodes: names(nodes) }.into()),
        ..slice_endpoint(&format!("10.0.0.{n} fd00::{n}"))
    };
    let zones = || Case::new().slice(vec![at(1, "z1", ""), at(2, "z2", ""), at(3, "z2 z1", "")]);
    zones().check("n1", "1 3");
    zones().check("n3", "2 3");
    zones().check("n4", "1 2 3");
    zones().check("n5", "1 2 3");
    Case::new().slice(vec![at(1, "z1", ""), at(2, "", "")]).check("n3", "1 2");
    Case::new().slice(vec![at(1, "z1", ""), at(2, "", "")]).check("n1", "1 2");
    let nodes = || Case::new().slice(vec![at(1, "z1", "n1"), at(2, "z1", "n2"), at(3, "z2", "n3 n2")]);
    nodes().check("n2", "2 3");
    nodes().check("n1", "1");
    // no node of its own: the zone's
    nodes().check("n4", "1 2 3");
    // hints say nothing about a service that is local
    zones().local().check("n2", "2");
    // near is near among those that are meant
    zones().distribution(Distribution::SameZone).check("n3", "3");
    zones().distribution(Distribution::SameZone).check("n1", "1");
}

/// The endpoint of the client of this number, which no random number changes.
fn of_client(world: &World, client: u8) -> IpAddr {
    let caller = workload(&pod("default/caller", &format!("10.1.0.{client} fd01::{client}")));
    let mut all: Vec<_> = (0..8)
        .map(|roll| match plan(world, &caller, "10.96.0.1:80".parse().unwrap(), roll, &mut ()) {
            Plan::Hbone { destination, .. } => destination.target.ip(),
            other => panic!("{other:?}"),
        })
        .collect();
    all.dedup();
    assert_eq!((all.len(), plans(world, &caller, "10.96.0.1:80".parse().unwrap()).len()), (1, 1));
    all[0]
}

#[test]
fn a_client_keeps_its_endpoint() {
    let before = Case::new().affine().world("n1");
    let after = Case::new().affine().pod(2, |p| p.ready = false).world("n1");
    let gone: IpAddr = "10.0.0.2".parse().unwrap();
    let mut used = BTreeSet::new();
    for client in 0..100 {
        let (was, is) = (of_client(&before, client), of_client(&after, client));
        assert!(was == is || was == gone, "client {client} went from {was} to {is}");
        assert_ne!(is, gone);
        used.insert(was);
    }
    assert_eq!(used.len(), 5, "clients are spread: {used:?}");
}

#[test]
fn affinity_is_among_the_nearest() {
    let near = Case::new().affine().distribution(Distribution::SameZone);
    near.check("n3", "3");
    Case::new().affine().local().check("n4", "4");
}

#[test]
fn a_pod_of_the_hosts_network_is_an_endpoint() {
    let host = |p: &mut Pod| {
        p.host_network = true;
        p.addresses = ["172.18.0.2", "fd18::2"].map(|a| a.parse().unwrap()).into();
    };
    Case::new().only(&[1]).pod(1, host).check("n1", "2");
    let world = Case::new().only(&[1]).pod(1, host).world("n1");
    let caller = workload(&pod("default/caller", "10.0.0.77"));
    let plan = plan(&world, &caller, "10.96.0.1:80".parse().unwrap(), 0, &mut ());
    assert!(matches!(plan, Plan::Plain { .. }), "{plan:?}");
}

#[test]
fn an_external_name_has_no_endpoints() {
    let mut case = Case::new();
    case.service.external_name = Some("example.org".into());
    assert_eq!(case.world("n1").endpoints(&case.service.name).count(), 0);
    case.check("n1", "external_name");
}

/// With a caller on `node`.
fn with_caller(mut model: Model, node: &str) -> (World, Arc<Workload>) {
    let caller = Pod { node: Some(node.into()), ..pod("default/caller", "10.0.0.77 fd00::77") };
    model.apply(&[caller.into()].into_iter().collect());
    let caller = Arc::clone(model.world().pod(&name("default/caller")).expect("just put"));
    (model.world().clone(), caller)
}

proptest! {
    /// With any preference an endpoint is called where one can be, and only one that may.
    #[test]
    fn preferences_never_empty_the_set(model in some_model(), roll in any::<u64>(), n in 1u8..4, node in proptest::sample::select(vec!["node-1", "node-2", "node-3"])) {
        let (world, caller) = with_caller(model, node);
        let to = SocketAddr::new(IpAddr::from([10, 96, 0, n]), 80);
        let Some(service) = service_at(&world, to.ip()) else { return Ok(()) };
        prop_assume!(waypoint::wanted(&world, &caller, to).is_none());
        let can = |e: &Endpoint| (e.ready || e.draining) && e.address.is_ipv4() && e.target_port(80).is_some();
        let able: Vec<_> = world.endpoints(&service.name).filter(|(_, e)| can(e)).collect();
        let is_local = service.internal_traffic == InternalTraffic::Local;
        let near: Vec<_> = able.iter().filter(|(w, _)| !is_local || w.node.as_deref() == Some(node)).map(|(_, e)| e).collect();
        match resolve(&world, &Caller::of(&caller, to.ip()), to, roll, &mut ()) {
            Ok(destination) => {
                let chosen: Vec<_> = near.iter().filter(|e| e.address == destination.target.ip()).collect();
                prop_assert!(!chosen.is_empty(), "{:?} may not be called", destination);
                if near.iter().any(|e| e.ready) {
                    prop_assert!(chosen.iter().any(|e| e.ready), "{:?} is not ready", destination);
                }
            }
            Err(Reason::NoEndpoint) => prop_assert!(able.is_empty()),
            Err(Reason::NoLocalEndpoint) => prop_assert!(near.is_empty() && !able.is_empty()),
            Err(other) => prop_assert!(false, "{other}"),
        }
    }

    /// `plans` lists exactly what the dice give.
    #[test]
    fn plans_are_what_the_dice_give(model in some_model(), to in some_address(), node in proptest::sample::select(vec!["node-1", "node-2"])) {
        let (world, caller) = with_caller(model, node);
        let to = SocketAddr::new(to, 80);
        let listed = plans(&world, &caller, to);
        // as many rolls as the weights of any service of these Worlds sum up to
        let rolled: Vec<_> = (0..64).map(|roll| plan(&world, &caller, to, roll, &mut ())).collect();
        prop_assert!(listed.iter().all(|p| rolled.contains(p)), "{listed:?}");
        prop_assert!(rolled.iter().all(|p| listed.contains(p)), "{rolled:?}");
    }
}
