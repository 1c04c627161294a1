//! Guard: the packets that may leave.
//!
//! Asked for every packet that a socket sends, so that rules, routes, marks and raw sockets of the application are no way out. A
//! captured socket's packets go out by lo alone; a SYN of a pod about which nothing was decided does not go out at all,
//! nor does a raw packet that opens a TCP connection, or that cannot be told apart from one.

use super::Tables;
use crate::addr::{CgroupId, Cookie};
use crate::flow::{Flow, Kind, LOOPBACK_INTERFACE, PROTOCOL_TCP, STATE_SYN_SENT, TYPE_DGRAM, TYPE_STREAM};
use crate::limits::{CGROUP_LEVELS, EXTENSION_HEADERS};
use crate::maps::{Direction, ListenerKey, Phase};
use crate::report::Counter;

/// A packet and the socket that sends it.
pub trait Leaving {
    /// A byte, counted from the IP header; `None` behind its end.
    fn byte(&self, offset: u32) -> Option<u8>;
    /// The ancestor of the sending socket's cgroup at this depth under the root; 0 where there is none.
    fn ancestor(&self, level: u32) -> CgroupId;
}

/// The socket that sends it.
#[derive(Clone, Copy, Debug)]
pub struct Sender {
    /// `SOCK_STREAM` and so on.
    pub kind: u32,
    /// Its protocol.
    pub protocol: u32,
    /// TCP's state.
    pub state: u32,
    /// The device by which the packet leaves.
    pub device: u32,
    /// Content of its storage.
    pub flow: Option<Flow>,
}

/// The reason why a packet is dropped, or `None`.
#[inline(always)]
pub fn egress(tables: &impl Tables, sender: &Sender, packet: &impl Leaving) -> Option<Counter> {
    if sender.kind == TYPE_DGRAM {
        return None;
    }
    if sender.kind == TYPE_STREAM && sender.protocol == PROTOCOL_TCP {
        return stream(tables, sender, packet);
    }
    // Raw sockets. The kernel's own, which send RST and ACK without a socket, are among them.
    if sender.device != LOOPBACK_INTERFACE && of_pod(tables, sender.flow, packet) && may_open_tcp(packet) {
        return Some(Counter::GuardRaw);
    }
    None
}

/// A packet of a TCP socket.
#[inline(always)]
fn stream(tables: &impl Tables, sender: &Sender, packet: &impl Leaving) -> Option<Counter> {
    let (pod, kind) = match sender.flow {
        Some(flow) => (flow.pod, flow.kind),
        None => (Cookie(0), Kind::NONE),
    };
    let (over_lo, opens) = (sender.device == LOOPBACK_INTERFACE, sender.state == STATE_SYN_SENT);
    match kind {
        Kind::DENIED => Some(Counter::GuardDenied),
        Kind::CAPTURED if !over_lo => Some(Counter::GuardDevice),
        // The tunnel is gone: steering would refuse the SYN, and over IPv6 the application would see the RST, which no
        // hook can stop because it belongs to no socket. Held back, it is retransmitted until the next agent listens.
        Kind::CAPTURED if opens && !tables.has_listener(&ListenerKey { pod, direction: Direction::OUTBOUND }) => {
            Some(Counter::GuardNoListener)
        }
        Kind::NONE if opens && !over_lo && of_pod(tables, sender.flow, packet) => Some(Counter::GuardUndecided),
        _ => None,
    }
}

/// Was it sent from an enrolled pod? Known by the stamp; sockets older than the enrolment carry none and are known by
/// their cgroup or one above it.
#[inline(always)]
fn of_pod(tables: &impl Tables, flow: Option<Flow>, packet: &impl Leaving) -> bool {
    if let Some(flow) = flow
        && tables.phase(flow.pod) == Some(Phase::ENROLLED)
    {
        return true;
    }
    let mut level = 1;
    while level <= CGROUP_LEVELS {
        let cgroup = packet.ancestor(level);
        if cgroup == CgroupId(0) {
            return false;
        }
        if let Some(pod) = tables.pod_of(cgroup) {
            return tables.phase(pod) == Some(Phase::ENROLLED);
        }
        level = level.wrapping_add(1);
    }
    false
}

/// The next headers of IPv6 that are followed or end the search (IANA protocol numbers).
mod header {
    pub(super) const HOP_BY_HOP: u8 = 0;
    pub(super) const UDP: u8 = 17;
    pub(super) const ROUTING: u8 = 43;
    pub(super) const FRAGMENT: u8 = 44;
    pub(super) const AUTHENTICATION: u8 = 51;
    pub(super) const ICMPV6: u8 = 58;
    pub(super) const DESTINATION_OPTIONS: u8 = 60;
    pub(super) const MOBILITY: u8 = 135;
    pub(super) const HIP: u8 = 139;
    pub(super) const SHIM6: u8 = 140;
}

/// Could this IP packet open a TCP connection? True for a SYN, for every fragment of TCP, and for what cannot be parsed.
#[inline(always)]
pub fn may_open_tcp(packet: &impl Leaving) -> bool {
    let Some(first) = packet.byte(0) else { return true };
    match first >> 4 {
        4 => may_open_tcp_v4(packet, u32::from(first & 0x0f).wrapping_mul(4)),
        6 => may_open_tcp_v6(packet),
        _ => true,
    }
}

/// RFC 791, 3.1: flags and fragment offset in bytes 6 and 7, protocol in byte 9.
#[inline(always)]
fn may_open_tcp_v4(packet: &impl Leaving, header_bytes: u32) -> bool {
    let (Some(protocol), Some(high), Some(low)) = (packet.byte(9), packet.byte(6), packet.byte(7)) else {
        return true;
    };
    if u32::from(protocol) != PROTOCOL_TCP {
        return false;
    }
    // More fragments, or not the first.
    if high & 0x3f != 0 || low != 0 {
        return true;
    }
    is_syn(packet, header_bytes)
}

/// RFC 8200, 3 and 4: next header in byte 6, extension headers from byte 40 on.
#[inline(always)]
fn may_open_tcp_v6(packet: &impl Leaving) -> bool {
    let Some(mut next) = packet.byte(6) else { return true };
    let mut offset: u32 = 40;
    let mut followed = 0;
    while followed < EXTENSION_HEADERS {
        if u32::from(next) == PROTOCOL_TCP {
            return is_syn(packet, offset);
        }
        let units: u32 = match next {
            header::HOP_BY_HOP
            | header::ROUTING
            | header::DESTINATION_OPTIONS
            | header::MOBILITY
            | header::HIP
            | header::SHIM6 => 8,
            header::AUTHENTICATION => 4,
            header::FRAGMENT => {
                return packet.byte(offset).is_none_or(|then| then != header::UDP && then != header::ICMPV6);
            }
            _ => return false,
        };
        let (Some(then), Some(length)) = (packet.byte(offset), packet.byte(offset.wrapping_add(1))) else {
            return true;
        };
        // In units of 8 bytes, not counting the first (RFC 8200); in units of 4, not counting the first two (RFC 4302).
        let skipped = if units == 8 { 1 } else { 2 };
        offset = offset.wrapping_add(u32::from(length).wrapping_add(skipped).wrapping_mul(units));
        next = then;
        followed = followed.wrapping_add(1);
    }
    true
}

/// RFC 9293, 3.1: the flags are in byte 13; SYN is 0x02, ACK 0x10. A header that is cut off counts as one.
#[inline(always)]
fn is_syn(packet: &impl Leaving, offset: u32) -> bool {
    packet.byte(offset.wrapping_add(13)).is_none_or(|flags| flags & 0x12 == 0x02)
}
