//! The tunnel's sockets in a pod: the two listeners, connections to the application with the client's address as source,
//! connections that leave the pod; and the listener of a waypoint. All of them are made inside the pod's namespace and come back non-blocking.
//!
//! * [`options`]: the options of each of them, one table.
//! * `ports`: the source ports towards applications.
//!
//! Only socket(2) itself happens inside: options, addresses and connect() look at the namespace that the socket was made
//! in. What must hold: no SO_REUSEPORT, because a root process of the pod could join the group and take connections.

pub mod options;
mod ports;

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, Backlog, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, connect, listen,
        recv, setsockopt, socket, sockopt,
    },
};
use underpass_core::addr::canonical;

use self::options::Options;
pub use self::{options::reset_on_close, ports::PortPool};
use crate::{
    netns::Netns,
    system::{SystemError, errno, set_option},
};

/// Backlog: connections that wait to be accepted. The kernel lowers it to the namespace's net.core.somaxconn, 4096 by default.
const BACKLOG: i32 = 4096;
/// Fast-open SYNs that wait for their handshake (tcp(7), TCP_FASTOPEN).
const FAST_OPEN_QUEUE: i32 = 64;
/// Ports that are tried towards one application before the attempt is given up.
const PORTS_TRIED: u32 = 256;

/// The listener for connections that the pod's applications open. It is transparent, because its answers have the original
/// destination as their source.
pub fn outbound_listener(netns: &Netns) -> Result<TcpListener, SystemError> {
    listener(netns, "outbound listener", 0, |fd, v6| {
        if v6 {
            set_option(fd, libc::SOL_IPV6, libc::IPV6_TRANSPARENT, 1)?;
        }
        set_option(fd, libc::SOL_IP, libc::IP_TRANSPARENT, 1)
    })
}

/// The listener for connections from outside the pod. It is bound to the pod's device, and so is what it accepts: packets
/// that the tunnel exchanges with the application over lo never match it.
pub fn inbound_listener(netns: &Netns, device: &str) -> Result<TcpListener, SystemError> {
    listener(netns, "inbound listener", 0, |fd, _| Ok(setsockopt(fd, sockopt::BindToDevice, &device.into())?))
}

/// The listener of a waypoint, at this port of every address of its namespace.
pub fn waypoint_listener(netns: &Netns, port: u16) -> Result<TcpListener, SystemError> {
    listener(netns, "listener of the waypoint", port, |_, _| Ok(()))
}

/// A dual-stack listener, or one for IPv4 where the kernel has no IPv6. On port 0 it has any free one: the kernel programs choose
/// the socket itself. Its [`options`] are its owner's to set, as those of a listener that was handed over.
fn listener(
    netns: &Netns,
    object: &str,
    port: u16,
    prepare: impl FnOnce(&OwnedFd, bool) -> io::Result<()>,
) -> Result<TcpListener, SystemError> {
    let made = (|| {
        let (fd, v6) = dual_or_v4(|v6| tcp_socket(netns, v6))?;
        if v6 {
            set_option(&fd, libc::SOL_IPV6, libc::IPV6_V6ONLY, 0)?;
        }
        prepare(&fd, v6)?;
        set_option(&fd, libc::SOL_TCP, libc::TCP_FASTOPEN, FAST_OPEN_QUEUE)?;
        let any = if v6 { IpAddr::from(Ipv6Addr::UNSPECIFIED) } else { Ipv4Addr::UNSPECIFIED.into() };
        bind(fd.as_raw_fd(), &storage(SocketAddr::new(any, port)))?;
        listen(&fd, Backlog::new(BACKLOG)?)?;
        Ok(fd.into())
    })();
    made.map_err(|source| SystemError::Socket { operation: "make", object: object.into(), source })
}

