//! The compilation of World and this node's pods to tables.
//!
//! What must hold: for every enrolled pod, what `abi::decide` reads here is what `core::capture` answers. The World says which
//! pods are in the mesh; `crate::pods`, which has looked at their namespaces, says which pods of this node the kernel knows, and
//! in which phase.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
};

use underpass_abi::{
    Address, CgroupId, Cookie, Destination, LocalKey, Locality, Phase, Pod, Port, ProbeKey,
    limits::{POD_ADDRESSES, POD_PROBES},
};
use underpass_core::{
    Few, World,
    addr::is_loopback,
    capture::{self, Capture},
};

use super::Tables;

/// The node itself, as the kernel is to know it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelNode {
    /// The cgroups that count as the agent.
    pub agents: Vec<CgroupId>,
    /// The cgroup of its kubelet, and the network namespace that it probes from; none: no probe is attested.
    pub kubelet: Option<(CgroupId, Cookie)>,
}

/// A pod of this node, as the kernel is to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelPod {
    /// Its namespace.
    pub cookie: Cookie,
    /// status.podIPs: they count for identity.
    pub addresses: Few<IpAddr>,
    /// Every address of its namespace.
    pub namespace_addresses: Vec<IpAddr>,
    /// Ports of its own addresses at which its kubelet may ask. Each once.
    pub probes: Few<u16>,
    /// Its cgroup.
    pub cgroup: CgroupId,
    /// Enrolled or being released.
    pub phase: Phase,
}

impl KernelPod {
    /// Its local addresses, each once: one that is both counts for identity. If an address were listed as another one first,
    /// connections that begin just then would be refused.
    pub fn localities(&self) -> impl Iterator<Item = (LocalKey, Locality)> + '_ {
        let key = |ip: &IpAddr| LocalKey { pod: self.cookie, address: (*ip).into() };
        let others: BTreeSet<&IpAddr> = self.others().collect();
        let room = (POD_ADDRESSES as usize).saturating_sub(self.addresses.len());
        let others = others.into_iter().take(room).map(move |ip| (key(ip), Locality::OTHER));
        others.chain(self.addresses.iter().map(move |ip| (key(ip), Locality::POD)))
    }

    fn others(&self) -> impl Iterator<Item = &IpAddr> {
        self.namespace_addresses.iter().filter(|ip| !is_loopback(**ip) && !self.addresses.contains(ip))
    }

    /// The number of its addresses, where they are more than the kernel's table takes: its own come first.
    #[must_use]
    pub fn too_many(&self) -> Option<usize> {
        let all = self.addresses.len() + self.others().count();
        (all > POD_ADDRESSES as usize).then_some(all)
    }
}

impl KernelPod {
    /// Its probe targets, as many as the kernel's table takes: each port at all of its addresses, the lowest ports first.
    fn probe_targets(&self) -> impl Iterator<Item = ProbeKey> + '_ {
        let addresses = || self.addresses.iter().filter(|ip| !is_loopback(**ip));
        let at = move |port: u16| addresses().map(move |ip| ProbeKey { address: (*ip).into(), port: Port::from(port) });
        self.probes.iter().flat_map(move |port| at(*port)).take(POD_PROBES as usize)
    }

    /// The number of its probe targets, where they are more than the kernel's table takes.
    #[must_use]
    pub fn too_many_probes(&self) -> Option<usize> {
        let all = self.addresses.len().saturating_mul(self.probes.len());
        (all > POD_PROBES as usize).then_some(all)
    }
}

/// The tables that make the kernel decide as core does.
#[must_use]
pub fn compile(world: &World, pods: &[KernelPod], node: &KernelNode) -> Tables {
    let mut tables = compile_pods(pods, node);
    for ip in world.addresses() {
        if let Some(destination) = destination(world, ip) {
            tables.mesh.insert(ip.into(), destination);
        }
    }
    tables
}

/// The tables without destinations: those of this node and its pods alone.
#[must_use]
pub fn compile_pods(pods: &[KernelPod], node: &KernelNode) -> Tables {
    let agents = node.agents.iter().copied().collect();
    let mut tables = Tables { agents, kubelets: node.kubelet.into_iter().collect(), ..Tables::default() };
    pods.iter().for_each(|pod| add(&mut tables, pod));
    tables.probes = probes(pods);
    tables
}

/// The probe targets of these pods. One that two of them have is none: its address belongs to neither.
fn probes(pods: &[KernelPod]) -> HashMap<ProbeKey, Cookie> {
    let mut claims: HashMap<ProbeKey, Option<Cookie>> = HashMap::new();
    for (key, pod) in pods.iter().flat_map(|pod| pod.probe_targets().map(|key| (key, pod.cookie))) {
        claims.entry(key).and_modify(|other| *other = None).or_insert(Some(pod));
    }
    claims.into_iter().filter_map(|(key, pod)| Some((key, pod?))).collect()
}

