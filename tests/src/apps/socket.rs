//! Sockets with any option, and one connection as data: where it was to go, and what came of it. An attack is a [`Dial`]
//! with an unusual option; a refusal is a result ([`Dialed::Failed`]), not an error of the test.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, Backlog, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, connect, listen, socket,
    },
};
use serde::{Deserialize, Serialize};

use crate::testbed::{sys, wait};

/// include/uapi/linux/in.h; not in every libc.
const IPPROTO_MPTCP: i32 = 262;
/// include/uapi/linux/tcp.h
const TCP_FASTOPEN_CONNECT: i32 = 30;
const TCP_FASTOPEN_NO_COOKIE: i32 = 34;

/// Default patience with a connection; times the slowness of the machine.
pub const PATIENCE: Duration = Duration::from_secs(4);

/// An option that an application sets on its socket before it uses it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Opt {
    /// SO_MARK.
    Mark(u32),
    /// SO_BINDTODEVICE.
    Device(String),
    /// TCP_FASTOPEN_CONNECT without a cookie: the SYN waits for the first write.
    FastOpen,
    /// IP_TRANSPARENT and IPV6_TRANSPARENT: any source address.
    Transparent,
    /// SO_REUSEADDR.
    ReuseAddress,
    /// SO_REUSEPORT.
    ReusePort,
    /// TCP_NODELAY.
    NoDelay,
    /// SO_RCVBUF.
    ReceiveBuffer(i32),
    /// SO_SNDBUF.
    SendBuffer(i32),
    /// IPV6_V6ONLY.
    OnlyV6,
    /// TCP_SYNCNT: how often a SYN is repeated.
    SynRetries(i32),
    /// Any other.
    Raw {
        /// Level.
        level: i32,
        /// Name.
        name: i32,
        /// Value.
        value: Vec<u8>,
    },
}

impl Opt {
    /// Sets it.
    pub fn apply(&self, socket: &impl AsFd, family: AddressFamily) -> io::Result<()> {
        let int = |level, name, value: i32| sys::set_option(socket.as_fd(), level, name, &value.to_ne_bytes());
        match self {
            Self::Mark(mark) => int(libc::SOL_SOCKET, libc::SO_MARK, mark.cast_signed()),
            Self::Device(name) => {
                sys::set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_BINDTODEVICE, name.as_bytes())
            }
            Self::FastOpen => {
                int(libc::IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)?;
                int(libc::IPPROTO_TCP, TCP_FASTOPEN_NO_COOKIE, 1)
            }
            Self::Transparent => {
                int(libc::SOL_IP, libc::IP_TRANSPARENT, 1)?;
                if family == AddressFamily::Inet6 { int(libc::SOL_IPV6, libc::IPV6_TRANSPARENT, 1) } else { Ok(()) }
            }
            Self::ReuseAddress => int(libc::SOL_SOCKET, libc::SO_REUSEADDR, 1),
            Self::ReusePort => int(libc::SOL_SOCKET, libc::SO_REUSEPORT, 1),
            Self::NoDelay => int(libc::IPPROTO_TCP, libc::TCP_NODELAY, 1),
            Self::ReceiveBuffer(bytes) => int(libc::SOL_SOCKET, libc::SO_RCVBUF, *bytes),
            Self::SendBuffer(bytes) => int(libc::SOL_SOCKET, libc::SO_SNDBUF, *bytes),
            Self::OnlyV6 => int(libc::SOL_IPV6, libc::IPV6_V6ONLY, 1),
            Self::SynRetries(count) => int(libc::IPPROTO_TCP, libc::TCP_SYNCNT, *count),
            Self::Raw { level, name, value } => sys::set_option(socket.as_fd(), *level, *name, value),
        }
    }
}

