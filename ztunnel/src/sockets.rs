//! The sockets of a node: the ends of an accepted connection, and opening connections inside a pod. A trait, because the tunnel
//! is the same where pods are network namespaces that the kernel programs watch ([`InPods`]), and where they are addresses in
//! one process on loopback (`testing::Switch`).

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

/// The ends of a connection as its applications see them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// The source.
    pub from: SocketAddr,
    /// The destination.
    pub to: SocketAddr,
}

/// The sockets of a node. An opened one is non-blocking, has the named options, and its connect() is begun.
pub trait Sockets: fmt::Debug + Send + Sync {
    /// The ends of an accepted connection, canonical.
    ///
    /// # Errors
    /// Where the connection is gone already.
    fn ends(&self, accepted: &TcpStream) -> io::Result<Ends>;

    /// Opens a connection to the application of `pod` at `target`, as `client`.
    ///
    /// # Errors
    /// The kernel's.
    fn to_application(&self, pod: &Netns, client: IpAddr, target: SocketAddr, options: &Options)
    -> io::Result<Opening>;

    /// Opens a connection from `pod`, and its address `from`, to a peer outside the mesh.
    ///
    /// # Errors
    /// The kernel's.
    fn to_outside(&self, pod: &Netns, from: IpAddr, target: SocketAddr, options: &Options) -> io::Result<Opening>;

    /// Opens a connection from `pod`, and its address `from`, to the other end of a tunnel.
    ///
    /// # Errors
    /// The kernel's.
    fn to_next_hop(&self, pod: &Netns, from: IpAddr, next: SocketAddr, options: &Options) -> io::Result<Opening>;
}

/// Sockets inside the network namespaces of pods, whose connections the kernel programs hand over.
#[derive(Clone, Copy, Debug)]
pub struct InPods {
    /// The mark of sockets towards applications.
    pub inbound_mark: u32,
}

impl Sockets for InPods {
    fn ends(&self, accepted: &TcpStream) -> io::Result<Ends> {
        // Nothing was translated: the original destination is the socket's own name.
        Ok(Ends { from: canonical(accepted.peer_addr()?), to: canonical(accepted.local_addr()?) })
    }

    fn to_application(
        &self,
        pod: &Netns,
        client: IpAddr,
        target: SocketAddr,
        options: &Options,
    ) -> io::Result<Opening> {
        socket::to_application(pod, client, target, self.inbound_mark, options)
    }

    fn to_outside(&self, pod: &Netns, from: IpAddr, target: SocketAddr, options: &Options) -> io::Result<Opening> {
        socket::from_pod(pod, from, target, options)
    }

    fn to_next_hop(&self, pod: &Netns, from: IpAddr, next: SocketAddr, options: &Options) -> io::Result<Opening> {
        socket::from_pod(pod, from, next, options)
    }
}
