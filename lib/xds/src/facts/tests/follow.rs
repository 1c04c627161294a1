//! Resources that follow Worlds, and the facts that follow them.

use std::sync::Arc;

use proptest::{collection::vec, prelude::*};
use underpass_core::{
    World,
    objects::Object,
    testing::{ambient, model, peer_authentication, some_batch, some_model, walk::some_step},
    world::MeshSettings,
};

use super::{changes, encode, round_trip::normal};
use crate::{
    facts::{Decoder, Encoder},
    resource::{Resource, Resources},
};

fn same(a: &Resources, b: &Resources) -> bool {
    a.addresses == b.addresses && a.authorizations == b.authorizations
}

proptest! {
    #[test]
    fn followers_arrive_where_a_fresh_start_does(start in some_model(), steps in vec((some_step(), some_batch(), any::<bool>()), 1..20), other in any::<bool>()) {
        let mut model = start;
        let settings = Arc::new(model.world().settings().clone());
        let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new(Arc::clone(&settings)));
        let empty = World::empty((*settings).clone());
        let (mut seen, mut sent, mut decoded) = (empty.clone(), Resources::default(), empty);
        for (step, batch, skip) in steps {
            let batch = if other { batch } else { step.batch(model.sources()) };
            model.apply(&batch);
            if skip {
                continue;
            }
            encoder.follow(&seen, model.world());
            seen = model.world().clone();
            prop_assert!(same(encoder.resources(), &encode(&seen)));
            let answer = decoder.apply(changes(&sent, encoder.resources()));
            sent = encoder.resources().clone();
            prop_assert_eq!(answer.problems, []);
            decoded = decoded.apply(answer.facts);
            prop_assert_eq!(&decoded, &normal(&seen));
        }
    }
}

/// The resources that differ.
fn differing(old: &Resources, new: &Resources) -> usize {
    old.addresses.diff(&new.addresses).count() + old.authorizations.diff(&new.authorizations).count()
}

#[test]
fn a_change_of_one_pod_touches_its_own_resources() {
    for pods in [100u32, 5_000] {
        let address = |n: u32| std::net::Ipv4Addr::from(0x0a00_0000 + n).to_string();
        let pod = |n: u32| ambient(&format!("default/pod-{n}"), &address(n), &format!("app=a{}", n % 10));
        let policies = ["istio-system/m - STRICT", "default/w app=a1 UNSET 80=PERMISSIVE"];
        let policies = policies.map(|text| Object::from(peer_authentication(text)));
        let mut model = model((0..pods).map(|n| Object::from(pod(n))).chain(policies));
        let mut encoder = Encoder::new();
        encoder.follow(&World::empty(MeshSettings::default()), model.world());
        let mut check = |change: &mut dyn FnMut(&mut underpass_core::objects::Pod), expect: usize| {
            let (before, old, encoded) = (encoder.resources().clone(), model.world().clone(), encoder.encoded());
            let mut pod = pod(7);
            change(&mut pod);
            model.apply(&[Object::from(pod)].into_iter().collect());
            encoder.follow(&old, model.world());
            assert_eq!(differing(&before, encoder.resources()), expect);
            let encoded = usize::try_from(encoder.encoded() - encoded).unwrap();
            assert!((expect..=2).contains(&encoded), "{encoded} of {pods}");
        };
        check(&mut |pod| pod.ready = false, 1);
        check(&mut |pod| pod.ready = false, 0);
        check(&mut |pod| pod.labels = underpass_core::testing::labels("app=a1 istio.io/dataplane-mode=ambient"), 1);
        check(&mut |_| {}, 1);
    }
}

#[test]
fn what_is_encoded_to_the_same_bytes_stays_the_same_resource() {
    let mut model =
        model([ambient("default/a", "10.0.0.1", "").into(), peer_authentication("default/p - STRICT").into()]);
    let mut encoder = Encoder::new();
    encoder.follow(&World::empty(MeshSettings::default()), model.world());
    let before = encoder.resources().clone();
    let old = model.world().clone();
    // Settings that no message depends on.
    model.set_settings(MeshSettings { sidecar_keys: false, ..MeshSettings::default() });
    encoder.follow(&old, model.world());
    let kept = |before: &Arc<Resource>, now: &Arc<Resource>| Arc::ptr_eq(before, now);
    assert_eq!(before.addresses.len(), 1);
    assert!(before.addresses.values().zip(encoder.resources().addresses.values()).all(|(a, b)| kept(a, b)));
    assert!(before.authorizations.values().zip(encoder.resources().authorizations.values()).all(|(a, b)| kept(a, b)));
    // And one that all depend on.
    let old = model.world().clone();
    model.set_settings(MeshSettings { root_namespace: "root".into(), ..MeshSettings::default() });
    encoder.follow(&old, model.world());
    assert!(same(encoder.resources(), &encode(model.world())));
    assert!(encoder.resources().authorizations.contains_key("root/istio_converted_static_strict"));
}
