//! Draining of a worker: open connections go on until they end by themselves, and peers are asked for no new ones. Also the
//! hand-over of its listeners to another process. Its own file because [`crate::worker`] reads without it.
//!
//! ```text
//! serving --drain--> GOAWAY on every tunnel; judged, renewed and logged as before --nothing open--> drained
//!                       \-- deadline, or asked again: Ztunnel::shut_down --> what is left ends with reason `drain`
//! ```
//! What must hold: a connection that was accepted is served; one that was not stays with its listener.

use std::{io, net::TcpListener, os::fd::AsFd as _, rc::Rc};

use tokio::{sync::oneshot, task::JoinHandle};
use underpass_net::tunnel::Tunnel;

use crate::{
    message::{Accepting, PodListeners},
    worker::Worker,
};

impl Worker {
    /// Sends GOAWAY on every tunnel; `done` is answered when nothing is open any more.
    pub(crate) fn drain(self: &Rc<Self>, accepting: Accepting, done: oneshot::Sender<()>) {
        self.draining.set(true);
        if accepting == Accepting::Elsewhere {
            self.stop_accepting();
        }
        self.pool.drain();
        self.homes.borrow().values().for_each(|home| home.pod.tunnels.each(Tunnel::drain));
        let worker = Rc::clone(self);
        tokio::task::spawn_local(async move {
            worker.all_closed().await;
            let _ = done.send(()); // the caller may have stopped waiting
        });
    }

    /// Tasks that accept are ended between two connections, never between accepting one and serving it: there is no
    /// await in between.
    fn stop_accepting(&self) {
        for home in self.homes.borrow_mut().values_mut() {
            home.accepting.iter().for_each(JoinHandle::abort);
            home.listeners = None;
        }
    }

    /// Duplicates of every pod's listeners.
    pub(crate) fn lend_listeners(&self) -> Vec<io::Result<PodListeners>> {
        let copy = |listener: &tokio::net::TcpListener| listener.as_fd().try_clone_to_owned().map(TcpListener::from);
        let homes = self.homes.borrow();
        let lent = homes.iter().filter_map(|(cookie, home)| {
            let [outbound, inbound] = home.listeners.as_ref()?;
            let lend = || Ok(PodListeners { cookie: *cookie, outbound: copy(outbound)?, inbound: copy(inbound)? });
            Some(lend())
        });
        lent.collect()
    }
}
