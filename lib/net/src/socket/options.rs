//! The options of the tunnel's sockets: one table, by the purpose of a socket ([`Role`]), and the only code that sets them.
//! A connection's address, device and mark are [`super`]'s.
//!
//! What must hold: every socket that is made, accepted or handed over goes through here, and [`Options::read`] reads back what
//! [`Options::set`] wrote, so that a test can read any open socket. ARCHITECTURE.md shows the table; a test compares.

use std::{io, os::fd::AsFd, time::Duration};

use nix::sys::socket::{getsockopt, setsockopt, sockopt};

use crate::system::{option, set_option};

/// Unsent bytes of a tunnel that the kernel takes: the rest is encrypted later, so that a bulk stream does not delay a request
/// beside it.
const UNSENT_BYTES: u32 = 128 * 1024;

/// The purpose of a socket of the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Listens for connections that the pod's applications open.
    OutboundListener,
    /// Listens for connections from outside the pod.
    InboundListener,
    /// Accepted from an application of the pod.
    FromApplication,
    /// Accepted from a peer outside the mesh, in plaintext.
    FromPeer,
    /// Accepted from the tunnel of another node.
    FromTunnel,
    /// Connected to an application of the pod.
    ToApplication,
    /// Connected to a peer outside the mesh, in plaintext.
    ToOutside,
    /// Connected to the other end of a tunnel.
    ToNextHop,
}

impl Role {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 8] = [
        Self::OutboundListener,
        Self::InboundListener,
        Self::FromApplication,
        Self::FromPeer,
        Self::FromTunnel,
        Self::ToApplication,
        Self::ToOutside,
        Self::ToNextHop,
    ];

    /// Its name in the table.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OutboundListener => "outbound listener",
            Self::InboundListener => "inbound listener",
            Self::FromApplication => "accepted from an application",
            Self::FromPeer => "accepted from a plaintext peer",
            Self::FromTunnel => "accepted tunnel",
            Self::ToApplication => "to the application",
            Self::ToOutside => "to outside",
            Self::ToNextHop => "to the next hop",
        }
    }
}

/// TCP keepalive: when the kernel probes a silent peer, and when it takes it for gone (tcp(7)). Whole seconds: the kernel counts
/// no others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Silence before the first probe.
    pub idle: Duration,
    /// Between probes.
    pub interval: Duration,
    /// Unanswered probes after which the peer is gone.
    pub probes: u8,
}

impl Keepalive {
    /// The shortest and the longest time that the kernel takes, in seconds (MAX_TCP_KEEPIDLE, MAX_TCP_KEEPINTVL).
    pub const SECONDS: [u64; 2] = [1, 32_767];
    /// The fewest and the most probes that it takes (MAX_TCP_KEEPCNT).
    pub const PROBES: [u8; 2] = [1, 127];

    /// The longest time until a peer that is gone is noticed.
    #[must_use]
    pub const fn limit(&self) -> Duration {
        self.idle.saturating_add(self.interval.saturating_mul(self.probes as u32))
    }
}

/// Less than three minutes until a peer that is gone is noticed.
impl Default for Keepalive {
    fn default() -> Self {
        Self { idle: Duration::from_secs(90), interval: Duration::from_secs(15), probes: 5 }
    }
}

/// The options of one socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// TCP_NODELAY: small writes leave at once. What is copied comes in pieces, and Nagle's algorithm would hold the last one
    /// until the receiver's delayed acknowledgement.
    pub no_delay: bool,
    /// SO_KEEPALIVE, TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT; off where there is none.
    pub keepalive: Option<Keepalive>,
    /// TCP_USER_TIMEOUT: how long sent bytes may stay unacknowledged, and a closed window closed, in milliseconds; 0 for the
    /// kernel's own limits. For tunnels alone: an application may take its time.
    pub user_timeout_ms: u32,
    /// TCP_NOTSENT_LOWAT; 0 for the kernel's own limit. The sizes of the buffers are the kernel's, which grow with need.
    pub unsent_bytes: u32,
    /// SO_LINGER of zero: closing sends RST, until the connection has come to its end in order.
    pub reset_on_close: bool,
    /// SO_REUSEADDR: does not keep an application that sets it as well from the port that this socket has by capture.
    pub reuse_address: bool,
}

