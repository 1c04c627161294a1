//! A worker's cache of the labels of parties: a known party costs no allocation.

use std::{collections::HashMap, fmt, sync::Arc};

use underpass_core::{Identity, World, connection::Party, world::Workload};

use super::Side;

/// The size up to which the cache is not swept.
const FEW: usize = 64;

/// A cached side. Its key is the workload's address in memory, which is not reused while the workload is kept here, and its
/// identity.
struct CachedSide {
    workload: Option<Arc<Workload>>,
    side: Arc<Side>,
}

impl CachedSide {
    /// True if the World has this very fact.
    fn is_current(&self, world: &World) -> bool {
        let is_it = |w: &Arc<Workload>| world.workload(&w.uid).is_some_and(|current| Arc::ptr_eq(current, w));
        self.workload.as_ref().is_some_and(is_it)
    }
}

/// A cache of the labels of facts. A fact does not change, so that the next World which has it as well changes nothing here;
/// entries that the World does not have any more are swept when the cache has doubled since the last sweep.
#[derive(Default)]
pub struct SideCache {
    sides: HashMap<(usize, Option<Identity>), CachedSide>,
    most: usize,
    /// The number of sweeps.
    swept: u64,
}

impl fmt::Debug for SideCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SideCache").field("sides", &self.sides.len()).finish_non_exhaustive()
    }
}

impl SideCache {
    /// The labels of a party, made once.
    pub fn side(&mut self, world: &World, party: &Party) -> Arc<Side> {
        if self.sides.len() > self.most {
            self.sides.retain(|_, known| known.is_current(world));
            self.most = (2 * self.sides.len()).max(FEW);
            self.swept += 1;
        }
        let address = party.workload.as_ref().map_or(0, |w| Arc::as_ptr(w).addr());
        let make = || CachedSide { workload: party.workload.clone(), side: Arc::new(Side::new(party)) };
        Arc::clone(&self.sides.entry((address, party.identity.clone())).or_insert_with(make).side)
    }

    /// The number of sweeps: what was kept by the address of a side is not to be used after one.
    #[must_use]
    pub const fn swept(&self) -> u64 {
        self.swept
    }
}

#[cfg(test)]
mod tests {
    use underpass_core::{
        objects::{Batch, Object},
        testing::{model, pod},
    };

    use super::*;

    #[test]
    fn the_labels_of_a_fact_are_cached_while_the_world_has_it() {
        let mut model = model([pod("default/stays", "10.0.0.1").into()]);
        let mut known = SideCache::default();
        let mut side = |world: &World, address: &str| {
            let address: std::net::SocketAddr = address.parse().unwrap();
            let workload = world.workload_at(address.ip()).cloned();
            assert!(workload.is_some());
            let side = known.side(world, &Party { address, workload, identity: None });
            (side, known.sides.len())
        };
        let (first, _) = side(model.world(), "10.0.0.1:1");
        let mut most = 0;
        for n in 0..FEW * 4 {
            let mut batch = Batch::default();
            batch.put(pod(&format!("default/p{n}"), "10.0.0.2"));
            model.apply(&batch);
            most = most.max(side(model.world(), "10.0.0.2:1").1);
            let mut batch = Batch::default();
            batch.remove(Object::from(pod(&format!("default/p{n}"), "10.0.0.2")).key());
            model.apply(&batch);
            assert!(Arc::ptr_eq(&first, &side(model.world(), "10.0.0.1:1").0), "made once");
        }
        assert!(most <= FEW + 1, "{most}");
        let mut batch = Batch::default();
        batch.put(pod("default/stays", "10.0.0.1"));
        model.apply(&batch);
        assert!(Arc::ptr_eq(&first, &side(model.world(), "10.0.0.1:1").0), "an equal put is no change");
    }
}
