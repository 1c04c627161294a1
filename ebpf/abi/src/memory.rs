//! The kernel's tables as hash maps: the second data path, without a kernel.
//!
//! It takes the same operations under the same limits as the kernel's maps and gives the same decisions, because it runs
//! the same functions. What must hold: nothing is decided here.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::addr::{Address, CgroupId, Cookie};
use crate::decide::connect::{Connecting, Created, Creating, Decision};
use crate::decide::egress::{Leaving, Sender};
use crate::decide::lookup::{Arriving, Steer};
use crate::decide::tcp::{BeforeSyn, Opening};
use crate::decide::{Tables, connect, egress, lookup, tcp};
use crate::flow::{Flow, Kind, Marks};
use crate::limits;
use crate::maps::{
    Attestation, Destination, Full, ListenerKey, LocalKey, Locality, Map, Op, Phase, Pod, ProbeKey, Tuple,
};
use crate::report::Counter;

/// Every table of one node.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    marks: Marks,
    /// Capacities of the tables that are smaller than the kernel's.
    capacities: HashMap<Map, u32>,
    pods: HashMap<Cookie, Pod>,
    locals: HashMap<LocalKey, Locality>,
    mesh: HashMap<Address, Destination>,
    attested: HashMap<Tuple, Attestation>,
    /// Attested connections in the order of their arrival: the oldest gives way.
    attested_order: VecDeque<Tuple>,
    listeners: HashSet<ListenerKey>,
    agents: HashSet<CgroupId>,
    pod_cgroups: HashMap<CgroupId, Cookie>,
    probes: HashMap<ProbeKey, Cookie>,
    kubelets: HashMap<CgroupId, Cookie>,
    counts: HashMap<Counter, u64>,
}

impl Tables for Memory {
    fn phase(&self, pod: Cookie) -> Option<Phase> {
        self.pods.get(&pod).map(|pod| pod.phase)
    }

    fn locality(&self, key: &LocalKey) -> Option<Locality> {
        self.locals.get(key).copied()
    }

    fn destination(&self, address: &Address) -> Option<Destination> {
        self.mesh.get(address).copied()
    }

    fn is_agent(&self, cgroup: CgroupId) -> bool {
        self.agents.contains(&cgroup)
    }

    fn pod_of(&self, cgroup: CgroupId) -> Option<Cookie> {
        self.pod_cgroups.get(&cgroup).copied()
    }

    fn probed(&self, key: &ProbeKey) -> Option<Cookie> {
        self.probes.get(key).copied()
    }

    fn kubelet(&self, cgroup: CgroupId) -> Option<Cookie> {
        self.kubelets.get(&cgroup).copied()
    }

    fn attestation(&self, tuple: &Tuple) -> Option<Attestation> {
        self.attested.get(tuple).copied()
    }

    fn has_listener(&self, key: &ListenerKey) -> bool {
        self.listeners.contains(key)
    }
}

impl Memory {
    /// Empty tables.
    #[must_use]
    pub fn new(marks: Marks) -> Self {
        Self { marks, ..Self::default() }
    }

    /// Empty tables, this one with room for so many entries.
    #[must_use]
    pub fn with_capacity(mut self, map: Map, entries: u32) -> Self {
        self.capacities.insert(map, entries);
        self
    }

    /// The capacity of a table, in entries.
    #[must_use]
    pub fn capacity(&self, map: Map) -> u32 {
        self.capacities.get(&map).copied().unwrap_or_else(|| map.limit())
    }

    /// Applies operations in the given order; stops at the first table that is full.
    ///
    /// # Errors
    /// [`Full`]; the operations before it have been applied.
    pub fn apply(&mut self, ops: &[Op]) -> Result<(), Full> {
        ops.iter().try_for_each(|op| self.apply_one(op))
    }