impl Options {
    /// The row of the table for `role`.
    #[must_use]
    pub fn of(role: Role, keepalive: Keepalive) -> Self {
        let connection = Self {
            no_delay: true,
            keepalive: Some(keepalive),
            user_timeout_ms: 0,
            unsent_bytes: 0,
            reset_on_close: true,
            reuse_address: true,
        };
        let tunnel = Self {
            user_timeout_ms: u32::try_from(keepalive.limit().as_millis()).unwrap_or(u32::MAX),
            unsent_bytes: UNSENT_BYTES,
            // TLS has an end of its own, close_notify or an alert, which the peer is to read.
            reset_on_close: false,
            ..connection
        };
        match role {
            // What they accept inherits every option.
            Role::OutboundListener | Role::InboundListener => connection,
            Role::FromApplication | Role::FromPeer | Role::ToApplication => connection,
            Role::ToOutside => Self { reuse_address: false, ..connection },
            Role::FromTunnel => tunnel,
            Role::ToNextHop => Self { reuse_address: false, ..tunnel },
        }
    }

    /// Sets them. An option that no role clears is left alone where this one does not have it.
    pub fn set(&self, socket: &impl AsFd) -> io::Result<()> {
        if let Some(Keepalive { idle, interval, probes }) = self.keepalive {
            set_option(socket, libc::SOL_TCP, libc::TCP_KEEPIDLE, seconds(idle))?;
            set_option(socket, libc::SOL_TCP, libc::TCP_KEEPINTVL, seconds(interval))?;
            set_option(socket, libc::SOL_TCP, libc::TCP_KEEPCNT, probes.into())?;
            setsockopt(socket, sockopt::KeepAlive, &true)?;
        }
        if self.user_timeout_ms > 0 {
            setsockopt(socket, sockopt::TcpUserTimeout, &self.user_timeout_ms)?;
        }
        if self.unsent_bytes > 0 {
            set_option(socket, libc::SOL_TCP, libc::TCP_NOTSENT_LOWAT, signed(self.unsent_bytes))?;
        }
        if self.reuse_address {
            setsockopt(socket, sockopt::ReuseAddr, &true)?;
        }
        setsockopt(socket, sockopt::Linger, &linger(self.reset_on_close))?;
        // Last: an accepted socket that has it has the others, see `set_accepted`.
        Ok(setsockopt(socket, sockopt::TcpNoDelay, &self.no_delay)?)
    }

    /// Sets the options of a socket that was accepted from a listener with the same ones: it has inherited them, unless an agent
    /// of an earlier build made the listener and the connection arrived before it was handed over.
    pub fn set_accepted(&self, socket: &impl AsFd) -> io::Result<()> {
        if getsockopt(socket, sockopt::TcpNoDelay)? == self.no_delay { Ok(()) } else { self.set(socket) }
    }

    /// The options that a socket has.
    pub fn read(socket: &impl AsFd) -> io::Result<Self> {
        let tcp = |name| option(socket, libc::SOL_TCP, name);
        let time = |name| tcp(name).map(|seconds| Duration::from_secs(seconds.unsigned_abs().into()));
        let linger = getsockopt(socket, sockopt::Linger)?;
        Ok(Self {
            no_delay: getsockopt(socket, sockopt::TcpNoDelay)?,
            keepalive: if getsockopt(socket, sockopt::KeepAlive)? {
                Some(Keepalive {
                    idle: time(libc::TCP_KEEPIDLE)?,
                    interval: time(libc::TCP_KEEPINTVL)?,
                    probes: u8::try_from(tcp(libc::TCP_KEEPCNT)?).unwrap_or(u8::MAX),
                })
            } else {
                None
            },
            user_timeout_ms: getsockopt(socket, sockopt::TcpUserTimeout)?,
            unsent_bytes: tcp(libc::TCP_NOTSENT_LOWAT)?.unsigned_abs(),
            reset_on_close: linger.l_onoff != 0 && linger.l_linger == 0,
            reuse_address: getsockopt(socket, sockopt::ReuseAddr)?,
        })
    }
}

