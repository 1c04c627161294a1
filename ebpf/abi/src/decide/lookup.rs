//! Arrival: the socket that gets a SYN.
//!
//! Asked once per new connection, by the program that was loaded for this pod alone: sk_lookup sees neither cgroup nor
//! namespace, and a program shared by pods would take an injected packet for another pod's.

use super::{Tables, is_local, is_pod_address, tcp};
use crate::addr::{Address, Cookie, Port};
use crate::flow::{LOOPBACK_INTERFACE, PROTOCOL_TCP};
use crate::maps::{Direction, Tuple};
use crate::report::Counter;

/// A packet that opens a connection, and has no socket yet.
#[derive(Clone, Copy, Debug)]
pub struct Arriving {
    /// The pod in whose namespace it arrived.
    pub pod: Cookie,
    /// Its transport protocol.
    pub protocol: u32,
    /// Its source address.
    pub source: Address,
    /// Its destination address.
    pub destination: Address,
    /// Its source port.
    pub source_port: Port,
    /// Its destination port.
    pub destination_port: Port,
    /// The interface of its route: lo for what was marked, the pod's device for its own address.
    pub interface: u32,
}

/// The receiver of a SYN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steer {
    /// The application that the kernel would choose.
    Pass,
    /// The application that the kernel would choose: the connection was attested.
    Attested,
    /// The tunnel. Where its listener is missing the connection is refused, never passed on: an application that listens
    /// on the wildcard address would get it.
    Tunnel(Direction),
    /// None: refused.
    Stranger,
}

/// The receiver of a connection.
#[inline(always)]
pub fn lookup(tables: &impl Tables, packet: &Arriving) -> Steer {
    if packet.protocol != PROTOCOL_TCP {
        return Steer::Pass;
    }
    let pod = packet.pod;
    // To connect() it means loopback; in a packet it is spoofed, which the kernel lets through in IPv6.
    if packet.source.is_unspecified() {
        return Steer::Stranger;
    }
    if is_local(tables, pod, &packet.source) && is_local(tables, pod, &packet.destination) {
        return Steer::Pass;
    }
    let over_lo = packet.interface == LOOPBACK_INTERFACE;
    let tuple = Tuple {
        source: packet.source,
        destination: packet.destination,
        source_port: packet.source_port,
        destination_port: packet.destination_port,
        over_lo: over_lo as u64,
    };
    // A probe's attestation counts while the pod is still probed there.
    if let Some(attestation) = tables.attestation(&tuple)
        && attestation.pod == pod
        && (over_lo || tcp::probed(tables, &tuple) == Some(pod))
    {
        return Steer::Attested;
    }
    if !over_lo {
        return Steer::Tunnel(Direction::INBOUND);
    }
    if is_pod_address(tables, pod, &packet.source) {
        return Steer::Tunnel(Direction::OUTBOUND);
    }
    Steer::Stranger
}

impl Steer {
    /// May the packet go on, and what is counted? `assigned`: the tunnel's listener was there and took it.
    #[inline(always)]
    #[must_use]
    pub fn outcome(self, assigned: bool) -> (bool, Option<Counter>) {
        match self {
            Self::Pass => (true, None),
            Self::Attested => (true, Some(Counter::SteerAttested)),
            Self::Stranger => (false, Some(Counter::SteerStranger)),
            Self::Tunnel(_) if !assigned => (false, Some(Counter::SteerNoListener)),
            Self::Tunnel(Direction::OUTBOUND) => (true, Some(Counter::SteerOutbound)),
            Self::Tunnel(_) => (true, Some(Counter::SteerInbound)),
        }
    }
}
