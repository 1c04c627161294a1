//! The kernel's tables as values: compiled from the World and this node's pods ([`compile()`]) and compared with what is there
//! ([`diff()`]), or followed from one World to the next ([`follow()`]), which costs what differs. Pure; the reference answer is
//! `underpass_core::capture`, and a property test holds the two together.
//!
//! What must hold: [`Tables`] is everything that decides, so that equal tables decide equally; and following ends where
//! compiling does. A table that is too small for the mesh captures what it does not know (`room`).

mod apart;
mod compile;
mod diff;
mod follow;
mod room;
#[cfg(test)]
mod walk;

use std::collections::{HashMap, HashSet};

use underpass_abi::{Address, CgroupId, Cookie, Destination, LocalKey, Locality, Map, Op, Pod, ProbeKey};

pub use compile::{KernelNode, KernelPod, compile, compile_pods};
pub use diff::diff;
pub use follow::follow;
pub use room::ordered_for_room;

/// The contents of the tables that user space fills.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    agents: HashSet<CgroupId>,
    locals: HashMap<LocalKey, Locality>,
    pod_cgroups: HashMap<CgroupId, Cookie>,
    probes: HashMap<ProbeKey, Cookie>,
    kubelets: HashMap<CgroupId, Cookie>,
    mesh: HashMap<Address, Destination>,
    pods: HashMap<Cookie, Pod>,
}

impl Tables {
    /// The tables that these operations make of empty ones: reads back a data path's contents.
    #[must_use]
    pub fn from_ops(ops: &[Op]) -> Self {
        let mut tables = Self::default();
        ops.iter().for_each(|op| tables.apply(op));
        tables
    }

    /// Applies one operation.
    pub fn apply(&mut self, op: &Op) {
        match *op {
            Op::SetAgent(cgroup) => drop(self.agents.insert(cgroup)),
            Op::SetLocal(key, locality) => drop(self.locals.insert(key, locality)),
            Op::SetPodCgroup(cgroup, pod) => drop(self.pod_cgroups.insert(cgroup, pod)),
            Op::SetKubelet(cgroup, node) => drop(self.kubelets.insert(cgroup, node)),
            Op::SetProbe(key, pod) => drop(self.probes.insert(key, pod)),
            Op::SetDestination(address, destination) => drop(self.mesh.insert(address, destination)),
            Op::SetPod(cookie, pod) => drop(self.pods.insert(cookie, pod)),
            Op::RemoveKubelet(cgroup) => drop(self.kubelets.remove(&cgroup)),
            Op::RemoveProbe(key) => drop(self.probes.remove(&key)),
            Op::RemovePod(cookie) => drop(self.pods.remove(&cookie)),
            Op::RemoveDestination(address) => drop(self.mesh.remove(&address)),
            Op::RemovePodCgroup(cgroup) => drop(self.pod_cgroups.remove(&cgroup)),
            Op::RemoveLocal(key) => drop(self.locals.remove(&key)),
            Op::RemoveAgent(cgroup) => drop(self.agents.remove(&cgroup)),
        }
    }

    /// The number of entries of each table.
    pub(crate) fn sizes(&self) -> [(Map, usize); 7] {
        [
            (Map::Agents, self.agents.len()),
            (Map::Locals, self.locals.len()),
            (Map::PodCgroups, self.pod_cgroups.len()),
            (Map::Probes, self.probes.len()),
            (Map::Kubelets, self.kubelets.len()),
            (Map::Mesh, self.mesh.len()),
            (Map::Pods, self.pods.len()),
        ]
    }

    /// The pods that the kernel knows.
    pub fn cookies(&self) -> impl Iterator<Item = Cookie> + '_ {
        self.pods.keys().copied()
    }

    /// Every pod with an entry in any table.
    pub fn mentioned(&self) -> impl Iterator<Item = Cookie> + '_ {
        let locals = self.locals.keys().map(|key| key.pod);
        self.cookies().chain(locals).chain(self.pod_cgroups.values().copied()).chain(self.probes.values().copied())
    }

    /// The entry of a pod.
    #[must_use]
    pub fn pod(&self, pod: Cookie) -> Option<Pod> {
        self.pods.get(&pod).copied()
    }

    /// Takes over everything of one pod from other tables, but no probe targets: of what no object is known, none names them.
    pub fn keep_pod(&mut self, from: &Self, pod: Cookie) {
        let locals = from.locals.iter().filter(|(key, _)| key.pod == pod);
        self.locals.extend(locals.map(|(key, locality)| (*key, *locality)));
        let cgroups = from.pod_cgroups.iter().filter(|(_, of)| **of == pod);
        self.pod_cgroups.extend(cgroups.map(|(cgroup, of)| (*cgroup, *of)));
        self.pods.extend(from.pods.get(&pod).map(|known| (pod, *known)));
    }

    /// The operations that take everything of one pod away, in the order in which they are to be applied.
    #[must_use]
    pub fn without_pod(&self, pod: Cookie) -> Vec<Op> {
        let probes = self.probes.iter().filter(|(_, of)| **of == pod);
        let mut ops: Vec<_> = probes.map(|(key, _)| Op::RemoveProbe(*key)).collect();
        ops.extend(self.pod(pod).map(|_| Op::RemovePod(pod)));
        let cgroups = self.pod_cgroups.iter().filter(|(_, of)| **of == pod);
        ops.extend(cgroups.map(|(cgroup, _)| Op::RemovePodCgroup(*cgroup)));
        ops.extend(self.locals.keys().filter(|key| key.pod == pod).copied().map(Op::RemoveLocal));
        ops
    }
}