/// The entry of an address: what becomes of connections to it. Loopback never gets as far as the table, and is not in it.
pub(super) fn destination(world: &World, ip: IpAddr) -> Option<Destination> {
    if is_loopback(ip) {
        return None;
    }
    match capture::destination(world, ip, &mut ()) {
        Capture::Leave(_) => None,
        Capture::Tunnel => Some(Destination::TUNNEL),
        Capture::Refuse(_) => Some(Destination::REFUSE),
    }
}

fn add(tables: &mut Tables, pod: &KernelPod) {
    tables.locals.extend(pod.localities());
    let KernelPod { cookie, addresses, cgroup, phase, .. } = pod;
    tables.pod_cgroups.insert(*cgroup, *cookie);
    let of = |v4: bool| {
        let first = addresses.iter().copied().find(|ip| ip.is_ipv4() == v4);
        first.map_or(Address::UNSPECIFIED, Address::from)
    };
    tables.pods.insert(*cookie, Pod::new(of(true), of(false), *phase));
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;
    use underpass_abi::{
        Counter, Kind, Marks, Port,
        decide::connect::{self, Connecting, Decision},
        flow::{PROTOCOL_TCP, TYPE_STREAM},
        memory::Memory,
    };
    use underpass_core::{
        testing::{ambient, pod, some_address, some_world, world},
        world::Workload,
    };

    use super::*;

    /// The kernel's decision.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum Answer {
        Unknown,
        Local,
        Leave,
        Captured,
        Denied,
    }

    pub(crate) fn memory(ops: &[underpass_abi::Op]) -> Memory {
        let mut memory = Memory::new(Marks::DEFAULT);
        memory.apply(ops).expect("room");
        memory
    }

    fn decision(tables: &Memory, pod: Cookie, cgroup: CgroupId, (to, port): (IpAddr, u16)) -> Decision {
        let socket = Connecting {
            pod,
            cgroup,
            destination: to.into(),
            port: Port::from(port),
            kind: TYPE_STREAM,
            protocol: PROTOCOL_TCP,
            mark: 0,
            device: 0,
            known: false,
        };
        connect::connect(tables, Marks::DEFAULT, &socket)
    }

    pub(crate) fn kernel(tables: &Memory, pod: Cookie, to: IpAddr) -> Answer {
        match decision(tables, pod, CgroupId(1), (to, 80)) {
            Decision::Ignore => Answer::Unknown,
            Decision::Write(written) if written.flow.kind == Kind::LOCAL => Answer::Local,
            Decision::Write(written) if written.flow.kind == Kind::LEAVE => Answer::Leave,
            Decision::Write(written) if written.flow.kind == Kind::CAPTURED => Answer::Captured,
            Decision::Write(written) => {
                assert!(!written.permit && written.counter == Counter::ConnectRefused, "{written:?}");
                Answer::Denied
            }
        }
    }

    /// Whether the kernel takes a connection of this namespace and cgroup for a probe.
    pub(crate) fn is_probe(tables: &Memory, node: Cookie, cgroup: CgroupId, to: (IpAddr, u16)) -> bool {
        let decision = decision(tables, node, cgroup, to);
        matches!(decision, Decision::Write(written) if written.flow.kind == Kind::PROBE)
    }

    /// With an agent and without a kubelet.
    fn node() -> KernelNode {
        KernelNode { agents: vec![CgroupId(7)], kubelet: None }
    }

    /// To the tunnel, or refused.
    pub(crate) fn captured(answer: Answer) -> bool {
        matches!(answer, Answer::Captured | Answer::Denied)
    }

    /// The decision of core.
    pub(crate) fn reference(world: &World, source: &Workload, to: IpAddr) -> Answer {
        answer_of(capture::decide(world, source, to, &mut ()))
    }

    fn answer_of(capture: Capture) -> Answer {
        use capture::LeaveReason::{DestinationNotEnrolled, Itself, SourceNotEnrolled};
        match capture {
            Capture::Leave(SourceNotEnrolled) => Answer::Unknown,
            Capture::Leave(Itself) => Answer::Local,
            Capture::Leave(DestinationNotEnrolled) => Answer::Leave,
            Capture::Tunnel => Answer::Captured,
            Capture::Refuse(_) => Answer::Denied,
        }
    }

    /// Every enrolled pod of a World, as if all of them were on this node.
    pub(crate) fn kernel_pods(world: &World) -> Vec<KernelPod> {
        let enrolled = world.workloads().filter(|w| w.is_enrolled());
        let each = |(n, w): (usize, &std::sync::Arc<Workload>)| KernelPod {
            cookie: Cookie(n as u64 + 1),
            addresses: w.addresses.clone(),
            namespace_addresses: w.addresses.to_vec(),
            probes: Few::new(),
            cgroup: CgroupId(n as u64 + 1000),
            phase: Phase::ENROLLED,
        };
        enrolled.enumerate().map(each).collect()
    }

    fn tables_of(world: &World, pods: &[KernelPod]) -> Memory {
        memory(&super::super::diff(&Tables::default(), &compile(world, pods, &node())))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn the_kernel_answers_as_core_does(world in some_world(), to in proptest::collection::vec(some_address(), 1..24)) {
            let pods = kernel_pods(&world);
            let tables = tables_of(&world, &pods);
            let mut enrolled = pods.iter();
            for source in world.workloads() {
                let cookie = match source.is_enrolled() {
                    true => enrolled.next().expect("one for each").cookie,
                    false => Cookie(9999), // unknown to the kernel
                };
                for to in to.iter().copied().chain(world.addresses()) {
                    prop_assert_eq!(kernel(&tables, cookie, to), reference(&world, source, to), "{} -> {}", &source.name, to);
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        /// Of any size the kernel answers as core says of a table of that size: nothing of the mesh is left alone.
        #[test]
        fn a_table_that_is_too_small_captures_what_it_does_not_know(
            world in some_world(), room in 1usize..12, to in proptest::collection::vec(some_address(), 1..24)
        ) {
            let pods = kernel_pods(&world);
            let whole = compile(&world, &pods, &node());
            let cut = whole.clone().within(&Tables::default(), room);
            prop_assert_eq!(cut.is_cut(), whole.mesh.len() >= room);
            prop_assert!(cut.mesh.len() <= room);
            let mut tables = Memory::new(Marks::DEFAULT).with_capacity(underpass_abi::Map::Mesh, room as u32);
            tables.apply(&super::super::diff(&Tables::default(), &cut)).expect("room");
            for (pod, source) in pods.iter().zip(world.workloads().filter(|w| w.is_enrolled())) {
                for to in to.iter().copied().chain(world.addresses()) {
                    let answer = kernel(&tables, pod.cookie, to);
                    let mut says = capture::decide(&world, source, to, &mut ());
                    if cut.is_cut() {
                        says = capture::of_full_table(says);
                    }
                    let expected = match says {
                        // Refused by the kernel, or by the tunnel, which asks the World.
                        Capture::Refuse(_) if !cut.mesh.contains_key(&to.into()) => Answer::Captured,
                        says => answer_of(says),
                    };
                    prop_assert_eq!(answer, expected, "{} -> {}, {} entries", &source.name, to, room);
                }
            }
        }
    }

    #[test]
    fn what_else_is_local_stays_inside_and_counts_for_nothing() {
        let world = world([ambient("default/a", "10.0.0.1", "").into(), ambient("default/b", "10.0.0.2", "").into()]);
        let ip = |text: &str| text.parse::<IpAddr>().expect("address");
        let local = KernelPod {
            cookie: Cookie(5),
            addresses: Few::one(ip("10.0.0.1")),
            namespace_addresses: ["127.0.0.1", "::1", "10.0.0.1", "10.0.0.2", "fe80::1"].map(ip).to_vec(),
            probes: Few::new(),
            cgroup: CgroupId(50),
            phase: Phase::ENROLLED,
        };
        let tables = compile(&world, std::slice::from_ref(&local), &KernelNode::default());
        // None is listed as something else first: the kernel may decide in between.
        let mut locals: Vec<_> = local.localities().map(|(k, v)| (k.address.ip(), v)).collect();
        locals.sort_by_key(|(ip, _)| *ip);
        let expected = [("10.0.0.1", Locality::POD), ("10.0.0.2", Locality::OTHER), ("fe80::1", Locality::OTHER)];
        assert_eq!(locals, expected.map(|(text, locality)| (ip(text), locality)));
        assert_eq!(tables.locals.len(), 3);
        assert_eq!(tables.pods[&Cookie(5)], Pod::new(ip("10.0.0.1").into(), Address::UNSPECIFIED, Phase::ENROLLED));
        let memory = tables_of(&world, &[local]);
        assert_eq!(kernel(&memory, Cookie(5), ip("10.0.0.2")), Answer::Local);
        assert_eq!(kernel(&memory, Cookie(5), ip("fe80::1")), Answer::Local);
    }

    #[test]
    fn a_pod_may_add_what_it_likes_and_takes_no_other_pods_room() {
        let own = IpAddr::from([10, 0, 0, 1]);
        let pod = |others: u32| KernelPod {
            cookie: Cookie(5),
            addresses: Few::one(own),
            namespace_addresses: (1..=others)
                .map(|n| IpAddr::V4(n.saturating_add(0xc000_0000).into()))
                .chain([own])
                .collect(),
            probes: Few::new(),
            cgroup: CgroupId(50),
            phase: Phase::ENROLLED,
        };
        for (others, entries, too_many) in [(255, 256, None), (256, 256, Some(257)), (70_000, 256, Some(70_001))] {
            let pod = pod(others);
            let localities: Vec<_> = pod.localities().collect();
            assert_eq!((localities.len(), pod.too_many()), (entries, too_many));
            assert_eq!(localities.iter().filter(|(_, locality)| *locality == Locality::POD).count(), 1);
        }
    }

    fn probed(cookie: u64, addresses: &[&str], probes: &[u16]) -> KernelPod {
        let addresses: Vec<IpAddr> = addresses.iter().map(|text| text.parse().expect("address")).collect();
        KernelPod {
            cookie: Cookie(cookie),
            namespace_addresses: addresses.clone(),
            addresses: addresses.into(),
            probes: probes.into(),
            cgroup: CgroupId(cookie + 1000),
            phase: Phase::ENROLLED,
        }
    }

    /// Probe targets as `address port cookie`, in order.
    fn targets(pods: &[KernelPod]) -> Vec<String> {
        let tables = compile_pods(pods, &KernelNode::default());
        let text = |(key, pod): (&ProbeKey, &Cookie)| format!("{} {} {}", key.address.ip(), key.port.number(), pod.0);
        let mut all: Vec<_> = tables.probes.iter().map(text).collect();
        all.sort();
        all
    }

    #[test]
    fn a_pod_is_probed_at_its_own_addresses_in_every_phase() {
        let mut pods = [probed(1, &["10.0.0.1", "fd00::1"], &[80, 8080]), probed(2, &["10.0.0.2"], &[])];
        let all = ["10.0.0.1 80 1", "10.0.0.1 8080 1", "fd00::1 80 1", "fd00::1 8080 1"];
        assert_eq!(targets(&pods), all);
        pods[0].namespace_addresses.push(IpAddr::from([10, 9, 9, 9]));
        pods[0].phase = Phase::RELEASING;
        assert_eq!(targets(&pods), all);
        assert_eq!(targets(&[probed(1, &["127.0.0.1", "0.0.0.0", "::1"], &[80])]), [""; 0]);
    }

    #[test]
    fn a_target_of_two_pods_is_none() {
        let pods =
            [probed(1, &["10.0.0.1"], &[80, 81]), probed(2, &["10.0.0.1"], &[80, 82]), probed(3, &["10.0.0.1"], &[80])];
        assert_eq!(targets(&pods), ["10.0.0.1 81 1", "10.0.0.1 82 2"]);
    }

    #[test]
    fn a_pod_with_probes_without_end_takes_no_other_pods_room() {
        let ports: Vec<u16> = (1..=100).collect();
        for (addresses, expected) in [(&["10.0.0.1"][..], 100), (&["10.0.0.1", "fd00::1"], 200)] {
            let pod = probed(1, addresses, &ports);
            assert_eq!((targets(std::slice::from_ref(&pod)).len(), pod.too_many_probes()), (64, Some(expected)));
        }
        assert_eq!(probed(1, &["10.0.0.1", "fd00::1"], &ports[..32]).too_many_probes(), None);
    }

    #[test]
    fn the_kubelet_is_the_one_of_this_node_alone() {
        let kubelet = (CgroupId(8), Cookie(77));
        let tables = compile_pods(&[], &KernelNode { agents: Vec::new(), kubelet: Some(kubelet) });
        assert_eq!(tables.kubelets, HashMap::from([kubelet]));
        assert!(compile_pods(&[], &KernelNode::default()).kubelets.is_empty());
    }

    #[test]
    fn a_pod_that_is_being_released_is_captured_no_longer() {
        let world = world([ambient("default/a", "10.0.0.1", "").into(), ambient("default/b", "10.0.0.2", "").into()]);
        let mut pods = kernel_pods(&world);
        let to = IpAddr::from([10, 0, 0, 2]);
        assert_eq!(kernel(&tables_of(&world, &pods), Cookie(1), to), Answer::Captured);
        pods.iter_mut().for_each(|pod| pod.phase = Phase::RELEASING);
        assert_eq!(kernel(&tables_of(&world, &pods), Cookie(1), to), Answer::Leave);
    }

    #[test]
    fn loopback_in_a_manifest_is_no_destination() {
        let world = world([ambient("default/a", "127.0.0.1 0.0.0.0", "").into(), pod("default/b", "10.0.0.9").into()]);
        assert!(compile(&world, &[], &KernelNode::default()).mesh.is_empty());
    }
}
