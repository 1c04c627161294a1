//! Listing and destroying the TCP sockets of a namespace: sock_diag and SOCK_DESTROY. For releasing a pod, where no captured
//! socket may be left when the rules go.
//!
//! What must hold: the sockets are listed again before destroyed ones count as gone.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use underpass_core::addr::canonical;

use crate::{
    netlink::{Attribute, Protocol, Request, Socket, attributes, fixed},
    netns::{Family, Netns},
    system::SystemError,
};

// linux/sock_diag.h, linux/inet_diag.h
const BY_FAMILY: u16 = 20;
const DESTROY: u16 = 21;
const MARK: u16 = 15;
/// `struct inet_diag_sockid`: two ports, two addresses, interface, cookie.
const ID_BYTES: usize = 48;
/// `struct inet_diag_msg` begins with family, state, timer and retransmissions; then comes the id.
const ID_AT: usize = 4;
/// Size of `struct inet_diag_msg`.
const MESSAGE_BYTES: usize = 72;
/// Bits of the states that are listed: all from TCP_ESTABLISHED (1) to TCP_NEW_SYN_RECV (12) but TCP_TIME_WAIT (6), of which a
/// busy pod has tens of thousands, and TCP_CLOSE (7). Beyond are sockets that are bound and neither listen nor are connected,
/// such as those that were destroyed and not closed yet.
const STATES: u32 = 0x1ffe & !(1 << 6) & !(1 << 7);
/// Rounds of listing and destroying before it is given up: applications may open new sockets meanwhile.
const ROUNDS: usize = 20;

/// The state of a TCP socket (net/tcp_states.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State(pub u8);

impl State {
    /// Established.
    pub const ESTABLISHED: Self = Self(1);
    /// The SYN is sent.
    pub const SYN_SENT: Self = Self(2);
    /// A listener.
    pub const LISTEN: Self = Self(10);
}

/// A TCP socket of a namespace. Addresses are canonical.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpSocket {
    /// Its own end.
    pub local: SocketAddr,
    /// The other end; unspecified where it listens.
    pub remote: SocketAddr,
    /// Its TCP state.
    pub state: State,
    /// SO_MARK; 0 where the kernel does not say.
    pub mark: u32,
    /// The device that it is bound to, or 0.
    pub device: u32,
    family: Family,
    id: [u8; ID_BYTES],
}

impl TcpSocket {
    /// True for the two ends of one connection within the namespace.
    #[must_use]
    pub fn is_peer_of(&self, other: &Self) -> bool {
        self.local == other.remote && self.remote == other.local
    }

    fn parse(family: Family, body: &[u8]) -> Option<Self> {
        let id: [u8; ID_BYTES] = fixed(body.get(ID_AT..ID_AT + ID_BYTES)?)?;
        let state = State(*body.get(1)?);
        let mark = attributes(body.get(MESSAGE_BYTES..)?).find(|a| a.kind == MARK);
        let mark = mark.and_then(|Attribute { value, .. }| fixed(value)).map_or(0, u32::from_ne_bytes);
        let address = |port_at: usize, at: usize| -> Option<SocketAddr> {
            let port = u16::from_be_bytes(fixed(id.get(port_at..port_at + 2)?)?);
            let ip = match family {
                Family::V4 => IpAddr::from(fixed::<4>(id.get(at..at + 4)?)?),
                Family::V6 => IpAddr::from(fixed::<16>(id.get(at..at + 16)?)?),
            };
            Some(canonical(SocketAddr::new(ip, port)))
        };
        let (local, remote) = (address(0, 4)?, address(2, 20)?);
        let device = u32::from_ne_bytes(fixed(id.get(36..40)?)?);
        Some(Self { local, remote, state, mark, device, family, id })
    }
}

/// `struct inet_diag_req_v2`: family, protocol, extensions, padding, states, id.
fn request(kind: u16, flags: u16, family: Family, id: &[u8; ID_BYTES]) -> Request {
    let mut header = vec![family.number(), libc::IPPROTO_TCP as u8, 0, 0];
    header.extend(STATES.to_ne_bytes());
    header.extend(id);
    Request::new(kind, flags, &header)
}

