//! Addresses, ports and the two names by which the kernel knows a pod: its namespace and its cgroup.
//!
//! They are types of their own so that byte order cannot be mixed up: an [`Address`] is kept in network byte order, a
//! [`Port`] as a number. IPv4 is kept as `::ffff:a.b.c.d`, so that one table serves both families and v4-mapped sockets.

use core::hash::{Hash, Hasher};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Address family of IPv4 sockets (`AF_INET`, linux/socket.h).
pub const FAMILY_V4: u32 = 2;
/// Address family of IPv6 sockets (`AF_INET6`, linux/socket.h).
pub const FAMILY_V6: u32 = 10;

/// The third word of a v4-mapped address (RFC 4291, 2.5.5.2), in network byte order.
const MAPPED: u32 = 0xffff_u32.to_be();
/// The last word of `::1`, in network byte order.
const ONE: u32 = 1_u32.to_be();

/// An IP address: four words in network byte order, IPv4 as `::ffff:a.b.c.d`.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Eq)]
pub struct Address([u32; 4]);

impl Address {
    /// The unspecified IPv6 address.
    pub const UNSPECIFIED: Self = Self([0; 4]);

    /// From the words of an IPv6 address as the kernel shows them, in network byte order.
    #[inline(always)]
    #[must_use]
    pub const fn from_words(words: [u32; 4]) -> Self {
        Self(words)
    }

    /// From the word of an IPv4 address as the kernel shows it, in network byte order.
    #[inline(always)]
    #[must_use]
    pub const fn from_v4_word(word: u32) -> Self {
        Self([0, 0, MAPPED, word])
    }

    /// The four words, in network byte order.
    #[inline(always)]
    #[must_use]
    pub const fn words(self) -> [u32; 4] {
        self.0
    }

    /// IPv4, whether or not a v4-mapped socket uses it.
    #[inline(always)]
    #[must_use]
    pub const fn is_v4(&self) -> bool {
        let [a, b, c, _] = self.0;
        a == 0 && b == 0 && c == MAPPED
    }

    /// The unspecified address, of no host: connect() takes it for loopback, and no packet may have it as its source.
    #[inline(always)]
    #[must_use]
    pub const fn is_unspecified(&self) -> bool {
        let [a, b, c, d] = self.0;
        a == 0 && b == 0 && (c == 0 || c == MAPPED) && d == 0
    }

    /// Loopback, or the unspecified address, which connect() takes for loopback.
    #[inline(always)]
    #[must_use]
    pub const fn is_loopback(&self) -> bool {
        let [a, b, c, d] = self.0;
        if self.is_v4() {
            return d == 0 || u32::from_be(d) >> 24 == 127;
        }
        a == 0 && b == 0 && c == 0 && (d == 0 || d == ONE)
    }

    /// As the standard library's type; v4-mapped becomes IPv4.
    #[must_use]
    pub fn ip(self) -> IpAddr {
        let mut octets = [0; 16];
        for (to, word) in octets.chunks_exact_mut(4).zip(self.0) {
            to.copy_from_slice(&word.to_ne_bytes());
        }
        IpAddr::V6(Ipv6Addr::from(octets)).to_canonical()
    }
}

/// Word by word: a comparison of arrays becomes a call of `bcmp`, which the kernel's programs do not have.
impl PartialEq for Address {
    #[inline(always)]
    fn eq(&self, other: &Self) -> bool {
        let ([a, b, c, d], [e, f, g, h]) = (self.0, other.0);
        a == e && b == f && c == g && d == h
    }
}

impl Hash for Address {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl From<Ipv4Addr> for Address {
    fn from(ip: Ipv4Addr) -> Self {
        Self::from_v4_word(u32::from_ne_bytes(ip.octets()))
    }
}

impl From<Ipv6Addr> for Address {
    fn from(ip: Ipv6Addr) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = ip.octets();
        Self([[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]].map(u32::from_ne_bytes))
    }
}

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => ip.into(),
            IpAddr::V6(ip) => ip.into(),
        }
    }
}

/// The two ends of a socket as hooks show them, in both families at once. A v4-mapped socket comes out as IPv4.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    /// [`FAMILY_V4`] or [`FAMILY_V6`].
    pub family: u32,
    /// IPv4 word of the local end, in network byte order.
    pub local_v4: u32,
    /// IPv4 word of the remote end, in network byte order.
    pub remote_v4: u32,
    /// IPv6 words of the local end, in network byte order.
    pub local_v6: [u32; 4],
    /// IPv6 words of the remote end, in network byte order.
    pub remote_v6: [u32; 4],
}

