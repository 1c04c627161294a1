//! One connection whose two ends the test drives: the most that tests of a network want, made of two [`Sockets`].

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU16, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};

use super::{
    remote::{Id, Sockets},
    socket::Failure,
};
use crate::testbed::Site;

/// The first port that servers of pairs listen on. Each has its own: an earlier pair may still be there.
const FIRST_PORT: u16 = 20_000;

/// A connection and the processes at its ends, which end with it.
#[derive(Debug)]
pub struct Pair {
    /// The client.
    pub client: Sockets,
    /// The server.
    pub server: Sockets,
    /// The client's socket.
    pub out: Id,
    /// The server's socket.
    pub inn: Id,
    /// The client's address as the server saw it.
    pub seen: SocketAddr,
    /// The server's address.
    pub to: SocketAddr,
}

impl Pair {
    /// Connects from `client` to `address`, where `server` is.
    pub fn open(client: &Site, server: &Site, address: std::net::IpAddr) -> Result<Self> {
        static PAIRS: AtomicU16 = AtomicU16::new(0);
        let to = SocketAddr::new(address, FIRST_PORT + PAIRS.fetch_add(1, Ordering::Relaxed));
        let (mut client, mut server) = (Sockets::start(client)?, Sockets::start(server)?);
        let listener = server.listen(SocketAddr::from(([0u16; 8], to.port())))?;
        let out = client.connect(to)?;
        let (inn, seen) = server.accept(listener).with_context(|| format!("accept at {to}"))?;
        Ok(Self { client, server, out, inn, seen, to })
    }

    /// Patience with later steps of both ends.
    pub fn patience(&mut self, patience: Duration) -> Result<()> {
        self.client.set_patience(self.out, patience)??;
        Ok(self.server.set_patience(self.inn, patience)??)
    }

    /// Four bytes there, and four back.
    pub fn exchange(&mut self) -> Result<()> {
        self.client.send(self.out, b"ping")??;
        ensure!(self.server.receive(self.inn, 4)?? == b"ping");
        self.server.send(self.inn, b"pong")??;
        ensure!(self.client.receive(self.out, 4)?? == b"pong");
        Ok(())
    }

    /// So many bytes to the server while it reads them, or `back` from it.
    pub fn transfer(&mut self, length: u64, back: bool) -> Result<()> {
        let Self { client, server, out, inn, .. } = self;
        let (sender, from, receiver, to) =
            if back { (server, *inn, client, *out) } else { (client, *out, server, *inn) };
        thread::scope(|scope| {
            let sending = scope.spawn(|| sender.send_pattern(from, length));
            receiver.receive_pattern(to, length, 256 << 10, Duration::ZERO)??;
            Ok(sending.join().map_err(|_| anyhow!("panicked"))???)
        })
    }

    /// The next byte for the client: one, the end, or a failure.
    pub fn client_reads(&mut self) -> Result<Result<Vec<u8>, Failure>> {
        self.client.receive(self.out, 1)
    }

    /// The same for the server.
    pub fn server_reads(&mut self) -> Result<Result<Vec<u8>, Failure>> {
        self.server.receive(self.inn, 1)
    }

    /// Both ends are told that the connection was reset.
    pub fn is_reset(&mut self) -> Result<()> {
        for (end, read) in [("client", self.client_reads()?), ("server", self.server_reads()?)] {
            let reset = read.as_ref().is_err_and(|failure| failure.errno == libc::ECONNRESET);
            ensure!(reset, "the {end} of {}: {read:?}", self.to);
        }
        Ok(())
    }

    /// Ends in order: the client has no more to say, then the server.
    pub fn close(&mut self) -> Result<()> {
        self.client.shutdown_write(self.out)??;
        ensure!(self.server.read_to_end(self.inn)??.is_empty());
        self.server.close(self.inn)??;
        ensure!(self.client.read_to_end(self.out)??.is_empty());
        Ok(self.client.close(self.out)??)
    }
}
