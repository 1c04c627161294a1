//! Calls through waypoints: what attaches where, which instance takes a call, and what is refused.

use super::*;
use crate::{
    objects::{Admits, Gateway, HboneListener, Must, Namespace, Pod, Requirement, WaypointFor},
    testing::gateway,
};

/// An instance of `namespace/w`, of this account.
fn instance(full_name: &str, addresses: &str, account: &str) -> Pod {
    let mut pod = pod(full_name, addresses);
    (pod.labels, pod.service_account) = (labels("app=w"), account.into());
    pod
}

/// Service default/b with a waypoint, its pod, and the caller; the Gateway default/w with two instances.
fn mesh() -> Vec<Object> {
    vec![
        namespace("default").into(),
        attached("default/b app=b 10.96.0.1,fd96::1 80=8080", "istio.io/use-waypoint=w"),
        ambient("default/b", "10.0.0.2 fd00::2", "").into(),
        gateway("default/w").into(),
        service("default/w app=w 10.96.0.9 15008").into(),
        instance("default/w1", "10.0.0.8", "w").into(),
        instance("default/w2", "10.0.0.9", "w").into(),
    ]
}

fn attached(text: &str, more: &str) -> Object {
    Service { labels: labels(more), ..service(text) }.into()
}

fn line(plan: Plan) -> String {
    match plan {
        Plan::Hbone { destination: Destination { target, .. }, hop } => {
            let as_whom: Vec<_> = hop.identities.iter().map(|i| i.service_account().to_owned()).collect();
            format!("{:?} {} for {} of {target}, as {}", hop.kind, hop.address, hop.authority, as_whom.join(" or "))
        }
        Plan::Plain { destination } => format!("plain {}", destination.target),
        Plan::Refuse { reason, .. } => format!("refuse {reason}"),
    }
}

/// The plans of a call by default/`caller`, with these objects as well.
#[track_caller]
fn check(more: Vec<Object>, caller: &str, to: &str, expect: &[&str]) {
    let caller_object = Object::from(ambient("default/caller", "10.0.0.77 fd00::77", ""));
    let world = world(mesh().into_iter().chain([caller_object]).chain(more));
    let caller = world.pod(&name(&format!("default/{caller}"))).unwrap();
    let got: Vec<_> = plans(&world, caller, to.parse().unwrap()).into_iter().map(line).collect();
    assert_eq!(got, expect, "{to}");
}

const BOTH: [&str; 2] = [
    "Waypoint 10.0.0.8:15008 for 10.96.0.1:80 of 10.96.0.1:80, as w",
    "Waypoint 10.0.0.9:15008 for 10.96.0.1:80 of 10.96.0.1:80, as w",
];
const PAST: [&str; 1] = ["Workload 10.0.0.2:15008 for 10.0.0.2:8080 of 10.0.0.2:8080, as b"];
const MISSING: [&str; 1] = ["refuse waypoint_missing"];

#[test]
fn a_call_of_a_vip_goes_to_an_instance() {
    check(vec![], "caller", "10.96.0.1:80", &BOTH);
    check(vec![], "caller", "10.96.0.1:81", &["refuse unknown_port"]);
    // A pod's own address is not the Service's.
    check(vec![], "caller", "10.0.0.2:8080", &PAST);
    // The tunnel comes from the caller's own address.
    check(vec![], "caller", "[fd96::1]:80", &["refuse waypoint_not_ready"]);
    // All instances may answer, one takes the call.
    let third = instance("default/w3", "10.0.0.10", "other");
    let other = |n| format!("Waypoint 10.0.0.{n}:15008 for 10.96.0.1:80 of 10.96.0.1:80, as other or w");
    let three = [8, 9, 10].map(other);
    check(vec![third.into()], "caller", "10.96.0.1:80", &three.each_ref().map(|s| &**s));
    // Near ones first, as of any Service.
    let far = Pod { node: Some("node-2".into()), ..instance("default/w1", "10.0.0.8", "w") };
    let near = Service {
        distribution: Some(crate::world::Distribution::SameNode),
        ..service("default/w app=w 10.96.0.9 15008")
    };
    check(vec![far.into(), near.into()], "caller", "10.96.0.1:80", &BOTH[1..]);
}

#[test]
fn an_instance_that_is_not_ready_gets_no_call_and_none_is_a_refusal() {
    let down = |n: u8| {
        Object::from(Pod { ready: false, ..instance(&format!("default/w{n}"), &format!("10.0.0.{}", n + 7), "w") })
    };
    check(vec![down(1)], "caller", "10.96.0.1:80", &BOTH[1..]);
    check(vec![down(1), down(2)], "caller", "10.96.0.1:80", &["refuse waypoint_not_ready"]);
    let optional = |more: &str| {
        let text = "default/b app=b 10.96.0.1,fd96::1 80=8080";
        Object::from(Service { labels: labels(more), waypoint_optional: true, ..service(text) })
    };
    check(vec![optional("istio.io/use-waypoint=w")], "caller", "10.96.0.1:80", &BOTH);
    check(vec![optional("istio.io/use-waypoint=w"), down(1), down(2)], "caller", "10.96.0.1:80", &PAST);
    check(vec![optional("istio.io/use-waypoint=gone")], "caller", "10.96.0.1:80", &PAST);
}