/// Every TCP socket of the namespace that listens, is connected, or is on its way there or back. Not those in TIME_WAIT: both
/// ends are closed, and nothing is sent any more but an answer to what arrives late.
pub fn list(netns: &Netns) -> Result<Vec<TcpSocket>, SystemError> {
    let mut sockets = Vec::new();
    for family in Family::ALL {
        let listed = diagnosis(netns)?.dump(request(BY_FAMILY, Request::DUMP, family, &[0; ID_BYTES]));
        let bodies = listed.map_err(failed("list sockets of namespace", netns.cookie()))?;
        sockets.extend(bodies.iter().filter_map(|body| TcpSocket::parse(family, body)));
    }
    Ok(sockets)
}

/// Ends one socket: its owner gets ECONNABORTED, its peer RST. False where it is gone already.
pub fn destroy(netns: &Netns, socket: &TcpSocket) -> Result<bool, SystemError> {
    match diagnosis(netns)?.acknowledged(request(DESTROY, 0, socket.family, &socket.id)) {
        Ok(()) => Ok(true),
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(e) => Err(failed("destroy socket", format!("{} -> {}", socket.local, socket.remote))(e)),
    }
}

/// Ends every socket that `choose` picks from the list of all, until a new list has none of them. The number that were
/// ended.
pub fn destroy_all(netns: &Netns, choose: impl Fn(&[TcpSocket]) -> Vec<TcpSocket>) -> Result<usize, SystemError> {
    let mut ended = 0;
    let mut last = None;
    for _ in 0..ROUNDS {
        let chosen = choose(&list(netns)?);
        if chosen.is_empty() {
            return Ok(ended);
        }
        for socket in chosen {
            ended += usize::from(destroy(netns, &socket)?);
            last = Some(socket);
        }
    }
    let object = last.map_or_else(String::new, |s| format!("{} -> {} ({:?})", s.local, s.remote, s.state));
    let source = io::Error::new(io::ErrorKind::WouldBlock, "new sockets appear as fast as they are destroyed");
    Err(failed("destroy socket", object)(source))
}

fn diagnosis(netns: &Netns) -> Result<Socket, SystemError> {
    let opened = netns.enter_here(|| Socket::open(Protocol::SocketDiagnosis, 0))?;
    opened.map_err(failed("open sock_diag of namespace", netns.cookie()))
}

fn failed(operation: &'static str, object: impl ToString) -> impl FnOnce(io::Error) -> SystemError {
    move |source| SystemError::Netlink { operation, object: object.to_string(), source }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn lists_what_is_open_in_both_families() {
        let netns = Netns::own().expect("own namespace");
        for address in ["127.0.0.1:0", "[::1]:0", "[::ffff:127.0.0.1]:0"] {
            let server = TcpListener::bind(address).expect("bound");
            let client = TcpStream::connect(server.local_addr().expect("name")).expect("connected");
            let (server, client) =
                (canonical(server.local_addr().expect("name")), canonical(client.local_addr().expect("name")));
            let sockets = list(&netns).expect("listed");
            let of = |local, remote| sockets.iter().find(|s| s.local == local && s.remote == remote);
            let opened = of(client, server).expect("the client's end");
            assert_eq!((opened.state, opened.mark, opened.device), (State::ESTABLISHED, 0, 0));
            assert!(of(server, client).expect("the server's end").is_peer_of(opened));
            assert!(sockets.iter().any(|s| s.local == server && s.state == State::LISTEN), "{address}: {sockets:?}");
        }
    }

    #[test]
    fn a_truncated_message_is_no_socket() {
        let body = [0; MESSAGE_BYTES];
        assert!(TcpSocket::parse(Family::V4, &body).is_some());
        for end in 0..MESSAGE_BYTES {
            assert_eq!(TcpSocket::parse(Family::V6, &body[..end]), None, "{end}");
        }
    }
}
