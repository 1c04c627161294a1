//! Pods that are addresses in one process: their listeners and applications are on loopback, and a table says who is
//! meant. Behind the feature `testing`.

#![allow(clippy::missing_panics_doc, reason = "tests alone use it, and want to panic")]

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr, TcpStream as Opening},
    sync::Mutex,
};

use tokio::net::TcpStream;
use underpass_net::{netns::Netns, socket::options::Options};

use crate::sockets::{Ends, Sockets};

/// Connects pods of one process.
#[derive(Debug, Default)]
pub struct Switch {
    /// Where what listens at a pod's address really listens.
    listeners: Mutex<HashMap<SocketAddr, SocketAddr>>,
    /// What is meant by a connection, by its loopback addresses: of the end that opened it, and of the other. One alone
    /// may have several connections.
    meant: Mutex<HashMap<[SocketAddr; 2], Ends>>,
}

impl Switch {
    /// What listens at `address` of a pod is at `really`.
    pub fn listen(&self, address: SocketAddr, really: SocketAddr) {
        self.listeners.lock().expect("not poisoned").insert(address, really);
    }

    /// Nobody listens there any more.
    pub fn close(&self, address: SocketAddr) {
        self.listeners.lock().expect("not poisoned").remove(&address);
    }

    /// A connection to `really` that means one of `ends`. It is open, and non-blocking.
    ///
    /// # Errors
    /// Where nobody listens.
    pub fn connect(&self, really: SocketAddr, ends: Ends) -> io::Result<Opening> {
        // Locked until it is written down what is meant: whoever accepts it asks after that.
        let mut meant = self.meant.lock().expect("not poisoned");
        let socket = Opening::connect(really)?;
        socket.set_nonblocking(true)?;
        meant.insert([socket.local_addr()?, really], ends);
        Ok(socket)
    }

    fn open(&self, from: IpAddr, to: SocketAddr, options: &Options) -> io::Result<Opening> {
        let really = self.listeners.lock().expect("not poisoned").get(&to).copied();
        let really = really.ok_or(io::ErrorKind::ConnectionRefused)?;
        let socket = self.connect(really, Ends { from: SocketAddr::new(from, 40_000), to })?;
        options.set(&socket)?;
        Ok(socket)
    }
}

impl Sockets for Switch {
    fn ends(&self, accepted: &TcpStream) -> io::Result<Ends> {
        let really = [accepted.peer_addr()?, accepted.local_addr()?];
        self.meant.lock().expect("not poisoned").remove(&really).ok_or(io::ErrorKind::NotFound.into())
    }

    fn to_application(&self, _: &Netns, client: IpAddr, target: SocketAddr, options: &Options) -> io::Result<Opening> {
        self.open(client, target, options)
    }

    fn to_outside(&self, _: &Netns, from: IpAddr, target: SocketAddr, options: &Options) -> io::Result<Opening> {
        self.open(from, target, options)
    }

    fn to_next_hop(&self, _: &Netns, from: IpAddr, next: SocketAddr, options: &Options) -> io::Result<Opening> {
        self.open(from, next, options)
    }
}
