//! The sample that everything else starts from: read without a word, and meaning what it says.

use std::path::Path;

use underpass_config::door;
use underpass_core::{
    Kind,
    authz::{Peer, Request},
    resolve::Model,
    testing::name,
    world::MeshSettings,
};

fn sample() -> Model {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/samples/bookinfo");
    let update = door::read(path);
    assert_eq!(crate::lines(&update), "");
    assert!(update.ignored.is_empty(), "{:?}", update.ignored);
    let mut model = Model::empty(MeshSettings::default());
    model.apply(&update.batch);
    model
}

#[test]
fn it_is_complete() {
    let sample = sample();
    let (world, sources) = (sample.world(), sample.sources());
    assert_eq!(sources.findings().next(), None);
    let count = |kind| sources.objects().filter(|(key, _)| key.kind == kind).count();
    let counts: Vec<_> = Kind::ALL.into_iter().map(|k| (k.as_str(), count(k))).collect();
    assert_eq!(
        counts,
        [
            ("Namespace", 3),
            ("Node", 2),
            ("Pod", 8),
            ("Service", 4),
            ("EndpointSlice", 0),
            ("Gateway", 0),
            ("AuthorizationPolicy", 5),
            ("PeerAuthentication", 1),
            ("VirtualService", 0),
            ("DestinationRule", 0),
            ("RequestAuthentication", 0),
            ("HTTPRoute", 0),
            ("GRPCRoute", 0),
            ("TLSRoute", 0),
            ("TCPRoute", 0),
            ("ReferenceGrant", 0),
            ("ConfigMap", 0),
        ]
    );
    for pod in world.workloads() {
        assert_eq!(pod.is_enrolled(), pod.name.namespace() != "legacy", "{}", pod.name);
        assert_eq!(pod.addresses.len(), 2, "{}", pod.name);
        assert!(pod.ready && sources.node(pod.node.as_ref().unwrap()).is_some(), "{}", pod.name);
    }
    for service in world.services() {
        let endpoints: Vec<_> = world.endpoints(&service.name).map(|(_, e)| e).collect();
        let expect = if service.name.name() == "reviews" { 3 } else { 1 };
        assert_eq!(endpoints.len(), expect * 2, "{}", service.name);
        assert!(endpoints.iter().all(|e| e.target_port(9080) == Some(9080)), "{}", service.name);
    }
}

#[test]
fn verdicts() {
    let sample = sample();
    let world = sample.world();
    let check = |from: &str, to: &str, with_identity: bool, expect: bool| {
        let (from, to) = (world.pod(&name(from)).unwrap(), world.pod(&name(to)).unwrap());
        let identity = world.identity(from).filter(|_| with_identity);
        let peer = Peer::itself(from.addresses[0], identity);
        let request = Request { peer, workload: to, address: to.addresses[0], port: 9080 };
        let verdict = underpass_core::admit::admit(world, &request, &mut ());
        assert_eq!(verdict.is_allow(), expect, "{} to {}: {verdict:?}", from.name, to.name);
    };
    check("client/sleep", "bookinfo/productpage-v1", true, true);
    check("bookinfo/productpage-v1", "bookinfo/details-v1", true, true);
    for v in 1..=3 {
        check("bookinfo/productpage-v1", &format!("bookinfo/reviews-v{v}"), true, true);
        check(&format!("bookinfo/reviews-v{v}"), "bookinfo/ratings-v1", true, true);
    }
    check("bookinfo/productpage-v1", "bookinfo/ratings-v1", true, false);
    check("client/sleep", "bookinfo/details-v1", true, false);
    check("client/sleep", "bookinfo/reviews-v1", true, false);
    check("bookinfo/ratings-v1", "bookinfo/productpage-v1", true, false);
    check("legacy/curl", "bookinfo/productpage-v1", false, false);
    check("bookinfo/productpage-v1", "bookinfo/details-v1", false, false);
    check("bookinfo/productpage-v1", "client/sleep", true, true);
    check("bookinfo/productpage-v1", "legacy/curl", false, true);
}