#[test]
fn the_own_calls_of_a_waypoint_do_not_pass_it_again() {
    check(vec![], "w1", "10.96.0.1:80", &PAST);
    // Nor are its own Service and pods behind one.
    let everything = Gateway { waypoint_for: WaypointFor::All, ..gateway("default/w") };
    let ns = Namespace { labels: labels("istio.io/use-waypoint=w"), ..namespace("default") };
    let more = || vec![Object::from(everything.clone()), ns.clone().into()];
    check(more(), "caller", "10.0.0.8:80", &["plain 10.0.0.8:80"]);
    check(more(), "caller", "10.96.0.9:15008", &["plain 10.0.0.8:15008", "plain 10.0.0.9:15008"]);
    check(
        more(),
        "caller",
        "10.0.0.2:80",
        &BOTH.map(|b| b.replace("10.96.0.1:80", "10.0.0.2:80")).each_ref().map(|s| &**s),
    );
}

#[test]
fn the_own_label_counts_before_the_namespaces() {
    let text = "default/b app=b 10.96.0.1,fd96::1 80=8080";
    let ns = |l: &str| Object::from(Namespace { labels: labels(l), ..namespace("default") });
    check(vec![attached(text, ""), ns("istio.io/use-waypoint=w")], "caller", "10.96.0.1:80", &BOTH);
    check(
        vec![attached(text, "istio.io/use-waypoint=none"), ns("istio.io/use-waypoint=w")],
        "caller",
        "10.96.0.1:80",
        &PAST,
    );
    check(vec![attached(text, ""), ns("istio.io/use-waypoint=none")], "caller", "10.96.0.1:80", &PAST);
    check(
        vec![attached(text, "istio.io/use-waypoint=gone"), ns("istio.io/use-waypoint=w")],
        "caller",
        "10.96.0.1:80",
        &MISSING,
    );
    // A Gateway of another class is no waypoint, also under this name.
    let other = Gateway { class: "istio".into(), listeners: Vec::new(), ..gateway("default/w") };
    check(vec![other.into()], "caller", "10.96.0.1:80", &MISSING);
}

#[test]
fn what_is_refused_says_why_on_the_object() {
    let says = |more: Vec<Object>| {
        let model = crate::testing::model(mesh().into_iter().chain(more));
        let all = model.sources().findings().map(|f| format!("{}: {}: {}", f.object, f.field, f.says));
        all.collect::<Vec<_>>()
    };
    assert!(says(vec![]).is_empty());
    let b = |label: &str| attached("default/b app=b 10.96.0.1,fd96::1 80=8080", label);
    let at = "Service default/b: metadata.labels[istio.io/use-waypoint]";
    let refused = "calls that would pass it are refused";
    assert_eq!(
        says(vec![b("istio.io/use-waypoint=gone")]),
        [format!("{at}: there is no Gateway default/gone: {refused}")]
    );
    let other = Gateway { class: "istio".into(), listeners: Vec::new(), ..gateway("default/w") };
    let class = format!("{at}: Gateway default/w is of class istio, which is no waypoint: {refused}");
    assert_eq!(says(vec![other.into()]), [class]);
    let elsewhere = Gateway { name: name("infra/w"), ..gateway("infra/w") };
    let named = b("istio.io/use-waypoint=w istio.io/use-waypoint-namespace=infra");
    assert_eq!(
        says(vec![elsewhere.into(), named]),
        [
            format!("{at}: no HBONE listener of Gateway infra/w admits namespace default: {refused}"),
            "Gateway infra/w: : there is no Service infra/w, behind which its instances would be, and no Node has addresses for one (annotation underpass.dev/waypoint-range): calls that pass it are refused"
                .to_owned(),
        ]
    );
}

#[test]
fn what_a_waypoint_stands_before() {
    let of = |waypoint_for| Object::from(Gateway { waypoint_for, ..gateway("default/w") });
    let b = || Object::from(ambient("default/b", "10.0.0.2 fd00::2", "istio.io/use-waypoint=w"));
    let through = BOTH.map(|b| b.replace("10.96.0.1:80", "10.0.0.2:8080"));
    let through = through.each_ref().map(|s| &**s);
    for (waypoint_for, service, workload) in [
        (WaypointFor::Service, &BOTH[..], &PAST[..]),
        (WaypointFor::Workload, &PAST, &through),
        (WaypointFor::All, &BOTH, &through),
        (WaypointFor::None, &PAST, &PAST),
    ] {
        check(vec![of(waypoint_for), b()], "caller", "10.96.0.1:80", service);
        check(vec![of(waypoint_for), b()], "caller", "10.0.0.2:8080", workload);
    }
}

#[test]
fn a_waypoint_of_another_namespace_admits_or_is_missing() {
    let shop = |namespace_labels: &str, admits: Admits| {
        let listeners = vec![HboneListener { port: 15009, admits }];
        vec![
            Object::from(Namespace { labels: labels(namespace_labels), ..namespace("shop") }),
            attached("shop/s app=b 10.96.0.2 80", "istio.io/use-waypoint=w istio.io/use-waypoint-namespace=default"),
            Gateway { listeners, ..gateway("default/w") }.into(),
        ]
    };
    let through = BOTH.map(|b| b.replace("10.96.0.1", "10.96.0.2").replace("15008", "15009"));
    let through = through.each_ref().map(|s| &**s);
    let selector = || Admits::Selector(vec![Requirement { key: "tier".into(), must: Must::In(vec!["a".into()]) }]);
    check(shop("", Admits::All), "caller", "10.96.0.2:80", &through);
    check(shop("", Admits::Same), "caller", "10.96.0.2:80", &MISSING);
    check(shop("tier=a", selector()), "caller", "10.96.0.2:80", &through);
    check(shop("tier=b", selector()), "caller", "10.96.0.2:80", &MISSING);
}
