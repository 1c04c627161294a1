//! The data path's tables, made what the World and this node's pods want. Its own file because [`super`] is about pods, and this
//! about what stands in the tables, and of which World it is.

use std::sync::Arc;

use underpass_abi::{Cookie, Map, Op};
use underpass_core::World;

use super::{Event, Pods, State};
use crate::{
    datapath::{self, DataPath},
    tables::{KernelPod, Tables, compile, compile_pods, diff, follow, ordered_for_room},
};

impl<D: DataPath> Pods<D> {
    pub(super) fn forget(&mut self, cookie: Cookie) {
        self.there.without_pod(cookie).iter().for_each(|op| self.there.apply(op));
    }

    /// Makes the tables what World and pods want, and tells the tunnel about pods that they announce.
    pub(super) fn sync(&mut self, world: &Arc<World>) {
        let ops = self.missing(world);
        let was_cut = self.there.is_cut();
        self.problem = self.change(&ops).err().map(|e| e.to_string());
        self.stale = self.problem.is_some();
        if let Some(problem) = &self.problem {
            tracing::warn!(problem, "the data path is not as the World wants it");
            return;
        }
        self.finished = Some(Arc::clone(world));
        if self.there.is_cut() != was_cut {
            let capacity = self.path.capacity(Map::Mesh);
            match was_cut {
                false => tracing::warn!(capacity, "mesh table full: destinations that it does not know are captured"),
                true => {
                    tracing::info!(capacity, "mesh table has room again: destinations out of the mesh are left alone")
                }
            }
        }
        for state in self.pods.values_mut() {
            if let State::Enrolled(member) = state
                && let Some(pod) = member.announce()
            {
                (self.sink)(Event::Added(Box::new(pod)));
            }
        }
        if self.applied != Some(world.version()) {
            self.applied = Some(world.version());
            (self.sink)(Event::Applied(world.version()));
        }
    }

    /// The operations that are missing: from the World that was finished last only what differs, else from what is there.
    fn missing(&self, world: &World) -> Vec<Op> {
        let members = self.pods.values().filter_map(State::member);
        let pods: Vec<KernelPod> = members.map(|member| member.kernel.clone()).collect();
        let keep_orphans = |mut wanted: Tables| {
            self.orphans.iter().for_each(|cookie| wanted.keep_pod(&self.there, *cookie));
            wanted
        };
        let agents = &self.settings.agents;
        let room = self.path.capacity(Map::Mesh) as usize;
        let followed = self
            .finished
            .as_ref()
            .map(|finished| follow(&self.there, finished, world, &keep_orphans(compile_pods(&pods, agents))));
        // Of a table that does not hold every address it takes the whole World to say which are missing.
        let ops = followed.filter(|ops| self.there.has_room(ops, room)).unwrap_or_else(|| {
            diff(&self.there, &keep_orphans(compile(world, &pods, agents)).within(&self.there, room))
        });
        ordered_for_room(ops, &self.there, room)
    }

    /// Changes the data path's tables. After a failure they are read back: some operations were applied.
    pub(super) fn change(&mut self, ops: &[Op]) -> datapath::Result<()> {
        match self.path.apply(ops) {
            Ok(()) => ops.iter().for_each(|op| self.there.apply(op)),
            Err(e) => {
                self.finished = None;
                self.there = Tables::from_ops(&self.path.contents()?);
                return Err(e);
            }
        }
        Ok(())
    }
}
