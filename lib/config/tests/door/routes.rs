//! VirtualServices and DestinationRules: what of them is read, each field once, and that nothing of them passes in
//! silence.

use expect_test::{Expect, ExpectFile, expect, expect_file};
use underpass_core::objects::{HttpAction, Object};

use crate::{Shelf, lines};

const EVERY_FIELD: &str = include_str!("routes/every_field.yaml");
const GATEWAY: &str = include_str!("routes/gateway.yaml");
const CONNECTIONS: &str = include_str!("routes/connections.yaml");
const SAMPLES: &str = include_str!("routes/samples.yaml");

/// The objects, and every problem that is worse than a notice.
fn read(text: &str) -> (Vec<Object>, String) {
    let mut shelf = Shelf::new();
    let update = shelf.put(&[("a.yaml", text)]);
    let problems = update.problems.iter().map(|p| format!("{p}\n")).collect();
    (shelf.sources().objects().map(|(_, object)| object.clone()).collect(), problems)
}

fn check(text: &str, want: &ExpectFile) {
    let (objects, problems) = read(text);
    assert_eq!(problems, "", "{text}");
    want.assert_eq(&format!("{}\n", serde_json::to_string_pretty(&objects).unwrap()));
}

#[test]
fn every_field() {
    check(EVERY_FIELD, &expect_file!["routes/every_field.json"]);
}

/// Documents of the shapes that guides show: routing by header and path, weights, resilience, a canary, a circuit
/// breaker.
#[test]
fn samples() {
    check(SAMPLES, &expect_file!["routes/samples.json"]);
}

#[test]
fn every_field_of_the_gateway_api() {
    check(GATEWAY, &expect_file!["routes/gateway.json"]);
}

#[test]
fn versions_of_the_gateway_api_have_one_shape() {
    let of = |version: &str| {
        let documents = GATEWAY.split("---\n").filter(|document| !document.contains("GRPCRoute\nmetadata"));
        let documents = documents.map(|document| {
            let (_, rest) = document.split_once("kind:").unwrap();
            format!("apiVersion: gateway.networking.k8s.io/{version}\nkind:{rest}")
        });
        read(&documents.collect::<Vec<_>>().join("---\n"))
    };
    let v1 = of("v1");
    assert_eq!((v1.0.len(), v1.1.as_str()), (3, ""));
    assert_eq!(of("v1beta1"), v1);
    assert!(of("v1alpha2").1.contains("is not served"), "{}", of("v1alpha2").1);
}

#[test]
fn every_field_of_routes_of_connections() {
    check(CONNECTIONS, &expect_file!["routes/connections.json"]);
    let of = |version: &str| read(&CONNECTIONS.replace("k8s.io/v1", &format!("k8s.io/{version}")));
    assert_eq!(of("v1alpha2"), of("v1"));
    // In older versions a TLSRoute may be for every server name.
    let tls_alone = |version: &str| {
        let (first, _) = CONNECTIONS.split_once("---").unwrap();
        let first = first.replace("  hostnames: [db.example.com, \"*.Example.com\"]\n", "");
        read(&first.replace("k8s.io/v1", &format!("k8s.io/{version}")))
    };
    let (objects, problems) = tls_alone("v1alpha3");
    assert_eq!((objects.len(), problems.as_str()), (1, ""));
    let (objects, problems) = tls_alone("v1");
    assert!(objects.is_empty() && problems.contains("spec.hostnames: is missing"), "{problems}");
}

#[test]
fn versions_have_one_shape() {
    let of = |version: &str| read(&SAMPLES.replace("networking.istio.io/v1beta1", version));
    let v1 = of("networking.istio.io/v1");
    assert_eq!(v1.1, "");
    for version in ["networking.istio.io/v1beta1", "networking.istio.io/v1alpha3"] {
        assert_eq!(of(version), v1, "{version}");
    }
    assert!(of("networking.istio.io/v2").1.contains("is not served"), "{}", of("networking.istio.io/v2").1);
}

/// What waypoints serve is said to be served, and what they do not is named.
#[test]
fn what_is_read_is_not_said_to_be_enforced() {
    let mut shelf = Shelf::new();
    let update = shelf.put(&[("a.yaml", SAMPLES)]);
    let want: Expect = expect![""];
    want.assert_eq(&lines(&update));
    let least = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r}\nspec: {parentRefs: [{group: '', kind: Service, name: cart}], rules: [{matches: [{path: {value: /a}}], sessionPersistence: {}}]}\n";
    let want: Expect = expect![[r#"
        warning: a.yaml:4: document 1: HTTPRoute default/r: spec.rules[0].sessionPersistence: known, not yet served: requests of a session may go to different endpoints
    "#]];
    want.assert_eq(&lines(&Shelf::new().put(&[("a.yaml", least)])));
}

#[test]
fn one_destination_gets_everything() {
    let weights = |route: &str| {
        let text = format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: a}}\nspec: {{hosts: [a], http: [{{route: {route}}}]}}\n"
        );
        let (objects, problems) = read(&text);
        assert_eq!(problems, "");
        let [Object::VirtualService(v)] = &objects[..] else { panic!("{objects:?}") };
        let HttpAction::Forward(targets) = &v.http[0].action else { panic!("{v:?}") };
        targets.iter().map(|t| t.weight).collect::<Vec<_>>()
    };
    assert_eq!(weights("[{destination: {host: a}}]"), [1]);
    assert_eq!(weights("[{destination: {host: a}, weight: 0}]"), [1]);
    assert_eq!(weights("[{destination: {host: a}, weight: 0}, {destination: {host: b}, weight: 7}]"), [0, 7]);
    assert_eq!(weights("[{destination: {host: a}}, {destination: {host: b}, weight: 100}]"), [0, 100]);
}

#[test]
fn a_broken_one_keeps_its_last_good_version() {
    let mut shelf = Shelf::new();
    shelf.put(&[("a.yaml", SAMPLES)]);
    let before = shelf.sources().len();
    let update = shelf.put(&[("a.yaml", &SAMPLES.replace("timeout: 10s", "timeout: 10"))]);
    assert_eq!(update.problems.len(), 1, "{}", lines(&update));
    assert_eq!(shelf.sources().len(), before);
    // without one it is not served, and nothing takes its place: it grants nothing
    let mut fresh = Shelf::new();
    fresh.put(&[("a.yaml", &SAMPLES.replace("timeout: 10s", "timeout: 10"))]);
    assert_eq!(fresh.sources().len(), before - 1);
}
