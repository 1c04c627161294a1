//! The data path's tables, made what the World and this node's pods want. Its own file because [`super`] is about pods, and this
//! about what stands in the tables, and of which World it is.

use std::sync::Arc;

use underpass_abi::{Cookie, Op};
use underpass_core::World;

use super::{Event, Pods, State};
use crate::{
    datapath::{self, DataPath},
    tables::{KernelPod, Tables, compile, compile_pods, diff, follow},
};

impl<D: DataPath> Pods<D> {
    pub(super) fn forget(&mut self, cookie: Cookie) {
        self.there.without_pod(cookie).iter().for_each(|op| self.there.apply(op));
    }

    /// Makes the tables what World and pods want, and tells the tunnel about pods that they announce.
    pub(super) fn sync(&mut self, world: &Arc<World>) {
        let ops = self.missing(world);
        self.problem = self.change(&ops).err().map(|e| e.to_string());
        self.stale = self.problem.is_some();
        if let Some(problem) = &self.problem {
            tracing::warn!(problem, "the data path is not as the World wants it");
            return;
        }
        self.finished = Some(Arc::clone(world));
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
        match &self.finished {
            Some(finished) => follow(&self.there, finished, world, &keep_orphans(compile_pods(&pods, agents))),
            None => diff(&self.there, &keep_orphans(compile(world, &pods, agents))),
        }
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
