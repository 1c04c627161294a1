//! socket() and connect(): the decision about a socket, before its connection has addresses.
//!
//! A decision is taken for every TCP connect() of an enrolled pod, before the kernel has chosen a source or a port; it is
//! kept with the socket and compared later by [`super::tcp`]. A connect() that must not happen fails here, with EPERM.

use super::{Tables, is_local};
use crate::addr::{Address, CgroupId, Cookie, Port};
use crate::flow::{Flow, Kind, Marks, PROTOCOL_MPTCP, PROTOCOL_TCP, TYPE_DGRAM, TYPE_STREAM};
use crate::maps::{ANY_OTHER, Destination, Phase, ProbeKey};
use crate::report::Counter;

/// A socket that is being created.
#[derive(Clone, Copy, Debug)]
pub struct Creating {
    /// Its network namespace.
    pub pod: Cookie,
    /// `SOCK_STREAM` and so on.
    pub kind: u32,
    /// Its protocol.
    pub protocol: u32,
}

/// The decision about a new socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    /// Nothing.
    Leave,
    /// New content of its storage: its packets are known to be the pod's from any cgroup.
    Stamp(Flow),
    /// socket() fails with EPERM.
    Refuse(Counter),
}

/// Every socket that could send a SYN is stamped. Datagram sockets cannot; multipath sockets are refused, because the kernel
/// itself opens their further subflows and no connect hook sees those.
#[inline(always)]
pub fn create(tables: &impl Tables, socket: &Creating) -> Created {
    if tables.phase(socket.pod) != Some(Phase::ENROLLED) {
        return Created::Leave;
    }
    if socket.protocol == PROTOCOL_MPTCP {
        return Created::Refuse(Counter::CreateMptcp);
    }
    if socket.kind == TYPE_DGRAM {
        return Created::Leave;
    }
    Created::Stamp(Flow::bare(socket.pod, Kind::NONE))
}

/// A socket in connect().
#[derive(Clone, Copy, Debug)]
pub struct Connecting {
    /// Its network namespace.
    pub pod: Cookie,
    /// The exact cgroup of the calling process.
    pub cgroup: CgroupId,
    /// Its destination address.
    pub destination: Address,
    /// Where to.
    pub port: Port,
    /// `SOCK_STREAM` and so on.
    pub kind: u32,
    /// Its protocol.
    pub protocol: u32,
    /// Its firewall mark.
    pub mark: u32,
    /// The device it is bound to, or 0.
    pub device: u32,
    /// Its storage holds something: a stamp, or the decision about an earlier connect().
    pub known: bool,
}

/// The answer to a connect().
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Not a connection of a pod: nothing is written, nothing counted.
    Ignore,
    /// Written, marked and counted.
    Write(Written),
}

/// The decision about a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// New content of the socket's storage.
    pub flow: Flow,
    /// The firewall mark that the socket must have.
    pub mark: u32,
    /// connect() goes on; otherwise it fails with EPERM.
    pub permit: bool,
    /// Its counter.
    pub counter: Counter,
}

/// The decision about a connect(). The type matters as much as the protocol: a raw socket with protocol TCP can connect()
/// too, and a decision would let its SYNs out.
#[inline(always)]
pub fn connect(tables: &impl Tables, marks: Marks, socket: &Connecting) -> Decision {
    if socket.kind != TYPE_STREAM || socket.protocol != PROTOCOL_TCP {
        return Decision::Ignore;
    }
    let (kind, counter) = match tables.phase(socket.pod) {
        None if is_probe(tables, socket) => (Kind::PROBE, Counter::ConnectProbe),
        None if !socket.known => return Decision::Ignore,
        // Released: take back what an earlier decision left on the socket.
        None => (Kind::LEAVE, Counter::ConnectLeave),
        Some(phase) => of_pod(tables, phase, socket),
    };
    let mark = match kind {
        Kind::AGENT | Kind::PROBE => socket.mark,
        Kind::CAPTURED => marks.cleared(socket.mark) | marks.outbound(),
        _ => marks.cleared(socket.mark),
    };
    let flow = Flow { pod: socket.pod, destination: socket.destination, port: socket.port, kind };
    Decision::Write(Written { flow, mark, permit: kind != Kind::DENIED, counter })
}

/// The kubelet, from the node's own network namespace, to an address and port that a pod's own object names. Nothing else of
/// the node is exempt, and of the kubelet no other connection: it asks what the author of any probe writes.
#[inline(always)]
fn is_probe(tables: &impl Tables, socket: &Connecting) -> bool {
    tables.kubelet(socket.cgroup) == Some(socket.pod)
        && tables.probed(&ProbeKey { address: socket.destination, port: socket.port }).is_some()
}

/// The decision for a socket of a pod.
#[inline(always)]
fn of_pod(tables: &impl Tables, phase: Phase, socket: &Connecting) -> (Kind, Counter) {
    if tables.is_agent(socket.cgroup) {
        return (Kind::AGENT, Counter::ConnectAgent);
    }
    if phase == Phase::RELEASING {
        return (Kind::LEAVE, Counter::ConnectLeave);
    }
    if is_local(tables, socket.pod, &socket.destination) {
        return (Kind::LOCAL, Counter::ConnectLocal);
    }
    let own = tables.destination(&socket.destination);
    match own.or_else(|| tables.destination(&ANY_OTHER)) {
        None => (Kind::LEAVE, Counter::ConnectLeave),
        Some(Destination::REFUSE) => (Kind::DENIED, Counter::ConnectRefused),
        // It would not match the route on lo.
        Some(_) if socket.device != 0 => (Kind::DENIED, Counter::ConnectBoundDevice),
        Some(_) if own.is_none() => (Kind::CAPTURED, Counter::ConnectUnlisted),
        // A value of another build is captured too: the tunnel decides.
        Some(_) => (Kind::CAPTURED, Counter::ConnectCaptured),
    }
}