    fn apply_one(&mut self, op: &Op) -> Result<(), Full> {
        let full = Full { map: op.map(), limit: self.capacity(op.map()) };
        match *op {
            Op::SetAgent(cgroup) => {
                room(full, self.agents.len(), self.agents.contains(&cgroup))?;
                self.agents.insert(cgroup);
            }
            Op::SetLocal(key, locality) => set(full, &mut self.locals, key, locality)?,
            Op::SetPodCgroup(cgroup, pod) => set(full, &mut self.pod_cgroups, cgroup, pod)?,
            Op::SetKubelet(cgroup, node) => set(full, &mut self.kubelets, cgroup, node)?,
            Op::SetProbe(key, pod) => set(full, &mut self.probes, key, pod)?,
            Op::SetDestination(address, destination) => set(full, &mut self.mesh, address, destination)?,
            Op::SetPod(cookie, pod) => set(full, &mut self.pods, cookie, pod)?,
            Op::RemoveKubelet(cgroup) => drop(self.kubelets.remove(&cgroup)),
            Op::RemoveProbe(key) => drop(self.probes.remove(&key)),
            Op::RemovePod(cookie) => drop(self.pods.remove(&cookie)),
            Op::RemoveDestination(address) => drop(self.mesh.remove(&address)),
            Op::RemovePodCgroup(cgroup) => drop(self.pod_cgroups.remove(&cgroup)),
            Op::RemoveLocal(key) => drop(self.locals.remove(&key)),
            Op::RemoveAgent(cgroup) => drop(self.agents.remove(&cgroup)),
        }
        Ok(())
    }

    /// The tunnel listens for this pod in this direction.
    ///
    /// # Errors
    /// [`Full`].
    pub fn insert_listener(&mut self, key: ListenerKey) -> Result<(), Full> {
        let full = Full { map: Map::Listeners, limit: self.capacity(Map::Listeners) };
        room(full, self.listeners.len(), self.listeners.contains(&key))?;
        self.listeners.insert(key);
        Ok(())
    }

    /// The tunnel listens no longer for this pod in this direction.
    pub fn remove_listener(&mut self, key: &ListenerKey) {
        self.listeners.remove(key);
    }

    /// The number of entries in a table.
    #[must_use]
    pub fn len(&self, map: Map) -> usize {
        match map {
            Map::Pods => self.pods.len(),
            Map::Locals => self.locals.len(),
            Map::Mesh => self.mesh.len(),
            Map::Attested => self.attested.len(),
            Map::Listeners => self.listeners.len(),
            Map::Agents => self.agents.len(),
            Map::PodCgroups => self.pod_cgroups.len(),
            Map::Probes => self.probes.len(),
            Map::Kubelets => self.kubelets.len(),
            Map::Counts => self.counts.len(),
            Map::Flows => 0,
        }
    }

    /// The value of a counter.
    #[must_use]
    pub fn count(&self, counter: Counter) -> u64 {
        self.counts.get(&counter).copied().unwrap_or(0)
    }

    /// The contents, as the operations that would make them: sorted by rank, then in no particular order.
    #[must_use]
    pub fn contents(&self) -> Vec<Op> {
        let agents = self.agents.iter().map(|&cgroup| Op::SetAgent(cgroup));
        let locals = self.locals.iter().map(|(&key, &locality)| Op::SetLocal(key, locality));
        let cgroups = self.pod_cgroups.iter().map(|(&cgroup, &pod)| Op::SetPodCgroup(cgroup, pod));
        let kubelets = self.kubelets.iter().map(|(&cgroup, &node)| Op::SetKubelet(cgroup, node));
        let probes = self.probes.iter().map(|(&key, &pod)| Op::SetProbe(key, pod));
        let mesh = self.mesh.iter().map(|(&address, &destination)| Op::SetDestination(address, destination));
        let pods = self.pods.iter().map(|(&cookie, &pod)| Op::SetPod(cookie, pod));
        agents.chain(locals).chain(cgroups).chain(kubelets).chain(probes).chain(mesh).chain(pods).collect()
    }

    /// socket() inside a pod.
    pub fn create(&mut self, socket: &Creating) -> Created {
        let created = connect::create(self, socket);
        if let Created::Refuse(counter) = created {
            self.add(counter);
        }
        created
    }

    /// connect().
    pub fn connect(&mut self, socket: &Connecting) -> Decision {
        let decision = connect::connect(self, self.marks, socket);
        if let Decision::Write(written) = decision {
            self.add(written.counter);
        }
        decision
    }

