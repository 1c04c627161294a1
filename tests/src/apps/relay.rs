//! A relay for connections: what a Service's address is to its replicas. It leads to one address after the other, as it is told.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use anyhow::{Result, anyhow};

use super::{servers::accept_all, socket::listener};
use crate::testbed::{Actor, Io, Site};

/// A running relay. A guard: dropped, it ends with its connections.
#[derive(Debug)]
pub struct Relay(Actor<()>);

impl Relay {
    /// Starts one at this address, and waits until it listens. It leads nowhere yet: connections are closed.
    pub fn start(site: &Site, address: SocketAddr) -> Result<Self> {
        let mut actor = site.spawn(run, address)?;
        actor.event::<()>()?;
        Ok(Self(actor))
    }

    /// From now on it leads there. Connections that lead elsewhere are cut, as those to a replica that is gone.
    pub fn lead_to(&mut self, target: SocketAddr) -> Result<()> {
        self.0.tell(&target)?;
        self.0.event()
    }
}

#[derive(Debug, Default)]
struct State {
    target: Option<SocketAddr>,
    /// Both ends of each connection.
    open: Vec<[TcpStream; 2]>,
}

/// The relay as an actor.
fn run(address: SocketAddr, io: &mut Io) -> Result<()> {
    let listener = listener(address, &[]).map_err(|e| anyhow!("listen on {address}: {e}"))?;
    let state = Arc::new(Mutex::new(State::default()));
    let of_thread = Arc::clone(&state);
    thread::spawn(move || accept_all(&listener, move |stream, _| Ok(carry(&of_thread, stream)?)));
    io.send(&())?;
    while let Some(target) = io.receive()? {
        let State { open, .. } =
            std::mem::replace(&mut *lock(&state), State { target: Some(target), open: Vec::new() });
        for end in open.iter().flatten() {
            let _ = end.shutdown(Shutdown::Both); // it has ended by itself
        }
        io.send(&())?;
    }
    Ok(())
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn carry(state: &Mutex<State>, near: TcpStream) -> io::Result<()> {
    let Some(target) = lock(state).target else { return Ok(()) };
    let far = TcpStream::connect(target)?;
    {
        let mut state = lock(state);
        // It may lead elsewhere by now.
        if state.target != Some(target) {
            return Ok(());
        }
        state.open.push([near.try_clone()?, far.try_clone()?]);
    }
    let (back, forth) = ((far.try_clone()?, near.try_clone()?), (near, far));
    let back = thread::spawn(move || copy(back));
    copy(forth);
    let _ = back.join();
    Ok(())
}

/// Copies until one end is over, and then ends the other one.
fn copy((mut from, mut to): (TcpStream, TcpStream)) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = from.read(&mut buffer).unwrap_or_default();
        let all = buffer.get(..read).filter(|read| !read.is_empty());
        if all.is_none_or(|all| to.write_all(all).is_err()) {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