/// Chooses whether closing this socket sends RST and drops what is queued, also where the kernel closes it because the process
/// was killed. Otherwise, as at first, it sends FIN.
pub fn reset_on_close(socket: &impl AsFd, reset: bool) {
    // It fails only for a socket that is not TCP, which has no RST.
    let _ = setsockopt(socket, sockopt::Linger, &linger(reset));
}

/// SO_LINGER with a timeout of zero (socket(7)).
fn linger(reset: bool) -> libc::linger {
    libc::linger { l_onoff: reset.into(), l_linger: 0 }
}

fn seconds(duration: Duration) -> i32 {
    i32::try_from(duration.as_secs()).unwrap_or(i32::MAX)
}

fn signed(bytes: u32) -> i32 {
    i32::try_from(bytes).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    const SHORT: Keepalive = Keepalive { idle: Duration::from_secs(2), interval: Duration::from_secs(1), probes: 3 };
    const FAMILIES: [&str; 2] = ["127.0.0.1:0", "[::1]:0"];

    fn accepted(listener: &TcpListener) -> (TcpStream, TcpStream) {
        let client = TcpStream::connect(listener.local_addr().expect("name")).expect("connected");
        (client, listener.accept().expect("accepted").0)
    }

    #[test]
    fn a_socket_has_the_options_of_the_table() {
        for (role, address) in Role::ALL.into_iter().flat_map(|role| FAMILIES.map(|address| (role, address))) {
            let listener = TcpListener::bind(address).expect("bound");
            let (client, server) = accepted(&listener);
            let wanted = Options::of(role, SHORT);
            let socket = match role {
                Role::OutboundListener | Role::InboundListener => listener.into(),
                Role::FromApplication | Role::FromPeer | Role::FromTunnel => std::os::fd::OwnedFd::from(server),
                Role::ToApplication | Role::ToOutside | Role::ToNextHop => client.into(),
            };
            assert_ne!(Options::read(&socket).expect("asked"), wanted, "{role:?}: not set yet");
            wanted.set(&socket).expect("set");
            assert_eq!(Options::read(&socket).expect("asked"), wanted, "{role:?} at {address}");
        }
    }

    #[test]
    fn accepted_sockets_inherit_options_or_get_them() {
        for address in FAMILIES {
            let listener = TcpListener::bind(address).expect("bound");
            let wanted = Options::of(Role::FromApplication, SHORT);
            let (_before, early) = accepted(&listener);
            Options::of(Role::OutboundListener, SHORT).set(&listener).expect("set");
            let (_after, late) = accepted(&listener);
            assert_eq!(Options::read(&late).expect("asked"), wanted, "inherited");
            assert_ne!(Options::read(&early).expect("asked"), wanted);
            for socket in [&early, &late] {
                wanted.set_accepted(socket).expect("set");
                assert_eq!(Options::read(socket).expect("asked"), wanted, "{address}");
            }
            // A tunnel takes back what the listener gave it.
            let tunnel = Options::of(Role::FromTunnel, SHORT);
            tunnel.set(&late).expect("set");
            assert_eq!(Options::read(&late).expect("asked"), tunnel);
        }
    }

    #[test]
    fn a_peer_that_is_gone_is_noticed_within_three_minutes() {
        assert!(Keepalive::default().limit() < Duration::from_secs(180));
        assert_eq!(SHORT.limit(), Duration::from_secs(5));
        assert_eq!(Options::of(Role::ToNextHop, SHORT).user_timeout_ms, 5000);
    }

    #[test]
    fn architecture_shows_the_table() {
        let yes = |is: bool| if is { "yes" } else { "" };
        let rows = Role::ALL.map(|role| {
            let o = Options::of(role, Keepalive::default());
            let unsent = if o.unsent_bytes > 0 { format!("{} KiB", o.unsent_bytes >> 10) } else { String::new() };
            let columns = [
                yes(o.no_delay),
                yes(o.keepalive.is_some()),
                yes(o.user_timeout_ms > 0),
                &unsent,
                yes(o.reset_on_close),
                yes(o.reuse_address),
            ];
            format!("| {} | {} |", role.as_str(), columns.join(" | "))
        });
        let table = rows.join("\n");
        assert!(
            include_str!("../../../../ARCHITECTURE.md").contains(&table),
            "ARCHITECTURE.md shows another table:\n{table}"
        );
    }
}