    /// Just before a SYN. An attestation is entered.
    pub fn before_syn(&mut self, socket: &Opening) -> BeforeSyn {
        let outcome = tcp::before_syn(self, socket);
        match outcome {
            BeforeSyn::Go => {}
            BeforeSyn::Deny(_, counter) => self.add(counter),
            BeforeSyn::Attest(tuple, attestation) => {
                self.attest(tuple, attestation);
                self.add(Counter::SynAttested);
            }
        }
        outcome
    }

    /// A socket with a decision of this kind closes.
    pub fn closed(&mut self, kind: Kind, tuple: &Tuple) {
        if let Some(tuple) = tcp::closed(kind, tuple) {
            self.attested.remove(&tuple);
            self.attested_order.retain(|other| *other != tuple);
        }
    }

    /// A connection that an application accepted.
    pub fn accepted(&mut self, pod: Cookie, mark: u32) -> Option<Flow> {
        let flow = tcp::accepted(self, self.marks, pod, mark);
        if flow.is_some() {
            self.add(Counter::AcceptBound);
        }
        flow
    }

    /// A SYN that arrives. The answer is its receiver, and whether it gets there.
    pub fn lookup(&mut self, packet: &Arriving) -> (Steer, bool) {
        let steer = lookup::lookup(self, packet);
        let assigned = match steer {
            Steer::Tunnel(direction) => self.has_listener(&ListenerKey { pod: packet.pod, direction }),
            _ => false,
        };
        let (passes, counter) = steer.outcome(assigned);
        counter.into_iter().for_each(|counter| self.add(counter));
        (steer, passes)
    }

    /// A packet that leaves. The answer is the reason where it may not.
    pub fn egress(&mut self, sender: &Sender, packet: &impl Leaving) -> Option<Counter> {
        let refusal = egress::egress(self, sender, packet);
        refusal.into_iter().for_each(|counter| self.add(counter));
        refusal
    }

    fn attest(&mut self, tuple: Tuple, attestation: Attestation) {
        if self.attested.insert(tuple, attestation).is_none() {
            self.attested_order.push_back(tuple);
        }
        if self.attested.len() > limits::ATTESTED as usize
            && let Some(oldest) = self.attested_order.pop_front()
        {
            self.attested.remove(&oldest);
        }
    }

    fn add(&mut self, counter: Counter) {
        let count = self.counts.entry(counter).or_default();
        *count = count.wrapping_add(1);
    }
}

fn room(full: Full, entries: usize, present: bool) -> Result<(), Full> {
    if present || entries < full.limit as usize { Ok(()) } else { Err(full) }
}

