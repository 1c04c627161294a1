//! The kernel's memory of a socket, and the mark that moves its packets.
//!
//! A [`Flow`] lives in socket storage: it is written by the connect hook, compared just before the SYN, enforced on
//! every packet that leaves, and freed with the socket.

use crate::addr::{Address, Cookie, Port};

/// `lo` has this index in every network namespace (linux/loopback.c registers it first).
pub const LOOPBACK_INTERFACE: u32 = 1;
/// Transport protocol of TCP (RFC 9293; IANA protocol numbers).
pub const PROTOCOL_TCP: u32 = 6;
/// Transport protocol of multipath TCP sockets (`IPPROTO_MPTCP`, linux/in.h); never in a packet.
pub const PROTOCOL_MPTCP: u32 = 262;
/// `SOCK_STREAM` (linux/net.h).
pub const TYPE_STREAM: u32 = 1;
/// `SOCK_DGRAM` (linux/net.h).
pub const TYPE_DGRAM: u32 = 2;
/// State of a socket that has sent its SYN (`TCP_SYN_SENT`, net/tcp_states.h).
pub const STATE_SYN_SENT: u32 = 2;
/// State of a closed socket (`TCP_CLOSE`, net/tcp_states.h).
pub const STATE_CLOSE: u32 = 7;

/// The kind of decision about a socket. Values that are none of these constants are never written.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kind(u32);

impl Kind {
    /// Stamped when it was created inside an enrolled pod; nothing is decided. As fresh socket storage is: zero.
    pub const NONE: Self = Self(0);
    /// To the pod itself.
    pub const LOCAL: Self = Self(1);
    /// Out of the mesh.
    pub const LEAVE: Self = Self(2);
    /// Handed to the tunnel: no packet of it may leave by another device than lo.
    pub const CAPTURED: Self = Self(3);
    /// The agent's own.
    pub const AGENT: Self = Self(4);
    /// No packet of it may leave at all.
    pub const DENIED: Self = Self(5);
    /// A kubelet's, to a pod that it probes. Its namespace is the node's.
    pub const PROBE: Self = Self(6);
}

/// The decision about one socket.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// The socket's network namespace.
    pub pod: Cookie,
    /// Address that connect() asked for.
    pub destination: Address,
    /// Port that connect() asked for. Without a decision: the port for which SO_REUSEADDR is lent to the socket (see
    /// `decide::bind`), or 0.
    pub port: Port,
    /// Kind of the decision.
    pub kind: Kind,
}

impl Flow {
    /// A socket of `pod` about which nothing but `kind` is known.
    #[inline(always)]
    #[must_use]
    pub fn bare(pod: Cookie, kind: Kind) -> Self {
        Self { pod, destination: Address::UNSPECIFIED, port: Port::from_host(0), kind }
    }
}

const _: () = assert!(size_of::<Flow>() == 32 && align_of::<Flow>() == 8);

/// The two bits of the firewall mark that routes inside a pod look at. A setting, because a network plugin may use them
/// itself. They are OR-ed into the application's own mark, which survives.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marks {
    /// An application's socket that is captured.
    outbound: u32,
    /// The agent's socket towards the application.
    inbound: u32,
}

impl Marks {
    /// The default bits.
    pub const DEFAULT: Self = Self { outbound: 0x0100_0000, inbound: 0x0200_0000 };

    /// Two different single bits, or `None`.
    #[must_use]
    pub const fn new(outbound: u32, inbound: u32) -> Option<Self> {
        if outbound.is_power_of_two() && inbound.is_power_of_two() && outbound != inbound {
            Some(Self { outbound, inbound })
        } else {
            None
        }
    }

    /// The bit of captured sockets.
    #[inline(always)]
    #[must_use]
    pub const fn outbound(self) -> u32 {
        self.outbound
    }

    /// The bit of the agent's sockets towards applications.
    #[inline(always)]
    #[must_use]
    pub const fn inbound(self) -> u32 {
        self.inbound
    }

    /// `mark` without both: they are left from an earlier connect(), or an application with NET_RAW set them.
    #[inline(always)]
    #[must_use]
    pub const fn cleared(self, mark: u32) -> u32 {
        mark & !(self.outbound | self.inbound)
    }
}

impl Default for Marks {
    fn default() -> Self {
        Self::DEFAULT
    }
}

const _: () = assert!(size_of::<Marks>() == 8 && align_of::<Marks>() == 4);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_two_different_bits() {
        let check = |outbound, inbound, expected| {
            assert_eq!(Marks::new(outbound, inbound).is_some(), expected, "{outbound:#x} {inbound:#x}");
        };
        check(1, 2, true);
        check(0x8000_0000, 1, true);
        check(2, 2, false);
        check(0, 2, false);
        check(2, 0, false);
        check(3, 4, false);
        check(4, 6, false);
        assert_eq!(Marks::DEFAULT.cleared(0x0300_0005), 5);
    }
}
