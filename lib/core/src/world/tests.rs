//! A World is a function of its objects: not of the order of changes, nor of the way there.

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::testing::{some_batch, some_object, some_world, walk::answers, world};

proptest! {
    #[test]
    fn any_order_gives_the_same_world(objects in vec(some_object(), 0..16), seed in any::<u64>()) {
        // one object per name: of two changes to one object, the later counts
        let unique: BTreeMap<_, _> = objects.into_iter().map(|o| (o.key(), o)).collect();
        let forward = world(unique.values().cloned());
        let mut shuffled: Vec<_> = unique.into_values().collect();
        let mut state = seed;
        for i in (1..shuffled.len()).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            shuffled.swap(i, (state >> 33) as usize % (i + 1));
        }
        let one_by_one = shuffled.into_iter().fold(World::empty(MeshSettings::default()), |w, o| w.apply(&[o].into_iter().collect()));
        prop_assert_eq!(&forward, &one_by_one);
        prop_assert_eq!(answers(&forward), answers(&one_by_one));
    }

    #[test]
    fn what_is_found_about_one_object_is_found_again(world in some_world()) {
        for key in world.objects().keys() {
            let all: Vec<_> = world.findings().iter().filter(|f| f.object == *key).collect();
            prop_assert_eq!(world.findings_of(key).iter().collect::<Vec<_>>(), all);
        }
    }

    /// Two ways to ask the same: the policies of a pod, and the pods of a policy.
    #[test]
    fn a_policy_applies_to_the_pods_that_it_judges(world in some_world()) {
        let all = world.objects().values().filter_map(|o| match o { Object::AuthorizationPolicy(p) => Some(p), _ => None });
        for policy in all {
            for w in world.workloads() {
                let judged = world.authorization_policies(w).any(|p| p.name == policy.name);
                prop_assert_eq!(world.applies(policy, w), judged, "{} {}", policy.name, w.name);
            }
        }
    }

    #[test]
    fn changes_leave_no_trace(start in some_world(), batch in some_batch()) {
        let changed = start.apply(&batch);
        let fresh = world(changed.objects().values().cloned());
        prop_assert_eq!(&changed, &fresh);
        prop_assert_eq!(answers(&changed), answers(&fresh));
    }
}
