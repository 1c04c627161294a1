//! Facts are a function of the objects: not of the order of changes, nor of the way there.

use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{
    TrustDomain,
    objects::Batch,
    testing::{
        model, some_batch, some_model, some_object,
        walk::{answers, some_step},
    },
};

/// From nothing, with all objects at once.
fn fresh(changed: &Model) -> Model {
    let mut fresh = Model::empty(changed.world().settings().clone());
    fresh.apply(&changed.sources().objects().map(|(_, object)| object.clone()).collect());
    fresh
}

proptest! {
    #[test]
    fn any_order_gives_the_same_facts(objects in vec(some_object(), 0..16), seed in any::<u64>()) {
        // one object per name: of two changes to one object, the later counts
        let unique: BTreeMap<_, _> = objects.into_iter().map(|o| (o.key(), o)).collect();
        let forward = model(unique.values().cloned());
        let mut shuffled: Vec<_> = unique.into_values().collect();
        let mut state = seed;
        for i in (1..shuffled.len()).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            shuffled.swap(i, (state >> 33) as usize % (i + 1));
        }
        let mut one_by_one = Model::empty(MeshSettings::default());
        for object in shuffled {
            one_by_one.apply(&[object].into_iter().collect());
        }
        prop_assert_eq!(forward.world(), one_by_one.world());
        prop_assert_eq!(answers(&forward), answers(&one_by_one));
    }

    #[test]
    fn changes_leave_no_trace(start in some_model(), batches in vec(some_batch(), 1..4)) {
        let mut changed = start;
        for batch in batches {
            changed.apply(&batch);
            let fresh = fresh(&changed);
            prop_assert_eq!(changed.world(), fresh.world());
            prop_assert_eq!(answers(&changed), answers(&fresh));
        }
    }

    #[test]
    fn a_walk_leaves_no_trace(steps in vec(some_step(), 1..40)) {
        let mut walked = Model::empty(MeshSettings::default());
        for step in steps {
            walked.apply(&step.batch(walked.sources()));
        }
        let fresh = fresh(&walked);
        prop_assert_eq!(walked.world(), fresh.world());
        prop_assert_eq!(answers(&walked), answers(&fresh));
    }

    #[test]
    fn settings_are_a_change_like_any_other(start in some_model(), which in 0usize..6) {
        let mut changed = start.clone();
        let mut settings = MeshSettings::default();
        match which {
            0 => settings.trust_domain = "other.org".parse::<TrustDomain>().expect("a trust domain"),
            1 => settings.trust_domain_aliases = vec!["other.org".parse().expect("a trust domain")],
            2 => settings.root_namespace = "default".into(),
            3 => settings.cluster_domain = "other.local".into(),
            4 => settings.sidecar_keys = false,
            _ => settings.cluster = "other".into(),
        }
        let resolved = changed.set_settings(settings);
        prop_assert!(which > 1 || resolved.pods.is_empty(), "what stands beside the facts rewrites none");
        let fresh = fresh(&changed);
        prop_assert_eq!(changed.world(), fresh.world());
        prop_assert_eq!(answers(&changed), answers(&fresh));
        changed.set_settings(MeshSettings::default());
        prop_assert_eq!(changed.world(), start.world());
        prop_assert_eq!(answers(&changed), answers(&start));
    }

    /// Two ways to ask the same: the policies of a pod, and the pods of a policy.
    #[test]
    fn a_policy_applies_to_the_pods_that_it_judges(model in some_model()) {
        let world = model.world();
        for policy in world.policies() {
            for w in world.workloads() {
                let judged = world.authorization_policies(w).any(|p| p.name == policy.name);
                prop_assert_eq!(world.applies(policy, w), judged, "{} {}", &policy.name, &w.name);
            }
        }
    }

    #[test]
    fn findings_of_one_object_are_those_of_all(model in some_model()) {
        let sources = model.sources();
        for (key, _) in sources.objects() {
            let all: Vec<_> = sources.findings().filter(|f| f.object == *key).collect();
            prop_assert_eq!(sources.findings_of(key).iter().collect::<Vec<_>>(), all);
        }
        prop_assert!(sources.findings().all(|found| sources.get(&found.object).is_some()));
    }

    /// A batch that changes nothing gives the World that is there.
    #[test]
    fn equal_objects_are_no_change(start in some_model()) {
        let mut again = start.clone();
        let resolved = again.apply(&start.sources().objects().map(|(_, object)| object.clone()).collect::<Batch>());
        prop_assert!(resolved.pods.is_empty());
        prop_assert!(world::Delta::between(start.world(), again.world()).is_empty());
    }
}
