//! Version 3: the first whose tables a later version reads.

use crate::addr::Address;
use crate::maps::Phase;

/// The version of these layouts.
pub const VERSION: u32 = 3;

/// Value of `PODS`, keyed by the pod's [`crate::Cookie`]: the pod is known to the kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pod {
    /// The pod's IPv4 address in status.podIPs, else unspecified. For readers of the table; the kernel asks `LOCALS`.
    pub v4: Address,
    /// The pod's IPv6 address in status.podIPs, else unspecified.
    pub v6: Address,
    /// Enrolled or being released.
    pub phase: Phase,
}

impl Pod {
    /// A pod with these addresses.
    #[must_use]
    pub const fn new(v4: Address, v6: Address, phase: Phase) -> Self {
        Self { v4, v6, phase }
    }
}

/// Value of `MESH`, keyed by [`Address`]: what becomes of a connection to it. An address that is not
/// there is left alone, unless [`crate::ANY_OTHER`] is there.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Destination(u32);

impl Destination {
    /// Captured.
    pub const TUNNEL: Self = Self(1);
    /// connect() gets EPERM.
    pub const REFUSE: Self = Self(2);
}

const _: () = assert!(size_of::<Pod>() == 40 && align_of::<Pod>() == 8);
const _: () = assert!(size_of::<Destination>() == 4);
