//! Just before the SYN, at accept and at close: the decision meets the addresses that the connection really has.
//!
//! At TCP_CONNECT_CB source, destination and both ports are final. The return value of that hook is ignored by the kernel,
//! so a connection that breaks its decision is marked as denied here and [`super::egress`] drops its packets; its connect()
//! hangs until the application's timeout.

use super::{Tables, destination, is_local, is_pod_address};
use crate::addr::Cookie;
use crate::flow::{Flow, Kind, Marks};
use crate::maps::{Attestation, Phase, ProbeKey, Tuple};
use crate::report::Counter;

/// A socket that is about to send its SYN.
#[derive(Clone, Copy, Debug)]
pub struct Opening {
    /// Its network namespace.
    pub pod: Cookie,
    /// Its final addresses; `over_lo` is 0.
    pub tuple: Tuple,
    /// Content of its storage.
    pub flow: Option<Flow>,
}

/// The decision about its SYN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BeforeSyn {
    /// Nothing.
    Go,
    /// New content of its storage; no packet of it will leave.
    Deny(Flow, Counter),
    /// The connection goes into the table of attestations.
    Attest(Tuple, Attestation),
}

/// Compares the decision with the final addresses.
#[inline(always)]
pub fn before_syn(tables: &impl Tables, socket: &Opening) -> BeforeSyn {
    let Some(flow) = socket.flow else {
        // A socket that the kernel itself opened inside the pod: no connect hook saw it.
        return if tables.phase(socket.pod) == Some(Phase::ENROLLED) {
            BeforeSyn::Deny(Flow::bare(socket.pod, Kind::DENIED), Counter::SynNoConnect)
        } else {
            BeforeSyn::Go
        };
    };
    let tuple = &socket.tuple;
    let refusal = match flow.kind {
        Kind::AGENT => return hand_off(tables, flow.pod, tuple),
        Kind::PROBE => return probe(tables, &flow, tuple),
        Kind::CAPTURED => captured(tables, &flow, tuple),
        Kind::LEAVE => leaving(tables, &flow, tuple),
        Kind::LOCAL => local(tables, &flow, tuple),
        Kind::NONE if tables.phase(flow.pod) == Some(Phase::ENROLLED) => Some(Counter::SynNoConnect),
        _ => None,
    };
    match refusal {
        Some(counter) => BeforeSyn::Deny(Flow { kind: Kind::DENIED, ..flow }, counter),
        None => BeforeSyn::Go,
    }
}

/// Attested to the pod's own addresses only, and only where the source is not one of them.
#[inline(always)]
fn hand_off(tables: &impl Tables, pod: Cookie, tuple: &Tuple) -> BeforeSyn {
    if is_pod_address(tables, pod, &tuple.destination) && !is_local(tables, pod, &tuple.source) {
        BeforeSyn::Attest(Tuple { over_lo: 1, ..*tuple }, Attestation { pod })
    } else {
        BeforeSyn::Go
    }
}

/// Attested where it still goes to what was decided about, and a pod is still probed there. Any other is a stranger's from the
/// node: the tunnel judges it.
#[inline(always)]
fn probe(tables: &impl Tables, flow: &Flow, tuple: &Tuple) -> BeforeSyn {
    let as_decided = tuple.destination == flow.destination && tuple.destination_port == flow.port;
    match probed(tables, tuple) {
        Some(pod) if as_decided => BeforeSyn::Attest(*tuple, Attestation { pod }),
        _ => BeforeSyn::Go,
    }
}

/// The pod that is probed at the destination of a connection.
#[inline(always)]
pub(super) fn probed(tables: &impl Tables, tuple: &Tuple) -> Option<Cookie> {
    tables.probed(&ProbeKey { address: tuple.destination, port: tuple.destination_port })
}

/// A connect program after ours may have chosen another destination: refused where that one is in the mesh, because what
/// was decided about the first does not hold for it. And the source may have been bound to an address that is not the
/// pod's (127.0.0.1, IP_TRANSPARENT): steering would not know it again.
#[inline(always)]
fn captured(tables: &impl Tables, flow: &Flow, tuple: &Tuple) -> Option<Counter> {
    let as_decided = tuple.destination == flow.destination && tuple.destination_port == flow.port;
    if !as_decided && destination(tables, &tuple.destination).is_some() {
        return Some(Counter::SynRewritten);
    }
    if !is_pod_address(tables, flow.pod, &tuple.source) {
        return Some(Counter::SynSource);
    }
    None
}

/// It was to leave the mesh alone; if it does not, it was rewritten, or its destination joined since. Where the pod has
/// been released, the mesh is nothing to it.
#[inline(always)]
fn leaving(tables: &impl Tables, flow: &Flow, tuple: &Tuple) -> Option<Counter> {
    let in_mesh = destination(tables, &tuple.destination).is_some();
    (in_mesh && tables.phase(flow.pod) == Some(Phase::ENROLLED)).then_some(Counter::SynRewritten)
}

/// It was to stay inside the pod. A source that is not the pod's would be taken for a client from outside.
#[inline(always)]
fn local(tables: &impl Tables, flow: &Flow, tuple: &Tuple) -> Option<Counter> {
    if !is_local(tables, flow.pod, &tuple.destination) && destination(tables, &tuple.destination).is_some() {
        return Some(Counter::SynRewritten);
    }
    if !is_local(tables, flow.pod, &tuple.source) {
        return Some(Counter::SynSource);
    }
    None
}

/// The attestation that goes when a socket closes: not earlier, because under SYN cookies the handshake's last packet is
/// looked up like a SYN.
#[inline(always)]
#[must_use]
pub fn closed(kind: Kind, tuple: &Tuple) -> Option<Tuple> {
    match kind {
        Kind::AGENT => Some(Tuple { over_lo: 1, ..*tuple }),
        Kind::PROBE => Some(*tuple),
        _ => None,
    }
}

/// The new storage of a connection that a pod's listener accepted, by the mark that its SYN carried. One that came from
/// the agent is bound to lo: packets of the real client that come in by another device with the same
/// 4-tuple must not match this socket, and nothing of it may leave by one.
#[inline(always)]
pub fn accepted(tables: &impl Tables, marks: Marks, pod: Cookie, mark: u32) -> Option<Flow> {
    (mark & marks.inbound() != 0 && tables.phase(pod).is_some()).then_some(Flow::bare(pod, Kind::CAPTURED))
}
