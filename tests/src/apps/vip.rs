//! A kube-proxy in user space: a listener on every VIP and port of the node's own, and a connection to a
//! backend for each that comes in. So services work for pods that the mesh does not capture. (Backends see the node as
//! the client, as with a kube-proxy that masquerades.)

use std::{
    io,
    net::{IpAddr, Shutdown, SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use anyhow::{Context, Result, anyhow};

use super::{
    servers::accept_all,
    socket::{Opt, listener},
};
use crate::testbed::{Actor, Io, Node, describe::ServiceSpec, netns};

/// Serves the VIPs on a node.
pub fn start(node: &Node, services: &[ServiceSpec]) -> Result<Actor<()>> {
    let services: Vec<_> = services.iter().filter(|s| s.has_vips).cloned().collect();
    let shell = node.service("kube-proxy")?;
    let local = |address: &IpAddr| {
        let length = if address.is_ipv4() { 32 } else { 128 };
        format!("route replace local {address}/{length} dev lo")
    };
    let routes: Vec<_> = services.iter().flat_map(|s| &s.addresses).map(local).collect();
    if !routes.is_empty() {
        netns::configure(&shell, &routes)?;
    }
    let mut actor = shell.spawn(run, services)?;
    actor.event::<()>()?;
    Ok(actor)
}

fn run(services: Vec<ServiceSpec>, io: &mut Io) -> Result<()> {
    for service in services {
        for port in &service.ports {
            for vip in &service.addresses {
                let of_family = |b: &&SocketAddr| b.is_ipv4() == vip.is_ipv4();
                let backends: Vec<_> = port.backends.iter().filter(of_family).copied().collect();
                serve(SocketAddr::new(*vip, port.port), backends)?;
            }
        }
    }
    io.send(&())?;
    io.wait_for_end()
}

fn serve(address: SocketAddr, backends: Vec<SocketAddr>) -> Result<()> {
    // A route makes an IPv6 address local, but not the node's own: bind() wants to be told.
    let listener = listener(address, &[Opt::Transparent]).map_err(|e| anyhow!("listen on {address}: {e}"))?;
    let next = Arc::new(AtomicUsize::new(0));
    thread::spawn(move || {
        accept_all(&listener, move |client, _| {
            let turn = next.fetch_add(1, Ordering::Relaxed);
            let backend = backends.get(turn % backends.len().max(1)).context("no backend")?;
            join(client, TcpStream::connect(backend)?)
        })
    });
    Ok(())
}

/// Copies both ways until both are at an end.
fn join(client: TcpStream, backend: TcpStream) -> Result<()> {
    let (mut from_client, mut to_backend) = (client.try_clone()?, backend.try_clone()?);
    let up = thread::spawn(move || copy(&mut from_client, &mut to_backend));
    let (mut from_backend, mut to_client) = (backend, client);
    copy(&mut from_backend, &mut to_client);
    let _ = up.join();
    Ok(())
}

fn copy(from: &mut TcpStream, to: &mut TcpStream) {
    let end = match io::copy(from, to) {
        Ok(_) => Shutdown::Write,
        Err(_) => Shutdown::Both,
    };
    let _ = to.shutdown(end);
}
