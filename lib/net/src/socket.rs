//! Every socket that the tunnel has in a pod: the two listeners, the connection to the application that wears the client's
//! address, the connections that leave. All of them are made inside the pod's namespace and come back non-blocking.
//!
//! Only socket(2) itself happens inside: options, addresses and connect() look at the namespace that the socket was made
//! in. What must hold: no SO_REUSEPORT, because a root process of the pod could join the group and take connections.

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::atomic::{AtomicU32, Ordering},
};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, Backlog, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, connect, listen,
        recv, setsockopt, socket, sockopt,
    },
};
use underpass_core::addr::canonical;

use crate::{
    netns::Netns,
    system::{SystemError, set_option},
};

/// Connections that wait to be accepted. The kernel lowers it to the namespace's net.core.somaxconn, 4096 by default.
const BACKLOG: i32 = 4096;
/// Fast-open SYNs that wait for their handshake (tcp(7), TCP_FASTOPEN).
const FAST_OPEN_QUEUE: i32 = 64;
/// Bytes of a tunnel that the kernel takes before they can be sent: what is beyond is encrypted later, so that a bulk
/// stream does not delay a request beside it.
const NOT_SENT_BYTES: i32 = 128 * 1024;
/// How many ports are tried towards one application before the attempt is given up.
const PORTS_TRIED: u32 = 256;
/// Ports below this one are left alone: services listen there.
const FIRST_PORT: u16 = 10_000;

/// The listener for what the pod's applications open. It is transparent, because its answers have the original
/// destination as their source.
pub fn outbound_listener(netns: &Netns) -> Result<TcpListener, SystemError> {
    listener(netns, "outbound listener", |fd| {
        set_option(fd, libc::SOL_IPV6, libc::IPV6_TRANSPARENT, 1)?;
        set_option(fd, libc::SOL_IP, libc::IP_TRANSPARENT, 1)
    })
}

/// The listener for what comes from outside. It is bound to the pod's device, and so is what it accepts: packets that the
/// tunnel exchanges with the application over lo never match it.
pub fn inbound_listener(netns: &Netns, device: &str) -> Result<TcpListener, SystemError> {
    listener(netns, "inbound listener", |fd| Ok(setsockopt(fd, sockopt::BindToDevice, &device.into())?))
}

/// Dual-stack, on a port that nobody needs to know: the kernel programs choose the socket itself.
fn listener(
    netns: &Netns,
    object: &str,
    prepare: impl FnOnce(&OwnedFd) -> io::Result<()>,
) -> Result<TcpListener, SystemError> {
    let made = (|| {
        let fd = tcp_socket(netns, true)?;
        set_option(&fd, libc::SOL_IPV6, libc::IPV6_V6ONLY, 0)?;
        prepare(&fd)?;
        set_option(&fd, libc::SOL_TCP, libc::TCP_FASTOPEN, FAST_OPEN_QUEUE)?;
        bind(fd.as_raw_fd(), &storage(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))))?;
        listen(&fd, Backlog::new(BACKLOG)?)?;
        // What it accepts has both of these as well. What is closed before anybody has looked at it is reset.
        reset_on_close(&fd, true);
        // The port of a captured connection stays free for an application that listens there. Set now, nobody could have
        // shared its own port before.
        setsockopt(&fd, sockopt::ReuseAddr, &true)?;
        Ok(fd.into())
    })();
    made.map_err(|source| SystemError::Socket { operation: "make", object: object.into(), source })
}

/// Which ports the tunnel uses towards applications, in turn. They are outside of the range from which kernels choose for
/// those who do not ask: the client's own kernel then hardly ever has the same one in use, and so the application's
/// half-open connection does not meet packets of the client itself.
#[derive(Debug)]
pub struct PortPool {
    first: u16,
    count: u32,
    turn: AtomicU32,
}

impl PortPool {
    /// For one pod, by the settings of its namespace.
    pub fn of(netns: &Netns) -> Result<Self, SystemError> {
        let name = "net.ipv4.ip_local_port_range";
        let text = netns.sysctl(name)?;
        let mut bounds = text.split_ascii_whitespace().map(str::parse);
        match (bounds.next(), bounds.next()) {
            (Some(Ok(low)), Some(Ok(high))) => Ok(Self::outside(low, high)),
            _ => Err(SystemError::Sysctl {
                operation: "parse",
                object: format!("{name} = {text}"),
                source: ErrorKind::InvalidData.into(),
            }),
        }
    }

    /// The wider range beside the ephemeral ports `low..=high`; everything from 10000 on where they leave none.
    #[must_use]
    pub fn outside(low: u16, high: u16) -> Self {
        let below = u32::from(low.saturating_sub(FIRST_PORT));
        let above = u32::from(u16::MAX - high);
        let (first, count) = match (below, above) {
            (0, 0) => (FIRST_PORT, u32::from(u16::MAX - FIRST_PORT) + 1),
            _ if below >= above => (FIRST_PORT, below),
            _ => (high + 1, above),
        };
        Self { first, count, turn: AtomicU32::new(0) }
    }

