//! Which options each socket of the tunnel has: one table, by what the socket is for ([`Role`]), and the only place that
//! sets them. What makes a connection (its address, device, mark) is [`super`]'s; this is how it behaves once it is there.
//!
//! What must hold: every socket that is made, accepted or handed over goes through here, and [`Options::ask`] reads back what
//! [`Options::set`] wrote, so that a test can ask any open socket. ARCHITECTURE.md shows the table; a test compares.

use std::{io, os::fd::AsFd, time::Duration};

use nix::sys::socket::{getsockopt, setsockopt, sockopt};

use crate::system::{option, set_option};

/// Bytes of a tunnel that the kernel takes before they can be sent: what is beyond is encrypted later, so that a bulk
/// stream does not delay a request beside it.
const UNSENT_BYTES: u32 = 128 * 1024;

/// What a socket of the tunnel is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Listens for what the pod's applications open.
    OutboundListener,
    /// Listens for what comes from outside.
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

    /// In words.
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

/// When the kernel asks a silent peer whether it is there, and when it takes it for gone (tcp(7)). Whole seconds: the kernel
/// counts no others.
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

    /// How long a peer that is gone may go unnoticed.
    #[must_use]
    pub const fn limit(&self) -> Duration {
        self.idle.saturating_add(self.interval.saturating_mul(self.probes as u32))
    }
}

/// Less than three minutes until a peer is known to be gone.
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
    /// The table.
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
            // It has an end of its own, in TLS, and what was said last is to be heard.
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

    /// Sets them. What no role takes back is not touched where this one does not have it.
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

    /// Sets those of a socket that was accepted from a listener with the same ones: it has inherited them, unless the
    /// listener is one that an agent of an earlier build made, and the connection came while it had it.
    pub fn set_accepted(&self, socket: &impl AsFd) -> io::Result<()> {
        if getsockopt(socket, sockopt::TcpNoDelay)? == self.no_delay { Ok(()) } else { self.set(socket) }
    }

    /// Those that a socket has.
    pub fn ask(socket: &impl AsFd) -> io::Result<Self> {
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

/// Whether closing this socket sends RST, and drops what is queued; the kernel closes those of a process that was killed.
/// Otherwise, as at first, it sends FIN.
pub fn reset_on_close(socket: &impl AsFd, reset: bool) {
    // It fails for what is no TCP socket, and then nobody waits for a RST.
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
    fn a_socket_has_what_the_table_says() {
        for (role, address) in Role::ALL.into_iter().flat_map(|role| FAMILIES.map(|address| (role, address))) {
            let listener = TcpListener::bind(address).expect("bound");
            let (client, server) = accepted(&listener);
            let wanted = Options::of(role, SHORT);
            let socket = match role {
                Role::OutboundListener | Role::InboundListener => listener.into(),
                Role::FromApplication | Role::FromPeer | Role::FromTunnel => std::os::fd::OwnedFd::from(server),
                Role::ToApplication | Role::ToOutside | Role::ToNextHop => client.into(),
            };
            assert_ne!(Options::ask(&socket).expect("asked"), wanted, "{role:?}: without a word");
            wanted.set(&socket).expect("set");
            assert_eq!(Options::ask(&socket).expect("asked"), wanted, "{role:?} at {address}");
        }
    }

    #[test]
    fn what_is_accepted_inherits_and_what_came_before_is_made_up_for() {
        for address in FAMILIES {
            let listener = TcpListener::bind(address).expect("bound");
            let wanted = Options::of(Role::FromApplication, SHORT);
            let (_before, early) = accepted(&listener);
            Options::of(Role::OutboundListener, SHORT).set(&listener).expect("set");
            let (_after, late) = accepted(&listener);
            assert_eq!(Options::ask(&late).expect("asked"), wanted, "inherited");
            assert_ne!(Options::ask(&early).expect("asked"), wanted);
            for socket in [&early, &late] {
                wanted.set_accepted(socket).expect("set");
                assert_eq!(Options::ask(socket).expect("asked"), wanted, "{address}");
            }
            // A tunnel takes back what the listener gave it.
            let tunnel = Options::of(Role::FromTunnel, SHORT);
            tunnel.set(&late).expect("set");
            assert_eq!(Options::ask(&late).expect("asked"), tunnel);
        }
    }

    #[test]
    fn a_peer_that_is_gone_is_known_within_three_minutes() {
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
