//! Properties of addresses that more than one module needs. An address inside core is always canonical: IPv4 is never
//! written as ::ffff:a.b.c.d. The doors and the sockets canonicalise; [`canonical`] is how.

use std::net::{IpAddr, SocketAddr};

/// The port that carries HBONE between nodes, as in Istio's ambient mode.
pub const HBONE_PORT: u16 = 15008;

/// `addr` with a v4-mapped IPv6 address turned into the IPv4 address that it stands for (RFC 4291, 2.5.5.2).
#[must_use]
pub fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

/// Whether `ip` can be the address of a client on another host. Any other is refused as a source: an attacker on the
/// link could write anything there, and an application may trust it (loopback above all).
#[must_use]
pub fn may_be_remote(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(a) => {
            !(a.is_loopback() || a.is_unspecified() || a.is_multicast() || a.is_link_local() || a.is_broadcast())
        }
        IpAddr::V6(a) => !(a.is_loopback() || a.is_unspecified() || a.is_multicast() || a.is_unicast_link_local()),
    }
}

/// Loopback, or the unspecified address, which connect() takes for loopback.
#[must_use]
pub fn is_loopback(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    ip.is_loopback() || ip.is_unspecified()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remote_sources() {
        for (text, remote) in [
            ("10.0.0.1", true),
            ("fd00::1", true),
            ("::ffff:10.0.0.1", true),
            ("127.0.0.1", false),
            ("::ffff:127.0.0.1", false),
            ("::1", false),
            ("0.0.0.0", false),
            ("::", false),
            ("224.0.0.1", false),
            ("255.255.255.255", false),
            ("169.254.0.1", false),
            ("fe80::1", false),
            ("ff02::1", false),
        ] {
            assert_eq!(may_be_remote(text.parse().unwrap()), remote, "{text}");
        }
    }

    #[test]
    fn loopback_includes_unspecified() {
        for (text, lo) in [("127.9.9.9", true), ("::1", true), ("0.0.0.0", true), ("::", true), ("10.0.0.1", false)] {
            assert_eq!(is_loopback(text.parse().unwrap()), lo, "{text}");
        }
    }
}
