//! What the labels of series name that is still there: a series whose workloads are gone is dropped. No clock, and no lock.

use std::{collections::HashMap, hash::Hash, sync::Arc};

use underpass_core::{Identity, ObjectName, World, world::Delta};

use super::{Side, WorkloadLabels};

/// The workloads and identities of the World at a scrape: from one to the next it follows the delta.
#[derive(Debug)]
pub struct Alive {
    world: Arc<World>,
    workloads: HashMap<WorkloadLabels, usize>,
    identities: HashMap<Identity, usize>,
}

impl Alive {
    /// Those of this World.
    #[must_use]
    pub fn new(world: &Arc<World>) -> Self {
        let nothing = Arc::new(World::empty(world.settings().clone()));
        let mut alive = Self { world: nothing, workloads: HashMap::new(), identities: HashMap::new() };
        alive.follow(world);
        alive
    }

    /// Follows the World to `world`.
    pub fn follow(&mut self, world: &Arc<World>) {
        let old = Arc::clone(&self.world);
        if old.settings().trust_domain != world.settings().trust_domain {
            *self = Self::new(world); // every identity is another one
            return;
        }
        for workload in Delta::between(&old, world).workloads {
            if let Some(new) = workload.new {
                *self.workloads.entry(WorkloadLabels::new(new)).or_default() += 1;
                world.identity(new).into_iter().for_each(|id| *self.identities.entry(id.clone()).or_default() += 1);
            }
            if let Some(gone) = workload.old {
                remove(&mut self.workloads, &WorkloadLabels::new(gone));
                old.identity(gone).into_iter().for_each(|identity| remove(&mut self.identities, identity));
            }
        }
        self.world = Arc::clone(world);
    }

    /// What the labels of this side name is still there.
    #[must_use]
    pub fn has(&self, side: &Side) -> bool {
        side.workload.as_ref().is_none_or(|workload| self.workloads.contains_key(workload))
            && side.principal.as_ref().is_none_or(|principal| self.identities.contains_key(principal))
    }

    /// There is such a Service.
    #[must_use]
    pub fn has_service(&self, name: &ObjectName) -> bool {
        self.world.service(name).is_some()
    }
}

/// Counts one less.
fn remove<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};
    use underpass_core::{
        testing::{some_batch, some_model},
        world::MeshSettings,
    };

    use super::*;

    proptest! {
        #[test]
        fn following_deltas_is_the_same_as_starting_anew(
            start in some_model(),
            changes in vec((some_batch(), prop::bool::weighted(0.2), any::<bool>()), 0..6),
        ) {
            let mut model = start;
            let mut followed = Alive::new(&Arc::new(model.world().clone()));
            for (n, (batch, settings, skips)) in changes.into_iter().enumerate() {
                model.apply(&batch);
                if settings {
                    let trust_domain = format!("td{n}.example").parse().unwrap();
                    model.set_settings(MeshSettings { trust_domain, ..MeshSettings::default() });
                }
                if skips {
                    continue;
                }
                let world = Arc::new(model.world().clone());
                followed.follow(&world);
                let counts = |alive: &Alive| (alive.workloads.clone(), alive.identities.clone());
                prop_assert_eq!(counts(&followed), counts(&Alive::new(&world)));
                let all: usize = followed.workloads.values().sum();
                prop_assert_eq!(all, world.workloads().count());
                prop_assert!(world.identities().all(|identity| followed.identities.contains_key(identity)));
                prop_assert_eq!(followed.identities.len(), world.identities().count());
            }
        }
    }
}