impl Ends {
    /// (local, remote).
    #[inline(always)]
    #[must_use]
    pub fn addresses(&self) -> (Address, Address) {
        if self.family == FAMILY_V4 || Address::from_words(self.remote_v6).is_v4() {
            (Address::from_v4_word(self.local_v4), Address::from_v4_word(self.remote_v4))
        } else {
            (Address::from_words(self.local_v6), Address::from_words(self.remote_v6))
        }
    }
}

/// A port as a number, in host byte order. Four bytes, as in the contexts of the hooks.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Port(u32);

impl Port {
    /// From a context field that holds the port in network byte order in its low 16 bits (`user_port` of sock_addr,
    /// `remote_port` of sk_lookup).
    #[inline(always)]
    #[must_use]
    pub const fn from_network(field: u32) -> Self {
        Self(u16::from_be((field & 0xffff) as u16) as u32)
    }

    /// From a context field that holds the port as a number (`local_port`).
    #[inline(always)]
    #[must_use]
    pub const fn from_host(field: u32) -> Self {
        Self(field & 0xffff)
    }

    /// The number.
    #[inline(always)]
    #[must_use]
    pub const fn number(self) -> u16 {
        (self.0 & 0xffff) as u16
    }
}

impl From<u16> for Port {
    fn from(port: u16) -> Self {
        Self(u32::from(port))
    }
}

/// A network namespace, which is a pod, as SO_NETNS_COOKIE names it. Never reused while the machine runs; 0 is none.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cookie(pub u64);

/// A cgroup, as `bpf_get_current_cgroup_id` names it: the inode number of its directory.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CgroupId(pub u64);

const _: () = assert!(size_of::<Address>() == 16 && size_of::<Port>() == 4);
const _: () = assert!(size_of::<Cookie>() == 8 && size_of::<CgroupId>() == 8);

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        text.parse::<IpAddr>().expect("an address").into()
    }

    #[test]
    fn keeps_the_address_in_both_families() {
        for text in ["10.1.2.3", "0.0.0.0", "255.255.255.255", "fd00::12:3", "::", "::1", "2001:db8::ffff:a:b"] {
            assert_eq!(address(text).ip(), text.parse::<IpAddr>().expect("an address"));
        }
        assert_eq!(address("::ffff:10.1.2.3"), address("10.1.2.3"));
        assert_eq!(address("10.1.2.3").words(), [0, 0, 0xffff_u32.to_be(), u32::from_ne_bytes([10, 1, 2, 3])]);
    }

    #[test]
    fn equality_looks_at_every_word() {
        let a = Address::from_words([1, 2, 3, 4]);
        for other in [[9, 2, 3, 4], [1, 9, 3, 4], [1, 2, 9, 4], [1, 2, 3, 9]] {
            assert_ne!(a, Address::from_words(other));
        }
        assert_eq!(a, Address::from_words([1, 2, 3, 4]));
    }

    #[test]
    fn loopback_is_what_connect_takes_for_it() {
        let check = |text: &str, expected: bool| assert_eq!(address(text).is_loopback(), expected, "{text}");
        check("127.0.0.1", true);
        check("127.255.3.4", true);
        check("::ffff:127.0.0.1", true);
        check("0.0.0.0", true);
        check("::", true);
        check("::1", true);
        check("126.255.255.255", false);
        check("128.0.0.1", false);
        check("0.0.0.1", false);
        check("::2", false);
        check("::1:0:0:1", false);
        check("fe80::1", false);
    }

    #[test]
    fn ports_are_read_from_either_order() {
        assert_eq!(Port::from_network(u32::from(15008_u16.to_be())), Port::from(15008));
        assert_eq!(Port::from_network(0xabcd_0000 | u32::from(80_u16.to_be())).number(), 80);
        assert_eq!(Port::from_host(443).number(), 443);
    }

    #[test]
    fn a_mapped_socket_is_ipv4_at_both_ends() {
        let v4 = |text: &str| {
            let [.., word] = address(text).words();
            word
        };
        let mut ends = Ends {
            family: FAMILY_V6,
            local_v4: v4("10.0.0.1"),
            remote_v4: v4("10.0.0.2"),
            local_v6: address("fd00::1").words(),
            remote_v6: address("fd00::2").words(),
        };
        assert_eq!(ends.addresses(), (address("fd00::1"), address("fd00::2")));
        ends.remote_v6 = address("::ffff:10.0.0.2").words();
        assert_eq!(ends.addresses(), (address("10.0.0.1"), address("10.0.0.2")));
        ends.remote_v6 = address("fd00::2").words();
        ends.family = FAMILY_V4;
        assert_eq!(ends.addresses(), (address("10.0.0.1"), address("10.0.0.2")));
    }
}
