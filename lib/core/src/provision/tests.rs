//! Derived instances: what is derived for which objects, and that what is there decides it alone.

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{
    objects::{Admits, HboneListener},
    resolve::Model,
    route,
    testing::{ambient, gateway, model, name, node, pod, service, some_object},
    world::MeshSettings,
};

fn host(name: &str, ranges: &str) -> Object {
    let ranges = ranges.split_whitespace().map(|range| range.parse().unwrap()).collect();
    Node { waypoint_ranges: ranges, ..node(name, "") }.into()
}

/// These objects with what is derived from them.
fn provisioned(objects: &[Object]) -> Model {
    let keys: BTreeSet<_> = objects.iter().map(Object::key).collect();
    let all = derived(objects, |key| keys.contains(key));
    model(objects.iter().cloned().chain(all.into_values()))
}

/// Every instance, as `namespace/name node address,address`.
fn of(objects: &[Object]) -> Vec<String> {
    let model = provisioned(objects);
    let say = |pod: &Arc<Pod>| {
        let i = instance(model.sources(), &pod.name)?;
        let addresses: Vec<_> = i.addresses.iter().map(ToString::to_string).collect();
        Some(format!("{} {} {}:{}", i.gateway, pod.node.as_deref()?, addresses.join(","), i.port))
    };
    model.sources().pods().filter_map(say).collect()
}

#[test]
fn what_is_derived() {
    let check = |objects: &[Object], expect: &[&str]| assert_eq!(of(objects), expect, "{objects:?}");
    let w = || Object::from(gateway("shop/w"));
    let one = |range: &str| host("node-1", range);
    check(&[w(), one("10.9.1.7/32")], &["shop/w node-1 10.9.1.7:15008"]);
    check(&[w(), one("10.9.1.7/32 fd09::7/128")], &["shop/w node-1 10.9.1.7,fd09::7:15008"]);
    check(&[w(), one("")], &[]);
    check(&[one("10.9.1.7/32")], &[]);
    check(&[Gateway { class: "istio".into(), ..gateway("shop/w") }.into(), one("10.9.1.7/32")], &[]);
    // The Service of a file has its own instances.
    check(&[w(), one("10.9.1.7/32"), service("shop/w app=w - 15008").into()], &[]);
    check(&[w(), one("10.9.1.7/32"), service("other/w app=w - 15008").into()], &["shop/w node-1 10.9.1.7:15008"]);
    // So has a pod.
    check(&[w(), one("10.9.1.7/32"), pod("shop/w", "10.0.0.1").into()], &[]);
    let listener = |port| HboneListener { port, admits: Admits::All };
    let ports = |ports: [u16; 2]| Object::from(Gateway { listeners: ports.map(listener).into(), ..gateway("shop/w") });
    check(&[ports([15009, 15009]), one("10.9.1.7/32")], &["shop/w node-1 10.9.1.7:15009"]);
    check(&[ports([15008, 15009]), one("10.9.1.7/32")], &[]);
    // Taken: by a pod, a node, a Service, another instance.
    check(&[w(), one("10.9.1.7/32"), pod("a/b", "10.9.1.7").into()], &[]);
    check(&[w(), one("10.9.1.7/32"), service("a/b - 10.9.1.7 80").into()], &[]);
    check(&[w(), one("10.9.1.7/32 fd09::7/128"), pod("a/b", "10.9.1.7").into()], &["shop/w node-1 fd09::7:15008"]);
    // A node with all of them comes before one that lacks a family.
    let used = ["10.9.1.7", "10.9.2.7"].map(|ip| Object::from(pod(&format!("a/b{}", ip.len()), ip)));
    for taken in used {
        let both = [w(), host("node-1", "10.9.1.7/32 fd09::7/128"), host("node-2", "10.9.2.7/32 fd09::8/128"), taken];
        assert!(of(&both)[0].contains(','), "{:?}", of(&both));
    }
    let both = [w(), gateway("shop/v").into(), one("10.9.1.6/31")];
    assert_eq!(of(&both).len(), 2);
    check(&[w(), gateway("shop/v").into(), one("10.9.1.7/32")], &["shop/v node-1 10.9.1.7:15008"]);
    // A node without a free address gives way to the next.
    let second = host("node-2", "10.9.2.7/32");
    let mut full = of(&[w(), gateway("shop/v").into(), one("10.9.1.7/32"), second]);
    full.sort();
    assert!(full.iter().any(|i| i.contains("node-1")) && full.iter().any(|i| i.contains("node-2")), "{full:?}");
}

#[test]
fn addresses_of_hosts() {
    let check = |range: &str, first: &str, count: u128| {
        let (bits, found) = hosts(range.parse().unwrap());
        let ip: IpAddr = first.parse().unwrap();
        let expect = match ip {
            IpAddr::V4(v4) => v4.to_bits().into(),
            IpAddr::V6(v6) => v6.to_bits(),
        };
        assert_eq!((bits, found), (expect, count), "{range}");
    };
    check("10.9.1.0/24", "10.9.1.1", 254);
    check("10.9.1.4/30", "10.9.1.5", 2);
    check("10.9.1.4/31", "10.9.1.4", 2);
    check("10.9.1.4/32", "10.9.1.4", 1);
    check("fd09::/64", "fd09::1", (1 << 64) - 1);
    check("::/0", "::1", u128::MAX - 1);
    check("fd09::/127", "fd09::", 2);
}

