//! Every branch of every hook, over the tables in memory; and what holds for any input.

mod before_syn;
mod bind;
mod connect;
mod create;
mod egress;
mod full;
mod lookup;
mod probe;
mod through;

use std::net::IpAddr;

use proptest::prelude::*;

use super::connect::{Connecting, Created, Creating, Decision, Written};
use super::egress::{Leaving, Sender, may_open_tcp};
use super::lookup::{Arriving, Steer};
use super::tcp::{BeforeSyn, Opening};
use crate::addr::{Address, CgroupId, Cookie, Port};
use crate::flow::{
    Flow, Kind, LOOPBACK_INTERFACE, Marks, PROTOCOL_MPTCP, PROTOCOL_TCP, STATE_CLOSE, STATE_SYN_SENT, TYPE_DGRAM,
    TYPE_STREAM,
};
use crate::maps::{
    Attestation, Destination, Direction, ListenerKey, LocalKey, Locality, Map, Op, Phase, Pod, ProbeKey, Tuple,
};
use crate::memory::Memory;
use crate::report::Counter;

const POD: Cookie = Cookie(11);
const OTHER_POD: Cookie = Cookie(12);
const RELEASED: Cookie = Cookie(13);
const RELEASING: Cookie = Cookie(14);
const STRANGER: Cookie = Cookie(99);
const AGENT: CgroupId = CgroupId(500);
const POD_CGROUP: CgroupId = CgroupId(600);
const RELEASED_CGROUP: CgroupId = CgroupId(601);
const KUBELET: CgroupId = CgroupId(800);
const NODE: Cookie = Cookie(50);
const SHELL: CgroupId = CgroupId(700);
const TYPE_RAW: u32 = 3;
const STATE_ESTABLISHED: u32 = 1;
const ETH: u32 = 2;
const PROTOCOL_UDP: u32 = 17;

fn ip(text: &str) -> Address {
    text.parse::<IpAddr>().expect("an address").into()
}

/// Two pods, one that is being released, one that was; a service, a refused address; a kubelet, and what it probes.
fn tables() -> Memory {
    let pod = |v4: &str, v6: &str, phase| Pod::new(ip(v4), ip(v6), phase);
    let local = |pod, address: &str, locality| Op::SetLocal(LocalKey { pod, address: ip(address) }, locality);
    let mut ops = vec![
        Op::SetAgent(AGENT),
        Op::SetPod(POD, pod("10.0.0.11", "fd00::11", Phase::ENROLLED)),
        Op::SetPod(OTHER_POD, pod("10.0.0.12", "fd00::12", Phase::ENROLLED)),
        Op::SetPod(RELEASING, pod("10.0.0.14", "fd00::14", Phase::RELEASING)),
        Op::SetPodCgroup(POD_CGROUP, POD),
        Op::SetPodCgroup(RELEASED_CGROUP, RELEASED),
        local(POD, "10.0.0.11", Locality::POD),
        local(POD, "fd00::11", Locality::POD),
        local(POD, "10.0.0.111", Locality::OTHER),
        local(POD, "fe80::11", Locality::OTHER),
        local(OTHER_POD, "10.0.0.12", Locality::POD),
        local(OTHER_POD, "fd00::12", Locality::POD),
        local(RELEASING, "10.0.0.14", Locality::POD),
        Op::SetDestination(ip("10.9.9.9"), Destination::REFUSE),
        Op::SetKubelet(KUBELET, NODE),
    ];
    for address in ["10.0.0.11", "fd00::11", "10.0.0.12", "fd00::12", "10.0.0.14", "10.96.0.1", "fd96::1"] {
        ops.push(Op::SetDestination(ip(address), Destination::TUNNEL));
    }
    for (address, port, pod) in [
        ("10.0.0.11", 8080, POD),
        ("fd00::11", 8080, POD),
        ("10.0.0.12", 9090, OTHER_POD),
        ("10.0.0.14", 80, RELEASING),
    ] {
        ops.push(Op::SetProbe(ProbeKey { address: ip(address), port: Port::from(port) }, pod));
    }
    ops.sort_by_key(Op::rank);
    let mut memory = Memory::new(Marks::DEFAULT);
    memory.apply(&ops).expect("room");
    for direction in [Direction::OUTBOUND, Direction::INBOUND] {
        memory.insert_listener(ListenerKey { pod: POD, direction }).expect("room");
    }
    memory
}