fn set<K: Eq + std::hash::Hash, V>(full: Full, table: &mut HashMap<K, V>, key: K, value: V) -> Result<(), Full> {
    room(full, table.len(), table.contains_key(&key))?;
    table.insert(key, value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::addr::Port;

    fn address(number: u32) -> Address {
        Ipv4Addr::from(number).into()
    }

    fn pod(phase: Phase) -> Pod {
        Pod::new(address(1), Address::UNSPECIFIED, phase)
    }

    #[test]
    fn a_full_table_refuses_new_entries_and_keeps_the_old() {
        let mut memory = Memory::default();
        let fill: Vec<_> = (0..u64::from(limits::AGENTS)).map(|id| Op::SetAgent(CgroupId(id))).collect();
        assert_eq!(memory.apply(&fill), Ok(()));
        let full = Err(Full { map: Map::Agents, limit: limits::AGENTS });
        assert_eq!(memory.apply(&[Op::SetAgent(CgroupId(77)), Op::SetPod(Cookie(1), pod(Phase::ENROLLED))]), full);
        assert_eq!(memory.len(Map::Pods), 0, "what follows the failure is not applied");
        assert_eq!(memory.apply(&fill), Ok(()), "what is there can be set again");
        assert_eq!(memory.apply(&[Op::RemoveAgent(CgroupId(0)), Op::SetAgent(CgroupId(77))]), Ok(()));
        for number in 0..limits::PODS {
            assert_eq!(memory.apply(&[Op::SetPod(Cookie(u64::from(number)), pod(Phase::ENROLLED))]), Ok(()));
        }
        let full = Err(Full { map: Map::Pods, limit: limits::PODS });
        assert_eq!(memory.apply(&[Op::SetPod(Cookie(u64::MAX), pod(Phase::ENROLLED))]), full);
        assert_eq!(memory.apply(&[Op::SetPod(Cookie(0), pod(Phase::RELEASING))]), Ok(()));
        assert_eq!(memory.phase(Cookie(0)), Some(Phase::RELEASING));
        let full = Full { map: Map::Pods, limit: limits::PODS };
        assert_eq!(full.to_string(), "table PODS is full: 4096 entries");
    }

    #[test]
    fn a_table_may_be_smaller_than_the_kernels() {
        let mut memory = Memory::default().with_capacity(Map::Mesh, 1);
        let set = |number| Op::SetDestination(address(number), Destination::TUNNEL);
        assert_eq!(memory.apply(&[set(1), set(1)]), Ok(()));
        assert_eq!(memory.apply(&[set(2)]), Err(Full { map: Map::Mesh, limit: 1 }));
        assert_eq!([memory.capacity(Map::Mesh), memory.capacity(Map::Pods)], [1, limits::PODS]);
    }

    #[test]
    fn contents_make_the_same_tables_and_removals_empty_them() {
        let local = LocalKey { pod: Cookie(1), address: address(1) };
        let probe = ProbeKey { address: address(1), port: Port::from(80) };
        let ops = [
            Op::SetAgent(CgroupId(5)),
            Op::SetLocal(local, Locality::POD),
            Op::SetPodCgroup(CgroupId(6), Cookie(1)),
            Op::SetKubelet(CgroupId(7), Cookie(99)),
            Op::SetProbe(probe, Cookie(1)),
            Op::SetDestination(address(9), Destination::REFUSE),
            Op::SetPod(Cookie(1), pod(Phase::ENROLLED)),
        ];
        let mut memory = Memory::default();
        for _ in 0..2 {
            memory.apply(&ops).expect("room");
            assert_eq!(memory.contents(), ops);
        }
        assert!(ops.is_sorted_by_key(Op::rank));
        let undo = [
            Op::RemoveKubelet(CgroupId(7)),
            Op::RemoveProbe(probe),
            Op::RemovePod(Cookie(1)),
            Op::RemoveDestination(address(9)),
            Op::RemovePodCgroup(CgroupId(6)),
            Op::RemoveLocal(local),
            Op::RemoveAgent(CgroupId(5)),
        ];
        assert!(undo.is_sorted_by_key(Op::rank) && ops.last().map(Op::rank) < undo.first().map(Op::rank));
        for _ in 0..2 {
            memory.apply(&undo).expect("removing needs no room");
            assert_eq!(memory.contents(), []);
        }
    }

    #[test]
    fn the_oldest_attestation_gives_way() {
        let mut memory = Memory::default();
        let tuple = |number: u32| Tuple {
            source: address(number),
            destination: address(1),
            source_port: Port::from(1),
            destination_port: Port::from(2),
            over_lo: 1,
        };
        for number in 0..limits::ATTESTED {
            memory.attest(tuple(number), Attestation { pod: Cookie(1) });
        }
        assert!(memory.attestation(&tuple(0)).is_some());
        memory.attest(tuple(limits::ATTESTED), Attestation { pod: Cookie(1) });
        assert_eq!(memory.len(Map::Attested), limits::ATTESTED as usize);
        assert!(memory.attestation(&tuple(0)).is_none() && memory.attestation(&tuple(1)).is_some());
    }

    #[test]
    fn listeners_come_and_go() {
        let mut memory = Memory::default();
        let key = ListenerKey { pod: Cookie(1), direction: crate::Direction::INBOUND };
        assert!(!memory.has_listener(&key));
        memory.insert_listener(key).expect("room");
        assert!(memory.has_listener(&key));
        memory.remove_listener(&key);
        assert!(!memory.has_listener(&key));
    }
}