#[test]
fn a_derived_instance_is_one_that_calls_reach() {
    let mut cart = service("shop/cart app=cart 10.96.0.10 80=8080");
    cart.labels = crate::testing::labels("istio.io/use-waypoint=w");
    let objects = [
        gateway("shop/w").into(),
        host("node-1", "10.9.1.7/32"),
        crate::objects::Namespace {
            labels: crate::testing::labels("istio.io/dataplane-mode=ambient"),
            ..crate::testing::namespace("shop")
        }
        .into(),
        ambient("front/web", "10.0.0.1", "").into(),
        ambient("shop/cart", "10.0.0.2", "app=cart").into(),
        cart.into(),
    ];
    let model = provisioned(&objects);
    let world = model.world();
    let instance = world.pod(&name("shop/w")).expect("a fact");
    assert!(!instance.enrolment.is_enrolled() && instance.waypoint.is_none());
    let waypoint = world.service(&name("shop/cart")).and_then(|s| s.waypoint.as_ref()).expect("attached");
    assert!(world.is_instance(waypoint, instance));
    let identity = world.identity(instance).expect("an identity");
    assert_eq!(identity.to_string(), "spiffe://cluster.local/ns/shop/sa/w");
    assert!(world.speaks_for_callers_of(identity, world.pod(&name("shop/cart")).expect("a pod")));
    let web = world.pod(&name("front/web")).expect("a pod");
    let plan = route::plan(world, web, "10.96.0.10:80".parse().unwrap(), 0, &mut ());
    let route::Plan::Hbone { hop, .. } = plan else { panic!("{plan:?}") };
    assert_eq!((hop.kind, hop.address), (route::HopKind::Waypoint, "10.9.1.7:15008".parse().unwrap()));
    assert!(model.sources().findings().next().is_none());
}

#[test]
fn what_is_missing_is_said() {
    let says = |objects: &[Object]| -> Vec<String> {
        provisioned(objects).sources().findings().map(|f| f.says.clone()).collect()
    };
    let check = |objects: &[Object], part: &str| {
        let all = says(objects);
        assert!(all.len() == 1 && all[0].contains(part), "{all:?}");
    };
    check(&[gateway("shop/w").into()], "no Node has addresses for one");
    check(&[gateway("shop/w").into(), host("n", "")], "no Node has addresses for one");
    let full = [gateway("shop/w").into(), host("n", "10.9.1.7/32"), pod("a/b", "10.9.1.7").into()];
    check(&full, "no Node has a free address");
    assert!(says(&[gateway("shop/w").into(), host("n", "10.9.1.7/32")]).is_empty());
    // A cluster has a controller for it.
    let settings = MeshSettings { enrolled_by: crate::enrol::EnrolledBy::Redirection, ..MeshSettings::default() };
    let mut model = Model::empty(settings);
    model.apply(&[gateway("shop/w").into()].into_iter().collect());
    let all: Vec<_> = model.sources().findings().map(|f| f.says.clone()).collect();
    assert!(all.len() == 1 && !all[0].contains("Node"), "{all:?}");
}

fn some_objects() -> impl Strategy<Value = BTreeMap<ObjectKey, Object>> {
    let range = proptest::sample::select(vec!["10.0.0.0/28", "10.0.0.8/30", "10.9.0.0/24", "10.9.0.0/24 fd00::/124"]);
    let node = (1u8..4, range).prop_map(|(n, range)| host(&format!("node-{n}"), range));
    (vec(some_object(), 0..24), vec(node, 0..3))
        .prop_map(|(objects, nodes)| objects.into_iter().chain(nodes).map(|object| (object.key(), object)).collect())
}

proptest! {
    #[test]
    fn what_is_there_keeps_its_names_and_addresses(objects in some_objects()) {
        let all = derived(objects.values(), |key| objects.contains_key(key));
        prop_assert!(all.keys().all(|key| !objects.contains_key(key)));
        let mut found = Found::default();
        objects.values().for_each(|object| found.add(object));
        for object in all.values() {
            let Object::Pod(pod) = object else { continue };
            let node = found.nodes.iter().find(|node| Some(node.name.name()) == pod.node.as_deref()).expect("a node with a range");
            for ip in &pod.addresses {
                prop_assert!(node.waypoint_ranges.iter().any(|range| range.contains(ip)));
                prop_assert!(found.taken.insert(*ip), "{} is taken", ip);
            }
        }
    }

    #[test]
    fn another_gateway_moves_nothing_where_there_is_room(names in vec("[a-d]{1,3}", 1..6), more in "[a-d]{1,3}") {
        let nodes = ["node-1", "node-2", "node-3"].map(|name| host(name, "fd09::/64"));
        let with = |names: &[String]| {
            let gateways = names.iter().map(|n| Object::from(gateway(&format!("shop/{n}"))));
            of(&gateways.chain(nodes.iter().cloned()).collect::<Vec<_>>())
        };
        let (before, after) = (with(&names), with(&[&names[..], &[more]].concat()));
        prop_assert!(before.iter().all(|instance| after.contains(instance)));
    }
}