    /// The next one.
    #[must_use]
    pub fn take(&self) -> u16 {
        let offset = self.turn.fetch_add(1, Ordering::Relaxed) % self.count;
        self.first.saturating_add(u16::try_from(offset).unwrap_or(0))
    }
}

/// Connects to the application as the client: from its address, over lo both ways. `mark` is the bit that the rules of the
/// pod look at; the application's answers carry it too. The connection is being opened: see [`established`].
///
/// # Errors
/// `AddrInUse` where every port that was tried is taken; otherwise the kernel's.
pub fn to_application(netns: &Netns, client: IpAddr, target: SocketAddr, mark: u32) -> io::Result<TcpStream> {
    let ports = netns.ports()?;
    for _ in 0..PORTS_TRIED.min(ports.count) {
        let fd = tcp_socket(netns, target.is_ipv6())?;
        match open_as(&fd, SocketAddr::new(client, ports.take()), target, mark) {
            Ok(()) => return Ok(fd.into()),
            Err(e) if matches!(e.kind(), ErrorKind::AddrInUse | ErrorKind::AddrNotAvailable) => {}
            Err(e) => return Err(e),
        }
    }
    Err(ErrorKind::AddrInUse.into())
}

fn open_as(fd: &OwnedFd, source: SocketAddr, target: SocketAddr, mark: u32) -> io::Result<()> {
    match target {
        SocketAddr::V4(_) => set_option(fd, libc::SOL_IP, libc::IP_TRANSPARENT, 1)?,
        SocketAddr::V6(_) => set_option(fd, libc::SOL_IPV6, libc::IPV6_TRANSPARENT, 1)?,
    }
    setsockopt(fd, sockopt::Mark, &mark)?;
    // Otherwise the SYN would match the pod's address on its device first, and look as if it came from outside.
    setsockopt(fd, sockopt::BindToDevice, &"lo".into())?;
    setsockopt(fd, sockopt::ReuseAddr, &true)?;
    setsockopt(fd, sockopt::TcpNoDelay, &true)?;
    reset_on_close(fd, true);
    bind(fd.as_raw_fd(), &storage(source))?;
    begin(fd, target)
}

/// Connects from inside the pod to somebody outside the mesh, from the pod's own address `from`. The connection is being
/// opened.
pub fn from_pod(netns: &Netns, from: IpAddr, target: SocketAddr) -> io::Result<TcpStream> {
    let fd = tcp_socket(netns, target.is_ipv6())?;
    setsockopt(&fd, sockopt::TcpNoDelay, &true)?;
    reset_on_close(&fd, true);
    open_from(&fd, from, target)?;
    Ok(fd.into())
}

/// Connects for a tunnel, from the pod's own address `from`. The connection is being opened.
pub fn to_next_hop(netns: &Netns, from: IpAddr, next: SocketAddr) -> io::Result<TcpStream> {
    let fd = tcp_socket(netns, next.is_ipv6())?;
    tune_tunnel(&fd)?;
    open_from(&fd, from, next)?;
    Ok(fd.into())
}

fn open_from(fd: &OwnedFd, from: IpAddr, target: SocketAddr) -> io::Result<()> {
    // The port is chosen by connect(), so that every destination has its own port space.
    setsockopt(fd, sockopt::IpBindAddressNoPort, &true)?;
    bind(fd.as_raw_fd(), &storage(SocketAddr::new(from, 0)))?;
    begin(fd, target)
}

/// The options of every socket that carries a tunnel: the accepted ones too.
pub fn tune_tunnel(socket: &impl AsFd) -> io::Result<()> {
    setsockopt(socket, sockopt::TcpNoDelay, &true)?;
    set_option(socket, libc::SOL_TCP, libc::TCP_NOTSENT_LOWAT, NOT_SENT_BYTES)
}

/// Waits until a connection that is being opened is open, or why it failed. Within the tokio runtime.
pub async fn established(opening: TcpStream) -> io::Result<tokio::net::TcpStream> {
    let stream = tokio::net::TcpStream::from_std(opening)?;
    stream.writable().await?;
    match stream.take_error()? {
        None => Ok(stream),
        Some(e) => Err(e),
    }
}

/// Where the application wanted to go: no address was translated, so an accepted socket has it as its own.
pub fn original_destination(accepted: &TcpStream) -> io::Result<SocketAddr> {
    accepted.local_addr().map(canonical)
}

/// Who opened an accepted connection.
pub fn peer(accepted: &TcpStream) -> io::Result<SocketAddr> {
    accepted.peer_addr().map(canonical)
}

/// Reads what has arrived, and leaves it where it is. 0: the end of the stream.
pub fn peek(socket: &impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    Ok(recv(socket.as_fd().as_raw_fd(), buffer, MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT)?)
}

/// Ends the sending half: the other end reads an end of stream, and can still be read from.
pub fn shutdown_write(socket: &impl AsFd) -> io::Result<()> {
    Ok(nix::sys::socket::shutdown(socket.as_fd().as_raw_fd(), nix::sys::socket::Shutdown::Write)?)
}