/// A connection to try.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dial {
    /// Destination. `::ffff:a.b.c.d` makes an IPv6 socket.
    pub to: SocketAddr,
    /// Source, if the application chooses one.
    pub from: Option<SocketAddr>,
    /// Socket options, in order.
    pub options: Vec<Opt>,
    /// The socket is an MPTCP one.
    pub mptcp: bool,
    /// The first bytes of the client; none: the server is to speak first.
    pub say: String,
    /// An answer is expected.
    pub listen: bool,
    /// Patience with every step, before the machine's slowness.
    pub patience: Duration,
}

impl Dial {
    /// Connects, says hello and reads one answer.
    pub fn to(destination: impl Into<SocketAddr>) -> Self {
        Self {
            to: destination.into(),
            from: None,
            options: Vec::new(),
            mptcp: false,
            say: "hello\n".into(),
            listen: true,
            patience: PATIENCE,
        }
    }

    /// Binds to this address, and a port that the kernel chooses.
    #[must_use]
    pub fn from_ip(self, source: IpAddr) -> Self {
        self.from_address(SocketAddr::new(source, 0))
    }

    /// Binds to this address and port.
    #[must_use]
    pub fn from_address(self, source: SocketAddr) -> Self {
        Self { from: Some(source), ..self }
    }

    /// With this option.
    #[must_use]
    pub fn with(mut self, option: Opt) -> Self {
        self.options.push(option);
        self
    }

    /// An MPTCP socket.
    #[must_use]
    pub fn mptcp(self) -> Self {
        Self { mptcp: true, ..self }
    }

    /// Writes this instead.
    #[must_use]
    pub fn say(self, text: &str) -> Self {
        Self { say: text.into(), ..self }
    }

    /// Only connects.
    #[must_use]
    pub fn silent(self) -> Self {
        Self { say: String::new(), listen: false, ..self }
    }

    /// Gives up after this long: for what is expected not to be answered.
    #[must_use]
    pub fn patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }
}

/// The echo server's description of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Who {
    /// The server's name: its host name file says which pod, its argument which application.
    pub app: String,
    /// The client, as accept() named it.
    pub peer: SocketAddr,
    /// The server's own getsockname().
    pub local: SocketAddr,
}

/// A connection that was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Talk {
    /// getsockname().
    pub local: SocketAddr,
    /// getpeername().
    pub peer: SocketAddr,
    /// SO_MARK when connected.
    pub mark: u32,
    /// The first thing that was read; empty at end of file or where nothing was to be read.
    pub reply: String,
    /// connect() took this long.
    pub connected_after: Duration,
}

impl Talk {
    /// The answer of an echo server.
    pub fn who(&self) -> Result<Who> {
        let line = self.reply.lines().next().unwrap_or_default();
        serde_json::from_str(line).with_context(|| format!("not the answer of an echo server: {:?}", self.reply))
    }
}

/// A system call that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// `socket`, `option`, `bind`, `connect`, `write`, `read`, ...
    pub step: String,
    /// errno; ETIMEDOUT also where the patience was over.
    pub errno: i32,
}

impl Failure {
    /// From the error of a step. What a timeout on a socket gives (EAGAIN; EINPROGRESS of connect) is ETIMEDOUT.
    pub fn of(step: &str, error: &io::Error) -> Self {
        let errno = match error.raw_os_error() {
            Some(libc::EAGAIN | libc::EINPROGRESS) => libc::ETIMEDOUT,
            Some(errno) => errno,
            None if error.kind() == io::ErrorKind::TimedOut => libc::ETIMEDOUT,
            None => 0,
        };
        Self { step: step.into(), errno }
    }

    /// Nothing came in time.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        self.errno == libc::ETIMEDOUT
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.step, Errno::from_raw(self.errno))
    }
}

impl std::error::Error for Failure {}

/// The outcome of a [`Dial`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Dialed {
    /// It was connected, and read from where something was to be read.
    Answered(Talk),
    /// It was not.
    Failed(Failure),
}

impl Dialed {
    /// The connection; an error where there was none.
    pub fn answered(self) -> Result<Talk> {
        match self {
            Self::Answered(talk) => Ok(talk),
            Self::Failed(failure) => Err(anyhow!("{failure}")),
        }
    }

