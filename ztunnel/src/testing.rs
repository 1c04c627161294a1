//! Test pods that are addresses in one process: their listeners and applications are on loopback, and a table maps loopback
//! addresses to theirs ([`Switch`]). And open connections without sockets, for a benchmark of many ([`Idle`]). Behind the
//! feature `testing`.

#![allow(clippy::missing_panics_doc, reason = "tests alone use it, and want to panic")]

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr, TcpStream as Opening},
    rc::Rc,
    sync::{Arc, Mutex},
};

use tokio::{net::TcpStream, sync::oneshot};
use underpass_core::{
    ObjectName,
    connection::Direction,
    rejudge::{Basis, Judged},
};
use underpass_net::{netns::Netns, socket::options::Options};

use crate::{
    Ztunnel,
    message::Message,
    open_connection::OpenConnection,
    sockets::{Ends, Sockets},
    worker::Worker,
    worker_pod::WorkerPod,
};

/// A switch between the pods of one process.
#[derive(Debug, Default)]
pub struct Switch {
    /// The loopback address of the listener at a pod's address.
    listeners: Mutex<HashMap<SocketAddr, SocketAddr>>,
    /// The ends that a connection stands for, by its loopback addresses: of the end that opened it, and of the other. One
    /// alone may have several connections.
    meant: Mutex<HashMap<[SocketAddr; 2], Ends>>,
}

impl Switch {
    /// Maps the listener at `address` of a pod to the loopback address `really`.
    pub fn listen(&self, address: SocketAddr, really: SocketAddr) {
        self.listeners.lock().expect("not poisoned").insert(address, really);
    }

    /// Removes the listener at `address`.
    pub fn close(&self, address: SocketAddr) {
        self.listeners.lock().expect("not poisoned").remove(&address);
    }

    /// A connection to `really` that stands for one of `ends`. It is open, and non-blocking.
    ///
    /// # Errors
    /// Where there is no listener.
    pub fn connect(&self, really: SocketAddr, ends: Ends) -> io::Result<Opening> {
        // Locked until its ends are in the table: the acceptor looks them up after that.
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

/// Open connections of one pod that have no sockets and carry nothing: registered, listed, counted and judged again like any
/// other, until a change or an operator ends them.
#[derive(Debug)]
pub struct Idle {
    /// The pod of this node.
    pub pod: ObjectName,
    /// The cookie of its network namespace: it decides which worker has them.
    pub cookie: u64,
    /// Source, destination, and what the verdict rests on.
    pub connections: Vec<(SocketAddr, SocketAddr, Basis)>,
}

impl Idle {
    /// Opens them in their worker.
    pub(crate) fn open(self, worker: &Rc<Worker>) {
        let netns = Arc::new(Netns::own().expect("own namespace"));
        let budget = worker.budgets.add(self.cookie, &self.pod);
        let fact = Arc::clone(worker.world().pod(&self.pod).expect("a pod of the World"));
        let local = (fact.addresses.clone(), fact.account.clone().expect("a pod's"));
        let names = (self.pod, fact.uid.clone());
        let pod = Rc::new(WorkerPod::new(names, local, self.cookie, netns, budget, None, &worker.settings));
        for (source, destination, basis) in self.connections {
            let direction = match basis {
                Basis::Inbound { .. } => Direction::Inbound,
                Basis::Outbound { .. } => Direction::Outbound,
            };
            let (connection, serving) =
                (OpenConnection::begin(worker, &pod, direction, source, destination), worker.begin_serving(&pod));
            connection.open(Judged { pod: pod.uid.clone(), basis, judged_at: worker.world().version() });
            tokio::task::spawn_local(async move {
                let mut connection = connection;
                let (reason, policy) = connection.cancel.cancelled().await;
                connection.policy(policy);
                connection.finish(reason);
                drop(serving);
            });
        }
    }
}

impl Ztunnel {
    /// Opens connections that have no sockets. Completes when they are registered and allowed by the worker's World, or told
    /// to end.
    pub fn open_idle(&self, idle: Idle) -> impl Future<Output = ()> + use<> {
        let cookie = idle.cookie;
        let (opened, done) = oneshot::channel();
        let open = move |worker: &Rc<Worker>| {
            idle.open(worker);
            let _ = opened.send(()); // the caller may have stopped waiting
        };
        self.send(cookie, Message::Run(Box::new(open)));
        async {
            // A worker that is gone has none.
            let _ = done.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::{LocalSet, yield_now};
    use underpass_core::{
        authz::Rule,
        objects::Batch,
        testing::{ambient, model, name, policy},
        world::Action,
    };

    use super::*;
    use crate::worker::testing::worker;

    #[tokio::test]
    async fn idle_connections_are_open_until_a_change_denies_them() {
        let opened = |peer: &str| {
            let (source, destination): (SocketAddr, SocketAddr) =
                (SocketAddr::new(peer.parse().unwrap(), 9), "10.0.0.2:80".parse().unwrap());
            let (address, port) = (destination.ip(), destination.port());
            (source, destination, Basis::Inbound { address, port, peer: source.ip(), identity: None, named: None })
        };
        let local = LocalSet::new();
        let ended = local.run_until(async {
            let mut model = model([ambient("default/b", "10.0.0.2", "").into()]);
            let worker = worker(model.world().clone());
            let idle =
                Idle { pod: name("default/b"), cookie: 1, connections: ["10.0.0.8", "10.0.0.9"].map(opened).to_vec() };
            idle.open(&worker);
            for (policy, open) in [("other/p", 2), ("default/p", 0)] {
                let mut batch = Batch::default();
                batch.put(self::policy(policy, Action::Deny, vec![Rule::default()]));
                model.apply(&batch);
                worker.exchange_world(Arc::new(model.world().clone()));
                for _ in 0..10 {
                    yield_now().await;
                }
                assert_eq!((worker.judging.len(), worker.connections.len()), (open, open), "{policy}");
            }
        });
        ended.await;
    }
}