/// Whether closing this socket sends RST, and drops what is queued; the kernel closes those of a process that was killed.
/// Otherwise, as at first, it sends FIN.
pub fn reset_on_close(socket: &impl AsFd, reset: bool) {
    // SO_LINGER with a timeout of zero (socket(7)). It fails for what is no TCP socket, and then nobody waits for a RST.
    let _ = setsockopt(socket, sockopt::Linger, &libc::linger { l_onoff: reset.into(), l_linger: 0 });
}

/// The error that waits on a socket, which it forgets.
pub fn pending_error(socket: &impl AsFd) -> io::Result<Option<io::Error>> {
    let code = nix::sys::socket::getsockopt(socket, sockopt::SocketError)?;
    Ok((code != 0).then(|| io::Error::from_raw_os_error(code)))
}

fn tcp_socket(netns: &Netns, v6: bool) -> io::Result<OwnedFd> {
    let family = if v6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(netns.enter_here(|| socket(family, SockType::Stream, flags, SockProtocol::Tcp))??)
}

/// connect() of a non-blocking socket: it goes on by itself.
fn begin(fd: &OwnedFd, target: SocketAddr) -> io::Result<()> {
    match connect(fd.as_raw_fd(), &storage(target)) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

fn storage(address: SocketAddr) -> SockaddrStorage {
    SockaddrStorage::from(address)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    fn local(text: &str) -> (Netns, TcpListener) {
        (Netns::own().expect("own namespace"), TcpListener::bind(text).expect("bound"))
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime")
    }

    #[test]
    fn ports_are_beside_the_ephemeral_ones() {
        let check = |low, high, first, last| {
            let pool = PortPool::outside(low, high);
            let taken: Vec<_> = (0..pool.count).map(|_| pool.take()).collect();
            assert_eq!((taken.iter().min(), taken.iter().max()), (Some(&first), Some(&last)), "{low}-{high}");
            assert_eq!(pool.take(), first, "{low}-{high}: round again");
        };
        check(32_768, 60_999, 10_000, 32_767);
        check(10_000, 50_000, 50_001, 65_535);
        check(1024, 65_535, 10_000, 65_535);
        check(1024, 65_534, 65_535, 65_535);
        let own = PortPool::of(&Netns::own().expect("own namespace")).expect("sysctl");
        assert!(own.take() >= FIRST_PORT);
    }

    #[test]
    fn connections_are_opened_without_blocking() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let (netns, server) = local(address);
            let target = server.local_addr().expect("name");
            runtime().block_on(async {
                let plain = established(from_pod(&netns, target.ip(), target).expect("begun")).await.expect("open");
                let tunnel = to_next_hop(&netns, target.ip(), target).expect("begun");
                let tunnel = established(tunnel).await.expect("open");
                assert_eq!(tunnel.local_addr().expect("name").ip(), target.ip());
                assert_ne!(plain.local_addr().expect("name"), tunnel.local_addr().expect("name"));
                assert!(tunnel.nodelay().expect("option"));
            });
            drop(server);
            runtime().block_on(async {
                let refused = from_pod(&netns, target.ip(), target).expect("begun");
                let e = established(refused).await.expect_err("nobody listens");
                assert_eq!(e.kind(), ErrorKind::ConnectionRefused);
            });
        }
    }

    #[test]
    fn closing_resets_where_it_shall() {
        let (netns, server) = local("127.0.0.1:0");
        let target = server.local_addr().expect("name");
        for reset in [true, false] {
            let client = from_pod(&netns, target.ip(), target).expect("begun");
            let (mut accepted, from) = server.accept().expect("accepted");
            assert_eq!(peer(&accepted).expect("peer"), from);
            assert_eq!(original_destination(&accepted).expect("name"), target);
            reset_on_close(&client, true);
            reset_on_close(&client, reset);
            drop(client);
            let read = accepted.read(&mut [0; 1]);
            assert_eq!(read.as_ref().is_err_and(|e| e.kind() == ErrorKind::ConnectionReset), reset, "{read:?}");
        }
    }

    #[test]
    fn an_error_waits_until_it_is_asked_for() {
        let (netns, server) = local("127.0.0.1:0");
        let target = server.local_addr().expect("name");
        let client = from_pod(&netns, target.ip(), target).expect("begun");
        let (accepted, _) = server.accept().expect("accepted");
        (&client).write_all(b"x").expect("sent");
        reset_on_close(&accepted, true);
        drop(accepted);
        let e = pending_error(&client).expect("asked").expect("reset");
        assert_eq!(e.kind(), ErrorKind::ConnectionReset);
        assert!(pending_error(&client).expect("asked").is_none());
    }

    #[test]
    fn an_address_that_is_not_local_is_refused() {
        let (netns, server) = local("127.0.0.1:0");
        let target = server.local_addr().expect("name");
        let e = to_next_hop(&netns, IpAddr::from([192, 0, 2, 1]), target).expect_err("not local");
        assert_eq!(e.kind(), ErrorKind::AddrNotAvailable);
    }
}