    /// The failure; an error where it worked.
    pub fn failed(self) -> Result<Failure> {
        match self {
            Self::Answered(talk) => bail!("it was answered: {talk:?}"),
            Self::Failed(failure) => Ok(failure),
        }
    }
}

/// The family of the socket for an address.
#[must_use]
pub fn family(address: &SocketAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

/// Opens and connects. The socket gives up after the patience in every later call as well.
pub fn open(dial: &Dial) -> Result<TcpStream, Failure> {
    let family = family(&dial.to);
    let socket = if dial.mptcp { mptcp_socket(family)? } else { tcp_socket(family)? };
    let patience = dial.patience * wait::slowness();
    let stream = TcpStream::from(socket);
    stream.set_write_timeout(Some(patience)).map_err(|e| Failure::of("option", &e))?;
    stream.set_read_timeout(Some(patience)).map_err(|e| Failure::of("option", &e))?;
    for option in &dial.options {
        option.apply(&stream, family).map_err(|e| Failure::of("option", &e))?;
    }
    let fd = stream.as_raw_fd();
    if let Some(from) = dial.from {
        bind(fd, &SockaddrStorage::from(from)).map_err(|e| Failure::of("bind", &e.into()))?;
    }
    connect(fd, &SockaddrStorage::from(dial.to)).map_err(|e| Failure::of("connect", &e.into()))?;
    Ok(stream)
}

fn tcp_socket(family: AddressFamily) -> Result<OwnedFd, Failure> {
    let made = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, SockProtocol::Tcp);
    made.map_err(|e| Failure::of("socket", &e.into()))
}

/// The standard library's way to an arbitrary protocol number does not exist, nor does nix's: by `sys`.
fn mptcp_socket(family: AddressFamily) -> Result<OwnedFd, Failure> {
    sys::stream_socket(family as i32, IPPROTO_MPTCP).map_err(|e| Failure::of("socket", &e))
}

/// Tries a connection. For [`Site::act`](crate::testbed::Site::act).
pub fn dial(dial: Dial) -> Result<Dialed> {
    Ok(match try_dial(&dial) {
        Ok(talk) => Dialed::Answered(talk),
        Err(failure) => Dialed::Failed(failure),
    })
}

fn try_dial(dial: &Dial) -> Result<Talk, Failure> {
    let started = Instant::now();
    let mut stream = open(dial)?;
    let connected_after = started.elapsed();
    if !dial.say.is_empty() {
        stream.write_all(dial.say.as_bytes()).map_err(|e| Failure::of("write", &e))?;
    }
    let mut reply = vec![0; 4096];
    let length = if dial.listen { stream.read(&mut reply).map_err(|e| Failure::of("read", &e))? } else { 0 };
    let reply = String::from_utf8_lossy(reply.get(..length).unwrap_or_default()).into_owned();
    // After the answer: with fast open there is no connection before the first write.
    let local = stream.local_addr().map_err(|e| Failure::of("getsockname", &e))?;
    let peer = stream.peer_addr().map_err(|e| Failure::of("getpeername", &e))?;
    let mark = sys::option_bytes(stream.as_fd(), libc::SOL_SOCKET, libc::SO_MARK);
    let mark = mark.map(u32::from_ne_bytes).map_err(|e| Failure::of("SO_MARK", &e))?;
    Ok(Talk { local, peer, mark, reply, connected_after })
}

/// A listener with options; SO_REUSEADDR always, both families where the address is `::`.
pub fn listener(address: SocketAddr, options: &[Opt]) -> Result<TcpListener, Failure> {
    let family = family(&address);
    let socket = tcp_socket(family)?;
    for option in [Opt::ReuseAddress].iter().chain(options) {
        option.apply(&socket, family).map_err(|e| Failure::of("option", &e))?;
    }
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address)).map_err(|e| Failure::of("bind", &e.into()))?;
    listen(&socket, Backlog::MAXCONN).map_err(|e| Failure::of("listen", &e.into()))?;
    Ok(TcpListener::from(socket))
}
