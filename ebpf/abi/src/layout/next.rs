//! The version after this one, as tests have it: an agent and programs that are built with the feature `next` are upgraded to
//! and gone back from, under load, before a real version needs it. Both values differ in size, order and numbers.

use super::v3;
use crate::addr::Address;
use crate::maps::Phase;

/// The version of these layouts.
pub const VERSION: u32 = v3::VERSION + 1;

/// Value of `PODS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pod {
    /// Enrolled or being released.
    pub phase: Phase,
    /// Always [`Pod::FORMAT`].
    pub format: u64,
    /// The pod's IPv6 address in status.podIPs, else unspecified.
    pub v6: Address,
    /// The pod's IPv4 address in status.podIPs, else unspecified.
    pub v4: Address,
}

impl Pod {
    const FORMAT: u64 = 4;

    /// A pod with these addresses.
    #[must_use]
    pub const fn new(v4: Address, v6: Address, phase: Phase) -> Self {
        Self { phase, format: Self::FORMAT, v6, v4 }
    }
}

impl From<v3::Pod> for Pod {
    fn from(pod: v3::Pod) -> Self {
        Self::new(pod.v4, pod.v6, pod.phase)
    }
}

impl From<Pod> for v3::Pod {
    fn from(pod: Pod) -> Self {
        Self::new(pod.v4, pod.v6, pod.phase)
    }
}

/// Value of `MESH`.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Destination(u64);

impl Destination {
    /// Captured.
    pub const TUNNEL: Self = Self(0x20);
    /// connect() gets EPERM.
    pub const REFUSE: Self = Self(0x10);
}

/// A number that version 3 does not have was captured by it, too.
impl From<v3::Destination> for Destination {
    fn from(destination: v3::Destination) -> Self {
        if destination == v3::Destination::REFUSE { Self::REFUSE } else { Self::TUNNEL }
    }
}

impl From<Destination> for v3::Destination {
    fn from(destination: Destination) -> Self {
        if destination == Destination::REFUSE { Self::REFUSE } else { Self::TUNNEL }
    }
}

const _: () = assert!(size_of::<Pod>() == 48 && align_of::<Pod>() == 8);
const _: () = assert!(size_of::<Destination>() == 8);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forth_and_back_is_the_same() {
        let (v4, v6) = (Address::from_v4_word(7), Address::from_words([1, 2, 3, 4]));
        for phase in [Phase::ENROLLED, Phase::RELEASING] {
            let pod = v3::Pod::new(v4, v6, phase);
            assert_eq!(v3::Pod::from(Pod::from(pod)), pod);
        }
        for destination in [v3::Destination::TUNNEL, v3::Destination::REFUSE] {
            assert_eq!(v3::Destination::from(Destination::from(destination)), destination);
        }
    }
}
