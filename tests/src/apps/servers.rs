//! Servers for any number of connections: echo that first says who connected, a sink that checks bulk data, UDP echo.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
};

use anyhow::{Context, Result, anyhow};
use serde::{Deserialize, Serialize};

use super::{
    pattern::Checker,
    socket::{Opt, Who, listener},
};
use crate::testbed::{Actor, Io, Site};

/// A server to start.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Serve {
    /// Its name in answers.
    pub app: String,
    /// Its address; `[::]:port` for both families.
    pub address: SocketAddr,
    /// Options of the listener.
    pub options: Vec<Opt>,
    /// It speaks first: the answer comes before anything was read.
    pub speaks_first: bool,
}

impl Serve {
    /// A server called `app`.
    #[must_use]
    pub fn new(app: &str, address: SocketAddr) -> Self {
        Self { app: app.into(), address, options: Vec::new(), speaks_first: false }
    }
}

/// Starts an echo server and waits until it listens.
pub fn echo(site: &Site, address: SocketAddr) -> Result<Actor<()>> {
    start(site, Serve::new("echo", address))
}

/// Starts an echo server that speaks first.
pub fn server_first(site: &Site, address: SocketAddr) -> Result<Actor<()>> {
    start(site, Serve { speaks_first: true, ..Serve::new("server-first", address) })
}

/// Starts an echo server as described.
pub fn start(site: &Site, serve: Serve) -> Result<Actor<()>> {
    let mut actor = site.spawn(run_echo, serve)?;
    actor.event::<()>()?;
    Ok(actor)
}

/// Starts a server that reads the [`pattern`](super::pattern) until the client has no more, checks it, and answers how
/// many bytes came or what was wrong.
pub fn sink(site: &Site, address: SocketAddr) -> Result<Actor<()>> {
    let mut actor = site.spawn(run_sink, Serve::new("sink", address))?;
    actor.event::<()>()?;
    Ok(actor)
}

/// Starts a UDP echo server.
pub fn udp_echo(site: &Site, address: SocketAddr) -> Result<Actor<()>> {
    let mut actor = site.spawn(run_udp_echo, Serve::new("udp-echo", address))?;
    actor.event::<()>()?;
    Ok(actor)
}

/// The echo server as an actor: never ends by itself.
pub fn run_echo(serve: Serve, io: &mut Io) -> Result<()> {
    let listener = listener(serve.address, &serve.options).map_err(|e| anyhow!("listen on {}: {e}", serve.address))?;
    io.send(&())?;
    accept_all(&listener, move |stream, peer| echo_one(&serve, stream, peer))
}

/// The sink as an actor.
pub fn run_sink(serve: Serve, io: &mut Io) -> Result<()> {
    let listener = listener(serve.address, &serve.options).map_err(|e| anyhow!("listen on {}: {e}", serve.address))?;
    io.send(&())?;
    accept_all(&listener, |mut stream, _| {
        let (mut checker, mut buffer) = (Checker::default(), vec![0; 256 << 10]);
        let answer = loop {
            match stream.read(&mut buffer)? {
                0 => break format!("ok {}\n", checker.length()),
                n => match checker.check(buffer.get(..n).unwrap_or_default()) {
                    Ok(()) => {}
                    Err(e) => break format!("{e}\n"),
                },
            }
        };
        Ok(stream.write_all(answer.as_bytes())?)
    })
}

/// The UDP echo server as an actor.
pub fn run_udp_echo(serve: Serve, io: &mut Io) -> Result<()> {
    let socket = UdpSocket::bind(serve.address).with_context(|| format!("bind {}", serve.address))?;
    io.send(&())?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        let (length, peer) = socket.recv_from(&mut buffer)?;
        socket.send_to(buffer.get(..length).unwrap_or_default(), peer)?;
    }
}

/// A UDP datagram to try.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ping {
    /// Destination.
    pub to: SocketAddr,
    /// Its payload.
    pub say: String,
}

/// Sends a datagram and returns the answer. For [`Site::act`].
pub fn udp_ask(ping: Ping) -> Result<String> {
    let any: SocketAddr = if ping.to.is_ipv4() { "0.0.0.0:0".parse()? } else { "[::]:0".parse()? };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(super::socket::PATIENCE * crate::testbed::wait::slowness()))?;
    socket.send_to(ping.say.as_bytes(), ping.to)?;
    let mut buffer = vec![0; 64 << 10];
    let (length, _) = socket.recv_from(&mut buffer).with_context(|| format!("answer of {}", ping.to))?;
    Ok(String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned())
}

/// Gives every connection a thread, which ends with it.
pub(super) fn accept_all<F>(listener: &TcpListener, serve: F) -> Result<()>
where
    F: Fn(TcpStream, SocketAddr) -> Result<()> + Clone + Send + 'static,
{
    loop {
        let (stream, peer) = listener.accept().context("accept")?;
        let serve = serve.clone();
        // What goes wrong with one connection is its client's to see.
        thread::spawn(move || drop(serve(stream, peer)));
    }
}

fn echo_one(serve: &Serve, mut stream: TcpStream, peer: SocketAddr) -> Result<()> {
    let local = stream.local_addr()?;
    let who = Who { app: serve.app.clone(), peer: canonical(peer), local: canonical(local) };
    let answer = serde_json::to_string(&who)? + "\n";
    if serve.speaks_first {
        stream.write_all(answer.as_bytes())?;
    }
    let mut buffer = vec![0; 64 << 10];
    let mut first = !serve.speaks_first;
    loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        // The answer stands for the first thing that was read; what follows comes back as it is.
        let reply = if first { answer.as_bytes() } else { buffer.get(..length).unwrap_or_default() };
        stream.write_all(reply)?;
        first = false;
    }
}

/// As an IPv4 client is seen by an IPv4 server, also where the listener is a dual-stack one.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
