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
    fn changes_leave_no_trace(start in some_world(), batch in some_batch()) {
        let changed = start.apply(&batch);
        let fresh = world(changed.objects().values().cloned());
        prop_assert_eq!(&changed, &fresh);
        prop_assert_eq!(answers(&changed), answers(&fresh));
    }
}
