//! VirtualServices and DestinationRules: what of them is read, each field once, and that nothing of them passes in
//! silence.

use expect_test::{Expect, ExpectFile, expect, expect_file};
use underpass_core::objects::{HttpAction, Object};

use crate::{Shelf, lines};

const EVERY_FIELD: &str = include_str!("routes/every_field.yaml");
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
fn versions_have_one_shape() {
    let of = |version: &str| read(&SAMPLES.replace("networking.istio.io/v1beta1", version));
    let v1 = of("networking.istio.io/v1");
    assert_eq!(v1.1, "");
    for version in ["networking.istio.io/v1beta1", "networking.istio.io/v1alpha3"] {
        assert_eq!(of(version), v1, "{version}");
    }
    assert!(of("networking.istio.io/v2").1.contains("is not served"), "{}", of("networking.istio.io/v2").1);
}

/// No waypoint enforces them yet, and each says so, field by field.
#[test]
fn what_is_read_is_not_said_to_be_enforced() {
    let mut shelf = Shelf::new();
    let update = shelf.put(&[("a.yaml", SAMPLES)]);
    let want: Expect = expect![[r#"
        notice: a.yaml:2: document 1: VirtualService shop/cart-routing: known, not yet served: connections to its hosts go to every ready endpoint of the Service, as if it did not exist
        notice: a.yaml:10: document 1: VirtualService shop/cart-routing: spec.http[0].match: requests are not matched: all of them are routed alike (also in line 18)
        notice: a.yaml:17: document 1: VirtualService shop/cart-routing: spec.http[0].route[0].destination.subset: the subset is ignored: all endpoints of the Service are used (also in lines 24, 28)
        notice: a.yaml:31: document 2: VirtualService shop/cart-weighted: known, not yet served: connections to its hosts go to every ready endpoint of the Service, as if it did not exist
        notice: a.yaml:42: document 2: VirtualService shop/cart-weighted: spec.http[0].route[0].destination.subset: the subset is ignored: all endpoints of the Service are used (also in line 46)
        notice: a.yaml:43: document 2: VirtualService shop/cart-weighted: spec.http[0].route[0].weight: traffic is not split by weight (also in line 47)
        notice: a.yaml:50: document 3: VirtualService shop/stock-resilience: known, not yet served: connections to its hosts go to every ready endpoint of the Service, as if it did not exist
        notice: a.yaml:61: document 3: VirtualService shop/stock-resilience: spec.http[0].route[0].destination.subset: the subset is ignored: all endpoints of the Service are used
        notice: a.yaml:62: document 3: VirtualService shop/stock-resilience: spec.http[0].timeout: requests have only the client's timeout
        notice: a.yaml:63: document 3: VirtualService shop/stock-resilience: spec.http[0].retries: only the client retries
        notice: a.yaml:69: document 4: DestinationRule shop/cart-destination: known, not yet served: connections to its host are balanced and limited as if it did not exist
        notice: a.yaml:76: document 4: DestinationRule shop/cart-destination: spec.trafficPolicy.connectionPool: connections and requests to the host have no such limit
        notice: a.yaml:83: document 4: DestinationRule shop/cart-destination: spec.trafficPolicy.loadBalancer: connections are spread over the ready endpoints by Underpass's own balancing
        notice: a.yaml:85: document 4: DestinationRule shop/cart-destination: spec.subsets: the endpoints of the Service stay one set
        notice: a.yaml:93: document 4: DestinationRule shop/cart-destination: spec.subsets[1].trafficPolicy.loadBalancer: connections are spread over the ready endpoints by Underpass's own balancing
        notice: a.yaml:97: document 5: DestinationRule shop/cart-circuit-breaker: known, not yet served: connections to its host are balanced and limited as if it did not exist
        notice: a.yaml:104: document 5: DestinationRule shop/cart-circuit-breaker: spec.trafficPolicy.connectionPool: connections and requests to the host have no such limit
        notice: a.yaml:112: document 5: DestinationRule shop/cart-circuit-breaker: spec.trafficPolicy.outlierDetection: no endpoint is taken out because of errors: only readiness counts
    "#]];
    want.assert_eq(&lines(&update));
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