/// Connects to the application as the client: from its address, over lo both ways. `mark` is the bit that the rules of the
/// pod look at; the application's answers carry it too. The connection is being opened: see [`established`].
///
/// # Errors
/// `AddrInUse` where every port that was tried is taken; otherwise the kernel's.
pub fn to_application(
    netns: &Netns,
    client: IpAddr,
    target: SocketAddr,
    mark: u32,
    options: &Options,
) -> io::Result<TcpStream> {
    let ports = netns.ports()?;
    for _ in 0..PORTS_TRIED.min(ports.count) {
        let fd = tcp_socket(netns, target.is_ipv6())?;
        options.set(&fd)?;
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
    bind(fd.as_raw_fd(), &storage(source))?;
    begin(fd, target)
}

/// Connects from inside the pod, and its own address `from`, to a peer outside the mesh or to the other end of a tunnel. The
/// connection is being opened.
pub fn from_pod(netns: &Netns, from: IpAddr, target: SocketAddr, options: &Options) -> io::Result<TcpStream> {
    let fd = tcp_socket(netns, target.is_ipv6())?;
    options.set(&fd)?;
    // The port is chosen by connect(), so that every destination has its own port space.
    setsockopt(&fd, sockopt::IpBindAddressNoPort, &true)?;
    bind(fd.as_raw_fd(), &storage(SocketAddr::new(from, 0)))?;
    begin(&fd, target)?;
    Ok(fd.into())
}

/// Waits until a connection that is being opened is open, or has failed. Within the tokio runtime.
pub async fn established(opening: TcpStream) -> io::Result<tokio::net::TcpStream> {
    let stream = tokio::net::TcpStream::from_std(opening)?;
    stream.writable().await?;
    match stream.take_error()? {
        None => Ok(stream),
        Some(e) => Err(e),
    }
}

/// The original destination of a captured connection: no address was translated, so it is the accepted socket's own.
pub fn original_destination(accepted: &TcpStream) -> io::Result<SocketAddr> {
    accepted.local_addr().map(canonical)
}

/// The address of the peer of an accepted connection.
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

/// The pending error of a socket (SO_ERROR), which reading clears.
pub fn pending_error(socket: &impl AsFd) -> io::Result<Option<io::Error>> {
    let code = nix::sys::socket::getsockopt(socket, sockopt::SocketError)?;
    Ok((code != 0).then(|| io::Error::from_raw_os_error(code)))
}

/// True if this machine's kernel has IPv6; not where it was started with `ipv6.disable=1`.
#[must_use]
pub fn has_ipv6() -> bool {
    let made = socket(AddressFamily::Inet6, SockType::Stream, SockFlag::SOCK_CLOEXEC, SockProtocol::Tcp);
    !matches!(made, Err(Errno::EAFNOSUPPORT))
}

/// A socket for both families, and whether it is: it is one for IPv4 where there is no IPv6. Any other failure is one.
fn dual_or_v4<T>(make: impl Fn(bool) -> io::Result<T>) -> io::Result<(T, bool)> {
    match make(true) {
        Err(e) if errno(&e) == Some(libc::EAFNOSUPPORT) => Ok((make(false)?, false)),
        made => Ok((made?, true)),
    }
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

    use super::{
        options::{Keepalive, Role},
        *,
    };

    fn local(text: &str) -> (Netns, TcpListener) {
        (Netns::own().expect("own namespace"), TcpListener::bind(text).expect("bound"))
    }

    fn plain() -> Options {
        Options::of(Role::ToOutside, Keepalive::default())
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime")
    }

    #[test]
    fn connections_are_opened_without_blocking() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let (netns, server) = local(address);
            let target = server.local_addr().expect("name");
            runtime().block_on(async {
                let first =
                    established(from_pod(&netns, target.ip(), target, &plain()).expect("begun")).await.expect("open");
                let options = Options::of(Role::ToNextHop, Keepalive::default());
                let tunnel = from_pod(&netns, target.ip(), target, &options).expect("begun");
                let tunnel = established(tunnel).await.expect("open");
                assert_eq!(tunnel.local_addr().expect("name").ip(), target.ip());
                assert_ne!(first.local_addr().expect("name"), tunnel.local_addr().expect("name"));
                assert_eq!(Options::read(&tunnel).expect("asked"), options);
            });
            drop(server);
            runtime().block_on(async {
                let refused = from_pod(&netns, target.ip(), target, &plain()).expect("begun");
                let e = established(refused).await.expect_err("no listener");
                assert_eq!(e.kind(), ErrorKind::ConnectionRefused);
            });
        }
    }

    #[test]
    fn closing_resets_where_it_shall() {
        let (netns, server) = local("127.0.0.1:0");
        let target = server.local_addr().expect("name");
        for reset in [true, false] {
            let client = from_pod(&netns, target.ip(), target, &plain()).expect("begun");
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
    fn without_ipv6_a_listener_is_for_ipv4() {
        let check = |v6: Result<(), i32>, v4: Result<(), i32>, expect: Result<bool, i32>| {
            let answer = |answer: Result<(), i32>| answer.map_err(io::Error::from_raw_os_error);
            let made = dual_or_v4(|wants_v6| answer(if wants_v6 { v6 } else { v4 }));
            assert_eq!(made.map(|((), is_dual)| is_dual).map_err(|e| errno(&e).unwrap_or(0)), expect, "{v6:?} {v4:?}");
        };
        check(Ok(()), Ok(()), Ok(true));
        check(Err(libc::EAFNOSUPPORT), Ok(()), Ok(false));
        check(Err(libc::EAFNOSUPPORT), Err(libc::EMFILE), Err(libc::EMFILE));
        check(Err(libc::EMFILE), Ok(()), Err(libc::EMFILE));
        check(Err(libc::EACCES), Ok(()), Err(libc::EACCES));
    }

    #[test]
    fn an_error_waits_until_it_is_asked_for() {
        let (netns, server) = local("127.0.0.1:0");
        let target = server.local_addr().expect("name");
        let client = from_pod(&netns, target.ip(), target, &plain()).expect("begun");
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
        let e = from_pod(&netns, IpAddr::from([192, 0, 2, 1]), target, &plain()).expect_err("not local");
        assert_eq!(e.kind(), ErrorKind::AddrNotAvailable);
    }
}
