//! The sockets of a waypoint. A trait, because it is the same where its network is the machine's ([`OwnNetwork`]), and where
//! pods are addresses in one process on loopback (`testing`).

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr, TcpStream as Opening},
};

use tokio::net::TcpStream;
use underpass_core::addr::canonical;
use underpass_net::{
    netns::Netns,
    socket::{self, options::Options},
};

/// The two ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// The one that opened it.
    pub from: SocketAddr,
    /// The one that accepted it.
    pub to: SocketAddr,
}

/// The network that a waypoint is in.
pub trait Sockets: fmt::Debug + Send + Sync {
    /// The ends of an accepted connection, canonical.
    ///
    /// # Errors
    /// Where the connection is gone already.
    fn ends(&self, accepted: &TcpStream) -> io::Result<Ends>;

    /// A socket from the address `from` to `to`, with these options: non-blocking, and being opened.
    ///
    /// # Errors
    /// The kernel's.
    fn open(&self, from: IpAddr, to: SocketAddr, options: &Options) -> io::Result<Opening>;
}

/// The network namespace of this process.
#[derive(Debug)]
pub struct OwnNetwork(Netns);

impl OwnNetwork {
    /// That of the calling thread.
    ///
    /// # Errors
    /// Where it cannot be opened.
    pub fn new() -> io::Result<Self> {
        Netns::own().map(Self).map_err(io::Error::other)
    }
}

impl Sockets for OwnNetwork {
    fn ends(&self, accepted: &TcpStream) -> io::Result<Ends> {
        Ok(Ends { from: canonical(accepted.peer_addr()?), to: canonical(accepted.local_addr()?) })
    }

    fn open(&self, from: IpAddr, to: SocketAddr, options: &Options) -> io::Result<Opening> {
        socket::from_pod(&self.0, from, to, options)
    }
}
