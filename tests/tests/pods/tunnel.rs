//! The stand-in for the tunnel: it describes outgoing connections, and hands incoming ones to the application as the client.

use std::{
    collections::HashMap,
    io::{Read, Write},
    net::{IpAddr, Shutdown, TcpListener, TcpStream},
    os::fd::AsFd,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use anyhow::{Result, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use underpass_abi::{Cookie, Marks};
use underpass_agent::pods::Event;
use underpass_net::{
    netns::Netns,
    socket::{
        self,
        options::{Keepalive, Options, Role},
    },
};
use underpass_tests::apps::socket::Who;

use super::agent::Sight;

pub(crate) struct Tunnel {
    pub(crate) events: mpsc::Receiver<Event>,
    pub(crate) served: HashMap<Cookie, Served>,
    pub(crate) applied: u64,
    pub(crate) sight: Sight,
}

pub(crate) struct Served {
    pub(crate) name: String,
    pub(crate) netns: Arc<Netns>,
    pub(crate) stop: Arc<AtomicBool>,
    pub(crate) open: Arc<Mutex<Vec<TcpStream>>>,
    /// Outbound, inbound.
    pub(crate) listeners: (TcpListener, TcpListener),
    pub(crate) threads: Vec<thread::JoinHandle<()>>,
}

impl Served {
    /// The listeners, again.
    pub(crate) fn listeners(&self) -> Result<(TcpListener, TcpListener)> {
        Ok((self.listeners.0.try_clone()?, self.listeners.1.try_clone()?))
    }
}

impl Tunnel {
    pub(crate) fn wait(&mut self) -> Result<()> {
        let event = self.events.recv_timeout(Duration::from_secs(60))?;
        self.handle(event)
    }

    pub(crate) fn take(&mut self) -> Result<()> {
        while let Ok(event) = self.events.try_recv() {
            self.handle(event)?;
        }
        Ok(())
    }

    fn handle(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Applied(version) => self.applied = version.0,
            Event::Waiting(pods) => ensure!(!pods.iter().any(|pod| pod.no_room), "no room for {pods:?}"),
            Event::Steered { .. } => {}
            // It asks for no certificates.
            Event::Added(pod) => {
                self.sight.added.push(pod.pod.name.to_string());
                let (stop, open) = (Arc::default(), Arc::default());
                let addresses: Arc<[IpAddr]> = (*pod.pod.addresses).into();
                let netns = pod.netns;
                let serve = |listener: TcpListener, outbound: bool| {
                    let (stop, open) = (Arc::clone(&stop), Arc::clone(&open));
                    let (netns, addresses) = (Arc::clone(&netns), Arc::clone(&addresses));
                    thread::spawn(move || {
                        accept(&listener, &stop, &open, |client| {
                            let (netns, addresses) = (Arc::clone(&netns), Arc::clone(&addresses));
                            let _ends_with_the_connection = match outbound {
                                true => thread::spawn(move || outgoing(&client, &addresses)),
                                false => thread::spawn(move || incoming(&client, &netns, &addresses)),
                            };
                        })
                    })
                };
                let listeners = (pod.outbound.try_clone()?, pod.inbound.try_clone()?);
                let threads = vec![serve(pod.outbound, true), serve(pod.inbound, false)];
                let name = pod.pod.name.to_string();
                self.served.insert(pod.cookie, Served { name, netns, stop, open, listeners, threads });
            }
            Event::Removed { name, cookie } => {
                self.sight.removed.push(name.to_string());
                if let Some(served) = self.served.remove(&cookie) {
                    served.stop.store(true, Ordering::Relaxed);
                    for stream in served.open.lock().iter().flat_map(|open| open.iter()) {
                        let _ = stream.shutdown(Shutdown::Both);
                    }
                    served.threads.into_iter().for_each(|thread| drop(thread.join()));
                }
            }
        }
        Ok(())
    }
}

fn accept(listener: &TcpListener, stop: &AtomicBool, open: &Mutex<Vec<TcpStream>>, serve: impl Fn(TcpStream)) {
    while !stop.load(Ordering::Relaxed) {
        let _ = poll(&mut [PollFd::new(listener.as_fd(), PollFlags::POLLIN)], PollTimeout::from(20_u8));
        let Ok((client, _)) = listener.accept() else { continue };
        let _ = client.set_nonblocking(false);
        if let (Ok(copy), Ok(mut open)) = (client.try_clone(), open.lock()) {
            open.push(copy);
        }
        serve(client);
    }
}

/// Tells client and server of the connection, in the words of an echo server; then echoes.
fn outgoing(mut client: &TcpStream, addresses: &[IpAddr]) {
    let _end = End(client);
    let (Ok(to), Ok(from)) = (socket::original_destination(client), socket::peer(client)) else { return };
    let mut buffer = [0; 4096];
    if addresses.contains(&to.ip()) || !addresses.contains(&from.ip()) || client.read(&mut buffer).is_err() {
        return;
    }
    let who = Who { app: "tunnel".into(), peer: from, local: to };
    let _ = writeln!(client, "{}", serde_json::to_string(&who).unwrap_or_default());
    while let Ok(length @ 1..) = client.read(&mut buffer) {
        let _ = client.write_all(buffer.get(..length).unwrap_or_default());
    }
}

/// To the application, as the client.
fn incoming(client: &TcpStream, netns: &Netns, addresses: &[IpAddr]) {
    let (Ok(to), Ok(from)) = (socket::original_destination(client), socket::peer(client)) else { return };
    let _end = End(client);
    if !addresses.contains(&to.ip()) || addresses.contains(&from.ip()) {
        return;
    }
    let opened = socket::to_application(
        netns,
        from.ip(),
        to,
        Marks::DEFAULT.inbound(),
        &Options::of(Role::ToApplication, Keepalive::default()),
    );
    let Ok(server) = opened.inspect_err(|e| eprintln!("to {to} as {from}: {e}")) else { return };
    let _ = poll(&mut [PollFd::new(server.as_fd(), PollFlags::POLLOUT)], PollTimeout::from(5000_u16));
    if !matches!(socket::pending_error(&server), Ok(None)) || server.set_nonblocking(false).is_err() {
        return;
    }
    thread::scope(|scope| {
        scope.spawn(|| copy(client, &server));
        copy(&server, client);
    });
}

/// Ends a connection of which the tunnel keeps another descriptor.
struct End<'a>(&'a TcpStream);

impl Drop for End<'_> {
    fn drop(&mut self) {
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

fn copy(mut from: &TcpStream, mut to: &TcpStream) {
    let _ = std::io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}
