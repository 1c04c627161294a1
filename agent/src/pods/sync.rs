//! The synchronisation of the data path's tables with the World and this node's pods. Its own file because [`super`] is about
//! pods, and this about the contents of the tables, and the World behind them.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use underpass_abi::{ANY_OTHER, Cookie, Destination, Map, Op};
use underpass_core::World;

use super::{Event, LOOK_AGAIN, Pods, State};
use crate::{
    datapath::{self, DataPath},
    tables::{KernelNode, KernelPod, Tables, compile, compile_pods, diff, follow, ordered_for_room},
};

/// The longest pause between two reads of the data path's contents while something fails.
const LONGEST_READING: Duration = Duration::from_secs(60);

/// The failures by pod; under none, those of operations that concern all of them.
pub(super) type Failures = BTreeMap<Option<Cookie>, String>;

impl<D: DataPath> Pods<D> {
    /// Removes a pod from the known contents of the data path.
    pub(super) fn forget(&mut self, cookie: Cookie) {
        self.there.without_pod(cookie).iter().for_each(|op| self.there.apply(op));
    }

    /// Brings the tables to what World and pods want, and announces enrolled pods to the tunnel. A failure about one pod
    /// concerns that pod alone; it is tried again with the next look.
    pub(super) fn sync(&mut self, world: &Arc<World>, now: Instant) {
        self.read_back(now);
        let ops = self.missing(world);
        let was_cut = self.there.is_cut();
        self.failures = self.apply_apart(&ops);
        self.stale = false;
        if self.failures.is_empty() {
            self.reading = None;
        } else {
            self.reading.get_or_insert((now + LOOK_AGAIN, LOOK_AGAIN));
        }
        for (pod, problem) in &self.failures {
            tracing::warn!(cookie = pod.map(|pod| pod.0), problem, "updating the kernel tables failed");
        }
        self.log_room(was_cut);
        self.announce();
        // Addresses of the mesh and agents concern all pods.
        if self.failures.contains_key(&None) {
            self.finished = None;
            return;
        }
        self.finished = Some(Arc::clone(world));
        if self.applied != Some(world.version()) {
            self.applied = Some(world.version());
            (self.sink)(Event::Applied(world.version()));
        }
    }

    /// Announces pods that are in the tables to the tunnel: also one in release that an earlier agent has begun to release.
    fn announce(&mut self) {
        for state in self.pods.values_mut() {
            let (torn, steered) = match state {
                State::Releasing { torn, steered, .. } => (*torn, *steered),
                _ => (false, true),
            };
            let Some(enrolled) = state.enrolled_mut().filter(|_| !torn) else { continue };
            let cookie = enrolled.kernel.cookie;
            let is_there = self.there.pod(cookie).is_some_and(|pod| pod.phase == enrolled.kernel.phase);
            if is_there && let Some(pod) = enrolled.announce() {
                (self.sink)(Event::Added(Box::new(pod)));
                if !steered {
                    (self.sink)(Event::Steered { cookie, steered });
                }
            }
        }
    }

    fn log_room(&self, was_cut: bool) {
        let capacity = self.path.capacity(Map::Mesh);
        match (was_cut, self.there.is_cut()) {
            (false, true) => {
                tracing::warn!(capacity, "kernel mesh table full, capturing unlisted destinations");
            }
            (true, false) => {
                tracing::info!(capacity, "kernel mesh table complete again");
            }
            _ => {}
        }
    }

    /// Reads the tables back after a failure, with a growing pause.
    fn read_back(&mut self, now: Instant) {
        let Some((_, pause)) = self.reading.filter(|(at, _)| *at <= now) else { return };
        let pause = pause.saturating_mul(2).min(LONGEST_READING);
        self.reading = Some((now + pause, pause));
        match self.path.contents() {
            Ok(contents) => (self.there, self.finished) = (Tables::from_ops(&contents), None),
            Err(error) => tracing::warn!(%error, "reading the kernel tables back failed"),
        }
    }

    /// The operations that are missing: from the World that was finished last only what differs, else from what is there.
    fn missing(&self, world: &World) -> Vec<Op> {
        let enrolled = self.pods.values().filter_map(State::enrolled);
        let pods: Vec<KernelPod> = enrolled.map(|enrolled| enrolled.kernel.clone()).collect();
        let keep_orphans = |mut wanted: Tables| {
            self.orphans.iter().for_each(|cookie| wanted.keep_pod(&self.there, *cookie));
            wanted
        };
        let own = Cookie(self.own.cookie());
        let kubelet = self.kubelet.cgroup().map(|cgroup| (cgroup, own));
        let node = KernelNode { agents: self.settings.agents.clone(), kubelet };
        let room = self.path.capacity(Map::Mesh) as usize;
        let followed = self
            .finished
            .as_ref()
            .map(|finished| follow(&self.there, finished, world, &keep_orphans(compile_pods(&pods, &node))));
        // Of a table that does not hold every address it takes the whole World to say which are missing.
        let ops = followed.filter(|ops| self.there.has_room(ops, room)).unwrap_or_else(|| {
            diff(&self.there, &keep_orphans(compile(world, &pods, &node)).within(&self.there, room))
        });
        ordered_for_room(ops, &self.there, room)
    }

    /// Changes the data path's tables for one pod; stops at the first failure.
    pub(super) fn change(&mut self, ops: &[Op]) -> datapath::Result<()> {
        for op in ops {
            self.path.apply(std::slice::from_ref(op))?;
            self.there.apply(op);
        }
        Ok(())
    }

    /// Applies operations of all pods: a failure stops only the operations that must not come before it. It is tried once more at
    /// the end, when removals have made room.
    pub(super) fn apply_apart(&mut self, ops: &[Op]) -> Failures {
        if self.path.apply(ops).is_ok() {
            ops.iter().for_each(|op| self.there.apply(op));
            return Failures::new();
        }
        let left: Vec<Op> = self.try_each(ops).into_iter().map(|(op, _)| op).collect();
        let left = self.try_each(&left).into_iter().rev();
        left.filter_map(|(op, error)| Some((self.there.concerned(&op), error?.to_string()))).collect()
    }

    /// The operations that failed, with why, and those that had to wait for one of them.
    fn try_each(&mut self, ops: &[Op]) -> Vec<(Op, Option<datapath::Error>)> {
        let mut left: Vec<(Op, Option<datapath::Error>)> = Vec::new();
        for op in ops {
            if left.iter().any(|(other, _)| self.there.must_wait(op, other)) {
                left.push((*op, None));
                continue;
            }
            match self.path.apply(std::slice::from_ref(op)) {
                Ok(()) => self.there.apply(op),
                Err(error) => {
                    left.push((*op, Some(error)));
                    if matches!(op, Op::SetDestination(..)) {
                        self.capture_all();
                    }
                }
            }
        }
        left
    }

    /// An address of the mesh is missing. Where not even this can be done, it is tried again with the address.
    fn capture_all(&mut self) {
        let op = Op::SetDestination(ANY_OTHER, Destination::TUNNEL);
        if !self.there.is_cut() && self.path.apply(&[op]).is_ok() {
            self.there.apply(&op);
        }
    }
}
